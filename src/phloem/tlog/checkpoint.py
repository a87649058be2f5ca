"""Checkpoints: what a log says of itself, its size and its root.

Source: c2sp.org/tlog-checkpoint. Extension lines are read and kept, and never written: not all cosigners sign them.
"""

from __future__ import annotations

from dataclasses import dataclass

from phloem.errors import FormatError
from phloem.tlog.text import from_decimal, hash_from_base64, to_base64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree of `size` entries of the log `origin` has the root `root`.

    >>> checkpoint = Checkpoint("example.org/log", 0, bytes(32))
    >>> Checkpoint.unpack(checkpoint.pack()) == checkpoint
    True
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def pack(self) -> bytes:
        """The text of the note."""
        lines = (self.origin, str(self.size), to_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def unpack(cls, text: bytes) -> Checkpoint:
        """The checkpoint in a note's text.

        Raises:
            FormatError: it is none.
        """
        try:
            lines = text.decode().split("\n")
        except UnicodeDecodeError as error:
            raise FormatError(f"a checkpoint is not UTF-8: {error}") from error
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise FormatError("a checkpoint has three lines or more, none of them empty")
        origin, size, root, *extensions = lines
        return cls(
            origin, from_decimal(size, "a tree's size"), hash_from_base64(root, "a root"), tuple(extensions)
        )
