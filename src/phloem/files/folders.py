"""Files of a directory that somebody else may have made: what is read lies in that very directory."""

from __future__ import annotations

import os
from pathlib import Path

from phloem.errors import ConfigError

_CACHE_FOLDER, _CACHE_FILES = "snapshots", "blobs"


def names_in(folder: Path) -> list[str]:
    """What is in a directory, sorted.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}") from error


def file_in(folder: Path, name: str) -> Path | None:
    """The file of this name in a directory, or None if there is none.

    A link may lead to a file beside it. In a cache of the Hugging Face Hub it may lead to that cache's files, where
    all links of `…/snapshots/REVISION` lead: to `…/blobs`.

    Raises:
        ConfigError: it is a link that leads elsewhere, or no plain file.
    """
    place = folder / name
    if not os.path.lexists(place):
        return None
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(place))
    blobs = home.parent.parent / _CACHE_FILES
    cached = home.parent.name == _CACHE_FOLDER and real.parent == blobs
    if real.parent != home and not cached:
        raise ConfigError(
            f"{place} is a link that leads out of its directory, to {real}",
            hint="put the file itself there, or name it instead of the directory",
        )
    if not os.path.isfile(real):
        raise ConfigError(f"{place} is not a file that can be read")
    return place


def read_at_most(path: Path, most: int) -> bytes | None:
    """The content of a file, or None if it is longer.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    return data if len(data) <= most else None
