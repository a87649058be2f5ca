"""The table of names in a store of objects: numbered versions, each created only where there is none.

    refs/00000012.json    before: the digests of the versions before it, the nearest first · names · number · version

The version with the highest number holds. Who moves names reads it, works out the next table, and creates the next
number. A store that creates an object only if there is none (`If-None-Match: *` on S3, `ifGenerationMatch=0` on Google
Cloud Storage, the same on Azure) lets one of those who try at once have it; the others read again and try again. Each
failure means that somebody else went on, so that nobody waits for anybody: there is no lock object that a killed
process leaves behind, and whose age has to be guessed from clocks that differ.

Old versions are removed. So a slow writer could create a number that was removed meanwhile, and think that it won. It
therefore looks again: its version counts only if it is the highest, or the highest says that it came from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from phloem import canonical
from phloem.branches.records import check_digest
from phloem.branches.refs import Refs
from phloem.errors import ConflictError, FormatError, NotFoundError, StateError, StoreError
from phloem.store.urls import UrlStore

VERSION = 1
#: How many versions stay: readers that are this much slower than writers still find what they were about to read.
KEPT = 16
#: How far back a version says what it came from.
_REMEMBERED = 64
#: No version is larger; the most names that a table has take less.
LARGEST = 256 << 20
_FILE = re.compile(r"(\d{8})\.json")
_MOST_TRIES = 200


@dataclass(frozen=True)
class Version:
    """One version of the table.

    Attributes:
        number: 0 is the empty table of a place that has none yet.
        digest: of its bytes.
        before: the digests of those before it, the nearest first.
    """

    number: int
    digest: str
    before: tuple[str, ...]
    names: Refs

    @classmethod
    def unpack(cls, data: bytes, number: int) -> Version:
        """The version that `data` writes down.

        Raises:
            FormatError: it is not one, or one of another number.
        """
        said = canonical.loads(data)
        if not isinstance(said, dict) or set(said) != {"before", "names", "number", "version"}:
            raise FormatError("expected a version of the table of names")
        if said["version"] != VERSION or said["number"] != number or not isinstance(said["before"], list):
            raise FormatError("this version of the table of names has another number, or another form")
        before = tuple(check_digest(one) for one in said["before"][:_REMEMBERED])
        return cls(number, canonical.digest(data), before, Refs.unpack(canonical.dumps(said["names"])))

    def next(self, names: Refs) -> bytes:
        """The bytes of the version after this one."""
        before = [self.digest, *self.before][:_REMEMBERED] if self.number else []
        table = canonical.loads(names.pack().rstrip())
        said = {"before": before, "names": table, "number": self.number + 1, "version": VERSION}
        return canonical.dumps(said)

    def came_from(self, number: int, digest: str) -> bool:
        """Whether this is that version, or came from it."""
        back = self.number - number
        return (
            digest == self.digest
            if back == 0
            else 0 < back <= len(self.before) and self.before[back - 1] == digest
        )


NONE = Version(0, "", (), Refs())


class Numbered:
    """The table of names of one place."""

    def __init__(self, store: UrlStore) -> None:
        self._store = store

    def newest(self) -> Version:
        """The version that holds.

        Raises:
            StateError: it is damaged. StoreError: it cannot be read.
        """
        for _ in range(_MOST_TRIES):
            there = self._numbers()
            if not there:
                return NONE
            number = max(there)
            path, size = _path(number), there[number]
            try:
                if size > LARGEST:
                    raise FormatError(f"it claims {size} bytes, more than any has")
                return Version.unpack(self._store.read(path, 0, size) if size else b"", number)
            except NotFoundError:
                continue  # the others moved on, and removed it
            except FormatError as error:
                hint = f"without {path} the names hold that were there before" if number > 1 else None
                raise StateError(
                    f"{self._store.url}/{path} is damaged: {error.message}", hint=hint
                ) from error
        raise StoreError(f"{self._store.url} lists names that are not there")

    def move(self, change: Callable[[Refs], Refs], create: Callable[[str, bytes], bool]) -> Refs:
        """Changes the names: `change` gets the table that holds, and gives the one that takes its place.

        It is asked again when somebody else was faster. `create` puts an object where there is none.

        Raises:
            ConflictError: `change` says so, or others move names all the time; nothing has moved.
        """
        for _ in range(_MOST_TRIES):
            last = self.newest()
            after = change(last.names)
            if after == last.names:
                return after
            data = last.next(after)
            mine = Version.unpack(data, last.number + 1)
            if not create(_path(mine.number), data) and not self._is(mine):
                continue
            now = self.newest()
            if now.came_from(mine.number, mine.digest):
                self._prune(now.number)
                return after
            self._store.remove(_path(mine.number))  # a number that was used and removed long ago
        raise ConflictError(
            f"the names at {self._store.url} move all the time: {_MOST_TRIES} tries were too late",
            hint="nothing was lost; try again",
        )

    def _is(self, mine: Version) -> bool:
        """Whether what is there is what was to be put there: by an earlier try whose answer was lost."""
        try:
            return canonical.digest(self._store.read(_path(mine.number))) == mine.digest
        except NotFoundError:
            return False

    def _numbers(self) -> dict[int, int]:
        """The versions that are there, and their sizes."""
        found = {}
        for name, size in self._store.listing("refs").items():
            match = _FILE.fullmatch(name)
            if match and size >= 0 and int(match[1]):
                found[int(match[1])] = size
        return found

    def _prune(self, newest: int) -> None:
        try:
            for number in sorted(self._numbers()):
                if number <= newest - KEPT:
                    self._store.remove(_path(number))
        except StoreError:
            pass  # the names have moved; what is left over is in nobody's way


def _path(number: int) -> str:
    return f"refs/{number:08}.json"
