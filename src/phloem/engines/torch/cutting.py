"""Who reduces what: every parameter cut into pieces, every piece given to one rank.

The cut depends on names, shapes and the number of ranks alone, not on DDP's buckets: those are rebuilt after the
first step, and what a rank owes for its pieces stays with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from phloem.tensors import Layout, TensorSpec

#: Smaller pieces would pay more for their scales than they gain in balance.
LEAST_ELEMENTS = 1 << 14


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `first` to `last` of a parameter; `name` says so, unless it is whole."""

    parameter: str
    first: int
    last: int
    shape: tuple[int, ...]
    owner: int
    name: str


@dataclass(frozen=True)
class Shard:
    """The pieces in one bucket that `owner` reduces.

    Attributes:
        layout: of their frames.
        places: for each tensor of the layout, the place of its parameter in the bucket, and its rows.
    """

    owner: int
    layout: Layout
    pieces: tuple[Piece, ...]
    places: tuple[int, ...]


def spans(length: int, size: int, ranks: int) -> list[tuple[int, int]]:
    """How `size` values, of which so many lie together along `length`, are divided among ranks: from, to.

    >>> spans(512, 512 * 128, 2)
    [(0, 256), (256, 512)]
    """
    count = max(1, min(ranks, length, size // LEAST_ELEMENTS))
    return [(n * length // count, (n + 1) * length // count) for n in range(count)]


def cut(
    shapes: Mapping[str, Sequence[int]], ranks: int, whole: Collection[str] = ()
) -> dict[str, tuple[Piece, ...]]:
    """The pieces of every parameter, by rows of its first dimension, in balance over all ranks.

    Later parameters first, as gradients come, so that one bucket's pieces are in balance, too. Those that are named
    as `whole` are not cut.

    >>> [piece.name for piece in cut({"w": (512, 128)}, 2)["w"]]
    ['w[0:256]', 'w[256:512]']
    """
    loads = [0] * ranks
    pieces = {}
    for parameter, shape in reversed(list(shapes.items())):
        size = math.prod(shape)
        rows = shape[0] if shape else 1
        places = [(0, rows)] if parameter in whole else spans(rows, size, ranks)
        made, taken = [], set[int]()
        for first, last in places:
            owner = min((rank for rank in range(ranks) if rank not in taken), key=lambda rank: loads[rank])
            taken.add(owner)
            part = (last - first, *shape[1:]) if shape else ()
            loads[owner] += math.prod(part)
            name = parameter if len(places) == 1 else f"{parameter}[{first}:{last}]"
            made.append(Piece(parameter, first, last, part, owner, name))
        pieces[parameter] = tuple(made)
    return pieces


def shards_of(parameters: Sequence[str], pieces: Mapping[str, Sequence[Piece]]) -> dict[int, Shard]:
    """The shards of a bucket of these parameters, by owner; a rank that owns nothing there has none."""
    owned: dict[int, list[tuple[Piece, int]]] = {}
    for place, parameter in enumerate(parameters):
        for piece in pieces[parameter]:
            owned.setdefault(piece.owner, []).append((piece, place))
    shards = {}
    for owner, rows in sorted(owned.items()):
        rows.sort(key=lambda row: row[0].name)
        layout = Layout(tuple(TensorSpec(piece.name, piece.shape) for piece, _ in rows))
        shards[owner] = Shard(owner, layout, tuple(p for p, _ in rows), tuple(place for _, place in rows))
    return shards
