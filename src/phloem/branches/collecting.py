"""`gc`: what no name leads to is removed, at once, and to the byte that was predicted.

What stays:

    commits     that branches, tags and the branches of other places lead to, through parents, and through recipes, so
                that every merge can be made again; with their states, files and whatever else their recipes name. The
                same for commits in packs younger than the grace period: somebody may be about to name them
    encodings   of the states that stay: all that stand for themselves or whose base stays too. `repack` decides which
                of these are worth their bytes, `gc` does not
    chains      where states that stay do not give another one, or only at more than `chains.MOST_TIMES` times reading
                it: its cheapest chain as well, through states of commits that are gone. Where they do (after a
                `squash`, say), the others go

Before anything is removed every state that stays must have a chain among what stays, and every commit must be there:
where something is missing or damaged already, nothing is removed. Frames are not read: run `fsck` first if in doubt.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from phloem.branches import keeping, packs
from phloem.branches.chains import MOST_TIMES
from phloem.branches.folder import Folder
from phloem.branches.objects import Objects
from phloem.branches.records import Commit, Encoding
from phloem.branches.refs import Refs
from phloem.branches.ways import Sizes, Ways, usable
from phloem.errors import FormatError, NotFoundError, StateError

if TYPE_CHECKING:
    from phloem.branches.repository import Repository

Progress = Callable[[str, int, int], None]
#: Who made a commit has so long to give it a name.
GRACE_SECONDS = 14 * 86400.0


@dataclass(frozen=True)
class Collected:
    """What `gc` removed, or would remove.

    Attributes:
        bytes: by how much smaller packs, frames and what killed processes left are.
        commits, states, encodings, frames, files: how many objects that no name led to.
        packs: how many packs were removed, or written again without these.
        kept: packs that hold some of it and stay, because something else in them is damaged.
    """

    bytes: int
    commits: int
    states: int
    encodings: int
    frames: int
    files: int
    packs: int
    kept: tuple[str, ...]
    dry_run: bool


@dataclass
class Live:
    """What stays.

    Attributes:
        commits, states: those that names or young packs lead to.
        named: files, and what recipes name.
        encodings: how states are given, by the digests of their records.
    """

    commits: set[str] = field(default_factory=set)
    states: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    encodings: dict[str, Encoding] = field(default_factory=dict)

    def objects(self) -> set[str]:
        """All of it, by digest."""
        given = {one.state for one in self.encodings.values()}
        bases = {one.base for one in self.encodings.values() if one.base is not None}
        frames = {one.frame for one in self.encodings.values()}
        return self.commits | self.states | self.named | set(self.encodings) | given | bases | frames


def gc(
    repo: Repository,
    *,
    dry_run: bool = False,
    grace_seconds: float = GRACE_SECONDS,
    progress: Progress = lambda *_: None,
) -> Collected:
    """Removes what no name leads to and is older than the grace period, and gives what that was.

    With `dry_run` nothing is removed, and the numbers are those that it would be.

    Raises:
        StateError: something that a name leads to is missing or damaged; nothing was removed.
        StoreError: the disk failed.
    """
    folder, objects = repo.folder, repo.objects
    before = time.time() - grace_seconds
    with contextlib.nullcontext() if dry_run else folder.locked():
        objects.refresh()
        live = live_in(folder, objects, folder.refs(), before, progress)
        stays = live.objects()
        double = keeping.doubles(folder, objects)
        progress("removing", 0, 1)
        freed = keeping.take_out(
            folder, objects, lambda one: one not in stays, double, before=before, dry_run=dry_run
        )
        freed.bytes += folder.sweep(dry_run=dry_run)
    kinds = freed.kinds
    return Collected(
        bytes=freed.bytes,
        commits=kinds.get("commit", 0),
        states=kinds.get("state", 0),
        encodings=kinds.get("encoding", 0),
        frames=kinds.get("frame", 0),
        files=kinds.get("file", 0),
        packs=freed.packs,
        kept=tuple(freed.kept),
        dry_run=dry_run,
    )


def live_in(
    folder: Folder, objects: Objects, refs: Refs, before: float, progress: Progress = lambda *_: None
) -> Live:
    """What stays in a repository with these names; packs younger than `before` keep what they lead to.

    Raises:
        StateError: something that a name leads to is missing or damaged.
    """
    live = Live()
    remote = {one for table in refs.remotes.values() for one in table.values()}
    named = [*refs.branches.values(), *refs.tags.values(), *(one for one in remote if one in objects.catalog)]
    beside = _walk(objects, named, live, _strict(refs), progress)
    sure = set(live.states)
    beside |= {
        row.digest
        for name in objects.catalog.pack_names()
        if keeping.age_of(folder, name) > before
        for row in objects.catalog.rows_of(name)
        if row.kind == packs.COMMIT
    }
    commits, states = objects.catalog.commits().keys(), objects.catalog.digests(packs.STATE).keys()
    while beside:
        live.named |= beside - commits
        live.states |= beside & states
        beside = _walk(objects, beside & commits - live.commits, live, None, progress)
    live.encodings = _chosen(objects, live.states, sure)
    return live


def _strict(refs: Refs) -> Callable[[str, Exception], StateError]:
    names = refs.names_of()

    def error(digest: str, why: Exception) -> StateError:
        of = f", which {names[digest][0]} stands for," if digest in names else ", which a name leads to,"
        what = "is damaged" if isinstance(why, FormatError) else "is missing"
        return StateError(f"the commit {digest[:12]}{of} {what}: nothing was removed", hint=_FIRST)

    return error


_FIRST = "phloem fsck says what is missing, and fsck --from brings it back"


def _walk(
    objects: Objects,
    heads: Iterable[str],
    live: Live,
    missing: Callable[[str, Exception], StateError] | None,
    progress: Progress,
) -> set[str]:
    """Takes in commits and what they came from, and gives what their recipes name beside.

    Without `missing`, what is not there is passed over.
    """
    todo, beside = list(heads), set()
    while todo:
        here = todo.pop()
        if here in live.commits:
            continue
        try:
            commit = objects.commit(here)
        except (NotFoundError, FormatError) as error:
            if missing is not None:
                raise missing(here, error) from error
            continue
        live.commits.add(here)
        live.states.add(commit.state)
        live.named |= set(commit.files.values())
        beside |= set(digests_in(commit))
        todo += commit.parents
        if len(live.commits) % 256 == 0:
            progress("reading commits", len(live.commits), 0)
    return beside


def digests_in(commit: Commit) -> Iterator[str]:
    """Everything in a commit's recipe that may be a digest: whatever kind of recipe it is, what it names stays."""
    todo: list[Any] = [commit.recipe]
    while todo:
        here = todo.pop()
        if isinstance(here, dict):
            todo += here.values()
        elif isinstance(here, list):
            todo += here
        elif isinstance(here, str) and len(here) == 64 and set(here) <= set("0123456789abcdef"):
            yield here


def _chosen(objects: Objects, states: set[str], sure: set[str]) -> dict[str, Encoding]:
    """The encodings that stay, by their records (see above); the states that are `sure` must have a chain.

    Raises:
        StateError: one has none.
    """
    there, sizes = usable(objects), Sizes(objects)
    kept = {
        digest: one
        for digest, one in objects.catalog.all_encodings()
        if one.state in states and (one.base is None or one.base in states)
    }
    ways = Ways([one for digest, one in kept.items() if digest in there], sizes)
    if len(ways.last) < len(states) or any(
        digest not in kept and one.state in states for digest, one in there.items()
    ):
        every = Ways(there.values(), sizes)
        chains = {
            one
            for state in states & every.last.keys()
            if ways.times(state) > max(MOST_TIMES, every.times(state))
            for one in every.chain(state)
        }
        kept |= {digest: one for digest, one in there.items() if one in chains}
        ways = Ways([one for digest, one in kept.items() if digest in there], sizes)
    lost = sorted(sure - ways.last.keys())
    if lost:
        raise StateError(
            f"nothing gives the state {lost[0][:12]}, which a name leads to: nothing was removed", hint=_FIRST
        )
    return kept
