"""What the tests of the ledger's formats share: keys, one statement of every kind, and every statement there can be.

The golden files are made from these (tools/write_ledger_golden.py), and so are the attacks on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from hypothesis import strategies as st
from tests.tlog.trees import Tree

from phloem.errors import PhloemError
from phloem.ledger.bundle import Bundle
from phloem.ledger.commitments import FRAME, METRICS, WEIGHT, commitment, salt_for
from phloem.ledger.entry import Entry, Seen, Statement, key_name, signed_text
from phloem.ledger.exchange import Base, Sent
from phloem.ledger.kinds import KINDS
from phloem.ledger.notice import Covered, Introduction, Notice, Own, Word
from phloem.ledger.record import Claim, Record
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.merkle import prove_consistency, prove_inclusion, tree_hash
from phloem.tlog.note import signed
from phloem.tlog.policy import Policy
from phloem.tlog.proof import Receipt

RUN, ORIGIN, SOFTWARE = "clinic-3f2a", "example.org/clinic", "pkg:pypi/phloem@0.1.0"
LOG = Signer.from_seed(ORIGIN, NOTE, bytes([1]) * 32)
COORDINATOR = Signer.from_seed("coordinator", NOTE, bytes([2]) * 32)
ANT = Signer.from_seed("ant", NOTE, bytes([3]) * 32)
ANT_NEXT = Signer.from_seed("ant", NOTE, bytes([4]) * 32)
BEE = Signer.from_seed("bee", NOTE, bytes([5]) * 32)
POLICY = Policy((LOG.verifier,))

TIME = 1_767_225_600  # 2026-01-01
SALT, FRAME_BYTES = bytes(range(32)), b"a frame, as it was sent"
FRAME_SALT = salt_for(SALT, FRAME)
CODEC = '{"bits":0.1,"codec":"ecsq"}'


def digest(text: str) -> str:
    """Some hash, as an entry has it."""
    return sha256(text.encode()).hexdigest()


BASE = {"chain": digest("chain 3"), "state": digest("state 3")}
NEXT_BASE = {"chain": digest("chain 4")}


def fingerprint(signer: Signer) -> str:
    return sha256(signer.verifier.public).hexdigest()


FIELDS: Mapping[str, Mapping[str, Any]] = {
    "genesis": {
        "key": str(COORDINATOR.verifier),
        "name": "coordinator",
        "origin": ORIGIN,
        "plan": digest("plan"),
        "policy": sha256(POLICY.pack()).hexdigest(),
        "receipts": "strict",
        "retention": "6 years",
        "software": SOFTWARE,
    },
    "member": {
        "action": "add",
        "fingerprint": fingerprint(ANT),
        "key": str(ANT.verifier),
        "name": "ant",
        "role": "site",
        "software": SOFTWARE,
    },
    "round-open": {
        "asked": ["ant"],
        "base": BASE,
        "plan": digest("plan"),
        "reached": ["ant", "bee"],
        "round": 3,
    },
    "broadcast": {
        "base": BASE,
        "bytes": len(FRAME_BYTES),
        "codec": CODEC,
        "commit": commitment(FRAME_SALT, FRAME, FRAME_BYTES),
        "form": "delta",
        "rawBytes": 4_000,
        "round": 3,
    },
    "update": {
        "base": BASE,
        "bytes": len(FRAME_BYTES),
        "codec": CODEC,
        "commit": commitment(FRAME_SALT, FRAME, FRAME_BYTES),
        "rawBytes": 4_000,
        "round": 3,
        "to": "coordinator",
        "weight": commitment(salt_for(SALT, WEIGHT), WEIGHT, b"160"),
    },
    "received": {"entry": 4, "leaf": digest("leaf"), "outcome": "taken", "round": 3},
    "aggregate": {
        "base": BASE,
        "excluded": [{"entry": 6, "reason": "late by 1 round(s)", "site": "bee"}],
        "inputs": [4],
        "output": NEXT_BASE,
        "round": 3,
        "rule": digest("rule"),
        "weights": commitment(SALT, WEIGHT, b'{"4":160}'),
    },
    "eval": {
        "metrics": commitment(SALT, METRICS, b'{"accuracy":0.9}'),
        "part": "stop",
        "round": 3,
    },
    "complaint": {
        "about": "our update of round 3 is not in the log",
        "against": "coordinator",
        "evidence": digest("evidence"),
    },
    "erasure": {"entry": 4, "leaf": digest("leaf"), "reason": "asked by a patient"},
    "anchor": {"proof": digest("proof"), "root": digest("root"), "size": 9, "system": "rfc3161"},
    "model-release": {
        "base": NEXT_BASE,
        "digest": digest("model"),
        "file": "model.safetensors",
        "round": 4,
    },
}
"""The fields of one statement of every kind."""

SIGNERS: Mapping[str, tuple[Signer, ...]] = {
    **dict.fromkeys(KINDS, (COORDINATOR,)),
    "member": (ANT, COORDINATOR),
    "update": (ANT,),
    "complaint": (ANT,),
}
"""Who signs it: the sender first."""


def statement(kind: str, seq: int = 7, prev: Seen | None = None, **changes: Any) -> Statement:
    """The statement of a kind, with some of its fields changed."""
    sender = SIGNERS[kind][0].name
    prev = Seen(5, bytes.fromhex(digest("root 5"))) if prev is None else prev
    return Statement(kind, RUN, sender, seq, TIME, prev, {**FIELDS[kind], **changes})


def entry(kind: str, **more: Any) -> Entry:
    """The same, signed by whom it takes."""
    return statement(kind, **more).signed(*SIGNERS[kind])


def let_in(signer: Signer, seq: int = 0) -> Entry:
    """That the owner of a key is let in with it."""
    claim = Claim.made(RUN, seq, TIME, Seen(), SOFTWARE, signer)
    return countersigned(claim.entry(RUN, signer.name, None))


def countersigned(found: Entry, by: Signer = COORDINATOR) -> Entry:
    """The entry with one more signature."""
    row = key_name(by.verifier), by.sign(signed_text(found.payload))
    return Entry(found.payload, (*found.signatures, row))


UPDATE = Sent(3, Base(BASE["chain"], BASE["state"]), FRAME_BYTES, CODEC, 4_000, "", 160)
BROADCAST = Sent(3, Base(BASE["chain"], BASE["state"]), FRAME_BYTES, CODEC, 4_000, "delta")


def record() -> Record:
    """The record of the update."""
    return Record.of(entry("update"), SALT)


def claim() -> Claim:
    """A site's wish to change its key."""
    return Claim.made(RUN, 8, TIME, Seen(5, bytes.fromhex(digest("root 5"))), SOFTWARE, ANT_NEXT, ANT)


def check_words(error: PhloemError) -> None:
    """Fails, if a refusal is not one sentence that can be shown anywhere."""
    assert error.message
    assert error.message.isprintable()


HASHES = tuple(bytes.fromhex(digest(f"hash {n}")) for n in range(5))


def notice() -> Notice:
    """A notice with everything in it."""
    note = signed(Checkpoint(ORIGIN, 9, HASHES[0]).pack(), [LOG])
    return Notice(
        Record.of(entry("broadcast"), SALT),
        ANT.verifier.id,
        Introduction(RUN, POLICY.pack(), str(COORDINATOR.verifier)),
        Covered(note, 8, HASHES[:3], 5, HASHES[3:], ((6, HASHES[:2]), (7, ()))),
        Own(6, HASHES[1:4]),
    )


def word() -> Word:
    """A word with everything in it."""
    return Word(record(), claim(), Seen(9, HASHES[0]))


class Entries(Tree):
    """A log in memory, with as many signed checkpoints as are asked for."""

    def __init__(self, entries: Sequence[bytes] = ()) -> None:
        super().__init__(entries)
        self.entries = list(entries)

    def put(self, entry: bytes) -> int:
        """The place of an entry, which is in the log now."""
        self.append(entry)
        self.entries.append(entry)
        return self.size - 1

    @property
    def seen(self) -> Seen:
        """The tree of now."""
        return Seen(self.size, tree_hash(self.size, self.read))

    def note(self, signer: Signer = LOG) -> bytes:
        """A signed checkpoint of now."""
        return signed(Checkpoint(signer.name, self.size, self.seen.root).pack(), [signer])

    def receipt(self, index: int) -> Receipt:
        return Receipt(index, self.inclusion(index), self.note())

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        return tuple(prove_inclusion(index, self.size, self.read))

    def consistency(self, old: int) -> tuple[bytes, ...]:
        return tuple(prove_consistency(old, self.size, self.read)) if old else ()


def small_log() -> Entries:
    """A run's first entries: begun, a site let in, its update."""
    rows = [entry("genesis", seq=0, prev=Seen()), let_in(ANT), entry("update", seq=1, prev=Seen())]
    return Entries([one.pack() for one in rows])


def bundle(log: Entries | None = None) -> Bundle:
    """All of a log, its update with its payload."""
    log = small_log() if log is None else log
    return Bundle(
        POLICY.pack(),
        dict(enumerate(log.entries)),
        {index: log.receipt(index).pack() for index in range(log.size)},
        payloads={2: FRAME_BYTES},
        salts={2: FRAME_SALT},
    )


# -- every statement there can be ----------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 53) - 1), st.just((1 << 53) - 1))
TEXTS = st.one_of(
    st.sampled_from(["a", "ant", "\u00e9", "\u20ac\U0001f41c", '"\\/', "x" * 400, " "]),
    st.text(min_size=1, max_size=60).filter(str.isprintable),
)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
BASES = st.fixed_dictionaries({"chain": DIGESTS}, optional={"state": DIGESTS})
_NAMES = st.lists(TEXTS, max_size=4, unique=True).map(sorted)
_SPECIAL: Mapping[tuple[str, str], st.SearchStrategy[Any]] = {
    ("member", "action"): st.sampled_from(["add", "rotate", "revoke"]),
    ("member", "role"): st.sampled_from(["coordinator", "site"]),
    ("round-open", "asked"): _NAMES,
    ("round-open", "reached"): _NAMES,
    ("broadcast", "form"): st.sampled_from(["held", "delta", "key-frame"]),
    ("aggregate", "inputs"): st.lists(NUMBERS, max_size=5, unique=True).map(sorted),
    ("aggregate", "excluded"): st.lists(
        st.fixed_dictionaries({"reason": TEXTS, "site": TEXTS}, optional={"entry": NUMBERS}), max_size=3
    ),
}


def _field(kind: str, name: str) -> st.SearchStrategy[Any]:
    example = FIELDS[kind][name]
    if (kind, name) in _SPECIAL:
        return _SPECIAL[kind, name]
    if isinstance(example, dict):
        return BASES
    if isinstance(example, int):
        return NUMBERS
    is_digest = name in KINDS[kind].in_subject or (len(example) == 64 and "+" not in example)
    return DIGESTS if is_digest else TEXTS


@st.composite
def statements(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(KINDS)) -> Statement:
    """Any statement that has a form."""
    kind = draw(st.sampled_from(kinds))
    optional = {name: _field(kind, name) for name in KINDS[kind].optional}
    needed = {name: _field(kind, name) for name in FIELDS[kind] if name not in optional}
    fields = draw(st.fixed_dictionaries(needed, optional=optional))
    prev = draw(st.builds(Seen, NUMBERS, st.binary(min_size=32, max_size=32)))
    return Statement(kind, draw(TEXTS), draw(TEXTS), draw(NUMBERS), draw(NUMBERS), prev, fields)
