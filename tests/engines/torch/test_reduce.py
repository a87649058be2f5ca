"""The mean over ranks in compressed frames: nothing is lost, everybody has the same bits, NaN is told to all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.engines.torch.in_threads import ThreadPeers, tensors, together

from phloem.codecs.registry import codec_from
from phloem.engines.torch.reduce import SLACK, Pair, PlainMean
from phloem.tensors import Array

SHAPES: dict[str, tuple[int, ...]] = {
    "wide": (300, 160),
    "odd": (7, 3, 5),
    "bias": (160,),
    "scale": (),
    "none": (0, 4),
}
BIASED: list[dict[str, Any]] = [
    {"codec": "ecsq", "bits": 0.5},
    {"codec": "ecsq", "bits": 2.0, "effort": "balanced"},
    {"codec": "topk", "fraction": 0.05},
    {"codec": "int8"},
    {"codec": "bf16"},
]


def some(shapes: Mapping[str, tuple[int, ...]], *seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), np.float32).reshape(shape) for shape in shapes.values()]


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> list[Array]:
    return [np.zeros(shape, np.float32) for shape in shapes.values()]


def step_of(mean: PlainMean, peers: ThreadPeers, arrays: list[Array], owed: list[Array]) -> str | None:
    tags = [peers.tag(), peers.tag()]
    return mean.mean(tuple(mean.shapes), tensors(*arrays), tensors(*owed), tags, peers.tag())


def reduced(
    peers: ThreadPeers, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]] = SHAPES, steps: int = 3
) -> tuple[list[list[Array]], list[Array], PlainMean]:
    """The means of so many steps, what this rank owes after them, and what made them."""
    mean = PlainMean(peers, shapes, Pair(codec_from(config), codec_from(config)))
    owed, means = zeros(shapes), []
    for step in range(steps):
        arrays = some(shapes, peers.rank, step)
        assert step_of(mean, peers, arrays, owed) is None
        means.append(arrays)
    return means, owed, mean


def off(
    means: list[list[list[Array]]], owed: list[list[Array]], shapes: Mapping[str, tuple[int, ...]]
) -> float:
    """How far the means, and the mean of what is owed, are from the mean of what was given."""
    worst, ranks = 0.0, len(means)
    for place, shape in enumerate(shapes.values()):
        given = np.zeros(shape)
        for rank in range(ranks):
            for step in range(len(means[rank])):
                given += np.float64(some(shapes, rank, step)[place]) / ranks
        found = sum(np.float64(step[place]) for step in means[0])
        found = found + sum(np.float64(one[place]) for one in owed) / ranks
        worst = max(worst, float(np.abs(found - given).max(initial=0.0)))
    return worst


def bits_of(arrays: list[list[Array]]) -> list[bytes]:
    return [array.tobytes() for step in arrays for array in step]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_without_compression_it_is_the_mean_at_every_rank_and_nothing_is_owed(ranks: int) -> None:
    results = together(ranks, lambda peers: reduced(peers, {"codec": "none"}))
    for means, owed, _ in results:
        assert bits_of(means) == bits_of(results[0][0])
        assert not any(array.any() for array in owed)
        for step, arrays in enumerate(means):
            for place, array in enumerate(arrays):
                wanted = sum(np.float64(some(SHAPES, rank, step)[place]) for rank in range(ranks)) / ranks
                np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", BIASED, ids=lambda config: "-".join(map(str, config.values())))
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_what_the_means_lack_is_owed_to_the_last_value(config: dict[str, Any], ranks: int) -> None:
    results = together(ranks, lambda peers: reduced(peers, config))
    means, owed = [r[0] for r in results], [r[1] for r in results]
    assert all(bits_of(one) == bits_of(means[0]) for one in means)
    assert off(means, owed, SHAPES) < 2e-5
    assert any(array.any() for array in owed[0]), "then it tests nothing"


@pytest.mark.parametrize("name", ["qsgd", "eden", "randomk"])
def test_an_unbiased_codec_owes_nothing_and_is_right_on_average(name: str) -> None:
    config = {"codec": name, **({"fraction": 0.25} if name == "randomk" else {})}
    shapes = {"w": (64, 64)}

    def often(peers: ThreadPeers) -> tuple[list[list[Array]], list[Array]]:
        mean = PlainMean(peers, shapes, Pair(codec_from(config), codec_from(config)))
        owed, means = zeros(shapes), []
        for _ in range(60):
            arrays = some(shapes, peers.rank)
            assert step_of(mean, peers, arrays, owed) is None
            means.append(arrays)
        return means, owed

    results = together(3, often)
    assert all(bits_of(means) == bits_of(results[0][0]) for means, _ in results)
    assert not any(array.any() for _, owed in results for array in owed)
    wanted = sum(np.float64(some(shapes, rank)[0]) for rank in range(3)) / 3
    found = np.mean([step[0] for step in results[0][0]], axis=0, dtype=np.float64)
    alone = np.square(results[0][0][0][0] - wanted).mean()
    assert alone > 0
    assert np.square(found - wanted).mean() < alone / 20, "errors of sixty means must cancel"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["wide", "scale"])
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_rank_with_nan_is_named_everybody_has_nan_and_owes_what_it_owed(
    bad: float, name: str, broken: int
) -> None:
    place = list(SHAPES).index(name)

    def step(peers: ThreadPeers) -> tuple[str | None, list[Array], list[Array]]:
        codec = codec_from({"codec": "ecsq", "bits": 1.0})
        mean = PlainMean(peers, SHAPES, Pair(codec, codec))
        owed = some(SHAPES, 100 + peers.rank)
        arrays = some(SHAPES, peers.rank)
        if peers.rank == broken:
            arrays[place].flat[-1] = bad
        reason = step_of(mean, peers, arrays, owed)
        return reason, arrays, owed

    for rank, (reason, arrays, owed) in enumerate(together(3, step)):
        assert reason is not None
        assert reason.startswith(f"rank {broken}: ")
        assert f"'{name}" in reason
        assert all(np.isnan(array).all() for array in arrays)
        for array, before in zip(owed, some(SHAPES, 100 + rank), strict=True):
            np.testing.assert_array_equal(array, before)


def test_after_nan_the_next_step_is_as_if_there_had_been_none() -> None:
    def steps(peers: ThreadPeers, *, broken: bool) -> tuple[list[Array], list[Array]]:
        codec = codec_from({"codec": "topk", "fraction": 0.1})
        mean, owed = PlainMean(peers, SHAPES, Pair(codec, codec)), zeros(SHAPES)
        for number in range(3):
            arrays = some(SHAPES, peers.rank, number)
            if number == 1:
                if not broken:
                    continue
                arrays[0][3, 3] = math.nan
            step_of(mean, peers, arrays, owed)
        return arrays, owed

    with_it = together(2, lambda peers: steps(peers, broken=True))
    without = together(2, lambda peers: steps(peers, broken=False))
    for one, other in zip(with_it, without, strict=True):
        assert bits_of(list(one)) == bits_of(list(other))


def test_a_mean_beyond_float32_is_told_as_one() -> None:
    def step(peers: ThreadPeers) -> tuple[str | None, list[Array]]:
        mean = PlainMean(
            peers, {"w": (40,)}, Pair(codec_from({"codec": "none"}), codec_from({"codec": "none"}))
        )
        arrays = [np.full(40, 3e38, np.float32)]
        return step_of(mean, peers, arrays, zeros({"w": (40,)})), arrays

    for reason, arrays in together(2, step):
        assert reason is not None
        assert "beyond float32" in reason
        assert np.isnan(arrays[0]).all()


def test_a_frame_that_was_damaged_on_its_way_up_is_told_by_its_owner() -> None:
    def spoil(source: int, target: int, message: bytes) -> bytes:
        return message[:-3] if (source, target) == (1, 0) and len(message) > 500 else message

    def step(peers: ThreadPeers) -> tuple[str | None, list[Array]]:
        codec = codec_from({"codec": "int8"})
        arrays = some({"w": (4000,)}, peers.rank)
        owed = zeros({"w": (4000,)})
        mean = PlainMean(peers, {"w": (4000,)}, Pair(codec, codec))
        return step_of(mean, peers, arrays, owed), owed

    for reason, owed in together(2, step, spoil):
        assert reason is not None
        assert reason.startswith("rank 0: the frame of rank 1 is damaged")
        assert not owed[0].any()


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_rank_sends_two_frames_bits_per_parameter_less_its_own_share(ranks: int) -> None:
    shapes = {f"w{n}": (128, 256) for n in range(8)}
    size = 8 * 128 * 256
    results = together(
        ranks, lambda peers: (reduced(peers, {"codec": "ecsq", "bits": 1.0}, shapes, 6), peers.traffic)
    )
    for _, traffic in results:
        wanted = 6 * 2 * size / 8 * (ranks - 1) / ranks
        assert 0.7 * wanted < traffic.sent < 1.3 * wanted
        assert abs(traffic.received - traffic.sent) < 0.2 * wanted


def test_frames_keep_near_their_size_from_step_to_step() -> None:
    sizes: list[int] = []

    def note(source: int, target: int, message: bytes) -> bytes:
        if source == 0:
            sizes.append(len(message))
        return message

    shapes = {"w": (256, 256)}
    together(2, lambda peers: reduced(peers, {"codec": "ecsq", "bits": 0.5}, shapes, 20), note)
    wanted = 0.5 * 256 * 128 / 8
    assert len(sizes) == 40
    assert max(sizes) < (1 + SLACK) * wanted
    assert 0.85 * wanted < np.mean(sizes[10:]) < 1.15 * wanted


def test_what_is_owed_from_before_is_paid_also_by_a_codec_that_owes_nothing() -> None:
    """A run goes on from a checkpoint with another codec."""

    def step(peers: ThreadPeers) -> tuple[list[Array], list[Array]]:
        codec = codec_from({"codec": "qsgd"})
        mean = PlainMean(peers, {"w": (200, 200)}, Pair(codec, codec))
        owed, total = [np.full((200, 200), 5.0, np.float32)], np.zeros((200, 200))
        for _ in range(20):
            arrays = zeros({"w": (200, 200)})
            assert step_of(mean, peers, arrays, owed) is None
            total += arrays[0]
        return [total], owed

    for total, owed in together(2, step):
        assert np.mean(total[0] + owed[0]) == pytest.approx(5.0, rel=0.05)
