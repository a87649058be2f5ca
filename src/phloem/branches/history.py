"""The graph of commits: names to commits, the order in which a history is shown, common ancestors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from phloem.branches.catalog import Entry
from phloem.branches.objects import Objects
from phloem.branches.refs import Refs, unknown_name
from phloem.errors import ConfigError, NotFoundError

_STEP = re.compile(r"(?:~(\d{0,9})|\^(\d{0,4}))")
_SHORTEST = 4


def resolve(text: str, refs: Refs, objects: Objects) -> str:
    """The commit that a text names.

    A branch, a tag, PLACE/BRANCH, the beginning of a digest, or "@" for the current branch; then ~N for the N-th first
    parent, ^N for the N-th parent.

    Raises:
        ConfigError: it names nothing, or more than one commit.
    """
    name, steps = text, ""
    match = re.fullmatch(r"(.*?)((?:[~^]\d*)+)", text)
    if match:
        name, steps = match.groups()
    here = _start(name, refs, objects)
    for generation, parent in _STEP.findall(steps):
        if generation or (not parent and steps.startswith("~")):
            for _ in range(int(generation or 1)):
                here = _parent(here, 1, text, objects)
        else:
            here = _parent(here, int(parent or 1), text, objects)
    return here


def _start(name: str, refs: Refs, objects: Objects) -> str:
    if name in ("", "@", "HEAD"):
        name = refs.current
    for table in (refs.branches, refs.tags):
        if name in table:
            return table[name]
    place, slash, branch = name.partition("/")
    if slash and branch in refs.remotes.get(place, {}):
        return refs.remotes[place][branch]
    if re.fullmatch(f"[0-9a-f]{{{_SHORTEST},64}}", name):
        found = objects.catalog.starting_with(name)
        if not found:  # somebody else may have made it since
            objects.refresh()
            found = objects.catalog.starting_with(name)
        if len(found) > 1:
            raise ConfigError(f"'{name}' is the beginning of more than one commit", hint="give more digits")
        if found:
            return found[0]
    if name == refs.current and not refs.branches:
        raise ConfigError("the repository has no commits yet", hint="phloem commit MODEL.safetensors")
    raise unknown_name(name, refs)


def _parent(commit: str, number: int, text: str, objects: Objects) -> str:
    parents = objects.entry(commit).parents
    if number == 0:
        return commit
    if len(parents) < number:
        raise ConfigError(
            f"'{text}' goes back beyond the beginning: {commit[:12]} has {len(parents)} parent(s)"
        )
    return parents[number - 1]


def reachable(heads: Iterable[str], commits: Mapping[str, Entry]) -> set[str]:
    """The commits from which these heads came, and they themselves; those that are not here are left out."""
    found: set[str] = set()
    todo = [head for head in heads if head in commits]
    while todo:
        here = todo.pop()
        if here not in found:
            found.add(here)
            todo += [parent for parent in commits[here].parents if parent in commits]
    return found


def in_order(heads: Sequence[str], commits: Mapping[str, Entry]) -> Iterator[Entry]:
    """The history of these heads, newest first, no commit before those that came from it.

    Along a line of commits it stays on the line; where lines meet, the one whose newest commit is newer comes first.
    """
    among = reachable(heads, commits)
    waiting = dict.fromkeys(among, 0)
    for digest in among:
        for parent in set(commits[digest].parents):
            if parent in waiting:
                waiting[parent] += 1
    ready = sorted(
        (d for d in dict.fromkeys(heads) if d in among and not waiting[d]), key=lambda d: commits[d].time
    )
    while ready:
        here = commits[ready.pop()]
        yield here
        free = []
        for parent in dict.fromkeys(here.parents):
            if parent in waiting:
                waiting[parent] -= 1
                if not waiting[parent]:
                    free.append(parent)
        ready += reversed(free)  # the first parent next


def merge_base(heads: Sequence[str], commits: Mapping[str, Entry]) -> str:
    """The newest commit from which all of these came.

    Raises:
        ConfigError: they have nothing in common. NotFoundError: one of them is not here.
    """
    for head in heads:
        if head not in commits:
            raise NotFoundError(f"the repository has no commit {head[:12]}")
    common = set.intersection(*(reachable([head], commits) for head in heads))
    if not common:
        raise ConfigError(
            "these branches have no commit in common", hint="branches that are merged start from one trunk"
        )
    older = reachable({parent for one in common for parent in commits[one].parents}, commits)
    best = sorted(common - older, key=lambda digest: (commits[digest].time, digest))
    return best[-1]


def apart(
    one: str, other: str, commits: Mapping[str, Entry], of_other: set[str] | None = None
) -> tuple[int, int]:
    """How many commits only the history of `one` has, and how many only that of `other`, whose commits may be given."""
    mine = reachable([one], commits)
    theirs = reachable([other], commits) if of_other is None else of_other
    return len(mine - theirs), len(theirs - mine)


def is_ancestor(old: str, new: str, commits: Mapping[str, Entry]) -> bool:
    """Whether `new` came from `old`, or is it."""
    return old in reachable([new], commits)
