"""A model's directory in the making: it appears whole or not at all, with few files open at a time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Self

from phloem.errors import ConfigError
from phloem.files.adapters import WEIGHTS, extra_name
from phloem.files.companions import may_be_taken
from phloem.files.folders import names_in
from phloem.files.sources import shown
from phloem.store.files import sync

_MOST_OPEN = 8
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_WEIGHTS = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors|model\.safetensors\.index\.json")


class OpenFiles:
    """The files of a directory that were written to last, of many that are written piece by piece."""

    def __init__(self) -> None:
        self._open: dict[Path, BinaryIO] = {}

    def of(self, path: Path) -> BinaryIO:
        """The file, open for writing."""
        file = self._open.pop(path, None)
        if file is None:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            file = path.open("r+b" if path.exists() else "w+b")
        self._open[path] = file
        return file

    def close(self) -> None:
        """Closes them, and with that writes what still waits.

        Raises:
            OSError: the disk refuses.
        """
        while self._open:
            self._open.popitem()[1].close()

    def forget(self) -> None:
        """Closes them, whatever the disk says: they are not needed any more."""
        while self._open:
            with contextlib.suppress(OSError):
                self._open.popitem()[1].close()


class Parked:
    """A file to write in that is open only while it is one of those written last."""

    def __init__(self, path: Path, files: OpenFiles) -> None:
        self.path, self._files, self._at = path, files, 0

    def seek(self, offset: int) -> int:
        """Moves to an offset from the beginning."""
        self._at = offset
        return offset

    def write(self, data: bytes | memoryview) -> int:
        """Writes all of it there."""
        file = self._files.of(self.path)
        file.seek(self._at)
        file.write(data)
        self._at += len(data)
        return len(data)

    def truncate(self, size: int) -> int:
        """Makes the file that long."""
        return self._files.of(self.path).truncate(size)


class FolderDraft:
    """A directory beside its place, which it takes in the end; removed at the end of the `with` statement if not.

    A link to a directory stays, what it leads to is replaced. What a process leaves that is killed begins with ".".

    Raises:
        ConfigError: nothing can be made there, or something is there that must not be replaced.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        self.path, self.files = path, OpenFiles()
        self._place = Path(os.path.realpath(path))
        self._old = _what_is_there(path, self._place, replace=replace)
        self._beside = self._place.with_name(f".{self._place.name[:32]}.{secrets.token_hex(4)}")

    def new(self, name: str) -> Parked:
        """A new file, by its name in the directory or in a directory in there."""
        place = self._beside / name
        place.parent.mkdir(exist_ok=True)
        return Parked(place, self.files)

    def finish(self) -> None:
        """Puts the directory in its place, durably.

        Where the system cannot exchange two names in one step, what was there has another name for a moment, and
        keeps it if the process is killed just then: it begins with "." and ends with ".old".

        Raises:
            OSError: the disk refuses; what was there is there.
        """
        self.files.close()
        for folder, _, names in os.walk(self._beside, topdown=False):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
        if self._old and not _exchange(self._beside, self._place):
            aside = self._beside.with_name(f"{self._beside.name}.old")
            self._place.rename(aside)
            try:
                self._beside.rename(self._place)
            except BaseException:
                aside.rename(self._place)
                raise
            aside.rename(self._beside)
        elif not self._old:
            self._beside.rename(self._place)  # an empty directory gives way
        sync(self._place.parent)

    def __enter__(self) -> Self:
        try:
            self._beside.mkdir()
            if self._place.exists():  # as private as what was there, from the beginning
                self._beside.chmod(stat.S_IMODE(self._place.stat().st_mode))
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from error
        return self

    def __exit__(self, *failure: object) -> None:
        self.files.forget()
        shutil.rmtree(self._beside, ignore_errors=True)  # what was not finished, or what was there before


def _what_is_there(path: Path, place: Path, *, replace: bool) -> bool:
    """Whether a directory with something in it is there, which may be replaced.

    Raises:
        ConfigError: it may not: it is a file, or holds what no model does.
    """
    if not place.is_dir():
        if os.path.lexists(place):
            raise ConfigError(
                f"{path} is not a directory, so none can take its place", hint="name a directory to write"
            )
        return False
    names = names_in(place)
    if names and not replace:
        raise ConfigError(
            f"{path} is a directory with files in it, such as {shown(names[0])}",
            hint="choose another, or replace it",
        )
    for name in names:
        if not (_is_adapter(place / name) if (place / name).is_dir() else _belongs(name)):
            raise ConfigError(
                f"{path} holds {shown(name)}, which is no part of a model, so it is not replaced",
                hint="choose another directory, or move it away",
            )
    return bool(names)


def _belongs(name: str) -> bool:
    return _WEIGHTS.fullmatch(name) is not None or may_be_taken(name)


def _is_adapter(folder: Path) -> bool:
    """Whether a directory holds an adapter and nothing else."""
    names = [] if folder.is_symlink() else names_in(folder)
    return WEIGHTS in names and all(
        (name == WEIGHTS or may_be_taken(extra_name("it", name))) and (folder / name).is_file()
        for name in names
    )


def _exchange(one: Path, two: Path) -> bool:
    """Whether both names could be exchanged in one step, so that neither is missing at any time."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return bool(
        rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(two), ctypes.c_uint(_RENAME_EXCHANGE)) == 0
    )
