"""How names at one place follow those of another: what a push asks for, and what a pull comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from phloem.branches.catalog import Entry
from phloem.branches.history import is_ancestor
from phloem.branches.places import Elsewhere
from phloem.branches.refs import Refs
from phloem.errors import ConfigError, ConflictError, PhloemError


@dataclass(frozen=True)
class Goal:
    """What a push wants the names at a place to be."""

    there: Elsewhere
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    current: str
    commits: Mapping[str, Entry]
    force: bool

    def names_after(self, names: Refs) -> Refs:
        """The table with what was pushed in it.

        Raises:
            ConfigError: a branch has commits that would be left without a name. ConflictError: since this began.
        """
        after = names
        for name, commit in self.branches.items():
            found = names.branches.get(name)
            if found not in (None, commit) and not self.force and not self._follows(found, commit):
                raise self._refusal(name, found)
            after = after.with_branch(name, commit)
        for name, commit in self.tags.items():
            if names.tags.get(name, commit) != commit and not self.force:
                raise ConfigError(
                    f"tag '{name}' stands for {names.tags[name][:12]} at {self.there.url}",
                    hint="tags do not move: choose another name",
                )
            after = after.with_tag(name, commit)
        if not names.branches and self.branches:
            current = self.current if self.current in self.branches else min(self.branches)
            after = replace(after, current=current)
        return after

    def _follows(self, found: str, commit: str) -> bool:
        return found in self.commits and is_ancestor(found, commit, self.commits)

    def _refusal(self, name: str, found: str) -> PhloemError:
        hint = f"phloem pull {self.there.name}, merge {self.there.name}/{name}, and push again"
        if found != self.there.names.branches.get(name):
            return ConflictError(
                f"branch '{name}' at {self.there.url} moved to {found[:12]} meanwhile", hint=hint
            )
        return ConfigError(
            f"branch '{name}' at {self.there.url} stands for {found[:12]}, which the one here did not come from",
            hint=hint,
        )


@dataclass(frozen=True)
class Outcome:
    """How the names here follow those of another place."""

    names: Refs
    moved: Mapping[str, tuple[str | None, str]]
    diverged: tuple[str, ...]
    tags: tuple[str, ...]
    kept_tags: tuple[str, ...]

    @classmethod
    def of(
        cls,
        names: Refs,
        branches: Mapping[str, str],
        tags: Mapping[str, str],
        commits: Mapping[str, Entry],
        *,
        new: bool,
    ) -> Outcome:
        """What becomes of `names` if they follow `branches`, of which some may be `new`, and `tags`."""
        moved: dict[str, tuple[str | None, str]] = {}
        diverged = []
        for name, commit in branches.items():
            mine = names.branches.get(name)
            if mine is None:
                if new:
                    moved[name] = None, commit
            elif is_ancestor(mine, commit, commits):
                if mine != commit:
                    moved[name] = mine, commit
            elif not is_ancestor(commit, mine, commits):
                diverged.append(name)
        kept = [name for name, commit in tags.items() if names.tags.get(name, commit) != commit]
        added = tags.keys() - names.tags.keys()
        after = replace(
            names,
            branches={**names.branches, **{name: commit for name, (_, commit) in moved.items()}},
            tags={**tags, **names.tags},
        )
        return cls(after, moved, tuple(sorted(diverged)), tuple(sorted(added)), tuple(sorted(kept)))
