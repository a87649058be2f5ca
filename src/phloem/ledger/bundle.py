"""A bundle (`.flproof`): entries with all that it takes to verify them, offline, with no account.

A zip file, nothing compressed, every date the same:

policy.txt                  whom the log's own people trust; the verifier's own policy is the one that counts
entries/INDEX.json          the entries, and those that say whose keys signed them
receipts/INDEX.tlog-proof   that the log has each of them
checkpoints/SIZE.txt        other checkpoints, such as those that were anchored
consistency/SIZE.txt        that the log grew from such a one to the newest: a hash in base64 a line
anchors/NAME                where checkpoints were written down elsewhere
payload/INDEX salt/INDEX    what an entry's commitment opens to, for those that are to be shown
README.txt                  how to verify it, with other tools too
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from phloem.errors import ConfigError, FormatError, PhloemError, ProofError
from phloem.ledger.commitments import FRAME, SALT_BYTES, commitment
from phloem.ledger.entry import Entry
from phloem.ledger.findings import NOTE, Findings
from phloem.ledger.members import Members
from phloem.tlog.merkle import check_consistency, leaf_hash
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt
from phloem.tlog.text import hash_from_base64

LARGEST_BUNDLE = 1 << 30
_MOST_FILES = 100_000
_DATE = (1980, 1, 1, 0, 0, 0)
_INDEX = r"(?:0|[1-9][0-9]{0,15})"
_NAMES = re.compile(
    rf"policy\.txt|README\.txt|entries/{_INDEX}\.json|receipts/{_INDEX}\.tlog-proof|checkpoints/{_INDEX}\.txt"
    rf"|consistency/{_INDEX}\.txt|payload/{_INDEX}|salt/{_INDEX}|anchors/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}"
)
_NO_QUORUM = re.compile("the checkpoint of [0-9]+ entries lacks the quorum ")
_README = """A proof about the exchanges of a training run. To verify it:

    phloem ledger verify FILE.flproof --policy POLICY

with a policy of your own (c2sp.org/tlog-policy): policy.txt in here is only what the log's own people say.

By hand: every file of entries/ is a DSSE envelope around an in-toto statement; its leaf is SHA-256 over a zero byte
and the file. The receipt of the same number (c2sp.org/tlog-proof) leads from that leaf to the root of a checkpoint, a
note that the log and its witnesses signed (c2sp.org/signed-note, c2sp.org/tlog-cosignature). A payload belongs to an
entry if HMAC-SHA256(salt, "frame/v1", a zero byte, SHA-256 of the payload) is the commitment in the entry's subject.
"""


@dataclass
class Bundle:
    """What a bundle holds, by the entries' places."""

    policy: bytes = b""
    entries: dict[int, bytes] = field(default_factory=dict)
    receipts: dict[int, bytes] = field(default_factory=dict)
    checkpoints: dict[int, bytes] = field(default_factory=dict)
    consistency: dict[int, bytes] = field(default_factory=dict)
    payloads: dict[int, bytes] = field(default_factory=dict)
    salts: dict[int, bytes] = field(default_factory=dict)
    anchors: dict[str, bytes] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The bundle's bytes, the same for the same content."""
        files = {"policy.txt": self.policy, "README.txt": _README.encode()}
        for folder, suffix, rows in self._parts():
            files |= {f"{folder}/{key}{suffix}": content for key, content in rows.items()}
        files |= {f"anchors/{name}": content for name, content in self.anchors.items()}
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                info = zipfile.ZipInfo(name, _DATE)
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, files[name])
        return out.getvalue()

    def _parts(self) -> list[tuple[str, str, dict[int, bytes]]]:
        return [
            ("entries", ".json", self.entries),
            ("receipts", ".tlog-proof", self.receipts),
            ("checkpoints", ".txt", self.checkpoints),
            ("consistency", ".txt", self.consistency),
            ("payload", "", self.payloads),
            ("salt", "", self.salts),
        ]

    @classmethod
    def unpack(cls, data: bytes) -> Bundle:
        """The bundle in `data`; nothing in it is verified, and nothing is written anywhere.

        Raises:
            FormatError: it is none: compressed, with names of other forms, or twice the same, or not written as `pack`.
        """
        if len(data) > LARGEST_BUNDLE:
            raise FormatError(f"a bundle of {len(data)} bytes is larger than {LARGEST_BUNDLE}")
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                files = _files(archive, len(data))
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            EOFError,
            OSError,
            ValueError,
            RuntimeError,
        ) as error:
            raise FormatError(f"expected a bundle, found no whole zip file: {error}") from error
        found = cls(files.pop("policy.txt", b""))
        files.pop("README.txt", None)
        parts = {folder: rows for folder, _, rows in found._parts()}
        for name, content in files.items():
            folder, _, rest = name.partition("/")
            if folder == "anchors":
                found.anchors[rest] = content
            else:
                parts[folder][int(rest.partition(".")[0])] = content
        if found.pack() != data:
            raise FormatError("a bundle is not written in its one form: something is hidden in it")
        return found


def _files(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    rows = archive.infolist()
    if len(rows) > _MOST_FILES or len({row.filename for row in rows}) != len(rows):
        raise FormatError("a bundle has too many files, or one twice")
    for row in rows:
        if _NAMES.fullmatch(row.filename) is None:
            raise FormatError(f"a bundle has no file {row.filename!r:.80}")
        if row.compress_type != zipfile.ZIP_STORED or row.file_size != row.compress_size:
            raise FormatError(f"{row.filename} in the bundle is compressed, and must not be")
    if sum(row.file_size for row in rows) > size:
        raise FormatError("the files of a bundle claim to be larger than the bundle")
    return {row.filename: archive.read(row) for row in rows}


@dataclass(frozen=True)
class Shown:
    """One entry of a bundle that was verified; `opened`: its payload is there, and is what was committed to."""

    index: int
    entry: Entry
    opened: bool


def verify_bundle(bundle: Bundle, policy: Policy, pinned: Mapping[str, str]) -> tuple[list[Shown], Findings]:
    """The entries that hold under the policy, and what does not."""
    findings, shown = Findings(), []
    members: dict[str, Members] = {}
    roots: dict[int, bytes] = {}  # of the checkpoints of the receipts, by size
    keys: dict[int, list[str]] = {}
    for index in sorted(bundle.entries):
        data = bundle.entries[index]
        try:
            if index not in bundle.receipts:
                raise ProofError("it comes without a receipt")
            receipt = Receipt.unpack(bundle.receipts[index])
            if receipt.index != index:
                raise ProofError("its receipt is another entry's")
            checkpoint = receipt.check(leaf_hash(data), policy)
            if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
                findings.add(
                    "forked-history", f"the log signed two trees of {checkpoint.size} entries", index
                )
        except PhloemError as error:
            findings.add(_name_of(error, "rewritten-history"), error.message, index)
            continue
        try:
            entry = Entry.unpack(data)
            keys[index] = _judge(index, entry, members, findings)
        except PhloemError as error:
            findings.add("forged-sender", error.message, index)
            continue
        shown.append(Shown(index, entry, _opens(index, entry, bundle, findings)))
    shown = [one for one in shown if _is_known(one, keys[one.index], pinned, findings)]
    _check_others(bundle, policy, roots, findings)
    linked = _linked(bundle, roots, findings)
    _check_anchors(bundle, {size: roots[size] for size in linked}, findings)
    if len(linked) < len(roots):
        words = (
            f"the receipts are of {len(roots)} checkpoints; that one grew from the other is not shown here"
        )
        findings.add(NOTE, words)
    if shown:
        findings.add(
            NOTE, "whether a key was put out in entries that are not in the bundle, only an audit tells"
        )
    elif not findings.rows:
        findings.add("missing-entry", "the bundle has no entries")
    return shown, findings


def _name_of(error: PhloemError, otherwise: str) -> str:
    """The finding about a checkpoint; nothing that a forger can write in one makes a lie a missing cosignature."""
    return "no-quorum" if _NO_QUORUM.match(error.message) else otherwise


def _check_others(bundle: Bundle, policy: Policy, roots: dict[int, bytes], findings: Findings) -> None:
    """Whatever else is in the bundle belongs to it, and holds."""
    for index in sorted(bundle.receipts.keys() - bundle.entries.keys()):
        findings.add("missing-entry", "there is a receipt of it, and not the entry", index)
    shown = bundle.payloads.keys() & bundle.salts.keys() & bundle.entries.keys()
    for index in sorted((bundle.payloads.keys() | bundle.salts.keys()) - shown):
        words = "a payload and its salt come with their entry, and here one of the three is missing"
        findings.add("swapped-payload", words, index)
    for size, note in sorted(bundle.checkpoints.items()):
        try:
            found = policy.check(note)
        except PhloemError as error:
            name = _name_of(error, "unsigned-checkpoint")
            findings.add(name, f"the checkpoint of {size} entries: {error.message}")
            continue
        if found.size != size:
            words = f"a checkpoint of {found.size} entries is said to be one of {size}"
            findings.add("unsigned-checkpoint", words)
        elif roots.setdefault(size, found.root) != found.root:
            findings.add("forked-history", f"the log signed two trees of {size} entries")


def _linked(bundle: Bundle, roots: Mapping[int, bytes], findings: Findings) -> set[int]:
    """The sizes of the newest checkpoint, and of those that it is shown to have grown from."""
    newest = max(roots, default=0)
    found = {newest} & roots.keys()
    for size in sorted(bundle.consistency):
        if size not in roots or size == newest:
            words = f"there is a proof about a checkpoint of {size} entries, and not the checkpoint"
            findings.add("missing-entry", words)
            continue
        try:
            lines = bundle.consistency[size].decode("ascii", "replace").split("\n")
            if lines.pop():
                raise FormatError("a proof's last line has no end")
            proof = [hash_from_base64(line, "a hash of a proof") for line in lines]
            check_consistency(size, newest, roots[size], roots[newest], proof)
        except PhloemError as error:
            findings.add("forked-history", error.message)
        else:
            found.add(size)
    return found


def _check_anchors(bundle: Bundle, roots: Mapping[int, bytes], findings: Findings) -> None:
    """Every anchor is of this history; whether it is to be believed, `phloem anchor verify` says."""
    from phloem.ledger.anchors.proof import claimed

    for name, data in sorted(bundle.anchors.items()):
        try:
            found = claimed(data)
        except ConfigError as error:  # what reads it is not installed
            findings.add(NOTE, f"the anchor {name} was not looked at: {error}")
            continue
        except PhloemError as error:
            findings.add("rolled-back-anchor", f"{name}: {error.message}")
            continue
        if roots.get(found.size) != found.root:
            words = f"{name} is of a tree of {found.size} entries that is not shown to be of this log"
            findings.add("rolled-back-anchor", words)
        else:
            when = datetime.fromtimestamp(found.when_high, UTC).isoformat(timespec="seconds")
            words = f"{found.size} entries existed by {when}, if you believe it (phloem anchor verify)"
            findings.add(NOTE, f"{name} ({found.kind}): {words}")


def _judge(index: int, entry: Entry, members: dict[str, Members], findings: Findings) -> list[str]:
    """The keys of the sender; those that it changes to later follow.

    Raises:
        ProofError: it did not sign this, or is no member.
    """
    said = entry.statement
    if said.run not in members:
        if said.kind != "genesis":
            raise ProofError(f"the bundle does not have the first entry of the run '{said.run}'")
        members[said.run] = Members(entry)
    else:
        members[said.run].check(entry)
        for words in members[said.run].remarks(said) if said.kind == "member" else ():
            findings.add(NOTE, words, index)
        members[said.run].take(said)
    return members[said.run].keys_of(said.sender)


def _is_known(shown: Shown, keys: list[str], pinned: Mapping[str, str], findings: Findings) -> bool:
    """Whether the sender's key is the one that the verifier knows, or one was changed to the other."""
    sender = shown.entry.statement.sender
    if sender in pinned and pinned[sender] not in keys:
        findings.add("forged-sender", f"'{sender}' has another key than the verifier knows", shown.index)
        return False
    return True


def _opens(index: int, entry: Entry, bundle: Bundle, findings: Findings) -> bool:
    payload, salt = bundle.payloads.get(index), bundle.salts.get(index)
    if payload is None or salt is None:
        return False
    commit = entry.statement.fields.get("commit")
    if len(salt) != SALT_BYTES or commit is None or commitment(salt, FRAME, payload) != commit:
        findings.add("swapped-payload", "the payload is not what was committed to", index)
        return False
    return True


def needed(entries: Iterable[tuple[int, Entry]], wanted: Iterable[int]) -> list[int]:
    """The wanted entries, and those before them that say whose keys signed them; `entries` are all of the log."""
    wanted = set(wanted)
    rows = list(entries)
    runs = {entry.statement.run: index for index, entry in rows if index in wanted}
    return sorted(
        wanted
        | {
            index
            for index, entry in rows
            if entry.statement.kind in ("genesis", "member") and index <= runs.get(entry.statement.run, -1)
        }
    )
