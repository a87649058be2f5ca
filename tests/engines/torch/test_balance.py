"""Scales of rows and columns: powers of two, the same wherever they are computed, taken back to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.torch.in_threads import tensors

from phloem.engines.torch.balance import EVERY, Balance
from phloem.tensors import Array


def uneven(*shape: int, seed: int = 1) -> Array:
    """A tensor whose rows and columns are of very different sizes."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    values *= np.exp(1.5 * rng.standard_normal((shape[0], *[1] * (len(shape) - 1))))
    return np.asarray(values * np.exp(rng.standard_normal(shape[1:])), np.float32)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_dividing_and_multiplying_gives_the_same_bits_again(shape: list[int], seed: int) -> None:
    balance, array, other = Balance(), uneven(*shape, seed=seed), uneven(*shape, seed=seed + 1)
    balance.look(["w"], tensors(array))
    found, owed = array.copy(), other.copy()
    balance.divide(["w"], tensors(found), tensors(owed))
    balance.multiply(["w"], tensors(found), tensors(owed))
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(owed, other)


def test_rows_and_columns_come_out_of_about_one_size() -> None:
    balance, array = Balance(), uneven(40, 50)
    before = np.sqrt(np.square(array).mean(axis=1))
    balance.look(["w"], tensors(array))
    balance.divide(["w"], tensors(array))
    after = np.sqrt(np.square(array).mean(axis=1))
    assert before.max() / before.min() > 50
    assert after.max() / after.min() < 10
    assert 0.2 < after.mean() < 4


def test_before_the_first_look_and_without_gradients_nothing_is_scaled() -> None:
    balance, array = Balance(), uneven(4, 5)
    wanted = array.copy()
    balance.divide(["w"], tensors(array))
    np.testing.assert_array_equal(array, wanted)
    for lacking in (np.zeros((4, 5), np.float32), np.full((4, 5), np.nan, np.float32)):
        balance.look(["w"], tensors(lacking))
        balance.divide(["w"], tensors(array))
        np.testing.assert_array_equal(array, wanted)


def test_means_are_looked_at_at_first_and_then_every_fifth_step() -> None:
    balance, changed = Balance(), []
    for step in range(12):
        before = balance.squares.get("w")
        balance.look(["w"], tensors(uneven(4, 5, seed=step)))
        if balance.squares["w"] is not before:
            changed.append(step)
    assert changed == [0, 1, EVERY, 2 * EVERY]


@pytest.mark.parametrize("loss_scale", [1.0, 2.0**16, 2.0**-4])
def test_what_was_saved_scales_as_before_whatever_the_loss_scale_is_then(loss_scale: float) -> None:
    balance, again, array = Balance(), Balance(), uneven(6, 3, 3)
    for step in range(7):
        balance.look(["w"], tensors(np.asarray(uneven(6, 3, 3, seed=step) * np.float32(loss_scale))))
    saved = balance.saved(1.0 / loss_scale)
    assert all(isinstance(tensor, torch.Tensor) for tensor in saved.values())
    again.load({name: tensor.numpy() for name, tensor in saved.items()}, 2.0**8)
    assert again.looks == balance.looks
    balance.scale(2.0**8 / loss_scale)
    one, other = array.copy(), array.copy()
    balance.divide(["w"], tensors(one))
    again.divide(["w"], tensors(other))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, array)


def test_tensors_without_values_are_let_through() -> None:
    balance = Balance()
    arrays = tensors(np.zeros((0, 4), np.float32), np.zeros((3, 0), np.float32), np.ones((), np.float32))
    for _ in range(2):
        balance.divide(["a", "b", "c"], arrays)
        balance.multiply(["a", "b", "c"], arrays)
        balance.look(["a", "b", "c"], arrays)
