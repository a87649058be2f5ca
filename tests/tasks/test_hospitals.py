from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from phloem.tasks import datasets
from phloem.tasks.hospitals import UNITS, Hospitals, scaled
from phloem.tensors import Layout, state_digest

SITES = [f"hospital-{i}" for i in range(8)]


@pytest.fixture(scope="module")
def task() -> Hospitals:
    return Hospitals(SITES, 1)


def test_units_are_named_after_the_measurements_in_their_order() -> None:
    assert list(UNITS) == list(load_breast_cancer().feature_names)


def test_agreed_units_bring_every_measurement_to_order_one() -> None:
    inputs = scaled(datasets.breast_cancer().inputs)
    assert np.abs(inputs).max() <= 5
    assert np.all(np.abs(inputs.mean(0)) < 2)
    assert np.all((inputs.std(0) > 0.2) & (inputs.std(0) < 3))


def test_malignant_is_the_positive_label() -> None:
    records = datasets.breast_cancer()
    assert records.labels.sum() == 212
    radius = records.inputs[:, 0]
    assert radius[records.labels == 1].mean() > radius[records.labels == 0].mean()


def test_parts_are_disjoint_and_hospitals_cover_the_training_part(task: Hospitals) -> None:
    parts = task.parts
    assert len(np.unique(np.concatenate([parts.train, parts.stop, parts.test]))) == 569
    assert np.array_equal(np.sort(np.concatenate(list(task.shares.values()))), parts.train)
    assert len(task.pooled_shard()) == len(parts.train)


def test_hospitals_are_unequal() -> None:
    sizes = np.array([[len(s) for s in Hospitals(SITES, seed).shares.values()] for seed in range(20)])
    mean = sizes.mean(0)
    assert mean[0] > 4 * mean[-1]


def test_training_repeats_to_the_bit_and_leaves_its_input(task: Hospitals) -> None:
    start = task.initial_state(0)
    before = state_digest(start)
    once = task.train(start, task.shard("hospital-0"), {}, 5)[0]
    twice = task.train(start, Hospitals(SITES, 1).shard("hospital-0"), {}, 5)[0]
    assert state_digest(once) == state_digest(twice) != before
    assert state_digest(start) == before


def test_the_model_is_small_and_learns_from_pooled_records(task: Hospitals) -> None:
    state = task.initial_state(0)
    assert Layout.of(state).size == 1025
    for seed in range(5):
        state, _, examples, _ = task.train(state, task.pooled_shard(), {}, seed)
    assert examples == 284
    assert task.evaluate(state, "stop")["auroc"] > 0.95


def test_a_hospital_with_three_patients_is_silent(task: Hospitals) -> None:
    state = task.initial_state(0)
    _, _, examples, _ = task.train(state, task.pooled_shard().at(np.arange(3)), {}, 0)
    assert examples == 0
