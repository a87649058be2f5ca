from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import ConfigError
from phloem.rounds.merge import MergeRule, ServerOptimizer, WeightedMerge, divide
from phloem.seeds import generator
from phloem.tensors import Array, Layout

LAYOUT = Layout.of({"a": np.zeros((3, 2)), "b": np.zeros(()), "c": np.zeros((0, 2)), "d": np.zeros(4)})
Updates = list[tuple[float, list[Array]]]


def drawn(*labels: str | int, count: int = 3, zeros: float = 0.5) -> Updates:
    draw = generator(0, "merge", *labels)
    found: Updates = []
    for _ in range(count):
        arrays = []
        for spec in LAYOUT.specs:
            values = draw.normal(size=spec.shape) * (draw.random(spec.shape) >= zeros)
            arrays.append(np.asarray(values, np.float32))
        found.append((float(draw.integers(1, 500)), arrays))
    return found


def by_formula(updates: Updates, division: float) -> list[Any]:
    """Σ n·q ÷ (N^(1−p) · S^p): sums and weights as fractions, the power in the library's floating point."""
    total = sum(Fraction(weight) for weight, _ in updates)
    results = []
    for place, spec in enumerate(LAYOUT.specs):
        result = np.zeros(spec.shape)
        for at in np.ndindex(spec.shape):
            pairs = [(Fraction(weight), Fraction(float(arrays[place][at]))) for weight, arrays in updates]
            senders = sum(weight for weight, value in pairs if value)
            if senders:
                divisor = math.pow(total, 1 - division) * math.pow(senders, division)
                result[at] = float(sum(weight * value for weight, value in pairs)) / divisor
        results.append(result)
    return results


def divided(updates: Updates, division: float) -> list[Any]:
    """The same from `divide`, in float64."""
    total = sum(weight for weight, _ in updates)
    results = []
    for place, spec in enumerate(LAYOUT.specs):
        sums, senders = np.zeros(spec.shape), np.zeros(spec.shape)
        for weight, arrays in updates:
            sums += weight * arrays[place].astype(np.float64)
            senders += weight * (arrays[place] != 0)
        results.append(divide(sums, senders if division else None, total, division))
    return results


@pytest.mark.parametrize("sixteenths", range(17))
def test_the_division_is_the_stated_formula_for_every_power(sixteenths: int) -> None:
    for case in range(8):
        updates = drawn("formula", case, count=1 + case % 5)
        for got, wanted in zip(
            divided(updates, sixteenths / 16), by_formula(updates, sixteenths / 16), strict=True
        ):
            assert np.allclose(got, wanted, rtol=1e-12, atol=1e-15)


def test_power_0_is_federated_averaging() -> None:
    updates = drawn("FedAvg")
    total = sum(weight for weight, _ in updates)
    step = WeightedMerge(MergeRule()).step(LAYOUT, updates)
    assert step is not None
    for place, got in enumerate(step):
        mean = sum(weight / total * arrays[place].astype(np.float64) for weight, arrays in updates)
        assert np.allclose(got, mean, rtol=1e-6, atol=1e-7)


def test_power_1_is_the_mean_over_those_who_sent_the_coordinate() -> None:
    updates = drawn("senders")
    step = WeightedMerge(MergeRule(1.0)).step(LAYOUT, updates)
    assert step is not None
    for at in np.ndindex((3, 2)):
        sent = [(weight, float(arrays[0][at])) for weight, arrays in updates if arrays[0][at] != 0]
        wanted = sum(w * v for w, v in sent) / sum(w for w, _ in sent) if sent else 0.0
        assert float(step[0][at]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("division", [0.0, 0.5, 1.0])
def test_where_everybody_sends_every_power_is_the_same_mean(division: float) -> None:
    updates = drawn("dense", zeros=0.0)
    for got, wanted in zip(divided(updates, division), divided(updates, 0.0), strict=True):
        assert np.allclose(got, wanted, rtol=1e-14)


def test_a_coordinate_that_nobody_sent_is_zero() -> None:
    nothing: Updates = [(5.0, [np.zeros(spec.shape, np.float32) for spec in LAYOUT.specs])] * 2
    for division in (0.0, 0.5, 1.0):
        step = WeightedMerge(MergeRule(division)).step(LAYOUT, nothing)
        assert step is not None
        assert not any(array.any() for array in step)


def test_no_updates_are_no_step_and_leave_the_optimiser_alone() -> None:
    merge = WeightedMerge(MergeRule(0.5, ServerOptimizer("adam")))
    assert merge.step(LAYOUT, []) is None
    assert merge.steps == 0
    assert merge.moments == {}


OPTIMIZERS = [
    ServerOptimizer("sgd", 0.7),
    ServerOptimizer("momentum", 0.5, 0.9),
    ServerOptimizer("nesterov", 0.7, 0.8),
    ServerOptimizer("adam", 0.01, 0.9, 0.99, 1e-3),
    ServerOptimizer("adam", 0.01, 0.0, 0.0, 1e-3),
]
every_optimizer = pytest.mark.parametrize("rule", OPTIMIZERS, ids=lambda rule: f"{rule.name}-{rule.momentum}")


@every_optimizer
def test_a_server_step_is_the_textbook_formula(rule: ServerOptimizer) -> None:
    merge = WeightedMerge(MergeRule(0.0, rule))
    first = [np.zeros(spec.shape) for spec in LAYOUT.specs]
    second = [np.zeros(spec.shape) for spec in LAYOUT.specs]
    for number in range(1, 9):
        updates = drawn("optimizer", number)
        step = merge.step(LAYOUT, updates)
        assert step is not None
        for place, mean in enumerate(by_formula(updates, 0.0)):
            eta, mu = rule.learning_rate, rule.momentum
            if rule.name == "adam":
                first[place] = mu * first[place] + (1 - mu) * mean
                second[place] = rule.beta2 * second[place] + (1 - rule.beta2) * mean**2
                unbiased = first[place] / (1 - mu**number), second[place] / (1 - rule.beta2**number)
                wanted = eta * unbiased[0] / (np.sqrt(unbiased[1]) + rule.epsilon)
            else:
                first[place] = mu * first[place] + mean
                wanted = {"sgd": mean, "momentum": first[place], "nesterov": mean + mu * first[place]}[
                    rule.name
                ] * eta
            # the moments are kept as float32, hence not closer
            assert np.allclose(step[place], wanted, rtol=1e-5, atol=1e-6)


@every_optimizer
def test_what_is_saved_continues_to_the_bit(rule: ServerOptimizer) -> None:
    one, other = WeightedMerge(MergeRule(0.5, rule)), WeightedMerge(MergeRule(0.5, rule))
    for number in range(6):
        other.load({name: array.copy() for name, array in one.save().items()})
        steps = [merge.step(LAYOUT, drawn("saved", number)) for merge in (one, other)]
        assert steps[0] is not None
        assert steps[1] is not None
        assert [a.tobytes() for a in steps[0]] == [a.tobytes() for a in steps[1]]


@every_optimizer
@given(st.sampled_from([1e-38, 1e-10, 1.0, 1e10, 2.0**99]), st.floats(-1, 1, width=32))
def test_updates_of_any_allowed_size_give_a_finite_step_and_finite_moments(
    rule: ServerOptimizer, size: float, value: float
) -> None:
    merge = WeightedMerge(MergeRule(0.5, rule))
    arrays = [np.full(spec.shape, size * value, np.float32) for spec in LAYOUT.specs]
    for _ in range(5):
        step = merge.step(LAYOUT, [(1e9, arrays), (1.0, arrays)])
        assert step is not None
        assert all(np.isfinite(array).all() for array in [*step, *merge.save().values()])


@every_optimizer
def test_steps_have_the_layouts_shapes_and_are_float32_arrays(rule: ServerOptimizer) -> None:
    merge = WeightedMerge(MergeRule(0.5, rule))
    step = merge.step(LAYOUT, drawn("shapes"))
    assert step is not None
    assert {(type(array), array.dtype) for array in merge.save().values()} == {
        (np.ndarray, np.dtype(np.float32))
    }, "moments of a single number, too"
    assert [(type(array), array.dtype, array.shape) for array in step] == [
        (np.ndarray, np.dtype(np.float32), spec.shape) for spec in LAYOUT.specs
    ]


def test_updates_are_taken_as_a_stream_and_not_written_to() -> None:
    updates = drawn("stream")
    before = [[array.tobytes() for array in arrays] for _, arrays in updates]
    WeightedMerge(MergeRule(0.5)).step(LAYOUT, iter(updates))
    assert [[array.tobytes() for array in arrays] for _, arrays in updates] == before


@pytest.mark.parametrize("division", [-0.1, 1.1, 0.3, math.nan, "0.5", True])
def test_a_power_that_is_not_in_sixteenths_is_refused(division: Any) -> None:
    with pytest.raises(ConfigError, match="'division'"):
        MergeRule(division)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "sdg"},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"beta2": 1.0},
        {"epsilon": 0.0},
        {"momentum": "x"},
    ],
    ids=str,
)
def test_a_server_optimiser_outside_its_ranges_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"\[server\]|no server optimizer"):
        ServerOptimizer(**wrong)
