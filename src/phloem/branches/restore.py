"""A state out of its encodings, tensor by tensor: decoded on all cores, every tensor checked against its digest.

A chain of frames is followed part by part: a part is a section of the last frame, with the sections of the others that
it needs, so that it can be decoded alone. Parts are independent; a few are in memory at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from phloem.branches.blobs import Blob, BlobFile
from phloem.branches.chains import Size, cheapest
from phloem.branches.objects import Objects
from phloem.branches.records import Encoding
from phloem.codecs.base import Codec
from phloem.codecs.ecsq import Ecsq
from phloem.errors import FormatError, NotFoundError, PhloemError
from phloem.files.container import FrameReader
from phloem.files.decoding import LEAST_LIMIT, MOST_PARAMETERS_PER_BYTE
from phloem.files.dtypes import Raw, restored
from phloem.files.exact import as_type, decode_exact
from phloem.files.sections import Section
from phloem.files.tensorfile import bytes_of
from phloem.tensors import Array, TensorSpec, tensor_digest
from phloem.wire import frame as frames
from phloem.wire.contents import Contents

#: Workers: one more than cores, because some wait for the disk.
_MOST_WORKERS = 8
Tensors = dict[str, Raw]


@dataclass(frozen=True)
class Body:
    """One section of a frame, not yet read."""

    blob: Blob
    codec: type[Codec]
    section: Section
    offset: int
    size: int

    def apply(self, tensors: Tensors, types: dict[str, str], *, alone: bool) -> None:
        """Decodes it, against `tensors` of these types unless it stands alone, and puts what comes out there.

        Raises:
            FormatError: it is not what it claims to be.
        """
        data = self.blob.read(self.offset, self.size)
        specs = self.section.specs
        try:
            if self.section.exact:
                self._exact(data, tensors, types, alone=alone)
            elif not alone and self._adds(tensors, types):
                arrays = [_writable(tensors, spec) for spec in specs]
                assert issubclass(self.codec, Ecsq)
                self.codec.decode_into(data, self.section.layout, arrays, "add")
            else:
                updates = self.codec.decode(data, self.section.layout)
                for spec, update in zip(specs, updates, strict=True):
                    base = None if alone else tensors[spec.name]
                    tensors[spec.name] = restored(update, spec.dtype, base, types.get(spec.name, spec.dtype))
        except KeyError as error:
            raise FormatError("a frame's tensors are not those of its base") from error
        except MemoryError as error:
            raise FormatError(
                f"a section claims {self.section.size} parameters, more than fit in memory"
            ) from error
        for spec in specs:
            types[spec.name] = spec.dtype

    def _adds(self, tensors: Tensors, types: dict[str, str]) -> bool:
        """Whether values are added in place: float32 on both sides."""
        return issubclass(self.codec, Ecsq) and all(
            spec.dtype == types[spec.name] == "float32" and tensors[spec.name].size == 4 * spec.size
            for spec in self.section.specs
        )

    def _exact(self, data: bytes, tensors: Tensors, types: dict[str, str], *, alone: bool) -> None:
        specs = self.section.specs
        bases = None
        if not alone:
            bases = [as_type(tensors[s.name], types[s.name], s.dtype, s.name) for s in specs]
        found = decode_exact(data, specs, [bytes_of(spec) for spec in specs], bases)
        tensors.update(zip((spec.name for spec in specs), found, strict=True))


@dataclass(frozen=True)
class Link:
    """One frame of a chain, by its sections."""

    encoding: Encoding
    bodies: tuple[Body, ...]

    @classmethod
    def of(cls, encoding: Encoding, blob: Blob, specs: Sequence[TensorSpec]) -> Link:
        """The frame of an encoding; `specs` are the tensors that its state has.

        Raises:
            FormatError: it is no frame for such a state.
        """
        if encoding.form == "wire":
            return cls(encoding, (_wire_body(blob, specs),))
        reader = FrameReader.open(BlobFile(blob), blob.size, checked=False)  # type: ignore[arg-type]
        if reader.head.base != encoding.base or reader.contents.specs != tuple(specs):
            raise FormatError(
                f"the frame {encoding.frame[:12]} is not one of the state {encoding.state[:12]}"
            )
        bodies = [Body(blob, reader.codec, *place) for place in reader.places()]
        return cls(encoding, tuple(bodies))


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
        links = linked(objects, chain) if chain is not None else _any_linked(objects, state, self.size)
        self.chain = [link.encoding for link in links]
        _refuse_more(links, self.contents.specs)
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
        parts = [part for part in self.parts if names is None or not names.isdisjoint(part.names)]
        count = workers or min((os.cpu_count() or 1) + 1, _MOST_WORKERS)
        with ThreadPoolExecutor(count) as pool:
            waiting: deque[Future[Tensors]] = deque()
            todo = iter(parts)
            for part in _next(todo, count):
                waiting.append(pool.submit(part.decoded))
            try:
                while waiting:
                    tensors = waiting.popleft().result()
                    kept = {n: raw for n, raw in tensors.items() if names is None or n in names}
                    del tensors
                    checks = [(name, pool.submit(tensor_digest, raw)) for name, raw in kept.items()]
                    waiting.extend(pool.submit(part.decoded) for part in _next(todo, 1))
                    for name, digest in checks:
                        self._check(name, digest.result())
                        yield self._specs[name], kept.pop(name)
            finally:
                for one in waiting:
                    one.cancel()

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


def linked(objects: Objects, chain: Sequence[Encoding]) -> list[Link]:
    """The frames of a chain.

    Raises:
        NotFoundError: something is not there. FormatError: something is damaged.
    """
    return [
        Link.of(one, objects.frame(one.frame), [spec for spec, _ in objects.state(one.state)])
        for one in chain
    ]


def _any_linked(objects: Objects, state: str, size: Size) -> list[Link]:
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
                links += linked(objects, [one])
            except (NotFoundError, FormatError) as error:
                first = first or error
                broken.add(one.frame)
                break
        else:
            return links


def _refuse_more(links: Sequence[Link], specs: Sequence[TensorSpec]) -> None:
    """Nothing, if a chain gives no more than its first frame can hold: memory is taken by what it claims.

    Raises:
        FormatError: it claims more, or a frame has other shapes than the state.
    """
    claimed, held = sum(spec.size for spec in specs), max(body.blob.size for body in links[0].bodies)
    if claimed > max(LEAST_LIMIT, MOST_PARAMETERS_PER_BYTE * held):
        raise FormatError(f"a frame of {held} bytes claims {claimed} parameters, more than it can hold")
    shapes = {spec.name: spec.shape for spec in specs}
    for link in links:
        for spec in (spec for body in link.bodies for spec in body.section.specs):
            if shapes.get(spec.name) != spec.shape:
                raise FormatError(f"tensor '{spec.name:.80}' has another shape in a frame than in its state")


@dataclass(frozen=True)
class Part:
    """Some tensors that can be decoded without the others: the sections of every frame of the chain, in order.

    Attributes:
        names: the tensors.
        steps: sections, and whether each stands alone; some give tensors of other parts as well, not to their end.
    """

    names: tuple[str, ...]
    steps: tuple[tuple[bool, Body], ...]

    def decoded(self) -> Tensors:
        """The tensors, not yet checked."""
        tensors: Tensors = {}
        types: dict[str, str] = {}
        for alone, body in self.steps:
            body.apply(tensors, types, alone=alone)
        return {name: tensors[name] for name in self.names}

    @property
    def size(self) -> int:
        """How many parameters its sections have together."""
        return sum(body.section.size for _, body in self.steps)


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
    steps: list[tuple[bool, Body]] = []
    needed = set(names)
    for link, owner in zip(reversed(links), reversed(owners), strict=True):
        if not needed <= owner.keys():
            raise FormatError("a frame lacks tensors that the next one is decoded against")
        here = {id(owner[name]): owner[name] for name in sorted(needed)}
        steps += [(link.encoding.base is None, body) for body in here.values()]
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


def _wire_body(blob: Blob, specs: Sequence[TensorSpec]) -> Body:
    """The one body of a frame from the wire, whose layout is the state's."""
    if any(spec.dtype != "float32" for spec in specs):
        raise FormatError("a frame of the wire gives float32 tensors only")
    section = Section(tuple(specs), exact=False)
    parts = frames.unpack(blob.read(0, blob.size), section.layout)
    return Body(blob, parts.codec, section, 2, blob.size - 2 - frames.CHECKSUM_BYTES)


def _writable(tensors: Tensors, spec: TensorSpec) -> Array:
    """A tensor as float32 values that can be changed in place."""
    raw = tensors[spec.name]
    if not raw.flags.writeable or raw.ctypes.data % 4:
        raw = tensors[spec.name] = raw.copy()
    values: Array = raw.view("<f4").reshape(spec.shape)
    return values


def _next(parts: Iterator[Part], count: int) -> Iterator[Part]:
    for _, part in zip(range(count), parts, strict=False):
        yield part
