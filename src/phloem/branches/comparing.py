"""How two states differ, tensor by tensor, and, where they came from one base, how alike their ways from it were.

Tensors with equal digests are equal, and are not decoded. Of the others a few are in memory at a time: the walk follows
the parts in which the first state is stored, and what else comes out of a part of another is kept until its turn. So
every part is decoded once, and states that are stored in other parts need no more memory than parts that overlap.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phloem import canonical
from phloem.branches import history
from phloem.branches.arithmetic import Doubles, spans
from phloem.branches.catalog import Entry
from phloem.branches.objects import Objects
from phloem.branches.restore import Restored
from phloem.errors import ConfigError
from phloem.files.adapters import BASE, extra_name, owner_of
from phloem.files.dtypes import CODED, ITEM_BYTES, Raw, bytes_at, floats
from phloem.files.tensorfile import Progress, bytes_of, silent
from phloem.tensors import TensorSpec

_AHEAD = 3  # parts that are decoded while one is compared: one of each state
_LENGTH = 1 << 15  # elements at a time: six stretches of float64 lie in a core's cache
_A, _B, _OLD = range(3)
_LAYER = re.compile(r"(?:[^./]*[./])*?[0-9]+(?:[./][0-9]+)*(?=[./])")
_LAST = re.compile(r"(?<=[^./])[./][^./]*\Z")


@dataclass(frozen=True)
class Figures:
    """How far values lie apart, over one tensor or many: sums in float64, and what follows from them.

    What is undefined, or beyond float64, is None. Values that are not finite are left out, but for `changed`.

    Attributes:
        largest: the largest |b − a|.
        parameters: how many values there are.
        compared: how many of them were read; the others are the same everywhere, and no part of the norm of a.
        changed: how many differ bit for bit.
        difference, a: the squared norms of b − a and of a.
        dot, way_a, way_b: the inner product of a − base and b − base, and their squared norms.
        both, agreeing: how many values moved on both ways, and how many of them in the same direction.
    """

    largest: float = 0.0
    parameters: int = 0
    compared: int = 0
    changed: int = 0
    difference: float = 0.0
    a: float = 0.0
    dot: float = 0.0
    way_a: float = 0.0
    way_b: float = 0.0
    both: int = 0
    agreeing: int = 0

    def __add__(self, other: Figures) -> Figures:
        pairs = ((name, value, vars(other)[name]) for name, value in vars(self).items())
        return Figures(**{name: max(x, y) if name == "largest" else x + y for name, x, y in pairs})

    @property
    def norm(self) -> float | None:
        """‖b − a‖."""
        return _finite(math.sqrt(self.difference))

    @property
    def norm_a(self) -> float | None:
        """‖a‖."""
        return _finite(math.sqrt(self.a))

    @property
    def relative(self) -> float | None:
        """‖b − a‖ ÷ ‖a‖; None where all of a is 0."""
        return _ratio(self.norm, self.norm_a) if self.difference else 0.0

    @property
    def moved_a(self) -> float | None:
        """‖a − base‖."""
        return _finite(math.sqrt(self.way_a))

    @property
    def moved_b(self) -> float | None:
        """‖b − base‖."""
        return _finite(math.sqrt(self.way_b))

    @property
    def ratio(self) -> float | None:
        """‖b − base‖ ÷ ‖a − base‖."""
        return _ratio(self.moved_b, self.moved_a)

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between a − base and b − base; None where one of them did not move."""
        found = _ratio(_ratio(self.dot, self.moved_a), self.moved_b)
        return None if found is None else max(-1.0, min(1.0, found))

    @property
    def agreement(self) -> float | None:
        """Of the values that moved on both ways, the share that went in the same direction: 0.5 by chance."""
        return self.agreeing / self.both if self.both else None

    def to_json(self, *, base: bool) -> dict[str, float | None]:
        """The figures by name; with `base`, those against it, too."""
        names = ["parameters", "compared", "changed", "norm", "norm_a", "relative", "largest"]
        against = ["moved_a", "moved_b", "ratio", "cosine", "both", "agreeing", "agreement"]
        return {name: _finite(getattr(self, name)) for name in names + against * base}


@dataclass(frozen=True)
class Row:
    """One tensor that both have.

    Attributes:
        dtype, dtype_b: its type in a and in b.
        identical: whether a and b have the same type and bytes.
        not_finite: how many values are NaN or infinite in a, in b and in the base, as far as they were read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    dtype_b: str
    identical: bool
    figures: Figures
    not_finite: tuple[int, ...] = (0, 0, 0)


@dataclass(frozen=True)
class Layer:
    """Tensors that belong together: how many, how many of them differ, and how far."""

    name: str
    tensors: int
    differing: int
    figures: Figures

    @classmethod
    def of(cls, name: str, rows: Sequence[Row]) -> Layer:
        """The layer of these tensors."""
        figures = sum((row.figures for row in rows), Figures())
        return cls(name, len(rows), sum(not row.identical for row in rows), figures)


@dataclass(frozen=True)
class Difference:
    """How one state differs from another.

    Attributes:
        a, b, base: the states' ids; base is None where there is none.
        rows: the tensors that both have, sorted by name.
        only_a, only_b: those that only one has.
        unlike: those whose values cannot be compared: of two shapes, or complex in one of them only.
        not_in_base: names of those that both have and the base has not, or not so.
    """

    a: str
    b: str
    base: str | None
    rows: tuple[Row, ...]
    only_a: tuple[TensorSpec, ...] = ()
    only_b: tuple[TensorSpec, ...] = ()
    unlike: tuple[tuple[TensorSpec, TensorSpec], ...] = ()
    not_in_base: tuple[str, ...] = ()

    @functools.cached_property
    def total(self) -> Layer:
        """All tensors that both have, as if they were one layer."""
        return Layer.of("", self.rows)

    @property
    def not_finite(self) -> tuple[Row, ...]:
        """The tensors that hold NaN or infinities, of those that were read."""
        return tuple(row for row in self.rows if any(row.not_finite))

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The tensors by layer (see `layer_of`), in the order of their names, in which numbers count as numbers."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(layer_of(row.name), []).append(row)
        return tuple(Layer.of(name, groups[name]) for name in sorted(groups, key=_natural))

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        said: dict[str, Any] = {**canonical.plain(self), "kind": "difference", "version": 1}
        for key, found in (("total", [self.total]), ("rows", self.rows), ("layers", self.layers)):
            figures = [{"figures": one.figures.to_json(base=self.base is not None)} for one in found]
            said[key] = [canonical.plain(one) | more for one, more in zip(found, figures, strict=True)]
        return said | {"total": said["total"][0]}


def compare(
    a: Restored, b: Restored, base: Restored | None = None, *, progress: Progress = silent
) -> Difference:
    """How state `b` differs from `a`, and, with a base, how their ways from it do.

    Raises:
        FormatError: what is stored of one of them is damaged. StoreError: it cannot be read.
    """
    sources = [a, b] if base is None else [a, b, base]
    mine, theirs = ({spec.name: spec for spec in one.contents.specs} for one in (a, b))
    both = [(spec, theirs[spec.name]) for spec in a.contents.specs if spec.name in theirs]
    plans = {one.name: _Plan.of(one, other, sources) for one, other in both if _alike(one, other)}
    reads = {name: plan.reads for name, plan in plans.items() if plan.reads}
    figures, done, total = {}, 0, sum(bytes_of(mine[name]) for name in reads)
    for name, raws in _walk(sources, reads):
        figures[name] = _figures(plans[name].specs, [raws[side] for side in plans[name].same_as])
        del raws
        done += bytes_of(mine[name])
        progress("comparing", done, total)
    rows = []
    for name, plan in plans.items():
        one, other = plan.specs[:2]
        same = one.dtype == other.dtype and plan.same_as[_B] == _A
        found = figures.get(name, (Figures(parameters=one.size), (0, 0, 0)))
        rows.append(Row(name, one.shape, one.dtype, other.dtype, same, *found))
    return Difference(
        a.state,
        b.state,
        None if base is None else base.state,
        tuple(rows),
        only_a=tuple(spec for spec in a.contents.specs if spec.name not in theirs),
        only_b=tuple(spec for spec in b.contents.specs if spec.name not in mine),
        unlike=tuple(pair for pair in both if not _alike(*pair)),
        not_in_base=tuple(name for name, plan in plans.items() if len(plan.specs) < len(sources)),
    )


def compare_commits(
    objects: Objects, a: str, b: str, base: str | None = None, *, progress: Progress = silent
) -> Difference:
    """How the state of commit `b` differs from that of `a`; against `base`, or else against `common_base`.

    Raises:
        NotFoundError: a commit, or something that its state needs, is not there. FormatError: it is damaged.
    """
    base = base or common_base(a, b, objects.catalog.commits())
    states = [objects.entry(commit).state for commit in (a, b, base) if commit is not None]
    opened = {state: Restored(objects, state) for state in dict.fromkeys(states)}
    return compare(*(opened[state] for state in states), progress=progress)


def common_base(a: str, b: str, commits: Mapping[str, Entry]) -> str | None:
    """The newest commit from which both came; None where there is none, and where it is one of the two.

    Raises:
        NotFoundError: one of them is not here.
    """
    try:
        found = history.merge_base([a, b], commits)
    except ConfigError:
        return None
    return None if found in (a, b) else found


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to: its name up to the first numbers in it, or without its last part.

    >>> [layer_of(name) for name in ("model.layers.3.mlp.1.w", "layer1.0.conv1.weight", "fc.bias", "w")]
    ['model.layers.3', 'layer1.0', 'fc', 'w']
    """
    owner, inner = owner_of(name)
    layer = found[0] if (found := _LAYER.match(inner)) else _LAST.sub("", inner)
    return layer if owner == BASE else extra_name(owner, layer)


def _natural(name: str) -> list[tuple[int, str]]:
    """What to sort a name by, so that h.9 comes before h.10."""
    return [(len(part) * (n % 2), part) for n, part in enumerate(re.split("([0-9]+)", name))]


@dataclass(frozen=True)
class _Plan:
    """A tensor in a, in b and maybe the base; the first of them with the same bytes; which are read, if any."""

    specs: tuple[TensorSpec, ...]
    same_as: tuple[int, ...]
    reads: tuple[int, ...]

    @classmethod
    def of(cls, one: TensorSpec, other: TensorSpec, sources: Sequence[Restored]) -> _Plan:
        specs = [one, other]
        if len(sources) > _OLD and one.name in sources[_OLD].digests:
            old = sources[_OLD].spec(one.name)
            specs += [old] * _alike(one, old)
        digests = [source.digests[one.name] for source in sources[: len(specs)]]
        same_as = tuple(map(digests.index, digests))
        needless = one.dtype == other.dtype and not any(same_as)
        return cls(tuple(specs), same_as, () if needless else tuple(sorted(set(same_as))))


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether values can be compared one by one."""
    return one.shape == other.shape and (one.dtype == "complex64") == (other.dtype == "complex64")


def _walk(
    sources: Sequence[Restored], reads: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, dict[int, Raw]]]:
    """Each tensor of `reads` with its bytes in those of the sources; the next parts are decoded meanwhile."""
    wanted = [{name for name, sides in reads.items() if side in sides} for side in range(len(sources))]
    parts = [[some & {*part.names} for part in one.parts] for some, one in zip(wanted, sources, strict=True)]
    place = [{name: number for number, part in enumerate(one) for name in part} for one in parts]
    order = [name for part in sources[_A].parts for name in part.names if name in wanted[_A]]
    loads = iter(dict.fromkeys((side, place[side][name]) for name in order for side in reads[name]))

    def load(side: int, number: int) -> dict[str, Raw]:
        return {spec.name: raw for spec, raw in sources[side].iterate(parts[side][number], workers=1)}

    held: list[dict[str, Raw]] = [{} for _ in sources]
    waiting: deque[tuple[int, Future[dict[str, Raw]]]] = deque()
    with ThreadPoolExecutor(_AHEAD) as pool:
        for name in order:
            for side in reads[name]:
                while name not in held[side]:
                    more = itertools.islice(loads, _AHEAD + 1 - len(waiting))
                    waiting.extend((one[0], pool.submit(load, *one)) for one in more)
                    held[waiting[0][0]].update(waiting.popleft()[1].result())
            yield name, {side: held[side].pop(name) for side in reads[name]}


def _figures(specs: Sequence[TensorSpec], raws: Sequence[Raw]) -> tuple[Figures, tuple[int, ...]]:
    """The figures of one tensor, and how many of its values in each state are not finite."""
    total, not_finite, size = Figures(), np.zeros(3, np.int64), specs[_A].size
    for where in spans(size, _LENGTH):
        pieces = [bytes_at(raw, spec.dtype, where) for spec, raw in zip(specs, raws, strict=True)]
        values = [_values(piece, spec.dtype) for spec, piece in zip(specs, pieces, strict=True)]
        if specs[_A].dtype == specs[_B].dtype:
            bits = [piece.view(f"<u{ITEM_BYTES[specs[_A].dtype]}") for piece in pieces[:_OLD]]
            changed = np.count_nonzero(bits[_A] != bits[_B])
        else:
            changed = np.count_nonzero((values[_A] != values[_B]) & ~np.isnan(values[:_OLD]).all(axis=0))
        with np.errstate(over="ignore", invalid="ignore"):
            found = _sums(values)
            if not math.isfinite(found.difference + found.a + found.way_a + found.way_b):
                finite = np.array([np.isfinite(one) for one in values])  # (states, values)
                not_finite[: len(specs)] += np.count_nonzero(~finite, axis=1)
                found = _sums([np.where(finite.all(axis=0), one, 0.0) for one in values])
        total += found + Figures(changed=int(changed))
    return replace(total, parameters=size, compared=size), tuple(map(int, not_finite))


def _sums(values: Sequence[Doubles]) -> Figures:
    """The sums over a stretch of a, b and perhaps the base."""
    a, b = values[:2]
    apart = b - a
    found = Figures(float(np.abs(apart).max(initial=0.0)), difference=_dot(apart, apart), a=_dot(a, a))
    for old in values[_OLD:]:
        x, y = a - old, b - old
        along = x * y
        both, same = int(np.count_nonzero(along)), int(np.count_nonzero(along > 0))
        found += Figures(dot=float(along.sum()), way_a=_dot(x, x), way_b=_dot(y, y), both=both, agreeing=same)
    return found


def _dot(x: Doubles, y: Doubles) -> float:
    """The inner product, on this thread: BLAS has some of its own, which would take the decoders' cores."""
    return float(np.einsum("i,i->", x, y))


def _values(piece: Raw, dtype: str) -> Doubles:
    """The values of a stretch; a complex one is two. What float64 cannot hold is rounded."""
    if dtype in CODED:
        values = floats(piece, dtype)
    elif dtype == "complex64":
        values = piece.view("<f4")
    elif dtype == "bool":
        values = piece != 0
    elif dtype == "float8_e5m2":  # the upper half of a float16
        values = (piece.astype("<u2") << 8).view("<f2")
    elif dtype == "float8_e4m3fn":  # a float16, 2⁸ times as small, but for NaN
        halves = ((piece & 0x80).astype("<u2") << 8 | (piece & 0x7F).astype("<u2") << 7).view("<f2")
        values = np.where(piece & 0x7F == 0x7F, np.nan, halves * np.float64(256))
    elif dtype == "float8_e8m0fnu":
        values = np.where(piece == 0xFF, np.nan, np.ldexp(1.0, piece.astype(np.int64) - 127))
    else:
        values = piece.view(np.dtype(dtype).newbyteorder("<"))
    return np.asarray(values, np.float64)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return _finite(part / whole) if part is not None and whole else None
