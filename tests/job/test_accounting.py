"""Every reported byte is a `len`, measured here a second time at the engine's boundary."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import table

import phloem
from phloem.engines.host import Answer
from phloem.engines.local import LocalEngine
from phloem.wire.messages import Order, Reply, Status


class Meter:
    """Lies between a run and its engine and weighs what passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deliveries: list[tuple[dict[str, bytes], dict[str, bytes]]] = []
        deliver = LocalEngine.deliver

        def weighed(engine: LocalEngine, orders: dict[str, bytes]) -> dict[str, Answer]:
            answers = deliver(engine, orders)
            self.deliveries.append((orders, {site: answer.message for site, answer in answers.items()}))
            return answers

        monkeypatch.setattr(LocalEngine, "deliver", weighed)

    def sizes(self) -> tuple[dict[str, int], dict[str, int], int]:
        """Frame bytes up and down by site, and everything else."""
        up, down, rest = defaultdict(int), defaultdict(int), 0
        for orders, messages in self.deliveries:
            for site, order in orders.items():
                frames = sum(len(item.frame) for item in Order.unpack(order).items)
                down[site] += frames
                rest += len(order) - frames
            for site, message in messages.items():
                frames = len(Reply.unpack(message).frame)
                up[site] += frames
                rest += len(message) - frames
        return up, down, rest


RECIPES: dict[str, dict[str, Any]] = {
    "everybody": {},
    "raw": {"up": {"codec": "none"}, "down": {"codec": "none"}},
    "faults": {"count": 5, "rounds": 8, "sites": {"participation": 0.6, "dropout": 0.3, "late": 0.2}},
    "returning": {"rounds": 8, "sites": {"away": [{"site": "site-1", "first": 0, "last": 5}]}},
    "away at the end": {"sites": {"away": [{"site": "site-1", "first": 2, "last": 9}]}},
    "all away": {"sites": {"away": [{"site": f"site-{n}", "first": 1, "last": 2} for n in range(3)]}},
    "refused": {"task": {"nan_site": "site-0", "idle_site": "site-2"}},
    "one site": {"count": 1, "rounds": 1},
}


@pytest.mark.parametrize("name", RECIPES)
def test_reported_bytes_are_the_bytes_that_crossed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(monkeypatch)
    run = phloem.build(table(**RECIPES[name]), out=tmp_path / "run")
    up, down, rest = meter.sizes()
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert sum(line["bytes_up"] for line in lines) == sum(up.values())
    assert sum(line["bytes_down"] for line in lines) == sum(down.values())
    assert sum(line["control_bytes"] for line in lines) == rest
    everything = sum(
        len(message) for pair in meter.deliveries for messages in pair for message in messages.values()
    )
    assert lines[-1]["total_bytes"] == run.summary["total_bytes"] == everything
    for site, totals in run.summary["sites"].items():
        assert totals["bytes_up"] == up[site] == sum(line["per_site"][site]["up"] for line in lines)
        assert totals["bytes_down"] == down[site] == sum(line["per_site"][site]["down"] for line in lines)
    assert sum(totals["control_bytes"] for totals in run.summary["sites"].values()) == rest


def test_bits_per_parameter_are_wire_bits_of_a_frame_over_the_models_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(monkeypatch)
    run = phloem.build(table(), out=tmp_path / "run")
    parameters = sum(array.size for array in run.state.values())
    assert run.summary["parameters"] == parameters
    replies = [Reply.unpack(message) for _, messages in meter.deliveries for message in messages.values()]
    sizes = [len(reply.frame) for reply in replies if reply.status is Status.UPDATE]
    assert run.summary["bits_per_parameter_up"] == pytest.approx(8 * sum(sizes) / len(sizes) / parameters)
    assert run.records[0].bits_per_parameter_up == pytest.approx(8 * sum(sizes[:3]) / 3 / parameters)


def test_the_simulated_clock_follows_the_slowest_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(monkeypatch)
    links = {"site-1": {"up": "8kbit", "down": "16kbit", "latency": "2s", "train_seconds": 5.0}}
    run = phloem.build(table(links=links), out=tmp_path / "run")
    orders, messages = meter.deliveries[2]
    following = meter.deliveries[3][0]
    slowest = (2 + 8 * len(messages["site-1"]) / 8e3 + 5.0) + (2 + 8 * len(following["site-1"]) / 16e3)
    assert run.records[2].seconds == pytest.approx(slowest)
    assert run.summary["seconds"] == pytest.approx(sum(record.seconds for record in run.records))
    assert len(orders) == 3


def test_examples_are_those_that_the_site_learned_from(tmp_path: Path) -> None:
    run = phloem.build(table(task={"idle_site": "site-2"}), out=tmp_path / "run")
    assert {site: row["examples"] for site, row in run.summary["sites"].items()} == {
        "site-0": 20, "site-1": 25, "site-2": 0,
    }  # fmt: skip
    assert [record.per_site["site-2"].status for record in run.records] == ["silent"] * 4
