"""Gradients as thin matrices: what they carry is a projection, what they do not carry is owed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.engines.torch.in_threads import ThreadPeers, tensors, together

from phloem.codecs.registry import codec_from
from phloem.engines.torch.reduce import Pair
from phloem.engines.torch.thin import ThinMean
from phloem.tensors import Array

SHAPES: dict[str, tuple[int, ...]] = {
    "kernel": (48, 12, 3, 3),
    "wide": (30, 400),
    "small": (4, 4),
    "bias": (48,),
}
NONE: dict[str, Any] = {"codec": "none"}
CONFIGS: list[dict[str, Any]] = [NONE, {"codec": "ecsq", "bits": 2.0}, {"codec": "int8"}]


def thin(peers: ThreadPeers, config: dict[str, Any], shapes: Any = SHAPES, rank: int = 2) -> ThinMean:
    pair = Pair(codec_from(config), codec_from(config))
    return ThinMean(peers, shapes, rank, pair, pair)


def some(rank: int, step: int, shapes: Any = SHAPES) -> list[Array]:
    rng = np.random.default_rng([rank, step])
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes.values()]


def step_of(mean: ThinMean, peers: ThreadPeers, arrays: list[Array], owed: list[Array]) -> str | None:
    tags = [peers.tag() for _ in range(4)]
    return mean.mean(tuple(mean.shapes), tensors(*arrays), tensors(*owed), tags, peers.tag())


def zeros(shapes: Any = SHAPES) -> list[Array]:
    return [np.zeros(shape, np.float32) for shape in shapes.values()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["codec"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_the_means_lack_is_owed_to_the_last_value(config: dict[str, Any], ranks: int) -> None:
    def steps(peers: ThreadPeers) -> tuple[list[Array], list[Array], list[bytes]]:
        mean, owed, total, bits = thin(peers, config), zeros(), zeros(), []
        for step in range(4):
            arrays = some(peers.rank, step)
            assert step_of(mean, peers, arrays, owed) is None
            bits += [array.tobytes() for array in arrays]
            total = [np.asarray(a + b) for a, b in zip(total, arrays, strict=True)]
        return total, owed, bits + [array.tobytes() for array in mean.right.values()]

    results = together(ranks, steps)
    assert all(bits == results[0][2] for _, _, bits in results)
    for place, name in enumerate(SHAPES):
        given = sum(np.float64(some(rank, step)[place]) for rank in range(ranks) for step in range(4)) / ranks
        kept = sum(np.float64(owed[place]) for _, owed, _ in results) / ranks
        np.testing.assert_allclose(results[0][0][place] + kept, given, atol=5e-5)
        if name in ("kernel", "wide"):
            assert np.abs(kept).max() > 0.1, "two directions cannot carry all of it"


def test_a_mean_is_the_gradients_projection_on_as_many_directions_as_asked_for() -> None:
    def step(peers: ThreadPeers) -> Array:
        arrays = some(peers.rank, 0)
        assert step_of(thin(peers, NONE, rank=3), peers, arrays, zeros()) is None
        return arrays[1]

    found = np.float64(together(3, step)[0])
    whole = sum(np.float64(some(rank, 0)[1]) for rank in range(3)) / 3
    left, sizes, _ = np.linalg.svd(found)
    assert sizes[2] > 1e-3 > 1e3 * sizes[3]
    basis = left[:, :3]
    np.testing.assert_allclose(found, basis @ basis.T @ whole, atol=1e-5)


def test_gradients_of_few_directions_are_carried_whole_in_one_step() -> None:
    shapes = {"w": (60, 90)}
    left = np.random.default_rng(1).standard_normal((60, 2))

    def gradient(rank: int) -> Array:
        return np.asarray(left @ np.random.default_rng([2, rank]).standard_normal((2, 90)), np.float32)

    def step(peers: ThreadPeers) -> tuple[Array, Array]:
        arrays, owed = [gradient(peers.rank)], zeros(shapes)
        assert step_of(thin(peers, NONE, shapes), peers, arrays, owed) is None
        return arrays[0], owed[0]

    wanted = sum(np.float64(gradient(rank)) for rank in range(2)) / 2
    for found, owed in together(2, step):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        np.testing.assert_allclose(owed, 0.0, atol=1e-4)


def test_the_same_gradient_again_and_again_finds_its_largest_directions() -> None:
    shapes = {"w": (60, 90)}
    rng = np.random.default_rng(5)
    left, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    right, _ = np.linalg.qr(rng.standard_normal((90, 60)))
    sizes = 2.0 ** -np.arange(60)
    matrix = np.asarray(left * sizes @ right.T, np.float32)

    def steps(peers: ThreadPeers) -> Array:
        mean = thin(peers, NONE, shapes)
        for _ in range(12):
            arrays = [matrix.copy()]
            assert step_of(mean, peers, arrays, zeros(shapes)) is None
        return arrays[0]

    lost = np.linalg.norm(together(2, steps)[0] - matrix)
    assert lost < 1.01 * np.linalg.norm(sizes[2:])


def test_matrices_that_two_thin_ones_would_not_make_smaller_go_as_they_are() -> None:
    def step(peers: ThreadPeers) -> tuple[list[Array], list[Array], set[str]]:
        mean, arrays, owed = thin(peers, NONE), some(peers.rank, 0), zeros()
        assert step_of(mean, peers, arrays, owed) is None
        return arrays, owed, set(mean.right)

    for arrays, owed, directions in together(2, step):
        assert directions == {"kernel", "wide"}
        for place in (2, 3):
            wanted = sum(np.float64(some(rank, 0)[place]) for rank in range(2)) / 2
            np.testing.assert_allclose(arrays[place], wanted, atol=1e-6)
            assert not owed[place].any()


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("broken", [0, 1])
def test_a_rank_with_nan_is_named_everybody_has_nan_and_owes_what_it_owed(name: str, broken: int) -> None:
    place = list(SHAPES).index(name)

    def steps(peers: ThreadPeers) -> tuple[str | None, list[Array], list[Array], list[Array], Any, Any]:
        mean, owed = thin(peers, {"codec": "int8"}), zeros()
        assert step_of(mean, peers, some(peers.rank, 0), owed) is None
        before, right = [array.copy() for array in owed], {n: a.copy() for n, a in mean.right.items()}
        arrays = some(peers.rank, 1)
        if peers.rank == broken:
            arrays[place].flat[3] = math.nan
        return step_of(mean, peers, arrays, owed), arrays, owed, before, right, mean.right

    for reason, arrays, owed, before, right, after in together(2, steps):
        assert reason is not None
        assert reason.startswith(f"rank {broken}: ")
        assert f"'{name}" in reason
        assert all(np.isnan(array).all() for array in arrays)
        for one, other in zip(owed, before, strict=True):
            np.testing.assert_array_equal(one, other)
        assert right.keys() == after.keys()
        assert all(right[n].tobytes() == after[n].tobytes() for n in right)


def test_a_step_without_gradient_pays_what_is_owed_and_then_rests() -> None:
    shapes = {"w": (40, 60)}
    rng = np.random.default_rng(3)
    matrix = np.asarray(rng.standard_normal((40, 4)) @ rng.standard_normal((4, 60)), np.float32)

    def steps(peers: ThreadPeers) -> tuple[list[float], Array]:
        mean, owed, total, sizes = thin(peers, NONE, shapes), zeros(shapes), np.zeros((40, 60)), []
        for step in range(8):
            arrays = [matrix.copy()] if step == 0 else zeros(shapes)
            assert step_of(mean, peers, arrays, owed) is None
            total += arrays[0]
            sizes.append(float(np.abs(owed[0]).max()))
        return sizes, total

    for sizes, total in together(2, steps):
        assert sizes[0] > 0.5
        assert sizes[-1] < 1e-4
        np.testing.assert_allclose(total, matrix, atol=1e-4)
