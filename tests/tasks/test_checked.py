"""What a user's task gives wrong is one sentence, and what it gives right comes in one form."""

from __future__ import annotations

import fractions
from typing import Any

import numpy as np
import pytest
from tests.exchange import Exchange
from tests.tiny import table

from phloem.engines.host import load_task_of
from phloem.engines.local import LocalEngine
from phloem.errors import ConfigError
from phloem.recipe import load_recipe
from phloem.tasks.base import Metric, Task
from phloem.tasks.checked import CheckedTask
from phloem.wire.messages import MOST_EXAMPLES

STATE = {"w": np.zeros(2, np.float32)}
FIGURES = {"accuracy": 0.5}


class Own:
    """Gives what it is told to."""

    metric = Metric("accuracy")
    data_digest = "abc"

    def __init__(self, trained: Any = None, figures: Any = FIGURES, first: Any = STATE) -> None:
        self.trained, self.figures, self.first = trained, figures, first

    def initial_state(self, seed: int) -> Any:
        return self.first

    def shard(self, site: str) -> object:
        return site

    def train(self, state: Any, shard: Any, memory: Any, seed: int) -> Any:
        return self.trained

    def evaluate(self, state: Any, part: str) -> Any:
        return self.figures


def trained(answer: Any) -> Any:
    return CheckedTask(Own(answer), "own:Own").train(STATE, None, {}, 0, site="a")


def message(caught: pytest.ExceptionInfo[ConfigError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (None, "gave None, not four values"),
        (STATE, "gave a dict, not four values"),
        ((), "gave 0 values, not four"),
        ((STATE,), "gave 1 value, not four"),
        ((STATE, {}, 1), "gave 3 values, not four"),
        ((None, {}, 1, {}), "the state must be a dict of float arrays by name, found None"),
        (([1.0], {}, 1, {}), "the state must be a dict of float arrays by name, found a list"),
        (({"w": [1.0]}, {}, 1, {}), "tensor 'w' of the state is a list"),
        (({"w": 1.0}, {}, 1, {}), "tensor 'w' of the state is 1.0"),
        (({"w": np.zeros(2, int)}, {}, 1, {}), "tensor 'w' has type int64"),
        (({"w": np.array(["a"])}, {}, 1, {}), "tensor 'w' has type <U1"),
        (({3: np.zeros(2)}, {}, 1, {}), "the state must be named by texts, found 3"),
        ((STATE, None, 1, {}), "the memory must be a dict of NumPy arrays by name, found None"),
        ((STATE, {"note": "text"}, 1, {}), "'note' in the memory is 'text', not a NumPy array"),
        ((STATE, {"steps": 3}, 1, {}), "'steps' in the memory is 3, not a NumPy array"),
        ((STATE, {"note": np.array("text")}, 1, {}), "'note' in the memory is of type <U4"),
        ((STATE, {"x": np.array([None])}, 1, {}), "'x' in the memory is of type object"),
        ((STATE, {"x": np.zeros(2, np.complex128)}, 1, {}), "'x' in the memory is of type complex128"),
        ((STATE, {"__metadata__": np.zeros(2)}, 1, {}), "a name that no file can hold"),
        ((STATE, {"\ud800": np.zeros(2)}, 1, {}), "a name that no file can hold"),
        ((STATE, {}, 1.0, {}), "the number of examples is 1.0, not a whole number"),
        ((STATE, {}, np.float64(2.5), {}), "the number of examples is 2.5, not a whole number"),
        ((STATE, {}, "3", {}), "the number of examples is '3', not a whole number"),
        ((STATE, {}, True, {}), "the number of examples is True, not a whole number"),
        ((STATE, {}, None, {}), "the number of examples is None, not a whole number"),
        ((STATE, {}, -1, {}), "at least 0 and below 2^40, found -1"),
        ((STATE, {}, 1 << 40, {}), "at least 0 and below 2^40, found 1099511627776"),
        ((STATE, {}, 1, None), "its metrics must be a dict of numbers by name, found None"),
        ((STATE, {}, 1, 0.5), "its metrics must be a dict of numbers by name, found 0.5"),
        ((STATE, {}, 1, {"loss": "0.5"}), "'loss' is '0.5', not a number"),
        ((STATE, {}, 1, {"loss": None}), "'loss' is None, not a number"),
        ((STATE, {}, 1, {"loss": True}), "'loss' is True, not a number"),
        ((STATE, {}, 1, {"loss": np.zeros(1)}), "'loss' is a ndarray, not a number"),
        ((STATE, {}, 1, {"loss": 1 + 2j}), "'loss' is a complex, not a number"),
        ((STATE, {}, 1, {1: 2.0}), "named by texts, found 1"),
    ],
)
def test_a_wrong_training_is_a_sentence_with_task_call_and_site(answer: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trained(answer)
    assert message(caught).startswith("task 'own:Own': train() at site 'a'")
    assert sentence in message(caught)


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        (None, "must be a dict of numbers by name, found None"),
        (0.9, "must be a dict of numbers by name, found 0.9"),
        ({"accuracy": "high"}, "'accuracy' is 'high', not a number"),
        ({"acuracy": 0.9}, "gave no 'accuracy', the metric the task is judged by (it gave acuracy)"),
        ({}, "gave no 'accuracy'"),
    ],
)
def test_a_wrong_evaluation_is_a_sentence_with_task_and_call(figures: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CheckedTask(Own(figures=figures), "own:Own").evaluate(STATE, "test")
    assert message(caught).startswith("task 'own:Own': evaluate() on part 'test'")
    assert sentence in message(caught)


@pytest.mark.parametrize(
    ("first", "sentence"),
    [
        (None, "must be a dict of float arrays by name, found None"),
        ({}, "gave no tensors"),
        ({"w": [0.0]}, "tensor 'w' of the state is a list"),
        ({"w": np.zeros(2, int)}, "tensor 'w' has type int64"),
        ({"w": np.zeros((1,) * 17)}, "more than 16 dimensions"),
    ],
)
def test_a_wrong_first_state_is_a_sentence_with_task_and_call(first: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CheckedTask(Own(first=first), "own:Own").initial_state(0)
    assert message(caught).startswith("task 'own:Own': initial_state()")
    assert sentence in message(caught)


def test_a_metric_that_is_no_metric_is_refused() -> None:
    task = Own()
    task.metric = "accuracy"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"has as its metric 'accuracy', not a phloem\.tasks\.Metric"):
        CheckedTask(task, "own:Own")


def test_what_is_right_comes_in_one_form() -> None:
    memory = {"big": np.array([1, 2], ">i4"), "count": np.int64(3), "turned": np.ones((2, 3)).T}
    metrics = {"a": np.float32(0.5), "b": np.array(2), "c": fractions.Fraction(1, 4), "d": float("nan")}
    state, kept, examples, figures = trained([{"w": np.array([1.0, 2.0])}, memory, np.int32(7), metrics])
    assert state["w"].dtype == np.float32
    assert kept["big"].dtype == np.dtype("<i4")
    assert kept["big"].tolist() == [1, 2]
    assert kept["count"].shape == ()
    assert kept["turned"].flags.c_contiguous
    assert type(examples) is int
    assert [figures[name] for name in "abc"] == [0.5, 2.0, 0.25]
    assert set(map(type, figures.values())) == {float}


def test_torch_tensors_in_a_memory_become_arrays_unless_numpy_lacks_their_type() -> None:
    torch = pytest.importorskip("torch")
    state, kept, examples, figures = trained(
        ({"w": torch.ones(2, dtype=torch.bfloat16)}, {"m": torch.ones(2)}, 1, {"loss": torch.tensor(0.5)})
    )
    assert state["w"].tolist() == [1.0, 1.0]
    assert isinstance(kept["m"], np.ndarray)
    assert (examples, figures) == (1, {"loss": 0.5})
    with pytest.raises(ConfigError, match=r"'m' in the memory is of torch\.bfloat16"):
        trained((STATE, {"m": torch.ones(2, dtype=torch.bfloat16)}, 1, {}))
    with pytest.raises(ConfigError, match="tensor 'w' has a shape only, no values"):
        trained(({"w": torch.ones(2, device="meta")}, {}, 1, {}))


def test_the_tasks_other_attributes_stay_in_reach() -> None:
    task = CheckedTask(Own(), "own:Own")
    assert isinstance(task, Task)
    assert (task.metric, task.data_digest, task.shard("a")) == (Own.metric, "abc", "a")
    assert not hasattr(task, "no_such_attribute")
    assert isinstance(load_task_of(load_recipe(table())), CheckedTask)


@pytest.mark.parametrize("count", [MOST_EXAMPLES - 1, MOST_EXAMPLES])
def test_the_task_and_the_coordinator_take_the_same_counts_of_examples(count: int) -> None:
    exchange = Exchange(("ant",))
    refused = exchange.round(examples=count).refused
    if count < MOST_EXAMPLES:
        assert trained((STATE, {}, count, {}))[2] == count
        assert not refused
    else:
        with pytest.raises(ConfigError, match="examples"):
            trained((STATE, {}, count, {}))
        assert "outside the plan" in refused["ant"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_first_state_is_the_same_sentence_from_any_process(workers: int) -> None:
    keys = table(run={"workers": workers}, task={"name": "tests.tasks.stateless:Stateless"})
    with pytest.raises(ConfigError, match=r"task 'tests\.tasks\.stateless:Stateless': initial_state\(\)"):
        LocalEngine(load_recipe(keys))
