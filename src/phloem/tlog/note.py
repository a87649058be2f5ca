"""Signed notes: a text, and signatures over it by keys with names.

Source: c2sp.org/signed-note.

    the text, which ends with a newline
                                                 an empty line, the last one
    — NAME BASE64(key id · signature)            one line a signature
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from phloem.errors import FormatError, ProofError
from phloem.tlog.keys import Signer, VerifierKey, check_name
from phloem.tlog.text import from_base64, to_base64

LARGEST_NOTE = 1 << 20
MOST_SIGNATURES = 64

_ID_BYTES = 4
_MARK = "— "


@dataclass(frozen=True, slots=True)
class Signature:
    """One line: who signed, with which key, and what the signature is."""

    name: str
    id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_MARK}{self.name} {to_base64(self.id + self.signature)}\n"

    @classmethod
    def parse(cls, line: str) -> Signature:
        """The signature in a line, without its newline.

        Raises:
            FormatError: it is none.
        """
        name, _, data = line.removeprefix(_MARK).partition(" ")
        if not line.startswith(_MARK):
            raise FormatError(f"expected a signature line, found {line!r:.80}")
        check_name(name)
        decoded = from_base64(data, f"the signature of '{name:.80}'")
        if len(decoded) <= _ID_BYTES:
            raise FormatError(f"the signature of '{name:.80}' is empty")
        return cls(name, decoded[:_ID_BYTES], decoded[_ID_BYTES:])


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its signatures, of which none has been verified."""

    text: bytes
    signatures: tuple[Signature, ...]

    def pack(self) -> bytes:
        """The note as it is written."""
        return self.text + b"\n" + "".join(map(str, self.signatures)).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Note:
        """The note in `data`.

        Raises:
            FormatError: it is none, too large, or has two signatures of one key.
        """
        if len(data) > LARGEST_NOTE:
            raise FormatError(f"a note of {len(data)} bytes is larger than {LARGEST_NOTE}")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"a note is not UTF-8: {error}") from error
        if any(letter < " " and letter != "\n" for letter in text):
            raise FormatError("a note holds control characters")
        body, gap, lines = text.rpartition("\n\n")
        if not gap or not lines.endswith("\n"):
            raise FormatError("a note has no signatures after an empty line")
        found = tuple(Signature.parse(line) for line in lines[:-1].split("\n"))
        if len(found) > MOST_SIGNATURES:
            raise FormatError(f"a note has {len(found)} signatures, more than {MOST_SIGNATURES}")
        if len({(one.name, one.id) for one in found}) != len(found):
            raise FormatError("a note has two signatures of one key")
        return cls(body.encode() + b"\n", found)

    def verified(self, keys: Iterable[VerifierKey]) -> dict[VerifierKey, bytes]:
        """The signatures by `keys`, all of them good; those of unknown keys are ignored.

        Raises:
            ProofError: a signature that names one of the keys is not that key's.
        """
        known = {(key.name, key.id): key for key in keys}
        good = {}
        for one in self.signatures:
            key = known.get((one.name, one.id))
            if key is None:
                continue
            if not key.verifies(self.text, one.signature):
                raise ProofError(f"the signature of '{key.name}' is not over this text")
            good[key] = one.signature
        return good

    def signed(self, signers: Sequence[Signer], time: Callable[[], int] | None = None) -> Note:
        """The same note with signatures of these keys as well, in place of older ones of the same keys."""
        new = [Signature(s.name, s.verifier.id, s.sign(self.text, time)) for s in signers]
        replaced = {(one.name, one.id) for one in new}
        kept = (one for one in self.signatures if (one.name, one.id) not in replaced)
        return Note(self.text, (*kept, *new))


def opened(data: bytes, keys: Iterable[VerifierKey]) -> tuple[bytes, dict[VerifierKey, bytes]]:
    """The text of a note that at least one of `keys` signed, and the signatures by them.

    Raises:
        FormatError: it is no note. ProofError: none of them signed it, or a signature is bad.
    """
    note = Note.unpack(data)
    good = note.verified(keys)
    if not good:
        raise ProofError("no key that is known signed this note")
    return note.text, good


def signed(text: bytes, signers: Sequence[Signer], time: Callable[[], int] | None = None) -> bytes:
    """The note of this text, signed.

    Raises:
        FormatError: the text does not end with a newline, or holds control characters.
    """
    if not text.endswith(b"\n"):
        raise FormatError("a note's text must end with a newline")
    data = Note(text, ()).signed(signers, time).pack()
    return Note.unpack(data).pack()
