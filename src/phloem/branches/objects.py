"""The objects of a repository by their digests, wherever they lie: records, small files, frames."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from phloem import canonical
from phloem.branches import packs
from phloem.branches.blobs import Blob, Bytes
from phloem.branches.catalog import Catalog, Entry
from phloem.branches.records import Commit, Encoding
from phloem.branches.refs import Refs
from phloem.errors import FormatError, NotFoundError

if TYPE_CHECKING:  # history is read without NumPy
    from phloem.tensors import TensorSpec

#: Frames up to this size go into packs.
SMALL_FRAME = 1 << 18


class Place(Protocol):
    """Where a repository lies: a directory or a bucket."""

    url: str

    def pack_names(self) -> list[str]:
        """The packs that are there."""
        ...

    def pack(self, name: str) -> Blob:
        """A pack."""
        ...

    def frame(self, digest: str) -> Blob:
        """A frame that has a file of its own."""
        ...

    def frames(self) -> dict[str, int]:
        """All of those, and their sizes."""
        ...

    def refs(self) -> Refs:
        """The table of names."""
        ...


class Objects:
    """What a place holds, through its catalog."""

    def __init__(self, place: Place, catalog: Catalog) -> None:
        self.place, self.catalog = place, catalog
        self.refresh()

    def refresh(self) -> None:
        """Takes notice of packs that came or went."""
        self.damaged_packs = self.catalog.follow(self.place.pack_names, self.place.pack)

    def get(self, digest: str) -> bytes:
        """An object of a pack, its digest checked.

        Raises:
            NotFoundError: there is none. FormatError: every copy of it is damaged.
        """
        content = self._packed(digest)
        if content is None:  # somebody else may have brought it since
            self.refresh()
            content = self._packed(digest)
        if content is None:
            raise NotFoundError(f"the repository has no object {digest[:12]}", hint=_MENDING)
        return content

    def frame(self, digest: str) -> Blob:
        """A frame. Its content is not checked here: what it gives is.

        Raises:
            NotFoundError: there is none.
        """
        for again in (False, True):
            content = self._packed(digest)
            if content is not None:
                return Bytes(content, f"the frame {digest[:12]}")
            with contextlib.suppress(NotFoundError):
                return self.place.frame(digest)
            if not again:  # somebody else may have brought it since
                self.refresh()
        raise NotFoundError(f"the repository lacks the frame {digest[:12]}", hint=_MENDING)

    def blob(self, digest: str) -> bytes:
        """A frame, or what else a recipe names, its digest checked.

        Raises:
            NotFoundError: there is none. FormatError: it is damaged.
        """
        found = self.frame(digest)
        content = found.read(0, found.size)
        if canonical.digest(content) != digest:
            raise FormatError(
                f"the object {digest[:12]} is damaged: its content has another digest", hint=_MENDING
            )
        return content

    def has(self, digest: str) -> bool:
        """Whether there is such an object."""
        if digest in self.catalog:
            return True
        with contextlib.suppress(NotFoundError):
            self.place.frame(digest)
            return True
        return False

    def commit(self, digest: str) -> Commit:
        """A commit, as it was written.

        Raises:
            NotFoundError: there is none. FormatError: it is damaged, or something else.
        """
        return Commit.unpack(self.get(digest))

    def entry(self, digest: str) -> Entry:
        """A commit, as the catalog has it.

        Raises:
            NotFoundError: there is none.
        """
        found = self.catalog.commit(digest)
        if found is None:  # somebody else may have made it since
            self.refresh()
            found = self.catalog.commit(digest)
        if found is None:
            raise NotFoundError(f"the repository has no commit {digest[:12]}", hint=_MENDING)
        return found

    def state(self, digest: str) -> tuple[tuple[TensorSpec, str], ...]:
        """A state's tensors and their digests, sorted by name.

        Raises:
            NotFoundError: there is none. FormatError: it is damaged, or something else.
        """
        from phloem.tensors import read_state_record

        return read_state_record(self.get(digest))

    def encodings(self, state: str) -> list[Encoding]:
        """How a state is stored."""
        return self.catalog.encodings(state)

    def _packed(self, digest: str) -> bytes | None:
        """An object from the first pack where it is whole; None where none has it. Packs may be moving meanwhile."""
        damaged: FormatError | None = None
        for attempt in range(_MOST_TRIES):
            places = self.catalog.places(digest)
            for name, row in places:
                try:
                    blob = self.place.pack(name)
                    if row.offset + row.stored > blob.size:
                        raise FormatError(f"the pack {name[:12]} has become shorter")
                    return packs.content_of(blob.read(row.offset, row.stored), row)
                except NotFoundError:
                    continue
                except FormatError as error:
                    damaged = error
                    if not attempt:
                        self.catalog.forget(name)  # perhaps it is the catalog that is damaged
            if not places or (damaged is not None and attempt):
                break
            self.refresh()
        if damaged is not None:
            raise FormatError(damaged.message, hint=_MENDING)
        return None


#: How often packs may be combined while an object is looked for.
_MOST_TRIES = 20
_MENDING = "phloem fsck says what is missing; phloem pull or fsck --from brings it back"
