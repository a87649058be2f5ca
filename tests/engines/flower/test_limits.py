"""A model that cannot cross a line in Flower's limits is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from tests.engines.flower.inside import grid_of, record

import phloem.flower
from phloem.engines.flower.limits import AT_A_TIME, CHUNK_BYTES, SESSION_SECONDS, Line, check_line
from phloem.errors import ConfigError

pytestmark = pytest.mark.service("flower")

LARGE = {"w": np.zeros(1_000_000, np.float32)}


def test_a_line_is_one_rate_or_one_for_each_way() -> None:
    assert Line.of("1mbit") == Line(1e6, 1e6)
    assert Line.of(("1mbit", "8mbit")) == Line(1e6, 8e6)
    with pytest.raises(ConfigError, match="line"):
        Line.of("fast")


@pytest.mark.parametrize(
    ("line", "size", "timeout", "words"),
    [
        ("400kbit", 100_000_000, 1e9, "Flower gives an upload up"),
        ("100kbit", 4_000_000, 1e9, "Flower gives an upload up"),
        (("100mbit", "1mbit"), 100_000_000, 600, "down the slowest line"),
        ("10mbit", 1_000_000_000, 600, "up the slowest line"),
    ],
)
def test_what_cannot_cross_in_time_is_refused_with_the_reason(
    line: Any, size: int, timeout: float, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_line(Line.of(line), size, timeout)


def test_a_line_on_the_edge_is_let_through() -> None:
    chunks = AT_A_TIME * CHUNK_BYTES
    check_line(Line(8 * chunks / SESSION_SECONDS, 1e9), chunks, SESSION_SECONDS)
    check_line(Line.of("10mbit"), 4_000_000, 60)


def test_a_strategy_checks_the_line_before_it_sends_anything(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    with pytest.raises(ConfigError, match=r"up a line of 0\.1 Mbit/s"):
        phloem.flower.Compressed(FedAvg(), line="100kbit").start(grid, record(LARGE))
    assert not grid.down


def test_masks_count_too_and_a_resumed_run_is_checked_as_well(tmp_path: Path) -> None:
    masked = {"w": np.zeros(1000, np.float32), "mask": np.zeros(4_000_000, bool)}
    with pytest.raises(ConfigError, match="4,004,000 bytes"):
        phloem.flower.Compressed(FedAvg(), line="100kbit").start(grid_of(tmp_path), record(masked))
    small = {"w": np.zeros(100_000, np.float32)}
    run = phloem.flower.Compressed(FedAvg(), state=tmp_path / "run")
    run.start(grid_of(tmp_path), record(small), num_rounds=1)
    with pytest.raises(ConfigError, match="up a line"):
        phloem.flower.Compressed(FedAvg(), state=tmp_path / "run", line="10kbit").start(
            grid_of(tmp_path), record(small), num_rounds=2
        )
