"""Every byte of a repository read once: which objects are whole, which are damaged, and what they say of each other.

Nothing is believed but digests: the catalog on the disk is not asked, another is made from the packs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from phloem.branches import packs
from phloem.branches.blobs import Blob
from phloem.branches.catalog import Catalog
from phloem.branches.folder import Folder
from phloem.branches.objects import Objects, Place
from phloem.branches.records import Encoding
from phloem.branches.refs import Refs
from phloem.branches.ways import Sizes, Ways
from phloem.errors import FormatError, NotFoundError, PhloemError, StateError, StoreError
from phloem.tensors import read_state_record

Progress = Callable[[str, int, int], None]
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, order=True)
class Damage:
    """A copy of an object that is not what its name says.

    Attributes:
        kind: what it is, one of `packs.KINDS`' values, or "pack".
        digest: its own; a pack's name.
        pack: the pack in which the copy lies; empty for a frame that has a file of its own.
        why: in words.
    """

    kind: str
    digest: str
    pack: str
    why: str


@dataclass
class Scan:
    """What is in a place.

    Attributes:
        objects: the place, with a catalog made for this.
        refs: the names, or None where they cannot be read; then `unnamed` says why.
        whole: the digests of objects of which there is a copy that is right.
        damages: the copies that are not.
        encodings: those of which record and frame are whole, by the digest of the record.
        copies, bytes: how many copies of objects were read, and their size.
    """

    objects: Objects
    refs: Refs | None = None
    unnamed: str = ""
    whole: set[str] = field(default_factory=set)
    damages: list[Damage] = field(default_factory=list)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    copies: int = 0
    bytes: int = 0

    @property
    def damaged(self) -> set[str]:
        """The objects of which no copy is right."""
        return {one.digest for one in self.damages} - self.whole

    def ways(self, without: frozenset[Encoding] = frozenset()) -> Ways:
        """The ways to all states that whole frames give, but for some encodings."""
        return Ways([one for one in self.encodings.values() if one not in without], Sizes(self.objects))


def scan(place: Place, progress: Progress) -> Scan:
    """Reads all that is in a place.

    Raises:
        StoreError: its packs or frames cannot even be listed.
    """
    if isinstance(place, Folder):
        place.close()  # files that others replaced, or cut off, are opened again
    found = Scan(Objects(place, Catalog(None)))
    try:
        found.refs = place.refs()
    except (StateError, StoreError) as error:
        found.unnamed = error.message
    names, frames = sorted(place.pack_names()), place.frames()
    total = len(names) + len(frames)
    states: set[str] = set()
    for number, name in enumerate(names):
        progress("reading packs and frames", number, total)
        _read_pack(found, name, states)
    for number, (digest, size) in enumerate(sorted(frames.items())):
        progress("reading packs and frames", len(names) + number, total)
        found.copies, found.bytes = found.copies + 1, found.bytes + size
        try:
            right = _digest(place.frame(digest)) == digest
        except NotFoundError:
            continue  # removed meanwhile
        except StoreError as error:
            found.damages.append(Damage("frame", digest, "", error.message))
            continue
        if right:
            found.whole.add(digest)
        else:
            found.damages.append(Damage("frame", digest, "", _OTHER))
    _understand(found, states)
    return found


_OTHER = "its content has another digest"


def _read_pack(found: Scan, name: str, states: set[str]) -> None:
    try:
        blob = found.objects.place.pack(name)
        rows = packs.index(blob, name)
    except NotFoundError:
        return  # combined with others meanwhile
    except (FormatError, StoreError) as error:
        found.damages.append(Damage("pack", name, name, error.message))
        return
    for row in rows:
        found.copies, found.bytes = found.copies + 1, found.bytes + row.stored
        try:
            content = packs.content_of(blob.read(row.offset, row.stored), row)
            if row.kind == packs.STATE and row.digest not in states:
                read_state_record(content)
                states.add(row.digest)
        except StoreError as error:
            found.damages.append(Damage(packs.KINDS[row.kind], row.digest, name, error.message))
        except FormatError as error:
            why = _OTHER if "another digest" in error.message else error.message
            found.damages.append(Damage(packs.KINDS[row.kind], row.digest, name, why))
        else:
            found.whole.add(row.digest)


def _understand(found: Scan, states: set[str]) -> None:
    """Takes out records that are none, whatever their digests, and collects encodings that can be followed."""
    catalog = found.objects.catalog
    every = dict(catalog.all_encodings())
    for kind, known in ((packs.COMMIT, catalog.commits().keys()), (packs.ENCODING, every.keys())):
        for digest in sorted((catalog.digests(kind).keys() & found.whole) - known):
            try:
                found.objects.commit(digest) if kind == packs.COMMIT else Encoding.unpack(
                    found.objects.get(digest)
                )
                why = "it is of another kind than its pack says"
            except PhloemError as error:
                why = error.message
            found.whole.discard(digest)
            found.damages.append(Damage(packs.KINDS[kind], digest, catalog.places(digest)[0][0], why))
    sizes = {**catalog.digests(), **found.objects.place.frames()}
    found.encodings = {
        digest: one
        for digest, one in every.items()
        if digest in found.whole
        and one.frame in found.whole
        and one.frame_bytes == sizes.get(one.frame)
        and one.state in states
    }


def _digest(blob: Blob) -> str:
    found = hashlib.sha256()
    for at in range(0, blob.size, _PIECE_BYTES):
        found.update(blob.read(at, min(_PIECE_BYTES, blob.size - at)))
    return found.hexdigest()
