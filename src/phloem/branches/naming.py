"""The verbs that move names: branches made, removed and switched to; tags."""

from __future__ import annotations

from dataclasses import replace

from phloem.branches import history, keeping
from phloem.branches.folder import Folder
from phloem.branches.objects import Objects
from phloem.branches.refs import Refs, check_name, unknown_name
from phloem.errors import ConfigError


class Naming:
    """What `Repository` does with names."""

    objects: Objects

    @property
    def refs(self) -> Refs:
        """The table of names."""
        raise NotImplementedError

    @property
    def folder(self) -> Folder:
        """Where it is written."""
        raise NotImplementedError

    def resolve(self, text: str) -> str:
        """The commit that a text names."""
        raise NotImplementedError

    def branch(self, name: str, start: str | None = None, *, move: bool = False) -> None:
        """Makes branch `name` stand for `start` (by default where the current branch stands).

        Raises:
            ConfigError: there is one of that name, which is not to be moved.
        """
        check_name(name)
        commit = self.resolve(start or "@")

        def change(refs: Refs) -> Refs:
            if name in refs.branches and not move:
                raise ConfigError(f"there is a branch '{name}' already", hint="choose another name")
            if name in refs.tags:
                raise ConfigError(f"there is a tag '{name}' already", hint="choose another name")
            return refs.with_branch(name, commit)

        self.folder.move(keeping.checked(self.objects, change))

    def remove_branch(self, name: str, *, force: bool = False) -> str:
        """Removes a branch's name and gives the commit that it stood for; the commits stay until `gc`.

        Raises:
            ConfigError: it is the current one, or the only name that leads to its commits, unless forced.
        """
        commits = self.objects.catalog.commits()

        def change(refs: Refs) -> Refs:
            if name not in refs.branches:
                raise unknown_name(name, refs)
            if name == refs.current:
                raise ConfigError(f"'{name}' is the current branch", hint="phloem switch OTHER first")
            after = refs.with_branch(name, None)
            if not force and refs.branches[name] not in history.reachable(after.commits(), commits):
                raise ConfigError(
                    f"no other name leads to the commits of '{name}'", hint="merge it, or say --force"
                )
            return after

        commit = self.refs.branches.get(name, "")
        self.folder.move(change)
        return commit

    def tag(self, name: str, start: str | None = None) -> str:
        """Makes tag `name` stand for a commit, for good; gives the commit.

        Raises:
            ConfigError: there is a tag or a branch of that name.
        """
        check_name(name, "tag")
        commit = self.resolve(start or "@")

        def change(refs: Refs) -> Refs:
            if refs.tags.get(name, commit) != commit:
                raise ConfigError(
                    f"there is a tag '{name}' already", hint="tags do not move: choose another name"
                )
            if name in refs.branches:
                raise ConfigError(f"there is a branch '{name}' already", hint="choose another name")
            return refs.with_tag(name, commit)

        self.folder.move(keeping.checked(self.objects, change))
        return commit

    def remove_tag(self, name: str) -> None:
        """Removes a tag.

        Raises:
            ConfigError: there is none.
        """

        def change(refs: Refs) -> Refs:
            if name not in refs.tags:
                raise unknown_name(name, refs)
            return refs.with_tag(name, None)

        self.folder.move(change)

    def switch(self, name: str) -> None:
        """Makes a branch the current one.

        Raises:
            ConfigError: there is no such branch.
        """

        def change(refs: Refs) -> Refs:
            if name not in refs.branches:
                raise unknown_name(name, refs)
            return replace(refs, current=name)

        self.folder.move(change)
