"""The witness protocol: a log asks for a cosignature over its newest checkpoint, and shows that it only grew.

Source: c2sp.org/tlog-witness, `add-checkpoint`.

    old SIZE                 of the checkpoint that the witness cosigned last
    BASE64                   the consistency proof, a hash a line
                             an empty line
    the checkpoint           a signed note

`add_checkpoint` decides; `Records` is what a witness must never forget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from phloem.errors import FormatError, ProofError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import Signer, VerifierKey
from phloem.tlog.merkle import EMPTY_ROOT, check_consistency
from phloem.tlog.note import LARGEST_NOTE, Note, Signature
from phloem.tlog.text import from_decimal, hash_from_base64, to_base64

SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"
_MOST_HASHES = 63


@dataclass(frozen=True, slots=True)
class Request:
    """The body of a request."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def pack(self) -> bytes:
        """The body's bytes."""
        return (
            "".join(f"{line}\n" for line in (f"old {self.old}", *map(to_base64, self.proof), "")).encode()
            + self.note
        )

    @classmethod
    def unpack(cls, data: bytes) -> Request:
        """The request in a body.

        Raises:
            FormatError: it is none.
        """
        if len(data) > LARGEST_NOTE:
            raise FormatError(f"a request of {len(data)} bytes is larger than {LARGEST_NOTE}")
        head, gap, note = data.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise FormatError("a request's proof is not ASCII") from error
        if not gap or not first.startswith("old "):
            raise FormatError(
                "a request begins with the old size, and has an empty line before its checkpoint"
            )
        if len(lines) > _MOST_HASHES:
            raise FormatError(f"a proof has {len(lines)} hashes, more than {_MOST_HASHES}")
        old = from_decimal(first.removeprefix("old "), "the old size")
        return cls(old, tuple(hash_from_base64(line) for line in lines), note)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a witness answers."""

    status: HTTPStatus
    body: bytes = b""
    type: str = TEXT_TYPE


class Records(Protocol):
    """The newest checkpoint that a witness cosigned, for every log."""

    def newest(self, origin: str) -> tuple[int, bytes] | None:
        """Its size and root; None before the first."""
        ...

    def advance(self, origin: str, before: tuple[int, bytes] | None, after: Checkpoint, note: bytes) -> bool:
        """Puts `after` in the place of `before`, durably; false, and nothing done, where another stands there now."""
        ...


def add_checkpoint(
    body: bytes,
    logs: Mapping[str, Sequence[VerifierKey]],
    records: Records,
    signer: Signer,
    time: Callable[[], int],
) -> Reply:
    """The answer to a request, for the logs whose keys are known by their origin."""
    try:
        request = Request.unpack(body)
        note = Note.unpack(request.note)
        checkpoint = Checkpoint.unpack(note.text)
    except FormatError as error:
        return _refused(HTTPStatus.BAD_REQUEST, error.message)
    keys = logs.get(checkpoint.origin)
    if keys is None:
        return _refused(HTTPStatus.NOT_FOUND, f"the log '{checkpoint.origin:.80}' is not known here")
    try:
        good = note.verified(keys)
    except ProofError as error:
        return _refused(HTTPStatus.FORBIDDEN, error.message)
    if not good:
        return _refused(HTTPStatus.FORBIDDEN, "no key of the log signed this checkpoint")
    if request.old > checkpoint.size:
        return _refused(
            HTTPStatus.BAD_REQUEST, f"the old size {request.old} is larger than {checkpoint.size}"
        )
    before = records.newest(checkpoint.origin)
    size, root = before or (0, None)
    if request.old != size:
        return _size(size)
    try:
        if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
            raise ProofError("a tree of no entries has another root")
        if root is None:
            if request.proof:
                raise ProofError("from no entries there is nothing to prove")
        else:
            check_consistency(size, checkpoint.size, root, checkpoint.root, request.proof)
    except ProofError as error:
        return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, error.message)
    if not records.advance(checkpoint.origin, before, checkpoint, request.note):
        return _size((records.newest(checkpoint.origin) or (0, b""))[0])
    signature = signer.sign(note.text, time)
    return Reply(HTTPStatus.OK, str(Signature(signer.name, signer.verifier.id, signature)).encode())


def _refused(status: HTTPStatus, reason: str) -> Reply:
    return Reply(status, f"{reason}\n".encode())


def _size(size: int) -> Reply:
    """The answer to who has another idea of what was cosigned last."""
    return Reply(HTTPStatus.CONFLICT, b"%d\n" % size, SIZE_TYPE)
