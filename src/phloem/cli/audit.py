"""What `phloem ledger audit` says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from phloem import __version__
from phloem.cli.entries import write_out
from phloem.cli.places import members_from, note_in, place_of, policy_from, read_bytes
from phloem.cli.verify import CODES, Answer, finding_lines
from phloem.errors import ConfigError, PhloemError
from phloem.job.ledger import Payloads
from phloem.ledger.audit import Audit, Auditor
from phloem.ledger.findings import NOTE
from phloem.tlog.policy import Policy

_SHOW_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class AuditCall:
    """The words of one `phloem ledger audit`."""

    where: str
    replay: bool
    policy: Path | None
    seen: tuple[Path, ...]
    members: tuple[str, ...]
    html: Path | None
    json: bool
    anchors: tuple[Path, ...] = ()


def run_audit(call: AuditCall) -> Answer:
    """The audit: its code, lines for people, JSON for programs."""
    with place_of(call.where) as place:
        policy, own = policy_from(call.policy, place)
        notes = [*place.notes, *(note_in(read_bytes(path)) for path in call.seen)]
        payloads, merges = None, None
        if place.run is not None and place.folder is not None:
            from phloem.job.directory import RunDirectory  # loads NumPy

            root, run = place.run
            if RunDirectory.open(root)[1].run.keep_updates:
                payloads = Payloads(place.folder, root)
            if call.replay:
                from phloem.job.replay import Merges

                merges = Merges(run)
        elif call.replay:
            raise ConfigError("--replay needs the frames of a run", hint="name the run's directory")
        auditor = Auditor(
            policy,
            members=members_from(list(call.members)),
            open_=payloads,
            each=None if merges is None else merges.take,
            progress=_progress("entries read"),
        )
        found = auditor.run(place.source, notes)
        for path in call.anchors:
            _check_anchor(auditor, path)
        if merges is not None:
            _replay(found, merges, payloads, place.run)
    if not own:
        found.findings.add(NOTE, "judged by the log's own policy; name yours with --policy")
    if call.html is not None:
        _write_page(found, call, policy, own, None if place.run is None else place.run[1])
    return CODES[found.verdict], _lines(found), found.to_json() if call.json else None


def _write_page(found: Audit, call: AuditCall, policy: Policy, own: bool, run: str | None) -> None:
    from phloem.ui.audit import audit_page
    from phloem.ui.audit_checks import Circumstances

    made = Circumstances(
        policy,
        own=own,
        where=call.where,
        run=run,
        replay=call.replay,
        seen=len(call.seen),
        anchors=len(call.anchors),
        time=time.time(),
        software=f"Phloem {__version__}",
    )
    assert call.html is not None
    write_out(audit_page(found, made).encode(), call.html)


def _replay(found: Audit, merges: object, payloads: Payloads | None, run: tuple[Path, str] | None) -> None:
    from phloem.job.replay import Merges, replay

    assert isinstance(merges, Merges)
    assert run is not None
    if payloads is None:
        found.findings.add(
            "missing-payload", "the run kept no frames ([run] keep_updates), so nothing can be replayed"
        )
        return
    try:
        found.replayed = replay(
            run[0], merges, payloads.salts, found.findings, _progress("rounds merged again")
        )
    except PhloemError as error:
        found.findings.add("missing-payload", f"the run cannot be replayed: {error}")


def _check_anchor(auditor: Auditor, path: Path) -> None:
    """Whether what is anchored is of this history; whether an anchor is to be believed, `phloem anchor verify` says."""
    from phloem.ledger.anchors.base import hash_of_origin
    from phloem.ledger.anchors.proof import claimed

    findings, tree = auditor.findings, auditor.tree
    found = claimed(read_bytes(path))
    when = datetime.fromtimestamp(found.when_high, UTC).isoformat(timespec="seconds")
    what = f"{path.name} ({found.kind}, {when})"
    if found.origin_hash != hash_of_origin(auditor.audit.origin):
        findings.add("rolled-back-anchor", f"{what} is of another log")
    elif tree.root_at(found.size) != found.root:
        findings.add(
            "rolled-back-anchor", f"{what} is of a tree of {found.size} entries that is not this one's"
        )
    else:
        words = f"{what}: {found.size} entries existed by then, if you believe it (phloem anchor verify)"
        findings.add(NOTE, words)


def _progress(what: str) -> Callable[[int, int], None]:
    """Says on standard error how far it is, where that takes a while."""
    started = shown = time.monotonic()

    def show(done: int, of: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _SHOW_EVERY_SECONDS and now - started >= 2 * _SHOW_EVERY_SECONDS:
            shown = now
            print(f"{done:,} of {of:,} {what}", file=sys.stderr, flush=True)

    return show


def _lines(found: Audit) -> list[str]:
    lines = [
        f"log       {found.origin or '(no checkpoint that the policy believes)'}",
        f"entries   {found.size:,}, of which {found.vouched:,} under a checkpoint"
        + (f" that {', '.join(found.witnesses)} cosigned" if found.witnesses else ""),
        f"root      {found.root.hex()}",
    ]
    for name, run in found.runs.items():
        merged = sum(run.sites.values())
        lines.append(
            f"run       {name}: {run.rounds} rounds merged from {merged} updates of {len(run.sites)} sites"
        )
    if found.opened:
        lines.append(f"payloads  {found.opened:,} frames are what was committed to")
    if found.replayed is not None:
        lines.append(f"replayed  {found.replayed} merges came out as logged, bit for bit")
    return [*lines, *finding_lines(found.findings), str(found.verdict)]
