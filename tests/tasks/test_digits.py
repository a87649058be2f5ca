from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from phloem.seeds import generator, seed_for
from phloem.tasks import digits_cnn
from phloem.tasks.digits import STOP, TEST, Digits
from phloem.tensors import Layout, State, state_digest

SITES = [f"site-{i}" for i in range(10)]
SETTING = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "momentum": 0.9, "seed": 5}


@pytest.fixture(scope="module")
def task() -> Digits:
    return Digits(SITES, 0)


def test_the_cnn_has_151306_parameters(task: Digits) -> None:
    assert Layout.of(task.initial_state(0)).size == 151_306


def test_parts_are_disjoint_and_shares_cover_the_training_part(task: Digits) -> None:
    parts = task.parts
    assert (len(parts.train), len(parts.stop), len(parts.test)) == (1197, STOP, TEST) == (1197, 240, 360)
    assert len(np.unique(np.concatenate([parts.train, parts.stop, parts.test]))) == 1797
    assert np.array_equal(np.sort(np.concatenate(list(task.shares.values()))), parts.train)


def test_two_tasks_of_one_seed_train_to_the_same_bytes(task: Digits) -> None:
    other = Digits(SITES, 0)
    start = task.initial_state(3)
    first, memory, examples, metrics = task.train(start, task.shard("site-0"), {}, 7)
    second, *_ = other.train(other.initial_state(3), other.shard("site-0"), {}, 7)
    assert state_digest(first) == state_digest(second) != state_digest(start)
    assert state_digest(start) == state_digest(task.initial_state(3))
    assert memory == {}
    assert examples == len(task.shares["site-0"])
    assert 0 < metrics["loss"] < 5
    assert state_digest(task.train(start, task.shard("site-0"), {}, 8)[0]) != state_digest(first)


def test_another_process_trains_to_the_same_bytes(task: Digits) -> None:
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from phloem.tasks.digits import Digits\n"
        "from phloem.tensors import state_digest\n"
        f"task = Digits({SITES!r}, 0)\n"
        "print(state_digest(task.train(task.initial_state(3), task.shard('site-1'), {}, 7)[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = task.train(task.initial_state(3), task.shard("site-1"), {}, 7)[0]
    assert done.stdout.strip() == state_digest(here)


def test_the_fast_loop_follows_the_readable_one(task: Digits) -> None:
    shard = task.shard("site-1").at(np.arange(45))  # the last batch is a short one
    start = task.initial_state(0)
    slow, slow_loss = digits_cnn.sgd_reference(start, shard, **SETTING)
    fast, fast_loss = digits_cnn.sgd(start, shard, **SETTING)
    assert fast_loss == pytest.approx(slow_loss, rel=1e-4)
    for name in start:
        moved = np.abs(slow[name] - start[name]).max()
        assert moved > 0
        np.testing.assert_allclose(fast[name], slow[name], atol=2e-3 * moved, err_msg=name)


def test_a_small_shard_is_silent(task: Digits) -> None:
    state = task.initial_state(0)
    trained, _, examples, metrics = task.train(state, task.shard("site-0").at(np.arange(3)), {}, 0)
    assert examples == 0
    assert metrics == {}
    assert state_digest(trained) == state_digest(state)


def test_trained_tensors_are_owned_contiguous_float32(task: Digits) -> None:
    trained = task.train(task.initial_state(0), task.shard("site-0"), {}, 0)[0]
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in trained.values())


def test_a_few_rounds_of_averaging_learn_the_digits(task: Digits) -> None:
    state: State = task.initial_state(0)
    for number in range(6):
        total = {name: np.zeros(array.shape) for name, array in state.items()}
        weight = 0
        for site in SITES:
            seed = seed_for(0, site, number)
            trained, _, examples, _ = task.train(state, task.shard(site), {}, seed)
            weight += examples
            for name in total:
                total[name] += examples * trained[name].astype(np.float64)
        state = {name: (array / weight).astype(np.float32) for name, array in total.items()}
    figures = task.evaluate(state, "stop")
    assert figures["accuracy"] > 0.6
    assert set(figures) == set(task.evaluate(state, "test"))


def test_pruned_weights_stay_as_they_are_and_both_loops_agree_on_the_others(task: Digits) -> None:
    start, shard = task.initial_state(0), task.shard("site-1").at(np.arange(24))
    keep = {
        name: generator(0, "keep", name).random(start[name].shape) < 0.5
        for name in ("conv1.weight", "conv2.weight", "linear1.weight")
    }
    fast, _ = digits_cnn.sgd(start, shard, keep=keep, **SETTING)
    slow, _ = digits_cnn.sgd_reference(start, shard, keep=keep, **SETTING)
    for name, array in start.items():
        assert np.allclose(fast[name], slow[name], atol=1e-5)
        assert not np.array_equal(fast[name], array)
        if name in keep:
            assert np.array_equal(fast[name][~keep[name]], array[~keep[name]])
