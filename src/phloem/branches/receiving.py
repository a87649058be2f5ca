"""A large frame into a directory, by pieces; after a crash it goes on where it was, its digest has the last word."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from phloem.branches.blobs import Blob
from phloem.branches.folder import Folder, writing
from phloem.branches.records import check_digest
from phloem.errors import FormatError, NotFoundError

_PIECE_BYTES = 8 << 20


def receive(folder: Folder, blob: Blob, digest: str) -> int:
    """Makes a blob the frame of this digest in a directory; gives its size. Durable when this returns.

    What a process that was killed had is kept for a while (`Folder.sweep`) and not fetched again. Of two that fetch the
    same frame one waits for the other.

    Raises:
        FormatError: it has another digest; nothing is kept of it. StoreError: it cannot be read, or the disk is full.
    """
    part = folder.root / "tmp" / f"{check_digest(digest)}.part"
    with _claimed(folder, part) as file:
        if _is_there(folder, digest):
            part.unlink(missing_ok=True)
            return blob.size
        start = _fetch(folder, blob, file)
        right = _digest(file) == digest
        if not right and start:  # what was there was of something else
            file.truncate(0)
            _fetch(folder, blob, file)
            right = _digest(file) == digest
        if not right:
            part.unlink()
            raise FormatError(f"{blob.name} is damaged: its content has another digest")
        folder.add_frame(part, digest)
    return blob.size


def _fetch(folder: Folder, blob: Blob, file: io.FileIO) -> int:
    """Appends what a file lacks of a blob; gives the place where that began."""
    at = start = file.seek(0, os.SEEK_END)
    if start > blob.size:
        file.truncate(0)
        at = start = 0
    while at < blob.size:
        piece = memoryview(blob.read(at, min(_PIECE_BYTES, blob.size - at)))
        at += len(piece)
        while piece:
            with writing(folder.root):
                piece = piece[file.write(piece) :]
    return start


def _digest(file: io.FileIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _is_there(folder: Folder, digest: str) -> bool:
    with contextlib.suppress(NotFoundError):
        folder.frame(digest)
        return True
    return False


@contextlib.contextmanager
def _claimed(folder: Folder, part: Path) -> Iterator[io.FileIO]:
    """A file in the making, for as long as this lasts nobody else's."""
    while True:
        with writing(folder.root):
            part.parent.mkdir(exist_ok=True)
            file = part.open("a+b", buffering=0)
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                    yield file
                    return
