"""A repository in a store of objects (S3, Google Cloud Storage, Azure, any that fsspec knows): read, pushed to.

    phloem.json               what this is; without it the place is no repository
    refs/00000012.json        the table of names; the highest number holds (`phloem.branches.numbered`)
    packs/NAME.pack           commits, states, encodings, small files and small frames
    frames/ab/cd…             larger frames, each named by its digest

Nothing here is ever changed: packs and frames are named by their content, and each version of the names has a number
of its own. So no reader sees half of anything, a process that is killed leaves nothing that is in the way, and what was
sent before is not sent again. The directory of a repository (`phloem.branches.folder`) that somebody copied to a store
can be read as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from phloem import canonical
from phloem.branches import packs
from phloem.branches.numbered import LARGEST, Numbered
from phloem.branches.ranges import WHOLE_BYTES, Pages, Remote
from phloem.branches.records import check_digest
from phloem.branches.refs import Refs
from phloem.errors import ConfigError, FormatError, NotFoundError, StateError
from phloem.store.urls import WHOLE, UrlStore

VERSION = 1
_FORMAT, _FOLDER = "phloem.json", "format.json"
_PACK = re.compile(r"([0-9a-f]{64})\.pack")
_MOST_PACKS = 1_000_000
_LARGEST_FORMAT = 1 << 16
_AT_ONCE = 32
#: Kinds whose servers create an object only where there is none, in one step. (That of oss is not told to; fsspec's own
#: way for all others looks first and writes then.) Whether a server of such a kind does so is tried as well.
_CREATING = WHOLE - {"oss"}


class Bucket:
    """A repository at a URL. Safe to read from any thread.

    Attributes:
        url: without secrets.
        known: packs whose index is known already, so that they are not fetched ahead.
    """

    writable = False

    def __init__(self, url: str, *, new: bool = False, alone: bool = False) -> None:
        """The repository at `url`.

        Args:
            url: as fsspec has them: s3://BUCKET/PREFIX.
            new: it may be that there is none yet; the first push makes it.
            alone: nobody else writes there, so that the store need not keep writers apart.

        Raises:
            ConfigError: there is none, or no such store can be. StoreError: the store does not answer.
            StateError: it is of another version.
        """
        if url.partition("://")[0] in ("http", "https"):
            raise ConfigError(
                "a web server does not list what it has, so no repository is read from one",
                hint="give the URL of the store behind it, or a directory",
            )
        self._store = UrlStore(url)
        self.url, self._alone = self._store.url, alone
        self._names = Numbered(self._store)
        self._pages = Pages()
        self._packs: dict[str, int] = {}
        self._fetched_ahead: set[str] = set()
        self.known: Collection[str] = ()
        self._ready = False
        self._format = self._read_format(new=new)

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether there is a repository yet."""
        return bool(self._format)

    def pack_names(self) -> list[str]:
        """The packs that are there.

        Raises:
            FormatError: there are more than any repository has. StoreError: they cannot be listed.
        """
        found = self._store.listing("packs")
        if len(found) > _MOST_PACKS:
            raise FormatError(f"{self.url} lists {len(found)} packs, more than any repository has")
        matches = ((_PACK.fullmatch(name), size) for name, size in found.items())
        self._packs = {match[1]: size for match, size in matches if match and size >= 0}
        return list(self._packs)

    def pack(self, name: str) -> Remote:
        """A pack. Small ones are fetched many at a time.

        Raises:
            NotFoundError: it is not there.
        """
        path = f"packs/{check_digest(name)}.pack"
        if name not in self._packs:
            self._packs[name] = self._store.size(path)
        if name not in self._fetched_ahead and self._pages.get(path) is None:
            self._fetch_ahead(name)
        return self._blob(path, self._packs[name], f"the pack {name[:12]}")

    def frame(self, digest: str) -> Remote:
        """A frame that is an object of its own.

        Raises:
            NotFoundError: there is none.
        """
        path = _frame_path(digest)
        return self._blob(path, self._store.size(path), f"the frame {digest[:12]}")

    def frames(self) -> dict[str, int]:
        """The frames that are objects of their own, and their sizes."""
        found = self._store.everything("frames")
        return {
            path.replace("/", ""): size
            for path, size in found.items()
            if re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{62}", path)
        }

    def refs(self) -> Refs:
        """The names.

        Raises:
            StateError: the table is damaged. StoreError: it cannot be read.
        """
        if self._format != _COPIED:
            return self._names.newest().names
        try:
            return Refs.unpack(self._store.read("refs.json", 0, min(self._store.size("refs.json"), LARGEST)))
        except FormatError as error:
            raise StateError(f"{self.url}/refs.json is damaged: {error.message}") from error

    # -- writing ---------------------------------------------------------------------------------------------

    def add_pack(self, objects: Sequence[tuple[int, bytes]]) -> str:
        """Adds these objects in one step, unless that very pack is there, and gives its name.

        Raises:
            StoreError: the store refuses.
        """
        self.make_ready()
        name, data = packs.pack(objects)
        path = f"packs/{name}.pack"
        if self._packs.get(name) != len(data):
            self._store.put(path, data)
            self._packs[name] = len(data)
        if len(data) <= WHOLE_BYTES:
            self._pages.put(path, data)
        return name

    def add_frame(self, frame: Path | bytes, digest: str) -> None:
        """Adds a frame, whose digest was checked, as an object of its own.

        Raises:
            StoreError: the store refuses.
        """
        self.make_ready()
        if isinstance(frame, bytes):
            self._store.put(_frame_path(digest), frame)
        else:
            self._store.upload(frame, _frame_path(digest))

    def move(self, change: Callable[[Refs], Refs]) -> Refs:
        """Changes the names in one step; `change` is asked again when somebody else was faster.

        Raises:
            ConflictError: `change` says so; nothing has moved. ConfigError: the store does not keep writers apart.
        """
        self.make_ready()
        return self._names.move(change, self._created)

    def make_ready(self) -> None:
        """Makes the repository if there is none, and finds out that the store keeps writers apart. Done before a write.

        The probe is the first object itself: it is created again, with the bytes that it has. A store that refuses
        creates only where there is nothing; from one that does not nothing is lost either.

        Raises:
            ConfigError: what is here can only be read. StoreError: the store refuses.
        """
        if self._ready:
            return
        if not self._store.whole:
            raise ConfigError(
                f"the repository at {self.url} can only be read: {self._store.kind} may leave half of an object "
                "when it fails",
                hint=f"push to a directory, or to one of {', '.join(sorted(WHOLE))}",
            )
        if self._format == _COPIED:
            raise ConfigError(
                f"{self.url} is a copy of a repository's directory, which can only be read",
                hint="push to another prefix",
            )
        if not self._format:
            there = self._store.listing()
            if there and _FORMAT not in there:  # or somebody else is making it at this moment
                raise ConfigError(f"there is something else at {self.url}", hint="choose an empty prefix")
            self._format = canonical.dumps({"format": "phloem repository", "version": VERSION})
            self._created(_FORMAT, self._format)
        if not self._alone and (
            self._store.kind not in _CREATING or self._store.create(_FORMAT, self._format)
        ):
            raise ConfigError(
                f"{self.url} does not keep two who push at once from undoing each other's work: it replaces an "
                "object that was to be created",
                hint="AWS S3, MinIO, Google Cloud Storage and Azure create only where there is none (with s3fs 2025.2 "
                "or newer); say alone if nobody else pushes there",
            )
        self._ready = True

    def _created(self, path: str, content: bytes) -> bool:
        if not self._alone:
            return self._store.create(path, content)
        if self._store.has(path):
            return False
        self._store.put(path, content)
        return True

    # -- objects ---------------------------------------------------------------------------------------------

    def _read_format(self, *, new: bool) -> bytes:
        """What says that this is a repository; empty where there is none yet."""
        for name in (_FORMAT, _FOLDER):
            try:
                data = self._store.read(name, 0, min(self._store.size(name), _LARGEST_FORMAT))
            except NotFoundError:
                continue
            _check_format(data, f"{self.url}/{name}")
            return data if name == _FORMAT else _COPIED
        if not new:
            raise ConfigError(f"there is no repository at {self.url}", hint="phloem push makes one there")
        return b""

    def _fetch_ahead(self, first: str) -> None:
        """Fetches a small pack and those after it that were never asked for, with requests side by side."""
        names = [
            name
            for name in sorted(self._packs)
            if name >= first
            and name not in self._fetched_ahead
            and (name == first or name not in self.known)
            and 0 < self._packs[name] <= WHOLE_BYTES // 8
        ][:_AT_ONCE]
        self._fetched_ahead.update([first, *names])
        if len(names) < 2:
            return
        paths, sizes = [f"packs/{name}.pack" for name in names], [self._packs[name] for name in names]
        for path, size, found in zip(paths, sizes, self._store.read_many(paths, sizes), strict=True):
            if found is not None and len(found) == size:
                self._pages.put(path, found)

    def _blob(self, path: str, size: int, name: str) -> Remote:
        return Remote(path, size, name, self._store.read, self._pages)


#: Stands for the format of a directory that was copied.
_COPIED = b"a directory"


def _frame_path(digest: str) -> str:
    check_digest(digest)
    return f"frames/{digest[:2]}/{digest[2:]}"


def _check_format(data: bytes, where: str) -> None:
    try:
        said: Any = json.loads(data)
    except ValueError as error:
        raise StateError(f"{where} cannot be read: it is no JSON") from error
    if not isinstance(said, dict) or said.get("format") != "phloem repository":
        raise ConfigError(f"{where} is of something else than a repository of models")
    if said.get("version") != VERSION:
        raise StateError(f"{where} is of version {said.get('version')!r:.20}, this is version {VERSION}")
