"""All encodings of a repository as a graph: from nothing, and from each state, to the states that they give.

`chains.cheapest` finds the way to one state; this knows the ways to all of them at once, and what becomes of them when
an encoding comes or goes. Costs are in times of reading a state uncompressed, as `chains.times_reading` has them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping

from phloem.branches import packs
from phloem.branches.chains import Size, times_reading
from phloem.branches.objects import Objects
from phloem.branches.records import Encoding
from phloem.files.tensorfile import bytes_of

_Way = tuple[float, Encoding]


class Ways:
    """The cheapest way to every state that these encodings give.

    Attributes:
        last: for each of those states, what the way there costs without checking what comes out, and its last step.
        size_of: how large a state is.
    """

    def __init__(self, encodings: Iterable[Encoding], size_of: Callable[[str], Size]) -> None:
        self.size_of = size_of
        self.last: dict[str, _Way] = {}
        self._giving: dict[str, list[Encoding]] = {}
        self._against: dict[str | None, list[Encoding]] = {}
        for one in encodings:
            self._giving.setdefault(one.state, []).append(one)
            self._against.setdefault(one.base, []).append(one)
        self._run([(self._step(one), one) for one in self._against.get(None, ())])

    def times(self, state: str) -> float:
        """What restoring a state costs; infinite where nothing gives it."""
        return self.last[state][0] + self._checking(state) if state in self.last else float("inf")

    def times_with(self, one: Encoding) -> float:
        """What restoring the state of an encoding costs by way of that encoding."""
        before = (
            0.0 if one.base is None else self.last[one.base][0] if one.base in self.last else float("inf")
        )
        return before + self._step(one) + self._checking(one.state)

    def chain(self, state: str) -> list[Encoding]:
        """The cheapest chain that gives a state, which must be among `last`: a key-frame first."""
        found: list[Encoding] = []
        at: str | None = state
        while at is not None:
            found.append(self.last[at][1])
            at = found[-1].base
        return found[::-1]

    def giving(self, state: str) -> list[Encoding]:
        """The encodings of a state."""
        return list(self._giving.get(state, ()))

    def add(self, one: Encoding) -> None:
        """Takes in another encoding."""
        self._giving.setdefault(one.state, []).append(one)
        self._against.setdefault(one.base, []).append(one)
        if one.base is None or one.base in self.last:
            self._run([((self.last[one.base][0] if one.base else 0.0) + self._step(one), one)])

    def remove(self, one: Encoding) -> dict[str, _Way]:
        """Leaves an encoding out; gives how things were for the states whose way led over it, for `put_back`."""
        self._giving[one.state].remove(one)
        self._against[one.base].remove(one)
        if self.last.get(one.state, (0.0, None))[1] is not one:
            return {}
        before: dict[str, _Way] = {}
        todo = [one.state]
        while todo:
            here = todo.pop()
            before[here] = self.last.pop(here)
            todo += [
                next_.state
                for next_ in self._against.get(here, ())
                if self.last.get(next_.state, (0.0, None))[1] is next_
            ]
        queue = []
        for state in before:
            for way in self._giving[state]:
                if way.base is None:
                    queue.append((self._step(way), way))
                elif way.base in self.last:
                    queue.append((self.last[way.base][0] + self._step(way), way))
        self._run(queue)
        return before

    def put_back(self, one: Encoding, before: Mapping[str, _Way]) -> None:
        """Undoes a `remove`."""
        self._giving[one.state].append(one)
        self._against[one.base].append(one)
        self.last.update(before)

    def _run(self, found: list[_Way]) -> None:
        """Takes in ways to states, and what lies beyond those that are better than what there was."""
        queue = [(cost, number, one) for number, (cost, one) in enumerate(found)]
        heapq.heapify(queue)
        number = len(queue)
        while queue:
            cost, _, one = heapq.heappop(queue)
            if one.state in self.last and self.last[one.state][0] <= cost:
                continue
            self.last[one.state] = (cost, one)
            for beyond in self._against.get(one.state, ()):
                number += 1
                heapq.heappush(queue, (cost + self._step(beyond), number, beyond))

    def _step(self, one: Encoding) -> float:
        size = self.size_of(one.state)
        return times_reading([one], size) - times_reading([], size)

    def _checking(self, state: str) -> float:
        return times_reading([], self.size_of(state))


class Sizes:
    """How large states are.

    Costs need it only roughly: states whose records are equally long are taken to be equally large, so that few records
    are read.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lengths = objects.catalog.digests(packs.STATE)
        self._known: dict[int, Size] = {}

    def __call__(self, state: str) -> Size:
        """The size of a state whose record is there."""
        length = self._lengths.get(state, -1)
        if length not in self._known:
            self._known[length] = Size.of(self._objects.state(state), bytes_of)
        return self._known[length]


def usable(objects: Objects) -> dict[str, Encoding]:
    """The encodings whose frames are there, in the size that they say, and whose states are known: by record."""
    large = objects.place.frames()
    small, states = objects.catalog.digests(), objects.catalog.digests(packs.STATE)
    return {
        digest: one
        for digest, one in objects.catalog.all_encodings()
        if one.frame_bytes in (small.get(one.frame), large.get(one.frame)) and one.state in states
    }
