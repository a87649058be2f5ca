"""A state out of its encodings, tensor by tensor: decoded on all cores, every tensor checked against its digest.

A chain of frames is followed part by part: a part is a section of the last frame, with the sections of the others that
it needs, so that it can be decoded alone. Parts are independent; a few are in memory at a time. Checksums of frames
are not looked at: what comes out is checked, tensor by tensor.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self

from phloem.branches.bodies import Body, Build, Link, Tensors, add_all
from phloem.branches.chains import Size, cheapest
from phloem.branches.objects import Objects
from phloem.branches.records import Encoding
from phloem.errors import FormatError, NotFoundError, PhloemError
from phloem.files.decoding import LEAST_LIMIT, MOST_PARAMETERS_PER_BYTE
from phloem.files.dtypes import Raw
from phloem.files.sections import MOST_PARAMETERS
from phloem.files.tensorfile import bytes_of
from phloem.kernels.threads import at_least
from phloem.tensors import TensorSpec, tensor_digest
from phloem.wire.contents import Contents

_CORES = min(os.cpu_count() or 1, 7)
#: Parameters of parts that are decoded at a time; one part is, whatever its size.
_MOST_IN_FLIGHT = 3 * MOST_PARAMETERS


class Restored:
    """A state in a repository: its tensors, decoded when they are asked for, and checked.

    Attributes:
        contents: the tensors, sorted by name.
    """

    def __init__(
        self,
        objects: Objects,
        state: str,
        metadata: dict[str, str] | None = None,
        chain: Sequence[Encoding] | None = None,
        name: str | None = None,
    ) -> None:
        """Finds out how the state is stored; decodes nothing yet. `name` is what messages call it.

        Raises:
            NotFoundError: something that it needs is not there. FormatError: something is damaged.
        """
        self.state, self.path = state, Path(name or f"the state {state[:12]}")
        rows = objects.state(state)
        self.digests = {spec.name: digest for spec, digest in rows}
        self.contents = Contents(tuple(spec for spec, _ in rows), metadata or {})
        self.size = Size.of(rows, bytes_of)
        self._specs = {spec.name: spec for spec in self.contents.specs}
        specs = self.contents.specs
        if chain is not None:
            links = linked(objects, chain, specs)
        else:
            links = _any_linked(objects, state, self.size, specs)
        self.chain = [link.encoding for link in links]
        _refuse_more(links, specs)
        self.parts = parts_of(links, self.contents.specs)
        self._part_of = {name: number for number, part in enumerate(self.parts) for name in part.names}
        self._held: tuple[int, Tensors] | None = None

    @property
    def size_bytes(self) -> int:
        """The size of all tensors."""
        return self.size.bytes

    def spec(self, name: str) -> TensorSpec:
        """The tensor of this name, which must be there."""
        return self._specs[name]

    def read(self, spec: TensorSpec) -> Raw:
        """One tensor, with its part, which is kept until a tensor of another part is asked for.

        Raises:
            FormatError: what was stored does not give it.
        """
        number = self._part_of[spec.name]
        if self._held is None or self._held[0] != number:
            tensors = self.parts[number].decoded()
            self._let_go()
            for name in self.parts[number].names:
                self._check(name, tensor_digest(tensors[name]))
            self._held = number, tensors
        return self._held[1][spec.name]

    def iterate(
        self, names: set[str] | None = None, workers: int | None = None
    ) -> Iterator[tuple[TensorSpec, Raw]]:
        """The tensors (of these names), part by part, each checked before it is given out.

        Raises:
            FormatError: what was stored does not give one of them; it is named.
        """
        try:
            yield from self._iterate(names, workers)
        finally:
            self._let_go()

    def _iterate(self, names: set[str] | None, workers: int | None) -> Iterator[tuple[TensorSpec, Raw]]:
        parts = [part for part in self.parts if names is None or not names.isdisjoint(part.names)]
        if len(parts) == 1:  # then it is its frames' sections that are decoded side by side
            pool = _workers() if workers is None else None
            yield from self._checked(parts[0].decoded(pool), names)
            return
        waiting: deque[tuple[int, Future[Tensors]]] = deque()
        todo = deque(parts)

        def start() -> None:
            while todo and len(waiting) < (workers or _CORES + 1):
                size = todo[0].parameters
                if waiting and size + sum(other for other, _ in waiting) > _MOST_IN_FLIGHT:
                    break
                waiting.append((size, _workers().submit(todo.popleft().decoded)))

        start()
        try:
            while waiting:
                tensors = waiting.popleft()[1].result()
                start()
                yield from self._checked(tensors, names)
        finally:
            for _, one in waiting:
                one.cancel()

    def _checked(self, tensors: Tensors, names: set[str] | None) -> Iterator[tuple[TensorSpec, Raw]]:
        """Those of these names, each checked before it is given out."""
        kept = {name: raw for name, raw in tensors.items() if names is None or name in names}
        tensors.clear()
        checks = [(name, _workers().submit(tensor_digest, raw)) for name, raw in kept.items()]
        for name, digest in checks:
            self._check(name, digest.result())
            yield self._specs[name], kept.pop(name)

    def _let_go(self) -> None:
        """Forgets frames that were read for several parts."""
        for body in (body for part in self.parts for _, bodies in part.steps for body in bodies):
            if body.shared is not None:
                body.shared[0].let_go()

    def _check(self, name: str, digest: str) -> None:
        if digest != self.digests[name]:
            raise FormatError(
                f"tensor '{name}' of the state {self.state[:12]} came out other than it was committed: "
                "a frame is damaged",
                hint="phloem fsck names it; fsck --from REMOTE brings it back",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = None


def linked(objects: Objects, chain: Sequence[Encoding], specs: Sequence[TensorSpec]) -> list[Link]:
    """The frames of a chain, which all have tensors of the names and shapes of `specs`.

    Raises:
        NotFoundError: something is not there. FormatError: something is damaged.
    """
    return [Link.of(one, objects.frame(one.frame), specs) for one in chain]


def _any_linked(objects: Objects, state: str, size: Size, specs: Sequence[TensorSpec]) -> list[Link]:
    """The frames of the cheapest chain of which nothing is missing: `repack` may be choosing others meanwhile."""
    broken: set[str] = set()
    first: PhloemError | None = None
    while True:
        links: list[Link] = []
        try:
            chain = cheapest(state, size, objects.encodings, frozenset(broken))
        except NotFoundError as error:
            raise first or error from None
        for one in chain:
            try:
                links += linked(objects, [one], specs)
            except (NotFoundError, FormatError) as error:
                first = first or error
                broken.add(one.frame)
                break
        else:
            return links


def _refuse_more(links: Sequence[Link], specs: Sequence[TensorSpec]) -> None:
    """Nothing, if a chain gives no more than its first frame can hold: memory is taken by what it claims.

    Raises:
        FormatError: it claims more.
    """
    claimed, held = sum(spec.size for spec in specs), max(body.blob.size for body in links[0].bodies)
    if claimed > max(LEAST_LIMIT, MOST_PARAMETERS_PER_BYTE * held):
        raise FormatError(f"a frame of {held} bytes claims {claimed} parameters, more than it can hold")


@dataclass(frozen=True)
class Part:
    """Some tensors that can be decoded without the others: the sections of every frame of the chain, in order.

    Attributes:
        names: the tensors.
        steps: per frame whether it stands alone, and sections; some give tensors of other parts as well.
    """

    names: tuple[str, ...]
    steps: tuple[tuple[bool, tuple[Body, ...]], ...]

    def decoded(self, pool: ThreadPoolExecutor | None = None) -> Tensors:
        """The tensors, not yet checked; with a pool the sections of a frame are decoded side by side."""
        build = Build()
        for alone, bodies, run in _runs(self.steps):
            if len(run) > 1:
                with at_least(1 if pool is None else _CORES):
                    add_all(run, build)
                continue
            apply = partial(Body.apply, build=build, alone=alone)
            if pool is not None and len(bodies) > 1:
                deque(pool.map(apply, bodies), maxlen=0)
                continue
            with at_least(1 if pool is None else _CORES):
                deque(map(apply, bodies), maxlen=0)
        return {name: build.tensors[name] for name in self.names}

    @property
    def parameters(self) -> int:
        """How many of them are in memory while it is decoded."""
        return max(sum(body.section.size for body in bodies) for _, bodies in self.steps)

    @property
    def size(self) -> int:
        """How many parameters its sections have together."""
        return sum(body.section.size for _, bodies in self.steps for body in bodies)


def _runs(
    steps: Sequence[tuple[bool, tuple[Body, ...]]],
) -> Iterator[tuple[bool, tuple[Body, ...], list[Body]]]:
    """The steps, where each that is one body comes with those after it that can be added in one go."""
    at = 0
    while at < len(steps):
        alone, bodies = steps[at]
        run = list(bodies) if len(bodies) == 1 and not alone else []
        at += 1
        while run and at < len(steps):
            [*more] = steps[at][1]
            if steps[at][0] or len(more) > 1 or not more[0].follows(run[-1]):
                break
            run += more
            at += 1
        yield alone, bodies, run


def parts_of(links: Sequence[Link], specs: Sequence[TensorSpec]) -> list[Part]:
    """The parts of a chain, in the order of its last frame's sections.

    Frames of one kind are cut into the same sections, so that every section of the last one is a part. Where two kinds
    are cut differently (lossless and lossy ones of a model of several types), sections at the cuts are decoded for both
    sides. Where that would be more work than twice what there is, the parts are fewer and larger.

    Raises:
        FormatError: a frame lacks tensors that the state has.
    """
    last = links[-1].bodies
    names = [spec.name for body in last for spec in body.section.specs]
    if sorted(names) != [spec.name for spec in specs]:
        raise FormatError("a frame has other tensors than the state that it gives")
    owners = [{spec.name: body for body in link.bodies for spec in body.section.specs} for link in links]
    parts = [_part(links, owners, [body]) for body in last]
    if sum(part.size for part in parts) > 2 * sum(
        body.section.size for link in links for body in link.bodies
    ):
        return [_part(links, owners, group) for group in _groups(links)]
    return parts


def _part(links: Sequence[Link], owners: Sequence[Mapping[str, Body]], bodies: Sequence[Body]) -> Part:
    """What must be decoded for these sections of the last frame."""
    names = tuple(spec.name for body in bodies for spec in body.section.specs)
    steps: list[tuple[bool, tuple[Body, ...]]] = []
    needed = set(names)
    for link, owner in zip(reversed(links), reversed(owners), strict=True):
        if not needed <= owner.keys():
            raise FormatError("a frame lacks tensors that the next one is decoded against")
        here = {id(owner[name]): owner[name] for name in sorted(needed)}
        steps.append((link.encoding.base is None, tuple(here.values())))
        needed = {spec.name for body in here.values() for spec in body.section.specs}
    return Part(names, tuple(reversed(steps)))


def _groups(links: Sequence[Link]) -> list[list[Body]]:
    """The last frame's sections in the smallest groups that no section of any frame reaches out of."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = name = above[above[name]]
        return name

    for link in links:
        for body in link.bodies:
            first = top(body.section.specs[0].name)
            for spec in body.section.specs[1:]:
                above[top(spec.name)] = first
    found: dict[str, list[Body]] = {}
    for body in links[-1].bodies:
        found.setdefault(top(body.section.specs[0].name), []).append(body)
    return list(found.values())


def _workers() -> ThreadPoolExecutor:
    """The threads that decode and hash, for all states; they never wait for each other."""
    return _threads_of(os.getpid())  # after a fork there are none of the parent's


@cache
def _threads_of(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_CORES + 1, "phloem-restore")  # one more than cores: some wait for the disk
