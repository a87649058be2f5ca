"""What one commit adds to a repository, collected before any of it is there, then added in one step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from phloem.branches import packs
from phloem.branches.folder import Folder
from phloem.branches.objects import SMALL_FRAME, Objects
from phloem.branches.records import Commit, Encoding
from phloem.errors import StoreError

_PIECE = 1 << 20


@dataclass
class Draft:
    """Objects in the making. `publish` puts large frames first, then one pack with everything that names them."""

    folder: Folder
    objects: Objects
    scratch: Path
    packed: list[tuple[int, bytes]] = field(default_factory=list)
    large: dict[str, Path] = field(default_factory=dict)
    frame_bytes: int = 0

    def add(self, kind: int, content: bytes) -> str:
        """Adds a record or a small file; gives its digest."""
        digest = hashlib.sha256(content).hexdigest()
        if digest not in self.objects.catalog:
            self.packed.append((kind, content))
        return digest

    def add_commit(self, commit: Commit) -> str:
        """Adds a commit."""
        return self.add(packs.COMMIT, commit.pack())

    def add_frame(self, frame: Path | bytes, state: str, base: str | None, form: str, codec: str) -> Encoding:
        """Adds a frame, from a file in the scratch directory or from memory, and says what it gives."""
        size = len(frame) if isinstance(frame, bytes) else frame.stat().st_size
        self.frame_bytes += size
        if isinstance(frame, Path) and size > SMALL_FRAME:
            digest = file_digest(frame)
            self.large[digest] = frame
        else:
            digest = self.add_blob(frame if isinstance(frame, bytes) else frame.read_bytes())
        encoding = Encoding(state, base, digest, form, codec, size)
        self.add(packs.ENCODING, encoding.pack())
        return encoding

    def add_blob(self, content: bytes) -> str:
        """Adds bytes that a recipe names, such as a site's frame; gives their digest."""
        if len(content) <= SMALL_FRAME:
            return self.add(packs.FRAME, content)
        digest = hashlib.sha256(content).hexdigest()
        path = self.scratch / digest
        path.write_bytes(content)
        self.large[digest] = path
        return digest

    def publish(self) -> None:
        """Makes all of it part of the repository; durable when this returns.

        Raises:
            StoreError: the disk refuses; nothing that a name leads to has changed.
        """
        for digest, path in self.large.items():
            self.folder.add_frame(path, digest)
        if self.packed:
            self.folder.add_pack(self.packed)
        self.objects.refresh()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        StoreError: it cannot be read.
    """
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                found.update(piece)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    return found.hexdigest()
