"""What `phloem ledger verify`, `consistency` and `evidence` say: a code, lines for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phloem.cli.places import Place, members_from, note_in, place_of, policy_from, read_bytes
from phloem.errors import ConfigError, FormatError, NotFoundError, ProofError
from phloem.ledger.bundle import Bundle, Shown, verify_bundle
from phloem.ledger.entry import Entry
from phloem.ledger.evidence import FIRST_LINE, Evidence, find_evidence
from phloem.ledger.findings import NOTE, Finding, Findings, Verdict
from phloem.ledger.kinds import ADD, REVOKE, ROTATE
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.merkle import check_consistency, leaf_hash, prove_consistency
from phloem.tlog.note import Note
from phloem.tlog.policy import Policy
from phloem.tlog.proof import FIRST_LINE as RECEIPT
from phloem.tlog.proof import Receipt

CODES = {Verdict.VALID: 0, Verdict.INVALID: 1, Verdict.UNDECIDED: 2}
_PAGE = 2000
_ACTIONS = {ADD: "is let in with the key", ROTATE: "changes to the key", REVOKE: "is put out, with the key"}
Answer = tuple[int, list[str], Any]


def entry_words(index: int, entry: Entry) -> str:
    """What an entry says, in a line."""
    said = entry.statement
    fields = said.fields
    words = {
        "update": lambda: (
            f"'{said.sender}' sent an update of {fields['bytes']:,} bytes to '{fields['to']}' in round "
            f"{fields['round']}, made from the trunk {fields['base']['chain'][:12]}"
        ),
        "broadcast": lambda: (
            f"'{said.sender}' broadcast the trunk {fields['base']['chain'][:12]} of round {fields['round']} "
            f"in {fields['bytes']:,} bytes"
        ),
        "received": lambda: f"'{said.sender}' received entry {fields['entry']}: {fields['outcome']}",
        "aggregate": lambda: (
            f"'{said.sender}' merged {len(fields['inputs'])} updates of round {fields['round']} into the trunk "
            f"{fields['output']['chain'][:12]}"
        ),
        "member": lambda: f"'{fields['name']}' {_ACTIONS[fields['action']]} {fields['key']}",
        "genesis": lambda: f"'{said.sender}' began the run '{said.run}'",
    }
    text = words.get(said.kind, lambda: f"'{said.sender}' made an entry of kind '{said.kind}'")()
    return f"entry {index}: {text}; signed by '{said.sender}'"


def shown_entries(
    where: str,
    indices: Sequence[int],
    kind: str | None,
    sender: str | None,
    number: int | None,
    *,
    as_json: bool,
) -> Iterator[str]:
    """The entries that are asked for, a line each.

    Raises:
        NotFoundError: there is no such entry.
    """
    with place_of(where) as place:
        size = place.source.size
        for first in indices or range(0, size, _PAGE):
            if not 0 <= first < size:
                raise NotFoundError(f"the log at {where} has no entry {first}, it has {size}")
            last = first + 1 if indices else min(first + _PAGE, size)
            for index, data in enumerate(place.source.entries(first, last), first):
                entry = Entry.unpack(data)
                said = entry.statement
                if kind not in (None, said.kind) or sender not in (None, said.sender):
                    continue
                if number in (None, said.fields.get("round")):
                    row = {"index": index, **_json(entry)}
                    yield json.dumps(row) if as_json else entry_words(index, entry)


def finding_lines(findings: Findings) -> list[str]:
    """The findings as lines; of many with one name, the first and their number."""
    lines, shown = [], dict.fromkeys(findings.counts, 0)
    for row in findings.rows:
        shown[row.name] += 1
        if shown[row.name] <= 10:
            lines.append(str(row))
    lines += [f"{name}: {count - 10} more" for name, count in findings.counts.items() if count > 10]
    return lines


def verify_file(
    file: Path, entry: Path | None, policy: Path | None, member: list[str] | None, *, as_json: bool
) -> Answer:
    """Whether a bundle, a receipt with its entry, or a checkpoint holds."""
    data = read_bytes(file)
    pinned = members_from(member)
    if data.startswith(b"PK"):
        bundle = Bundle.unpack(data)
        judge = Policy.parse(bundle.policy) if policy is None else policy_from(policy)[0]
        shown, findings = verify_bundle(bundle, judge, pinned)
    else:
        if policy is None:
            raise ConfigError("whom is to be trusted?", hint="name your policy with --policy FILE")
        judge = policy_from(policy)[0]
        shown, findings = [], Findings()
        if data.startswith(RECEIPT.encode()):
            shown = _receipt(data, entry, judge)
            findings.add(NOTE, "the sender's own signature is not checked without its key: use a bundle")
        else:
            found = judge.check(data)
            findings.add(
                NOTE,
                f"a checkpoint of '{found.origin}' with {found.size} entries, signed as the policy demands",
            )
    if policy is None:
        findings.add("no-quorum", "judged by the bundle's own policy only: name yours with --policy")
    verdict = findings.verdict
    lines = [
        *(entry_words(one.index, one.entry) + (" (payload opened)" if one.opened else "") for one in shown)
    ]
    lines += [*finding_lines(findings), str(verdict)]
    rows = {
        "verdict": str(verdict),
        "entries": [
            {"index": one.index, "opened": one.opened, "statement": _json(one.entry)} for one in shown
        ],
        "findings": findings.to_json(),
    }
    return CODES[verdict], lines, rows if as_json else None


def _json(entry: Entry) -> dict[str, Any]:
    said = entry.statement
    return {
        "kind": said.kind,
        "run": said.run,
        "from": said.sender,
        "seq": said.seq,
        "time": said.time,
        **said.fields,
    }


def _receipt(data: bytes, entry: Path | None, policy: Policy) -> list[Shown]:
    if entry is None:
        raise ConfigError("a receipt is of an entry", hint="name the entry's file after it, or use a bundle")
    receipt, content = Receipt.unpack(data), read_bytes(entry)
    receipt.check(leaf_hash(content), policy)
    return [Shown(receipt.index, Entry.unpack(content), False)]


def check_consistent(old: Path, where: str, policy: Path | None, *, as_json: bool) -> Answer:
    """Whether a log has only grown since a checkpoint that somebody kept."""
    with place_of(where) as place:
        judge, own = policy_from(policy, place)
        kept_note = note_in(read_bytes(old))
        kept = judge.check(kept_note)
        newest = judge.check(_newest(place))
        if kept.origin != newest.origin:
            raise ProofError(f"the checkpoint is of the log '{kept.origin}', not of '{newest.origin}'")
        words = f"the log grew from {kept.size} entries to {newest.size}, and nothing before was changed"
        code = 0
        try:
            if kept.size > newest.size:
                raise ProofError(f"the log has {newest.size} entries, and had {kept.size}")
            read = place.source.read
            proof = prove_consistency(kept.size, newest.size, read) if kept.size else []
            check_consistency(kept.size, newest.size, kept.root, newest.root, proof)
        except ProofError as error:
            words, code = f"forked-history: {error.message}", 1
    lines = [words] if own else [words, "note: judged by the log's own policy; name yours with --policy"]
    row = {
        "verdict": "valid" if code == 0 else "invalid",
        "old": kept.size,
        "new": newest.size,
        "words": words,
    }
    return code, lines, row if as_json else None


def _newest(place: Place) -> bytes:
    if not place.notes:
        raise NotFoundError("the log has signed no checkpoint yet", hint="sign one: phloem ledger checkpoint")
    return place.notes[-1]


def make_evidence(first: str, second: str, policy: Path | None) -> bytes:
    """The evidence in two checkpoints or two ledgers.

    Raises:
        ProofError: both can be true.
    """
    with contextlib.ExitStack() as stack:
        sides = [_side(name, stack) for name in (first, second)]
        (one, place_one), (other, place_other) = sides
        if place_one is not None and place_other is not None:
            found = find_evidence(place_one.source.read, one, place_other.source.read, other)
        else:
            found = Evidence(one, other)
            if policy is not None:
                found.check(policy_from(policy)[0].logs)
            elif _same_tree(one, other):
                found = None
    if found is None:
        raise ProofError("both can be true: one continues the other, or they are the same")
    return found.pack()


def _same_tree(one: bytes, other: bytes) -> bool:
    first, second = (Checkpoint.unpack(Note.unpack(note).text) for note in (one, other))
    if first.size != second.size:
        raise ProofError(
            "checkpoints of different sizes show nothing by themselves", hint="name the two ledgers instead"
        )
    return first.root == second.root


def _side(name: str, stack: contextlib.ExitStack) -> tuple[bytes, Place | None]:
    if Path(name).is_file():
        return note_in(read_bytes(Path(name))), None
    place = stack.enter_context(place_of(name))
    return _newest(place), place


def check_evidence(file: Path, policy: Path | None) -> Answer:
    """What a file of evidence shows."""
    data = read_bytes(file)
    if not data.startswith(FIRST_LINE.encode()):
        raise FormatError(f"{file} is no evidence, which begins with {FIRST_LINE}")
    if policy is None:
        raise ConfigError("whose key is the log's?", hint="name your policy with --policy FILE")
    words = Evidence.unpack(data).check(policy_from(policy)[0].logs)
    return (
        0,
        [str(Finding("forked-history", words)), "the evidence is valid: the log showed two histories"],
        None,
    )
