"""A file that appears whole or not at all: drafts beside its place, one of which takes it in the end."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from phloem.errors import ConfigError, StoreError


class Drafts:
    """The drafts of one file; those not finished are removed at the end of the `with` statement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = Path(os.path.realpath(path))  # a link stays, what it leads to is replaced
        self._open: dict[str, BinaryIO] = {}

    def new(self) -> BinaryIO:
        """Another draft, open for reading and writing.

        Raises:
            ConfigError: no file can be written there.
        """
        name = str(self._place.with_name(f".{self._place.name[:32]}.{secrets.token_hex(4)}"))
        if self._place.exists() and not self._place.is_file():
            raise ConfigError(
                f"{self.path} is not a file, so none can take its place", hint="name a file to write"
            )
        try:
            draft = open(name, "w+b")  # noqa: SIM115  (closed by forget and finish)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from error
        self._open[name] = draft
        return draft

    def forget(self, draft: BinaryIO) -> None:
        """Removes a draft."""
        self._open.pop(draft.name, None)
        with contextlib.suppress(OSError):  # what a full disk did not take is not missed
            draft.close()
        with contextlib.suppress(OSError):
            os.unlink(draft.name)

    def finish(self, draft: BinaryIO) -> None:
        """Puts a draft in the file's place, durably.

        Raises:
            StoreError: the disk refuses.
        """
        with in_words(self.path):
            draft.flush()
            os.fsync(draft.fileno())
            os.replace(draft.name, self._place)
        del self._open[draft.name]
        draft.close()

    def __enter__(self) -> Drafts:
        return self

    def __exit__(self, *failure: object) -> None:
        for draft in list(self._open.values()):
            self.forget(draft)


@contextlib.contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turns the system's errors while a file is written into ours, with the reason in words."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        hint = "free some space; nothing was left behind" if error.errno == errno.ENOSPC else None
        raise StoreError(f"{path} could not be written: {error.strerror}", hint=hint) from error
