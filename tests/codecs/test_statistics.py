"""What the random codecs promise: means, variances and bounds, against the formulas of their papers."""

from __future__ import annotations

import numpy as np
import pytest

from phloem.codecs import eden
from phloem.codecs.base import Codec, Hints
from phloem.codecs.classical import Eden, Hadamard, Linear, LowRank, Qsgd, RandomK, Ternary, chain
from phloem.kernels.lloydmax import levels
from phloem.kernels.streams import uniforms, words
from phloem.seeds import generator, seed_for
from phloem.tensors import Array, Layout


def decoded(codec: Codec, vector: Array, seed: int = 0) -> Array:
    layout = Layout.of({"x": vector})
    return codec.decode(codec.encode([vector], layout, Hints(seed=seed)), layout)[0]


def variance(codec: Codec, vector: Array, draws: int) -> float:
    """The mean of |decoded − x|² ÷ |x|²."""
    wide = vector.astype(np.float64)
    errors = [np.square(decoded(codec, vector, seed) - wide).sum() for seed in range(draws)]
    return float(np.mean(errors) / np.square(wide).sum())


SOURCES = {
    "normal": generator(0, "normal").normal(size=1 << 16).astype(np.float32),
    "heavy tails": generator(0, "tails").standard_t(3, size=40_000).astype(np.float32),
    "one spike in 5000": (np.arange(30_000) % 5000 == 3).astype(np.float32),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("bits", "wanted"), [(1, np.pi / 2 - 1), (2, 0.1331), (3, 0.0358), (4, 0.00959), (0.5, np.pi - 1)]
)
def test_eden_has_the_error_of_its_paper_whatever_the_source(source: str, bits: float, wanted: float) -> None:
    assert variance(Eden(bits), SOURCES[source], 2) == pytest.approx(wanted, rel=0.03)


def test_eden_takes_its_bits_and_some_32_for_a_block() -> None:
    layout = Layout.of({"x": np.zeros(100_001)})
    for bits in (0.1, 0.5, 1, 3):
        size = len(Eden(bits).encode([np.ones(100_001, np.float32)], layout))
        assert size <= bits * 100_001 / 8 + 4 * (100_001 / 8192 + 8) + 64


SPARSE = {"two spikes": [3.0, 2.0], "one larger": [5.0, 1.0, 1.0], "twenty": [4.0, 3.0, 2.0, 1.0] * 5}


def bias_of_eden(values: list[float], bits: float) -> float:
    """|mean decode − x| ÷ |x| for a block of 64, over 2^17 blocks that are all rotated in their own way."""
    block = np.zeros(64, np.float32)
    block[: len(values)] = values
    total, draws = np.zeros(64), 8
    for seed in range(draws):
        rows = decoded(Eden(bits, 64), np.tile(block, 1 << 14), seed).reshape(-1, 64)
        total += rows.mean(axis=0, dtype=np.float64)
    return float(np.linalg.norm(total / draws - block) / np.linalg.norm(block))


@pytest.mark.parametrize("bits", [0.3, 1, 2])
@pytest.mark.parametrize("values", SPARSE.values(), ids=SPARSE)
def test_eden_is_unbiased_even_for_sparse_blocks(values: list[float], bits: float) -> None:
    noise = {0.3: 4.2, 1: 0.571, 2: 0.133}[bits] / (1 << 17)
    assert bias_of_eden(values, bits) < 1.2 * noise**0.5 + 0.003


def test_one_round_would_be_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eden, "_rounds", lambda share: 1)
    assert bias_of_eden(SPARSE["two spikes"], 1) > 0.5


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_levels_are_the_means_of_what_is_nearest_to_them(bits: int) -> None:
    table = levels(bits).astype(np.float64)
    assert np.array_equal(table, -table[::-1])
    grid = np.linspace(-9, 9, 400_001)
    weight = np.exp(-grid * grid / 2)
    nearest = np.searchsorted((table[1:] + table[:-1]) / 2, grid)
    means = np.bincount(nearest, weight * grid) / np.bincount(nearest, weight)
    assert np.abs(means - table).max() < 2e-4


@pytest.mark.parametrize(("size", "count"), [(64, 1), (64, 4), (512, 7), (512, 100)])
def test_qsgd_keeps_its_variance_bound(size: int, count: int) -> None:
    vector = SOURCES["heavy tails"][: 8 * size]
    bound = min(size / count**2, np.sqrt(size) / count) * (1 + 2.0**-7) ** 2
    assert 0 < variance(Qsgd(count, size), vector, 50) <= bound


def test_ternary_has_the_variance_of_its_formula() -> None:
    vector = SOURCES["normal"][:4096]
    wanted = float(
        np.abs(vector).max() * np.abs(vector).sum() / np.square(vector, dtype=np.float64).sum() - 1
    )
    assert variance(Ternary(), vector, 40) == pytest.approx(wanted, rel=0.03)


def test_randomk_has_the_variance_of_its_formula() -> None:
    assert variance(RandomK(0.1), SOURCES["normal"], 20) == pytest.approx(9.0, rel=0.05)


def test_randomk_draws_the_positions_of_the_smallest_words() -> None:
    vector = np.arange(1, 300_002, dtype=np.float32)
    kept = np.flatnonzero(decoded(RandomK(0.01), vector))
    drawn = words(seed_for(0, "randomk"), vector.size)
    assert kept.tolist() == sorted(np.argsort(drawn)[:3000].tolist())


def test_a_rotation_then_stochastic_levels_is_unbiased_by_declaration_and_a_biased_stage_is_not() -> None:
    assert chain(Hadamard(), Qsgd()).unbiased
    assert not chain(Hadamard(), LowRank()).unbiased


def test_linear_rounds_to_its_grid_at_random_and_no_further() -> None:
    vector = SOURCES["normal"][:4096]
    error = decoded(Linear(2.0**-6, senders=1), vector) - vector
    assert np.square(error).mean() == pytest.approx((2.0**-6) ** 2 / 6, rel=0.1)


def test_low_rank_gives_a_matrix_of_that_rank_back_and_the_best_of_a_full_one_nearly() -> None:
    draw = generator(0, "low rank")
    left, right = draw.normal(size=(60, 3)), draw.normal(size=(3, 40))
    thin = (left @ right).astype(np.float32)
    assert np.abs(decoded(LowRank(3), thin) - thin).max() < 1e-4
    full = (thin + draw.normal(size=thin.shape)).astype(np.float32)
    singular = np.linalg.svd(full.astype(np.float64), compute_uv=False)
    best = float(np.square(singular[3:]).sum() / np.square(singular).sum())
    assert variance(LowRank(3, iterations=2), full, 1) <= 1.05 * best


def test_low_rank_sends_small_and_flat_tensors_as_they_are() -> None:
    for shape in ((3, 4), (50,), (), (0, 5)):
        array = generator(0, "small").normal(size=shape).astype(np.float32).reshape(shape)
        assert decoded(LowRank(2), array).tobytes() == array.tobytes()


def test_the_words_are_those_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert words(1234567, 3).tolist() == published
    parts = uniforms(9, 100_001)
    assert parts.min() >= 0
    assert parts.max() < 1
    assert abs(float(parts.mean(dtype=np.float64)) - 0.5) < 0.005
