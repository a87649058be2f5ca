"""What `fsck` puts right: damaged copies replaced, from other copies here or from another repository; names made again.

Everything that is fetched is checked against its digest. What is damaged goes only when what it was is there again, or
when nothing needs it: until then it stays for whoever can make more of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phloem.branches import chains, keeping, packs
from phloem.branches.catalog import Catalog, Entry
from phloem.branches.folder import Folder
from phloem.branches.history import reachable
from phloem.branches.objects import SMALL_FRAME, Objects, Place
from phloem.branches.records import Commit, Encoding
from phloem.branches.refs import Refs, check_name
from phloem.branches.scanning import Scan, scan
from phloem.branches.ways import Sizes, Ways
from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, StoreError
from phloem.store.files import sync, write_durably

if TYPE_CHECKING:
    from phloem.branches.repository import Repository

Progress = Callable[[str, int, int], None]
_PIECE_BYTES = 1 << 20
#: Packs of what was fetched are not much larger.
_PACK_BYTES = 32 << 20


def mend(folder: Folder, source: Place | Repository | None, progress: Progress) -> list[str]:
    """Puts right what can be put right, and says in words what that was.

    Raises:
        StoreError: the disk failed; nothing was lost.
    """
    with folder.locked():
        found = scan(folder, progress)
        work = _Mending(folder, found, None if source is None else _objects(source), progress)
        work.save_packs()
        work.fetch()
        work.leave_out()
    return work.done


def _objects(source: Place | Repository) -> Objects:
    place: Any = getattr(source, "place", source)
    return Objects(place, Catalog(None))


class _Mending:
    """One call of `mend`, under the lock."""

    def __init__(self, folder: Folder, found: Scan, source: Objects | None, progress: Progress) -> None:
        self.folder, self.scan, self.source, self.progress = folder, found, source, progress
        self.objects = found.objects
        self.whole = set(found.whole)
        self.done: list[str] = []
        self.lacking = 0
        self._made: set[str] = set()
        self._packed: list[tuple[int, bytes]] = []
        self._packed_bytes = 0

    # -- packs -----------------------------------------------------------------------------------------------

    def save_packs(self) -> None:
        """Everything that is whole in packs whose index cannot be read, in packs of its own."""
        for one in self.scan.damages:
            if one.kind != "pack":
                continue
            try:
                saved = packs.salvaged(self.folder.pack(one.pack))
            except StoreError:
                continue
            new = [(kind, content) for kind, content in saved if _name(content) not in self.whole]
            for kind, content in new:
                self._add(kind, content)
            if new:
                self.done.append(f"saved {len(new)} objects out of the pack {one.pack[:12]}")
        self._flush()
        if self.done:
            self.scan = scan(self.folder, self.progress)
            self.objects, self.whole = self.scan.objects, self.whole | self.scan.whole

    # -- fetching --------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Fetches what names lead to and is not whole, and other things that are damaged."""
        for one in self.scan.damages:
            if one.kind != "pack" and one.digest not in self.whole:
                self._fetched(_KINDS[one.kind], one.digest)
        self._flush()
        states = self._fetch_commits()
        for frame in sorted({one.frame for state in states for one in self.objects.encodings(state)}):
            if frame not in self.whole:
                self._fetched(packs.FRAME, frame)
        self._flush()
        ways = Ways(self._encodings(), Sizes(self.objects))
        for state in reversed(states):  # older ones first: others are built on them
            if state not in ways.last:
                self._fetch_chain(state, ways)

    def _fetch_commits(self) -> list[str]:
        """Fetches commits, files and records of states; gives the states, roughly the newest first."""
        refs = self.scan.refs or Refs()
        todo = [*refs.branches.values(), *refs.tags.values()]
        seen: set[str] = set()
        states: dict[str, None] = {}
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            content = self.objects.get(here) if here in self.whole else self._fetched(packs.COMMIT, here)
            if content is None:
                self.lacking += 1
                continue
            commit = Commit.unpack(content)
            todo += commit.parents
            states[commit.state] = None
            for kind, digest in [
                *((packs.FILE, d) for d in commit.files.values()),
                (packs.STATE, commit.state),
            ]:
                if digest not in self.whole and self._fetched(kind, digest) is None:
                    self.lacking += 1
        self._flush()
        return list(states)

    def _encodings(self) -> list[Encoding]:
        """The encodings of which everything is whole."""
        return [
            one
            for digest, one in self.objects.catalog.all_encodings()
            if {digest, one.frame, one.state} <= self.whole
        ]

    def _fetch_chain(self, state: str, ways: Ways) -> None:
        """Fetches another way to a state, since the one that was here is lost."""
        if self.source is not None:
            try:
                chain = chains.cheapest(state, Sizes(self.source)(state), self.source.encodings)
            except (NotFoundError, FormatError):
                chain = []
            for one in chain:
                record = one.pack()
                for kind, digest in ((packs.STATE, one.state), (packs.FRAME, one.frame)):
                    if digest not in self.whole:
                        self._fetched(kind, digest)
                if _name(record) not in self.whole:
                    self._add(packs.ENCODING, record)
            self._flush()
            for one in chain:
                if {one.state, one.frame} <= self.whole:
                    ways.add(one)
        self.lacking += state not in ways.last

    def _fetched(self, kind: int, digest: str) -> bytes | None:
        """Fetches an object and gives it (nothing of a large frame), if the source has it whole."""
        if self.source is None:
            return None
        content = b""
        try:
            if kind != packs.FRAME:
                content = self.source.get(digest)
                self._add(kind, content)
            elif not self._take_frame(digest):
                return None
        except (NotFoundError, FormatError):
            return None
        self.done.append(f"fetched the {packs.KINDS[kind]} {digest[:12]}")
        return content

    def _take_frame(self, digest: str) -> bool:
        """Fetches a frame; a large one takes the place of its file."""
        assert self.source is not None
        blob = self.source.frame(digest)
        if blob.size <= SMALL_FRAME:
            content = blob.read(0, blob.size)
            if _name(content) != digest:
                return False
            self._add(packs.FRAME, content)
            return True
        with self.folder.scratch() as scratch:
            path, right = scratch / "frame", hashlib.sha256()
            with path.open("wb") as file:
                for at in range(0, blob.size, _PIECE_BYTES):
                    piece = blob.read(at, min(_PIECE_BYTES, blob.size - at))
                    right.update(piece)
                    file.write(piece)
            if right.hexdigest() != digest:
                return False
            self.folder.remove_frame(digest)
            self.folder.add_frame(path, digest)
        self.whole.add(digest)
        return True

    def _add(self, kind: int, content: bytes) -> None:
        self._packed.append((kind, content))
        self._packed_bytes += len(content)
        self.whole.add(_name(content))
        if self._packed_bytes > _PACK_BYTES:
            self._flush()

    def _put(self, objects: list[tuple[int, bytes]]) -> None:
        """Adds a pack; a damaged one of the same name gives way to it."""
        name, _ = packs.pack(objects)
        self._made.add(name)
        if name in {one.pack for one in self.scan.damages}:
            self.folder.remove_pack(name)
        self.folder.add_pack(objects)

    def _flush(self) -> None:
        if self._packed:
            self._put(self._packed)
            self._packed, self._packed_bytes = [], 0
            self.objects.refresh()

    # -- leaving out -----------------------------------------------------------------------------------------

    def leave_out(self) -> None:
        """Writes packs again without copies that are damaged, and takes out frames that nothing needs."""
        self._take_out_frames()
        for name in sorted({one.pack for one in self.scan.damages if one.pack}):
            broken = {one.digest for one in self.scan.damages if one.pack == name and one.kind != "pack"}
            unknown = not broken  # its index cannot be read: nobody knows what was in it
            if (unknown and self.lacking) or not broken <= self.whole:
                continue
            try:
                kept = [
                    (kind, content)
                    for kind, content in packs.salvaged(self.folder.pack(name))
                    if _name(content) not in broken
                ]
            except StoreError:
                kept = []
            if kept:
                self._put(kept)
            if name not in self._made:
                self.folder.remove_pack(name)
            self.done.append(f"wrote the pack {name[:12]} again without what was damaged")
        self.objects.refresh()

    def _take_out_frames(self) -> None:
        """Damaged frames go, with the records that name them, where all states have other ways."""
        ways, every = Ways(self._encodings(), Sizes(self.objects)), dict(self.objects.catalog.all_encodings())
        for frame in sorted({one.digest for one in self.scan.damages if one.kind == "frame"} - self.whole):
            records = {digest: one for digest, one in every.items() if one.frame == frame}
            if records and all(one.state in ways.last for one in records.values()):
                keeping.take_out(self.folder, self.objects, {frame, *records}.__contains__)
                self.done.append(f"took out the damaged frame {frame[:12]}, which nothing needed")


_KINDS = {word: kind for kind, word in packs.KINDS.items()}


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -- names -----------------------------------------------------------------------------------------------------


def rebuild_names(folder: Folder, progress: Progress) -> list[str]:
    """Makes a damaged table of names again, and says in words what came of it; one that can be read stays.

    Names are read out of what is left of the table, as far as commits that are here follow them; other commits that no
    name leads to become branches "found/DIGEST". The damaged table is kept beside, as `refs.damaged`.

    Raises:
        StoreError: the disk failed.
    """
    with folder.locked():
        found = scan(folder, progress)
        if found.refs is not None:
            return []
        known = found.objects.catalog.commits()
        path = folder.root / "refs.json"
        try:
            left = path.read_bytes()
        except OSError:
            left = b""
        refs = _left(left, known)
        for digest in _heads(refs, known):
            refs = refs.with_branch(f"found/{digest[:12]}", digest)
        if refs.current not in refs.branches and refs.branches:
            refs = replace(refs, current=min(refs.branches))
        if left:
            _keep(folder.root / "refs.damaged", left)
        try:
            write_durably(path, refs.pack())
        except OSError as error:
            raise StoreError(f"{path} could not be written: {error.strerror}") from error
    return [
        f"made the table of names again: {len(refs.branches)} branches, {len(refs.tags)} tags; "
        f"look at them, and give those called found/… better names"
    ]


def _left(data: bytes, known: dict[str, Entry]) -> Refs:
    """The names that can still be read and lead to commits that are here."""
    refs, text = Refs(), data.decode("utf-8", "replace")
    tags = text.find('"tags":')
    remotes = text.find('"remotes":')
    for match in re.finditer(r'"([^"]{1,200})":"([0-9a-f]{64})"', text):
        name, digest = match.groups()
        try:
            check_name(name)
        except ConfigError:
            continue
        if digest not in known:
            continue
        if 0 <= tags < match.start():
            refs = refs.with_tag(name, digest)
        elif not 0 <= remotes < match.start():
            refs = refs.with_branch(name, digest)
    current = re.search(r'"current":"([^"]{1,200})"', text)
    if current and current[1] in refs.branches:
        return replace(refs, current=current[1])
    return refs


def _heads(refs: Refs, known: dict[str, Entry]) -> list[str]:
    alone = known.keys() - reachable(refs.commits(), known)
    return sorted(alone - {parent for digest in alone for parent in known[digest].parents})


def _keep(path: Path, data: bytes) -> None:
    try:
        write_durably(path, data)
        sync(path.parent)
    except (OSError, PhloemError):
        pass  # it is only kept for those who want to look at it
