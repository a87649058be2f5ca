"""A repository in a directory of this machine.

    format.json       which format this is, and the settings; without it the directory is no repository
    refs.json         the table of names; replaced whole
    packs/            commits, states, encodings, small files and small frames, many in a file that never changes
    frames/ab/cd…     larger frames, each in a file of its own, named by its digest
    catalog.db        what is where; derived from the packs, may be deleted
    tmp/              what is in the making; swept when nobody works on it
    lock              held by whoever moves names or removes packs; it dies with its process

Content first, then the packs that name it, then the table of names: at any moment all that a name leads to is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from phloem.branches import packs
from phloem.branches.blobs import Blob, blob_of
from phloem.branches.refs import LARGEST, Refs
from phloem.errors import ConfigError, ConflictError, FormatError, StateError, StoreError
from phloem.store.files import sync, write_durably

NAME = ".phloem"
VERSION = 1
_FORMAT, _REFS, _LOCK = "format.json", "refs.json", "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_OPEN = 128
_IN_THE_MAKING_SECONDS = 3600.0


class Folder:
    """A repository's directory: reads anything, adds what is whole, moves names by compare-and-swap."""

    writable = True

    def __init__(self, root: Path) -> None:
        """The repository in `root`, which must be there.

        Raises:
            ConfigError: there is none. StateError: it is of another version.
        """
        self.root = root
        self.url = str(root)
        try:
            said = json.loads((root / _FORMAT).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(
                f"there is no repository in {root}", hint="make one here with phloem init"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise StateError(f"{root / _FORMAT} cannot be read: {error}", hint="restore it") from error
        if not isinstance(said, dict) or said.get("format") != "phloem repository":
            raise ConfigError(f"{root} is no repository of models")
        if said.get("version") != VERSION:
            raise StateError(
                f"{root} is a repository of version {said.get('version')!r:.20}, this is version {VERSION}"
            )
        settings = said.get("settings")
        self.settings: dict[str, Any] = settings if isinstance(settings, dict) else {}
        self._open: dict[str, Blob] = {}

    @classmethod
    def create(cls, root: Path, settings: Mapping[str, Any] | None = None) -> Folder:
        """A new repository in `root`; whatever a crash left of one that was being made is gone on with.

        Raises:
            ConfigError: there is one already, or something else. StoreError: the disk refuses.
        """
        if (root / _FORMAT).exists():
            raise ConfigError(f"there is a repository in {root} already", hint="nothing was changed")
        with writing(root):
            for folder in (root, root / "packs", root / "frames", root / "tmp"):
                folder.mkdir(parents=True, exist_ok=True)
            if not (root / _REFS).exists():
                write_durably(root / _REFS, Refs().pack())
            table = {"format": "phloem repository", "version": VERSION, "settings": dict(settings or {})}
            write_durably(root / _FORMAT, json.dumps(table, indent=2).encode() + b"\n")
            sync(root.parent)
        return cls(root)

    def close(self) -> None:
        """Closes the files that are open."""
        self._open.clear()

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keeps the settings."""
        self.settings = dict(settings)
        table = {"format": "phloem repository", "version": VERSION, "settings": self.settings}
        with writing(self.root):
            write_durably(self.root / _FORMAT, json.dumps(table, indent=2).encode() + b"\n")

    # -- reading ---------------------------------------------------------------------------------------------

    @property
    def catalog_path(self) -> Path | None:
        """Where the catalog lies."""
        return self.root / "catalog.db"

    def pack_names(self) -> list[str]:
        """The packs that are there."""
        try:
            names = os.listdir(self.root / "packs")
        except OSError as error:
            raise StoreError(f"{self.root / 'packs'} cannot be read: {error.strerror}") from error
        return [name[:-5] for name in names if len(name) == 69 and name.endswith(".pack")]

    def pack(self, name: str) -> Blob:
        """A pack.

        Raises:
            NotFoundError: it is not there (any more).
        """
        return self._blob(self._pack_path(name), f"the pack {name[:12]}")

    def frame(self, digest: str) -> Blob:
        """A frame that has a file of its own.

        Raises:
            NotFoundError: there is none.
        """
        return self._blob(self.frame_path(digest), f"the frame {digest[:12]}")

    def frame_path(self, digest: str) -> Path:
        """Where a frame lies that has a file of its own."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise FormatError(f"expected a SHA-256 digest in hexadecimal, found {digest!r:.80}")
        return self.root / "frames" / digest[:2] / digest[2:]

    def frames(self) -> dict[str, int]:
        """The frames that have files of their own, and their sizes."""
        found = {}
        for folder in sorted((self.root / "frames").glob("??")):
            for path in folder.glob("?" * 62):
                digest = folder.name + path.name
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if set(digest) <= set("0123456789abcdef"):
                        found[digest] = path.stat().st_size
        return found

    def refs(self) -> Refs:
        """The names.

        Raises:
            StateError: the table is damaged.
        """
        try:
            with (self.root / _REFS).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return Refs.unpack(file.read(min(size, LARGEST) + 1))
        except FormatError as error:
            raise StateError(
                f"{self.root / _REFS} is damaged: {error.message}",
                hint="phloem fsck says what is still there",
            ) from error
        except OSError as error:
            raise StoreError(f"{self.root / _REFS} cannot be read: {error.strerror}") from error

    # -- writing ---------------------------------------------------------------------------------------------

    def add_frame(self, path: Path, digest: str) -> None:
        """Takes a file from `tmp` in as the frame of this digest; durable when this returns."""
        place = self.frame_path(digest)
        with writing(self.root):
            with contextlib.suppress(FileNotFoundError):
                if filecmp.cmp(path, place, shallow=False):
                    path.unlink()
                    return
            self._open.pop(str(place), None)  # one that is there is damaged, and gives way
            if not place.parent.exists():
                place.parent.mkdir(exist_ok=True)
                sync(place.parent.parent)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(place)
            sync(place.parent)

    def add_pack(self, objects: Sequence[tuple[int, bytes]]) -> str:
        """Adds these objects in one step, and gives the pack's name; durable when this returns."""
        name, data = packs.pack(objects)
        path = self._pack_path(name)
        with writing(self.root):
            with contextlib.suppress(FileNotFoundError):
                if path.read_bytes() == data:
                    return name
            self._open.pop(str(path), None)  # one that is there is damaged, and is put right
            write_durably(path, data)
        return name

    def remove_pack(self, name: str) -> None:
        """Removes a pack, if it is there."""
        self._forget(self._pack_path(name))

    def remove_frame(self, digest: str) -> None:
        """Removes a frame's file, if it is there."""
        self._forget(self.frame_path(digest))  # not its directory, where others may be about to put one

    def move(self, change: Callable[[Refs], Refs]) -> Refs:
        """Changes the names in one step: `change` gets the table that is there, and gives the one that takes its place.

        Raises:
            ConflictError: `change` says so; nothing has moved.
        """
        with self.locked():
            before = self.refs()
            after = change(before)
            if after != before:
                with writing(self.root):
                    write_durably(self.root / _REFS, after.pack())
        return after

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While this lasts nobody else moves names or removes anything."""
        with writing(self.root):
            lock = (self.root / _LOCK).open("ab")
        with lock:
            with writing(self.root):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # outside: what goes wrong there is not the repository's doing

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for what is in the making; gone afterwards. What a killed process left is swept by others."""
        path = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(6)}"
        making = path.with_name(f".{path.name}")  # until it is locked, it is swept by nobody
        try:
            with writing(self.root):
                making.mkdir(parents=True)
                lock = (making / _LOCK).open("ab")
            with lock:
                with writing(self.root):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    making.rename(path)
                with _filling(self.root):  # what else goes wrong there is not the repository's doing
                    yield path
        finally:
            shutil.rmtree(making, ignore_errors=True)
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, *, dry_run: bool = False) -> int:
        """Removes what killed processes left in the making; gives the bytes that this frees."""
        freed, before = 0, time.time() - _IN_THE_MAKING_SECONDS
        for path in [
            *(self.root / "tmp").glob("*"),
            *(self.root / "packs").glob(".*"),
            *self.root.glob(".*.*"),
        ]:
            with contextlib.suppress(OSError):
                found, is_folder = path.stat(), path.is_dir()
                if found.st_mtime >= before and not (is_folder and path.name[0] != "."):
                    continue  # nobody takes longer to write a small file, or to lock a directory
                if not is_folder:
                    freed += found.st_size
                    if not dry_run:
                        path.unlink()
                    continue
                with (path / _LOCK).open("ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    freed += sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
                    if not dry_run:
                        shutil.rmtree(path, ignore_errors=True)
        return freed

    # -- files -----------------------------------------------------------------------------------------------

    def _pack_path(self, name: str) -> Path:
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise FormatError(f"expected the name of a pack, found {name!r:.80}")
        return self.root / "packs" / f"{name}.pack"

    def _blob(self, path: Path, name: str) -> Blob:
        key = str(path)
        if key not in self._open:
            if len(self._open) >= _MOST_OPEN:
                del self._open[next(iter(self._open))]
            self._open[key] = blob_of(path, name)
        return self._open[key]

    def _forget(self, path: Path) -> None:
        self._open.pop(str(path), None)
        with writing(self.root), contextlib.suppress(FileNotFoundError):
            path.unlink()


def find(start: Path) -> Path | None:
    """The `.phloem` of `start` or of the nearest directory above it."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / NAME / _FORMAT).is_file():
            return folder / NAME
    return None


def moved(branch: str, expected: str | None, found: str | None) -> ConflictError:
    """The refusal to move a branch that somebody else moved meanwhile."""
    return ConflictError(
        f"branch '{branch}' moved to {(found or 'nothing')[:12]} meanwhile, expected {(expected or 'nothing')[:12]}"
    )


@contextlib.contextmanager
def _filling(root: Path) -> Iterator[None]:
    """Turns what the system says of a full disk into our words, and nothing else."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError) or error.errno not in _FULL:
            raise
        with writing(root):
            raise


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turns the system's errors into ours, with the reason in words."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        hint = "free some space; nothing was lost" if error.errno in _FULL else None
        raise StoreError(f"{root} could not be written: {error.strerror}", hint=hint) from error
