"""The sections of frames in a repository, read when they are needed, and what they do to a state in the making."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from phloem.branches.blobs import Blob, BlobFile
from phloem.branches.records import Encoding
from phloem.codecs.base import Codec
from phloem.codecs.ecsq import Ecsq
from phloem.errors import FormatError
from phloem.files.container import FrameReader
from phloem.files.dtypes import Raw, restored
from phloem.files.exact import as_type, decode_exact
from phloem.files.sections import Section, sections
from phloem.files.tensorfile import bytes_of
from phloem.kernels import Opened, Put
from phloem.kernels.steps import STEP_BYTES
from phloem.tensors import Array, Layout, TensorSpec
from phloem.wire import frame as frames

Tensors = dict[str, Raw]


@dataclass
class Build:
    """A state in the making.

    Attributes:
        tensors: those that there are, by name.
        types: the types that they have so far.
        sums: those to which something was added last; no value of them is −0.
    """

    tensors: Tensors = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    sums: set[str] = field(default_factory=set)


class Shared:
    """The one body of a frame that several sections are decoded from: read and opened once, until it is let go."""

    def __init__(self, blob: Blob, offset: int, size: int, layout: Layout) -> None:
        self._place, self._layout = (blob, offset, size), layout
        self._lock = threading.Lock()
        self._opened: Opened | None = None

    def opened(self) -> Opened:
        """The body.

        Raises:
            FormatError: it is not what it claims to be.
        """
        with self._lock:
            if self._opened is None:
                blob, offset, size = self._place
                self._opened = Ecsq.open(blob.read(offset, size), self._layout)
            return self._opened

    def let_go(self) -> None:
        """Forgets what was read."""
        self._opened = None


@dataclass(frozen=True)
class Body:
    """One section of a frame, not yet read.

    Attributes:
        blob: where it is: `size` bytes from `offset` on.
        codec: what decodes it, unless the section is exact.
        section: its tensors.
        shared: where the bytes are the body of more tensors than these: what has them, and the number of the first.
    """

    blob: Blob
    codec: type[Codec]
    section: Section
    offset: int
    size: int
    shared: tuple[Shared, int] | None = None

    def apply(self, build: Build, *, alone: bool) -> None:
        """Decodes it, against what is built so far unless it stands alone, and puts what comes out there.

        Raises:
            FormatError: it is not what it claims to be.
        """
        specs, tensors, types = self.section.specs, build.tensors, build.types
        names = {spec.name for spec in specs}
        try:
            if self.section.exact:
                self._exact(tensors, types, alone=alone)
                build.sums -= names
            elif not alone and self._adds(tensors, types):
                arrays = [_writable(tensors, spec) for spec in specs]
                self._put(arrays, "accumulate" if names <= build.sums else "add")
                build.sums |= names
            else:
                updates = self._decoded()
                for spec, update in zip(specs, updates, strict=True):
                    base = None if alone else tensors[spec.name]
                    tensors[spec.name] = restored(update, spec.dtype, base, types.get(spec.name, spec.dtype))
                build.sums -= names
        except KeyError as error:
            raise FormatError("a frame's tensors are not those of its base") from error
        except MemoryError as error:
            raise FormatError(
                f"a section claims {self.section.size} parameters, more than fit in memory"
            ) from error
        for spec in specs:
            types[spec.name] = spec.dtype

    def follows(self, other: Body) -> bool:
        """Whether it can be added together with a body before it: to the same float32 tensors."""
        return (
            self._floats
            and other._floats
            and self.section == other.section
            and (self.shared is None) == (other.shared is None)
            and (self.shared is None or other.shared is None or self.shared[1] == other.shared[1])
        )

    @property
    def _floats(self) -> bool:
        return issubclass(self.codec, Ecsq) and all(spec.dtype == "float32" for spec in self.section.specs)

    def _opened(self) -> Opened:
        if self.shared is not None:
            return self.shared[0].opened()
        return Ecsq.open(self._read(), self.section.layout)

    def _adds(self, tensors: Tensors, types: dict[str, str]) -> bool:
        """Whether values are added in place: float32 on both sides."""
        return issubclass(self.codec, Ecsq) and all(
            spec.dtype == types[spec.name] == "float32" and tensors[spec.name].size == 4 * spec.size
            for spec in self.section.specs
        )

    def _read(self) -> bytes:
        return self.blob.read(self.offset, self.size)

    def _put(self, arrays: list[Array], put: Put) -> None:
        assert issubclass(self.codec, Ecsq)
        if self.shared is None:
            self.codec.decode_into(self._read(), self.section.layout, arrays, put)
        else:
            shared, first = self.shared
            shared.opened().put(first, arrays, put)

    def _decoded(self) -> list[Array]:
        if self.shared is None:
            return self.codec.decode(self._read(), self.section.layout)
        arrays = [np.zeros(spec.shape, np.float32) for spec in self.section.specs]
        self._put(arrays, "store")
        return arrays

    def _exact(self, tensors: Tensors, types: dict[str, str], *, alone: bool) -> None:
        specs = self.section.specs
        bases = None
        if not alone:
            bases = [as_type(tensors[s.name], types[s.name], s.dtype, s.name) for s in specs]
        found = decode_exact(self._read(), specs, [bytes_of(spec) for spec in specs], bases)
        tensors.update(zip((spec.name for spec in specs), found, strict=True))


def add_all(bodies: Sequence[Body], build: Build) -> None:
    """Applies bodies of which each follows the one before, none of which stands alone.

    Raises:
        FormatError: one is not what it claims to be.
    """
    first = bodies[0]
    if not first._adds(build.tensors, build.types):
        for body in bodies:
            body.apply(build, alone=False)
        return
    arrays = [_writable(build.tensors, spec) for spec in first.section.specs]
    Ecsq.add_all([body._opened() for body in bodies], 0 if first.shared is None else first.shared[1], arrays)
    build.sums.update(spec.name for spec in first.section.specs)


@dataclass(frozen=True)
class Link:
    """One frame of a chain, by its sections."""

    encoding: Encoding
    bodies: tuple[Body, ...]

    @classmethod
    def of(cls, encoding: Encoding, blob: Blob, specs: Sequence[TensorSpec]) -> Link:
        """The frame of an encoding; `specs` are tensors of the names and shapes that its state has.

        Raises:
            FormatError: it is no frame for such a state.
        """
        if encoding.form == "wire":
            return cls(encoding, tuple(_wire_bodies(blob, specs)))
        reader = FrameReader.open(BlobFile(blob), blob.size, checked=False)  # type: ignore[arg-type]
        if reader.head.base != encoding.base or not _alike(reader.contents.specs, specs):
            raise FormatError(
                f"the frame {encoding.frame[:12]} is not one of the state {encoding.state[:12]}"
            )
        bodies = [Body(blob, reader.codec, *place) for place in reader.places()]
        return cls(encoding, tuple(bodies))


def _alike(mine: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> bool:
    """Whether names and shapes are the same."""
    return len(mine) == len(theirs) and all(
        one.name == other.name and one.shape == other.shape for one, other in zip(mine, theirs, strict=True)
    )


def _wire_bodies(blob: Blob, specs: Sequence[TensorSpec]) -> list[Body]:
    """The one body of a frame from the wire, whose layout is the state's, in the sections that it can be decoded in."""
    if any(spec.dtype != "float32" for spec in specs):
        raise FormatError("a frame of the wire gives float32 tensors only")
    start, end = frames.WIRE_HEAD_BYTES, blob.size - frames.CHECKSUM_BYTES
    codec = frames.codec_of_wire(blob.read(0, min(blob.size, start)))
    size, parts = max(end - start, 0), sections(specs, lossless=False)
    if len(parts) == 1 or size < STEP_BYTES or not issubclass(codec, Ecsq):
        return [Body(blob, codec, Section(tuple(specs), exact=False), start, size)]
    if not codec.has_parts(blob.read(start, STEP_BYTES)):
        return [Body(blob, codec, Section(tuple(specs), exact=False), start, size)]
    shared = Shared(blob, start, size, Layout(tuple(specs)))
    firsts = itertools.accumulate((len(part.specs) for part in parts), initial=0)
    return [
        Body(blob, codec, part, start, size, (shared, first))
        for part, first in zip(parts, firsts, strict=False)
    ]


def _writable(tensors: Tensors, spec: TensorSpec) -> Array:
    """A tensor as float32 values that can be changed in place."""
    raw = tensors[spec.name]
    if not raw.flags.writeable or raw.ctypes.data % 4:
        raw = tensors[spec.name] = raw.copy()
    values: Array = raw.view("<f4").reshape(spec.shape)
    return values
