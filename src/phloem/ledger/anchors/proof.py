"""Proof files: canonical JSON that says its kind, checked without a network.

    {"kind": "evm", "version": 1, …}        phloem.ledger.anchors.evm
    {"kind": "rfc3161", "version": 1, …}    phloem.ledger.anchors.timestamp

`verify_anchor` is for who holds the checkpoint; `anchored` is for who holds the log and can prove that a smaller
checkpoint is the beginning of the anchored one.
"""

from __future__ import annotations

from phloem import canonical
from phloem.errors import ConfigError, FormatError
from phloem.ledger.anchors import evm, timestamp
from phloem.ledger.anchors.base import EVM, LARGEST_PROOF, RFC3161, VERSION, Anchored, Trust, compare
from phloem.ledger.anchors.evm import EvmProof
from phloem.ledger.anchors.timestamp import TimestampProof
from phloem.strict import as_table, from_table
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.note import Note

_KINDS = {EVM: EvmProof, RFC3161: TimestampProof}

Proof = EvmProof | TimestampProof


def unpack(data: bytes) -> Proof:
    """The fields of a proof file, of which nothing has been checked.

    Raises:
        FormatError: it is none.
    """
    if len(data) > LARGEST_PROOF:
        raise FormatError(f"an anchor of {len(data)} bytes is larger than {LARGEST_PROOF}")
    try:
        table = as_table(canonical.loads(data), "an anchor")
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise FormatError(f"expected an anchor of the kind {' or '.join(_KINDS)}, found {kind!r:.40}")
        if table.get("version") != VERSION:
            raise FormatError(f"expected an anchor of version {VERSION}, found {table.get('version')!r:.40}")
        return from_table(_KINDS[kind], table, "an anchor")
    except ConfigError as error:
        raise FormatError(error.message) from error


def anchored(data: bytes, trust: Trust) -> Anchored:
    """The checkpoint that a proof file shows to have existed.

    Raises:
        FormatError: it is no proof. ProofError: it does not hold.
        NotFoundError: it holds, if the reader believes what it rests on: `trust` does not say so.
    """
    proof = unpack(data)
    found = _shown(proof)
    _believe(proof, trust)
    return found


def claimed(data: bytes) -> Anchored:
    """The checkpoint that a proof file shows, to whoever believes what it rests on.

    Raises:
        FormatError: it is no proof. ProofError: it does not hold, whatever is believed.
    """
    return _shown(unpack(data))


def verify_anchor(data: bytes, note: bytes, trust: Trust) -> Anchored:
    """That a proof file shows the checkpoint in `note` to have existed. The note's signatures are not looked at.

    Raises:
        FormatError: one of the two is damaged. ProofError: it does not hold, or it is of another checkpoint.
        NotFoundError: it cannot be decided: the proof is of a later checkpoint of the same log, or `trust` does not say
            whether what it rests on is believed. Everything else was checked.
    """
    checkpoint = Checkpoint.unpack(Note.unpack(note).text)
    proof = unpack(data)
    found = _shown(proof)
    compare(found, checkpoint)
    _believe(proof, trust)
    return found


def _shown(proof: Proof) -> Anchored:
    return evm.shown(proof) if isinstance(proof, EvmProof) else timestamp.shown(proof)


def _believe(proof: Proof, trust: Trust) -> None:
    if isinstance(proof, EvmProof):
        evm.believe(proof, trust)
    else:
        timestamp.believe(proof, trust)
