"""TIES and DARE against plain formulas; DARE's masks against their description, bit by bit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.branches.one_tensor import drawn, merged

from phloem.branches.linear import TaskArithmetic
from phloem.branches.sparsify import Dare, Ties, mask, seed_of


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_is_trim_elect_and_merge_element_by_element(density: float, normalize: bool) -> None:
    base, arrays = drawn("ties", shape=(40,))
    weights = [0.5, 1.0, 2.0, 0.0, 3.0, 1.0, 1.0]
    trimmed = []
    for array in arrays:
        by_size = sorted(range(40), key=lambda at: -abs(float(array[at] - base[at])))
        kept = set(by_size[: max(1, int(density * 40))])
        trimmed.append([float(array[at]) - float(base[at]) if at in kept else 0.0 for at in range(40)])
    wanted = []
    for at in range(40):
        terms = [(w, w * row[at]) for w, row in zip(weights, trimmed, strict=True)]
        sign = 1 if sum(term for _, term in terms) >= 0 else -1
        agreeing = [(w, term) for w, term in terms if term * sign > 0]
        total = sum(term for _, term in agreeing)
        wanted.append(
            base[at] + 0.7 * (total / sum(w for w, _ in agreeing) if normalize and agreeing else total)
        )
    assert np.allclose(merged(Ties(density, 0.7, normalize), base, arrays, weights), wanted, atol=1e-6)


def test_of_equal_changes_ties_keeps_the_first() -> None:
    base, change = np.zeros(10), np.array([1, -1, 1, 1, 0, -1, 2, 1, 1, 1])
    assert merged(Ties(0.5), base, [change]).tolist() == [1, -1, 1, 1, 0, 0, 2, 0, 0, 0]
    assert merged(Ties(0.5), base, [change], length=3).tolist() == [1, -1, 1, 1, 0, 0, 2, 0, 0, 0]


def test_a_sum_of_0_elects_plus_as_in_mergekit() -> None:
    assert merged(Ties(), [0.0, 5.0], [[-1.0, 7.0], [1.0, 3.0]]).tolist() == [1.0, 7.0]
    assert merged(Ties(), [0.0], [[-1.0], [1.0], [0.0]], [1.0, 1.0, 5.0]).tolist() == [1.0]


@given(st.data())
def test_ties_without_trimming_and_with_equal_signs_is_task_arithmetic(data: st.DataObject) -> None:
    count, size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    amounts = st.lists(st.floats(0.125, 8, width=32), min_size=size, max_size=size)
    signs = np.array(data.draw(st.lists(st.sampled_from([-1, 1]), min_size=size, max_size=size)))
    arrays = [signs * np.array(data.draw(amounts)) for _ in range(count)]
    for normalize in (True, False):
        pair = (Ties(1.0, 0.7, normalize), TaskArithmetic(0.7, normalize))
        one, other = (merged(method, np.zeros(size), arrays, range(1, count + 1)) for method in pair)
        assert np.allclose(one, other, rtol=1e-6, atol=1e-6)


def philox(counter: int, key: int) -> list[int]:
    """The four outputs of Philox-4x64-10 as Salmon et al. (2011) describe it."""
    c, k = [counter, 0, 0, 0], [key, 0]
    for _ in range(10):
        one, two = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        low = (1 << 64) - 1
        c = [(two >> 64) ^ c[1] ^ k[0], two & low, (one >> 64) ^ c[3] ^ k[1], one & low]
        k = [(k[0] + 0x9E3779B97F4A7C15) & low, (k[1] + 0xBB67AE8584CAA73B) & low]
    return c


@pytest.mark.parametrize("density", [2.0**-24, 0.1, 0.5, 0.999])
def test_masks_are_what_the_docstring_says(density: float) -> None:
    seed = seed_of(3, "hospital-a", "w")
    outputs = [output for counter in range(1, 14) for output in philox(counter, seed)]
    words = [word for output in outputs for word in (output & 0xFFFFFFFF, output >> 32)]
    assert mask(seed, 0, 100, density).tolist() == [word < int(density * 2**32) for word in words[:100]]


def test_masks_have_the_golden_bits() -> None:
    found = np.packbits(mask(seed_of(2026, "a", "layer.weight"), 0, 64, 0.3)).tobytes().hex()
    assert found == "30801e8e24a01644"


def test_any_part_of_a_mask_is_the_same_part_of_the_whole() -> None:
    whole = mask(11, 0, 200_000, 0.3)
    for start, stop in ((0, 1), (7, 9), (65_535, 65_537), (131_071, 199_999), (5, 5)):
        assert np.array_equal(mask(11, start, stop, 0.3), whole[start:stop])


def test_masks_keep_their_share_and_differ_by_key_branch_and_tensor() -> None:
    size = 1 << 18
    named = [(0, "a", "w"), (1, "a", "w"), (0, "b", "w"), (0, "a", "v")]
    masks = [mask(seed_of(*labels), 0, size, 0.3) for labels in named]
    for one in masks:
        assert abs(one.mean() - 0.3) < 5 * math.sqrt(0.21 / size)
    for one, other in itertools.combinations(masks, 2):
        assert abs((one & other).mean() - 0.09) < 5 * math.sqrt(0.09 / size)


def test_dare_rescales_to_the_l1_norm_or_by_the_density_or_not() -> None:
    base, arrays = drawn("dare", count=1, shape=(4000,))
    change = arrays[0].astype(np.float64) - base
    left = {
        rescale: merged(Dare(0.25, rescale=rescale), base, arrays, key=1) - base.astype(np.float64)
        for rescale in ("l1", "density", "none")
    }
    kept = mask(seed_of(1, "a", "w"), 0, 4000, 0.25)
    for rescale, factor in {
        "l1": np.abs(change).sum() / np.abs(change[kept]).sum(),
        "density": 4.0,
        "none": 1.0,
    }.items():
        assert np.allclose(left[rescale], factor * change * kept, atol=1e-6)
    assert np.abs(left["l1"]).sum() == pytest.approx(np.abs(change).sum(), rel=1e-6)


def test_a_mask_does_not_depend_on_which_others_are_merged() -> None:
    base, arrays = drawn("without", count=3, shape=(500,))
    alone = merged(Dare(0.3), base, arrays[1:2], labels=("b",), key=4) - base.astype(np.float64)
    together = merged(Dare(0.3), base, arrays, [0, 1, 0], key=4) - base.astype(np.float64)
    assert alone.tobytes() == together.tobytes()
    assert np.count_nonzero(alone) > 0
