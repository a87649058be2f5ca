"""What one repository lacks of another: worked out from the catalogs of both, before anything travels.

Commits that no name there leads to, the files and blobs that they name, and for each of their states the cheapest way
to it, in bytes, from a state that is there. Frames that only make restoring faster stay behind.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from phloem import canonical
from phloem.branches import packs
from phloem.branches.bucket import Bucket
from phloem.branches.folder import Folder
from phloem.branches.history import reachable
from phloem.branches.objects import SMALL_FRAME, Objects, Place
from phloem.branches.records import LARGEST_RECORD, Commit, Encoding
from phloem.branches.refs import Refs
from phloem.errors import FormatError, NotFoundError
from phloem.store.snapshot import named_digests

#: More frames than these are not asked for one by one.
_MOST_ASKED = 16
_FSCK = "phloem fsck says what is missing there"


@dataclass(frozen=True)
class Needed:
    """A commit that is to be there, and what it names.

    Attributes:
        packed: files, and blobs of its recipe, that lie in packs.
        large: those that do not, and their sizes.
    """

    digest: str
    parents: tuple[str, ...]
    state: str
    packed: tuple[str, ...]
    large: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Small:
    """An object that travels in a pack; `record` is its content, where that is known already."""

    kind: int
    digest: str
    size: int
    record: bytes | None = None


@dataclass
class Plan:
    """What is to travel.

    Attributes:
        commits: those that are to be there afterwards, no commit before its parents.
        small: objects that travel in packs, by digest, in the order in which they are needed.
        frames: large frames, and their sizes.
        there: how many of the objects that the commits need are there already.
    """

    commits: list[Needed] = field(default_factory=list)
    small: dict[str, Small] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    there: int = 0

    @property
    def size_bytes(self) -> int:
        """About how much travels: packs compress records."""
        return sum(one.size for one in self.small.values()) + sum(self.frames.values())


class LargeFrames:
    """Which large frames a place has: it is asked for each, or for a list when there are many to ask for."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[str, int | None] = {}
        self._asked = 0
        self._listed = False

    def size(self, digest: str) -> int | None:
        """The size of this frame; None where there is none."""
        if digest not in self._known and not self._listed:
            self._asked += 1
            if self._asked > _MOST_ASKED:
                self._known, self._listed = dict(self._place.frames()), True
            else:
                self._known[digest] = self._asked_for(digest)
        return self._known.get(digest)

    def forget(self) -> None:
        """Asks again."""
        self._known, self._asked, self._listed = {}, 0, False

    def _asked_for(self, digest: str) -> int | None:
        try:
            return self._place.frame(digest).size
        except NotFoundError:
            return None


class Target:
    """A place that something is brought to."""

    def __init__(self, place: Folder | Bucket, objects: Objects) -> None:
        self.place, self.objects = place, objects
        self.large = LargeFrames(place)

    def has_frame(self, digest: str, size: int) -> bool:
        """Whether a frame of this size is there."""
        return digest in self.objects.catalog or (size > SMALL_FRAME and self.large.size(digest) == size)

    def reached(self, names: Refs) -> set[str]:
        """The commits that its names lead to: of those all is there, because names move last."""
        return reachable(names.commits(), self.objects.catalog.commits())


def planned(source: Objects, target: Target, heads: Iterable[str], reached: set[str]) -> Plan:
    """What `target` lacks of these heads and of what they came from; `reached` are commits of which it lacks nothing.

    Raises:
        NotFoundError: something of it is not in `source`. FormatError: something there is damaged, or forged.
    """
    return _Planner(source, target, reached).plan_for(oldest_first(source, heads, reached))


class _Planner:
    def __init__(self, source: Objects, target: Target, reached: set[str]) -> None:
        self._source, self._target = source, target
        self._large = LargeFrames(source.place)
        self._commits = source.catalog.commits()
        there = target.objects.catalog.commits()
        self._plan = Plan()
        self._known = {there[digest].state for digest in reached}

    def plan_for(self, commits: Mapping[str, Commit]) -> Plan:
        for digest, commit in commits.items():
            packed, large = self._blobs(commit)
            for one in route(commit.state, self._edges, self._known):
                self._take_encoding(one)
            has = self._target.objects.catalog.commit(digest) is not None
            self._add(packs.COMMIT, digest, has=has)
            self._plan.commits.append(Needed(digest, commit.parents, commit.state, packed, large))
        return self._plan

    def _blobs(self, commit: Commit) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
        """What a commit names beside its state: files, and what its recipe names where that is an object."""
        there = self._target.objects.catalog
        packed, large = sorted(set(commit.files.values())), []
        for digest in packed:
            self._add(packs.FILE, digest, has=digest in there)
        for digest in sorted(_named_in(commit) - self._commits.keys()):
            if digest in self._source.catalog:
                # Never as a record: what a recipe names is not what the repository goes by.
                kinds = {row.kind for _, row in self._source.catalog.places(digest)}
                self._add(packs.FILE if packs.FILE in kinds else packs.FRAME, digest, has=digest in there)
                packed.append(digest)
            elif size := self._large.size(digest) if _is_digest(digest) else None:
                large.append((digest, size))
                if self._target.has_frame(digest, size):
                    self._plan.there += 1
                else:
                    self._plan.frames[digest] = size
        return tuple(packed), tuple(large)

    def _take_encoding(self, one: Encoding) -> None:
        there = self._target.objects
        self._add(packs.STATE, one.state, has=one.state in there.catalog)
        has = self._target.has_frame(one.frame, one.frame_bytes)
        if one.frame_bytes > SMALL_FRAME and not has:
            self._plan.frames[one.frame] = one.frame_bytes
        else:
            self._add(packs.FRAME, one.frame, has=has, size=one.frame_bytes)
        record = one.pack()
        has = one in there.encodings(one.state)
        self._add(packs.ENCODING, canonical.digest(record), has=has, record=record, size=len(record))
        self._known.add(one.state)

    def _edges(self, state: str) -> Iterator[tuple[int, Encoding]]:
        """The encodings of a state on either side, and what bringing each costs."""
        mine = self._source.encodings(state)
        for one in dict.fromkeys([*self._target.objects.encodings(state), *mine]):
            if self._target.has_frame(one.frame, one.frame_bytes):
                yield 0, one
            elif one in mine:
                yield one.frame_bytes, one

    def _add(
        self, kind: int, digest: str, *, has: bool, record: bytes | None = None, size: int | None = None
    ) -> None:
        if has:
            self._plan.there += 1
        elif digest not in self._plan.small:
            if size is None:
                size = check_record(self._source, digest)
            self._plan.small[digest] = Small(kind, digest, size, record)


def oldest_first(source: Objects, heads: Iterable[str], without: set[str]) -> dict[str, Commit]:
    """The commits that these heads came from, and they themselves, parents first; those `without` end the search.

    Commits that a recipe names are treated like parents, if they are there.

    Raises:
        NotFoundError: one is not there. FormatError: one is damaged.
    """
    known = source.catalog.commits()
    found: dict[str, Commit] = {}
    read: dict[str, Commit] = {}
    todo = [(head, False) for head in sorted(set(heads))]
    while todo:
        here, done = todo.pop()
        if done:
            found[here] = read.pop(here)
        elif here not in found and here not in read and here not in without:
            if here not in known:
                raise NotFoundError(
                    f"{source.place.url} lacks the commit {here[:12]}, which its history needs", hint=_FSCK
                )
            check_record(source, here)
            read[here] = commit = source.commit(here)
            todo.append((here, True))
            beside = _named_in(commit) & known.keys()
            todo += [(one, False) for one in (*reversed(commit.parents), *sorted(beside))]
    return found


def _named_in(commit: Commit) -> set[str]:
    """What a commit's recipe names, commits among it, and texts that look like that."""
    return named_digests(canonical.plain(commit.recipe))


def route(
    state: str, edges: Callable[[str], Iterable[tuple[int, Encoding]]], known: set[str]
) -> list[Encoding]:
    """The encodings that give a state out of a known one, or of nothing, at the least cost; what comes first is first.

    Args:
        state: what is wanted; if it is known, nothing is needed.
        edges: the encodings of a state and what each costs.
        known: states that are there.

    Raises:
        NotFoundError: there are none, or they only lead round in a circle.
    """
    best: dict[str, int] = {state: 0}
    last: dict[str, Encoding] = {}
    queue = [(0, state)]
    while queue:
        cost, here = heapq.heappop(queue)
        if here in known or not here:
            chain = []
            while here != state:
                chain.append(last[here])
                here = last[here].state
            return chain
        if cost > best[here]:
            continue
        for price, one in edges(here):
            base = one.base or ""  # "" is nothing, which is always there
            if base not in best or cost + price < best[base]:
                best[base], last[base] = cost + price, one
                heapq.heappush(queue, (cost + price, base))
    raise NotFoundError(f"nothing there gives the state {state[:12]}", hint=_FSCK)


def check_arrived(plan: Plan, target: Target, names: Refs) -> None:
    """Nothing, if all that the plan's commits need is at `target` now, so that its `names` may be made to lead to them.

    Raises:
        NotFoundError: something is not, or no longer.
    """
    target.objects.refresh()
    target.large.forget()
    catalog, reached = target.objects.catalog, target.reached(names)
    commits = catalog.commits()
    known = {commits[digest].state for digest in reached}

    def edges(state: str) -> Iterator[tuple[int, Encoding]]:
        for one in target.objects.encodings(state):
            if target.has_frame(one.frame, one.frame_bytes):
                yield one.frame_bytes, one

    for one in plan.commits:
        lacking = [parent for parent in one.parents if parent not in reached]
        lacking += [digest for digest in (one.digest,) if digest not in commits]
        lacking += [digest for digest in one.packed if digest not in catalog]
        lacking += [digest for digest, size in one.large if not target.has_frame(digest, size)]
        if not lacking:
            steps = [step.state for step in route(one.state, edges, known)]
            lacking += [state for state in steps if state not in catalog]
            known.update(steps)
            reached.add(one.digest)
        if lacking:
            raise NotFoundError(
                f"{target.place.url} lacks {lacking[0][:12]}, which the commit {one.digest[:12]} needs",
                hint="if something removed it meanwhile, run the command again",
            )


def check_record(source: Objects, digest: str) -> int:
    """The size of a packed object that is to be read into memory.

    Raises:
        NotFoundError: it is not there. FormatError: it claims to be larger than any record.
    """
    sizes = [max(row.size, row.stored) for _, row in source.catalog.places(digest)]
    if not sizes:
        raise NotFoundError(f"{source.place.url} lacks {digest[:12]}, which its history needs", hint=_FSCK)
    if max(sizes) > LARGEST_RECORD:
        raise FormatError(f"{source.place.url} claims that {digest[:12]} is larger than any record")
    return max(sizes)


def _is_digest(text: str) -> bool:
    return set(text) <= set("0123456789abcdef")
