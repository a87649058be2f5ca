"""Names in a repository: branches that move, tags that do not, and what other places last said of theirs.

All of them are one small table, so that any change of names is one step: who reads sees the table before or after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from phloem import canonical
from phloem.branches.records import check_digest
from phloem.errors import ConfigError, FormatError, nearest

TRUNK = "trunk"
VERSION = 1
_NAME = re.compile(r"(?!.*(\.\.|//|/\.|\.lock$|@\{))[A-Za-z0-9_][A-Za-z0-9_./+-]{0,199}(?<![./])")
_MOST = 1_000_000
LARGEST = 256 << 20
_KEYS = {"branches", "check", "current", "remotes", "tags", "version"}


@dataclass(frozen=True)
class Refs:
    """The names of a repository.

    Attributes:
        current: the branch that commands take when none is named.
        branches, tags: the commit that each stands for.
        remotes: the branches of other places when they were last seen: place, branch, commit.
    """

    current: str = TRUNK
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    remotes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def with_branch(self, name: str, commit: str | None) -> Refs:
        """The table in which branch `name` stands for `commit`, or is gone."""
        return replace(self, branches=_with(self.branches, name, commit))

    def with_tag(self, name: str, commit: str | None) -> Refs:
        """The table in which tag `name` stands for `commit`, or is gone."""
        return replace(self, tags=_with(self.tags, name, commit))

    def with_remote(self, place: str, branches: Mapping[str, str]) -> Refs:
        """The table that remembers what another place has."""
        return replace(self, remotes={**self.remotes, place: dict(branches)})

    def commits(self) -> set[str]:
        """Every commit that a name stands for."""
        far = [branches.values() for branches in self.remotes.values()]
        return set(self.branches.values()) | set(self.tags.values()) | {one for row in far for one in row}

    def names_of(self) -> dict[str, list[str]]:
        """The names of each commit that has one, as `log` shows them."""
        found: dict[str, list[str]] = {}
        for name, commit in sorted(self.branches.items(), key=lambda row: (row[0] != self.current, row[0])):
            found.setdefault(commit, []).append(name)
        for name, commit in sorted(self.tags.items()):
            found.setdefault(commit, []).append(f"tag: {name}")
        for place, branches in sorted(self.remotes.items()):
            for name, commit in sorted(branches.items()):
                found.setdefault(commit, []).append(f"{place}/{name}")
        return found

    def pack(self) -> bytes:
        """The table's bytes."""
        said: dict[str, Any] = {
            "branches": self.branches,
            "current": self.current,
            "remotes": self.remotes,
            "tags": self.tags,
            "version": VERSION,
        }
        return canonical.dumps({**said, "check": canonical.digest(canonical.dumps(said))}) + b"\n"

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The table that `data` writes down.

        Raises:
            FormatError: it is not one, or a name in it is none that a branch can have.
        """
        said = _table(data)
        if said["version"] != VERSION:
            raise FormatError(f"the table of names is of another version than {VERSION}")
        if not isinstance(said["current"], str) or not _NAME.fullmatch(said["current"]):
            raise FormatError("the table of names has no current branch")
        tables = [said["branches"], said["tags"]]
        if not isinstance(said["remotes"], dict):
            raise FormatError("the table of names has no table of other places")
        for place, table in said["remotes"].items():
            if not _NAME.fullmatch(place):
                raise FormatError(f"no place is called {place!r:.80}")
            tables.append(table)
        for table in tables:
            if not isinstance(table, dict) or len(table) > _MOST:
                raise FormatError("expected a table of names and commits")
            for name, commit in table.items():
                if not _NAME.fullmatch(name):
                    raise FormatError(f"no branch is called {name!r:.80}")
                check_digest(commit)
        return cls(said["current"], said["branches"], said["tags"], said["remotes"])


def _table(data: bytes) -> dict[str, Any]:
    """What the table says, if its checksum matches."""
    if len(data) > LARGEST:
        raise FormatError(f"a table of names of more than {LARGEST >> 20} MiB is larger than any")
    said = canonical.loads(data.removesuffix(b"\n"))
    if not isinstance(said, dict) or set(said) != _KEYS:
        raise FormatError("expected a repository's table of names")
    if said.pop("check") != canonical.digest(canonical.dumps(said)):
        raise FormatError("the checksum of the table of names does not match: it was altered")
    return said


def check_name(name: str, what: str = "branch") -> str:
    """The name, if a branch or a tag may have it.

    Raises:
        ConfigError: it holds spaces, control characters, "..", or something else that names do not have.
    """
    if not _NAME.fullmatch(name) or re.fullmatch(r"[0-9a-f]{64}|HEAD", name):
        raise ConfigError(
            f"no {what} can be called {name!r:.80}",
            hint="letters, digits, '_', '-', '+', '.' and '/', up to 200, as in hospital-a or site/north",
        )
    return name


def unknown_name(name: str, refs: Refs) -> ConfigError:
    """The refusal of a name that stands for nothing."""
    known = [*refs.branches, *refs.tags]
    near = nearest(name, known)
    hint = f"did you mean '{near}'?" if near else f"there are: {', '.join(sorted(known)[:8]) or 'none'}"
    return ConfigError(f"there is no branch, tag or commit '{name:.80}'", hint=hint)


def _with(table: Mapping[str, str], name: str, commit: str | None) -> dict[str, str]:
    found = {key: value for key, value in table.items() if key != name}
    return found if commit is None else {**found, name: commit}
