"""`Compressed(strategy, bits="auto")`: what nodes send, and what comes down, is chosen from what rounds took."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.service("flower")

from flwr.app import ArrayRecord, Message  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from tests.engines.flower.inside import Inside, Seen, arrays_in, grid_of, record, same  # noqa: E402

import phloem.flower  # noqa: E402
from phloem.errors import ConfigError  # noqa: E402
from phloem.planner.decision import Decision  # noqa: E402
from phloem.seeds import generator  # noqa: E402

ROWS = 20_000  # times eight: a model whose frames are long enough for levels to differ


def large() -> dict[str, Any]:
    draw = generator(0, "flower choosing")
    return {"weight": draw.normal(size=(ROWS, 8)).astype(np.float32), "seen": np.array(3, np.int64)}


class Timed(Inside):
    """A grid that says how long replies took: bytes over a line, and its latency."""

    rate = 1e9  # bytes a second

    def __init__(self, grid: Inside) -> None:
        super().__init__(grid.apps, grid.config)
        self.waited: dict[int, float] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        began = len(self.down), len(self.up)
        replies = super().send_and_receive(messages, timeout=timeout)
        crossed: dict[int, int] = {}
        for node, _, size, _ in (*self.down[began[0] :], *self.up[began[1] :]):
            crossed[node] = crossed.get(node, 0) + size
        self.waited = {node: 0.2 + size / self.rate for node, size in crossed.items()}
        return replies


def run(
    grid: Inside, rounds: int, strategy: phloem.flower.Compressed | None = None, **more: Any
) -> tuple[phloem.flower.Compressed, Any, list[Decision]]:
    """The strategy, its result, and what was decided in every round."""
    strategy = strategy or phloem.flower.Compressed(FedAvg(), bits="auto", **more)
    decided: list[Decision] = []

    def note(number: int, arrays: ArrayRecord) -> None:
        choice = None if strategy._exchange is None else strategy._exchange.choice
        if choice is not None and choice.decision is not None:
            decided.append(choice.decision)

    result = strategy.start(grid, record(large()), num_rounds=rounds, evaluate_fn=note)
    return strategy, result, decided


def finest(decision: Decision) -> int:
    return min(level for level, _ in decision.up.values())


def test_a_first_round_is_coarse_and_a_fast_line_is_sent_more(tmp_path: Path) -> None:
    strategy, _, decided = run(Timed(grid_of(tmp_path)), 6)
    assert finest(decided[-1]) < finest(decided[0])
    sizes = [row.bytes for row in strategy.traffic if (row.phase, row.direction) == ("train", "up")]
    assert sizes[-1] > sizes[0]


def test_a_slow_line_is_sent_less_than_a_fast_one(tmp_path: Path) -> None:
    slow = Timed(grid_of(tmp_path / "slow"))
    slow.rate = 2e3
    _, _, decided = run(slow, 8)
    _, _, fast = run(Timed(grid_of(tmp_path / "fast")), 8)
    assert finest(decided[-1]) > finest(fast[-1])


def test_everybody_holds_the_strategys_arrays_to_the_bit_while_codecs_change(tmp_path: Path) -> None:
    seen: Seen = []
    _, result, decided = run(Timed(grid_of(tmp_path, seen=seen)), 5)
    assert len({decision.down for decision in decided}) > 1
    last = [arrays for _, kind, number, arrays in seen if (kind, number) == ("evaluate", 5)]
    assert len(last) == 3
    assert all(same(arrays, arrays_in(result.arrays)) for arrays in last)


def test_a_second_start_goes_on_with_what_was_learned_of_the_lines(tmp_path: Path) -> None:
    grid = Timed(grid_of(tmp_path))
    run(grid, 3, state=tmp_path / "state")
    _, _, decided = run(grid, 5, state=tmp_path / "state")
    assert [decision.round for decision in decided] == [3, 4]
    assert all(decision.policy != "start" for decision in decided)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bits": "best"}, "'bits' must be a number or 'auto'"),
        ({"bits": "auto", "down_bits": 1.0}, "leave out 'down_bits'"),
        ({"bits": "auto", "effort": "best"}, "leave out 'effort'"),
        ({"bits": "auto", "up": {"codec": "int8"}}, "leave out 'up'"),
    ],
)
def test_words_that_contradict_it_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        phloem.flower.Compressed(FedAvg(), **wrong)
    assert said in f"{refused.value.message} {refused.value.hint}"
