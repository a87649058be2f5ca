"""Push and pull: branches between a directory and another place, and no more bytes than the other side lacks.

Content goes first, then the packs that name it, then the names: a process that is killed at any point leaves both sides
whole, and the next one goes on where it was. What arrives is checked before a name leads to it.

>>> import numpy as np, pathlib, tempfile
>>> from safetensors.numpy import save_file
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> trunk = np.linspace(-1, 1, 1 << 16, dtype=np.float32).reshape(256, 256)
>>> save_file({"w": trunk}, folder / "base.safetensors")
>>> repo = Repository.create(folder / ".phloem")
>>> first = repo.commit(folder / "base.safetensors", message="the model that we start from")
>>> pushed = push(repo, "memory://example/models")
>>> pushed.objects, push(repo, "memory://example/models").objects
(4, 0)
>>> with clone("memory://example/models", folder / "copy") as copy:
...     [entry.subject for entry in copy.log()]
['the model that we start from']
>>> with Repository.open("memory://example/models") as there:
...     there.resolve("trunk") == first.digest
True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from phloem.branches import keeping
from phloem.branches.folder import Folder
from phloem.branches.history import reachable
from phloem.branches.moves import Goal, Outcome
from phloem.branches.places import ORIGIN, Elsewhere, open_place, remotes
from phloem.branches.planning import Plan, Target, check_arrived, planned
from phloem.branches.refs import Refs, check_name, unknown_name
from phloem.branches.repository import Progress, Repository, silent
from phloem.branches.transfer import Carried, carry
from phloem.errors import ConfigError, FormatError


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        place: the name of the place.
        url: where it is, without secrets.
        moved: branches that stand elsewhere there now: before (None if new) and after.
        tags: those that are new there.
        objects, bytes: what was sent: how many objects, and the bytes of packs and frames that were written there.
        there: objects that the branches need and that were there already.
    """

    place: str
    url: str
    moved: Mapping[str, tuple[str | None, str]]
    tags: tuple[str, ...]
    objects: int
    bytes: int
    there: int


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    Attributes:
        place: the name of the place: its branches are known here as PLACE/BRANCH.
        url: where it is, without secrets.
        seen: the branches there.
        moved: branches here that went on, or are new: before (None if new) and after.
        diverged: branches that have commits on both sides; those here stay as they are.
        tags: those that are new here.
        kept_tags: tags that stand for another commit there; those here stay as they are.
        objects, bytes: what came: how many objects, and the bytes of packs and frames that were written here.
        there: objects that the branches need and that were here already.
    """

    place: str
    url: str
    seen: Mapping[str, str]
    moved: Mapping[str, tuple[str | None, str]]
    diverged: tuple[str, ...]
    tags: tuple[str, ...]
    kept_tags: tuple[str, ...]
    objects: int
    bytes: int
    there: int

    @property
    def hints(self) -> tuple[str, ...]:
        """What to do about branches that diverged."""
        return tuple(f"phloem merge {self.place}/{name} --into {name}" for name in self.diverged)


def push(
    repository: Repository,
    where: str | Path,
    branches: Sequence[str] | None = None,
    tags: Sequence[str] = (),
    *,
    force: bool = False,
    alone: bool = False,
    progress: Progress = silent,
) -> Pushed:
    """Brings branches to another place, which is made if there is none, with what it lacks of them.

    Args:
        repository: in a directory.
        where: a remote's name, a URL that fsspec knows, or a directory.
        branches: by default the current one.
        tags: to be brought as well.
        force: let branches there stand for commits that did not come from those that they stand for, and tags move.
        alone: nobody else pushes there, so that the store need not keep two who do it at once apart.
        progress: told what is being done, and how far it is.

    Raises:
        ConfigError: a branch there has commits that the one here lacks; nothing was moved. Or the place cannot be
            pushed to. ConflictError: the branch moved while this went on. StoreError: the place fails; run it again.
    """
    folder, mine = repository.folder, repository.refs
    if not mine.branches:
        raise ConfigError("the repository has no commits yet", hint="phloem commit MODEL.safetensors")
    repository.objects.refresh()
    wanted = _chosen(mine, mine.branches, [mine.current] if branches is None else branches)
    wanted_tags = _chosen(mine, mine.tags, tags)
    with closing(open_place(repository, where, new=True, alone=alone)) as there:
        goal = Goal(
            there, wanted, wanted_tags, mine.current, repository.objects.catalog.commits(), force=force
        )
        carried = Carried(0, 0, 0)
        if goal.names_after(there.names) != there.names:
            target = Target(there.place, there.objects)
            reached = target.reached(there.names)
            plan = planned(repository.objects, target, [*wanted.values(), *wanted_tags.values()], reached)
            carried = carry(plan, repository.objects, target, f"pushing to {there.url}", progress)
            _move(target, plan, there.names, goal.names_after)
    folder.move(lambda refs: refs.with_remote(there.name, {**refs.remotes.get(there.name, {}), **wanted}))
    before = there.names
    return Pushed(
        there.name,
        there.url,
        {n: (before.branches.get(n), c) for n, c in wanted.items() if before.branches.get(n) != c},
        tuple(sorted(name for name, commit in wanted_tags.items() if before.tags.get(name) != commit)),
        carried.objects,
        carried.bytes,
        carried.there,
    )


def pull(
    repository: Repository,
    where: str | Path,
    branches: Sequence[str] | None = None,
    *,
    progress: Progress = silent,
) -> Pulled:
    """Brings what another place has on its branches, and lets branches here go on where that is all that happens.

    A branch of which there is none here is made if it was asked for by name, or if there are no branches here at all.

    Args:
        repository: in a directory.
        where: a remote's name, a URL that fsspec knows, or a directory.
        branches: those to bring; by default all, with all tags.
        progress: told what is being done, and how far it is.

    Raises:
        ConfigError: there is no such place or branch. NotFoundError, FormatError: what is there is not whole, or
            damaged; no name has moved. StoreError: the place or the disk fails; run it again.
    """
    folder = repository.folder
    with closing(open_place(repository, where)) as there:
        chosen = _chosen(there.names, there.names.branches, branches)
        tags = dict(there.names.tags)
        _check_names([*chosen, *tags], there)
        if branches is not None:
            near = reachable(chosen.values(), there.objects.catalog.commits())
            tags = {name: commit for name, commit in tags.items() if commit in near}
        repository.objects.refresh()
        target = Target(folder, repository.objects)
        reached = target.reached(repository.refs)
        plan = planned(there.objects, target, [*chosen.values(), *tags.values()], reached)
        carried = carry(plan, there.objects, target, f"pulling from {there.url}", progress)
        seen = chosen if branches is None else {**repository.refs.remotes.get(there.name, {}), **chosen}
        outcome = Outcome(repository.refs, {}, (), (), ())

        def names_after(names: Refs) -> Refs:
            nonlocal outcome
            new = branches is not None or not names.branches
            outcome = Outcome.of(names, chosen, tags, repository.objects.catalog.commits(), new=new)
            after = outcome.names
            if chosen and not names.branches:
                current = there.names.current if there.names.current in chosen else min(chosen)
                after = replace(after, current=current)
            return after.with_remote(there.name, seen)

        _move(target, plan, repository.refs, names_after)
    return Pulled(
        there.name,
        there.url,
        chosen,
        outcome.moved,
        outcome.diverged,
        outcome.tags,
        outcome.kept_tags,
        carried.objects,
        carried.bytes,
        carried.there,
    )


def clone(where: str | Path, root: str | Path, *, progress: Progress = silent) -> Repository:
    """A new repository in the directory `root`, with all that another place has, which it calls "origin".

    One that was killed while this went on is gone on with.

    Raises:
        ConfigError: there is a repository of something else in `root`, or none at `where`. And as `pull`.
    """
    source = str(where) if "://" in str(where) else str(Path(where).absolute())
    path = Path(root)
    if not (path / "format.json").exists():
        Folder.create(path, {"remotes": {ORIGIN: source}}).close()
    repository = Repository.open(path)
    try:
        if remotes(repository).get(ORIGIN) != source:
            raise ConfigError(f"there is a repository in {path} already", hint="nothing was changed")
        pull(repository, ORIGIN, progress=progress)
    except BaseException:
        repository.close()
        raise
    return repository


def _move(target: Target, plan: Plan, before: Refs, change: Callable[[Refs], Refs]) -> None:
    """Moves names, if all that they will lead to is there: in a directory while nobody can remove anything."""
    if not isinstance(target.place, Folder):
        check_arrived(plan, target, before)
        target.place.move(change)
        return

    def checked(names: Refs) -> Refs:
        check_arrived(plan, target, names)
        return change(names)

    target.place.move(checked)
    keeping.tidy(target.place, target.objects)


def _chosen(names: Refs, table: Mapping[str, str], chosen: Sequence[str] | None) -> dict[str, str]:
    """Some of a table of names; all with None.

    Raises:
        ConfigError: one is not in it.
    """
    if chosen is None:
        return dict(table)
    for name in chosen:
        if name not in table:
            raise unknown_name(name, names)
    return {name: table[name] for name in chosen}


def _check_names(names: Sequence[str], there: Elsewhere) -> None:
    """Nothing, if all of these can be names here: one like a digest would stand in the place of a commit.

    Raises:
        FormatError: one cannot.
    """
    for name in names:
        try:
            check_name(name)
        except ConfigError as error:
            raise FormatError(f"at {there.url} {error.message}", hint="name the branches to pull") from error
