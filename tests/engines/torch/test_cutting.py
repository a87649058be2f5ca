"""Who reduces what: a cut that depends on nothing but names, shapes and the number of ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.engines.torch.cutting import LEAST_ELEMENTS, cut, shards_of

SHAPES = st.lists(st.integers(0, 300), min_size=0, max_size=3).map(tuple)
MODELS = st.dictionaries(st.text("abw.[:]", min_size=1, max_size=6), SHAPES, min_size=1, max_size=8)


@given(MODELS, st.integers(1, 9))
def test_every_row_of_every_parameter_belongs_to_one_rank(model: dict[str, Any], ranks: int) -> None:
    for name, pieces in cut(model, ranks).items():
        shape = model[name]
        rows = shape[0] if shape else 1
        assert [piece.first for piece in pieces] == [0, *(piece.last for piece in pieces[:-1])]
        assert pieces[-1].last == rows
        assert sum(math.prod(piece.shape) for piece in pieces) == math.prod(shape)
        assert len({piece.owner for piece in pieces}) == len(pieces)
        assert all(0 <= piece.owner < ranks for piece in pieces)


@given(MODELS, st.integers(1, 9))
def test_the_shards_of_a_bucket_are_its_pieces_sorted_by_name(model: dict[str, Any], ranks: int) -> None:
    names = sorted(model)
    pieces = cut(model, ranks)
    shards = shards_of(names, pieces)
    found = [piece for shard in shards.values() for piece in shard.pieces]
    assert sorted(found, key=repr) == sorted((p for ps in pieces.values() for p in ps), key=repr)
    for owner, shard in shards.items():
        assert all(piece.owner == owner for piece in shard.pieces)
        assert shard.layout.names == tuple(piece.name for piece in shard.pieces)
        assert [names[place] for place in shard.places] == [piece.parameter for piece in shard.pieces]


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_ranks_get_about_as_much_of_a_transformer_each(ranks: int) -> None:
    model = {f"block{n}.{name}": (512, 512) for n in range(12) for name in ("query", "gather")}
    model |= {f"block{n}.wide": (2048, 512) for n in range(12)}
    loads = [0] * ranks
    for pieces in cut(model, ranks).values():
        for piece in pieces:
            loads[piece.owner] += math.prod(piece.shape)
    assert max(loads) < 1.1 * sum(loads) / ranks


def test_small_parameters_stay_whole() -> None:
    pieces = cut({"bias": (LEAST_ELEMENTS // 2,), "scale": ()}, 4)
    assert [piece.name for ps in pieces.values() for piece in ps] == ["scale", "bias"]
