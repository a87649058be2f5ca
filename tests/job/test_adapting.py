"""Runs whose codecs are chosen while they go on: the same in every repetition, replayed and audited like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.job.auditing import audited, names
from tests.job.test_build import StopAfter, Stopped
from tests.tiny import table

import phloem
from phloem.branches import verifying
from phloem.branches.repository import Repository
from phloem.errors import ConfigError
from phloem.job.adapting import controller_for
from phloem.job.rounds_again import replay_rounds
from phloem.planner.costs import Seen
from phloem.planner.decision import label
from phloem.planner.levels import LADDER
from phloem.planner.settings import Adapting
from phloem.recipe import load_recipe

AUTO: dict[str, Any] = {
    "compress": "auto",
    "count": 4,
    "rounds": 10,
    "task": {"features": 400, "rate": 0.002},
    "link": {"up": "1mbit", "down": "5mbit", "train_seconds": 0.05},
}
HARD: dict[str, Any] = {
    **AUTO,
    "sites": {"dropout": 0.2, "late": 0.1, "participation": 0.8},
    "server": {"name": "nesterov", "learning_rate": 0.7},
    "link": {"up": "1mbit", "down": "5mbit", "trace": "switching"},
    "links": {"site-1": {"up": "20kbit"}},
    "devices": {"site-2": {"speed": 0.01}},
}
#: Training takes so long that what a coarse first round left out is worth an exchange.
LONG: dict[str, Any] = {
    **AUTO,
    "link": {"up": "1gbit", "down": "1gbit", "latency": "1ms", "train_seconds": 2.0},
    "server": {"name": "momentum", "learning_rate": 0.7},
    "task": {"features": 9_000, "rate": 0.0001},
    "rounds": 4,
}


def decisions(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "decisions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("sections", [AUTO, HARD, LONG], ids=["plain", "hard", "long"])
def test_a_run_is_the_same_in_every_repetition_and_with_workers(
    sections: dict[str, Any], tmp_path: Path
) -> None:
    run = phloem.build(table(**sections), out=tmp_path / "a")
    again = phloem.build(table(**sections, run={"workers": 2}), out=tmp_path / "b")
    assert run.summary["state_digest"] == again.summary["state_digest"]
    assert decisions(run.path) == decisions(again.path)
    assert [line["round"] for line in decisions(run.path)] == list(range(len(run.records)))
    assert sum(record.trained for record in run.records) == sections["rounds"]
    assert [line["trains"] for line in decisions(run.path)] == [record.trained for record in run.records]


def test_a_round_without_training_takes_an_exchange_and_is_not_one_of_the_rounds_asked_for(
    tmp_path: Path,
) -> None:
    run = phloem.build(table(**LONG), out=tmp_path / "run")
    assert [record.trained for record in run.records] == [True, False, True, True, True]
    assert run.records[1].seconds < 0.1 < 2.0 < run.records[2].seconds
    assert run.records[1].bytes_up > run.records[0].bytes_up
    assert run.records[1].accepted == run.records[0].accepted
    adam = phloem.build(table(**{**LONG, "server": {"name": "adam"}}), out=tmp_path / "adam")
    assert all(record.trained for record in adam.records)


def test_what_was_expected_of_a_steady_line_is_what_the_clock_then_shows(tmp_path: Path) -> None:
    run = phloem.build(table(**AUTO), out=tmp_path / "run")
    for line, record in zip(decisions(run.path)[4:], run.records[4:], strict=True):
        assert line["actual"]["seconds"] == pytest.approx(record.seconds, rel=0.05)
        assert line["predicted"]["low"] <= line["actual"]["seconds"] <= line["predicted"]["high"]


@pytest.mark.parametrize(
    ("sections", "stop"), [(HARD, 1), (HARD, 4), (HARD, 9), (LONG, 1), (LONG, 2), (LONG, 3)]
)
def test_a_run_goes_on_with_the_choices_that_it_would_have_made(
    sections: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    whole = phloem.build(table(**sections), out=tmp_path / "whole")
    with pytest.raises(Stopped):
        phloem.build(table(**sections), out=tmp_path / "torn", watch=StopAfter(stop))
    torn = phloem.build(resume=tmp_path / "torn")
    assert decisions(torn.path) == decisions(whole.path)
    assert torn.summary["chain"] == whole.summary["chain"]


@pytest.mark.parametrize("sections", [HARD, LONG], ids=["hard", "long"])
def test_every_choice_follows_from_what_the_log_says_that_was_measured(
    sections: dict[str, Any], tmp_path: Path
) -> None:
    run = phloem.build(table(**sections), out=tmp_path / "run")
    controller = controller_for(load_recipe(table(**sections)), run.summary["parameters"])
    for line in decisions(run.path):
        asked = [site for sites in line["up"].values() for site in sites]
        decision = controller.decide(line["round"], asked)
        assert {label(choice) for choice in decision.up.values()} == set(line["up"])
        assert (decision.policy, label(decision.down)) == (line["policy"], line["down"])
        assert decision.trains == line["trains"]
        told = line["told"]
        seen = {site: Seen(*values) for site, values in told["seen"].items()}
        controller.observe(
            line["round"], seen, frame_bytes=told["frame_bytes"], loss=told["loss"], norm=told["norm"]
        )


@pytest.mark.parametrize(("sections", "rounds"), [(HARD, 10), (LONG, 5)], ids=["hard", "long"])
def test_the_ledger_of_such_a_run_is_valid_and_every_merge_is_replayed(
    sections: dict[str, Any], rounds: int, tmp_path: Path
) -> None:
    run = phloem.build(table(**sections, ledger={"receipts": "lagged 3"}), out=tmp_path / "run")
    found = audited(run.path)
    assert (str(found.verdict), names(found), found.replayed) == ("valid", set(), rounds)


@pytest.mark.parametrize(("sections", "rounds"), [(HARD, 10), (LONG, 5)], ids=["hard", "long"])
def test_such_rounds_on_a_branch_are_merged_again_from_the_repository(
    sections: dict[str, Any], rounds: int, tmp_path: Path
) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        phloem.build(table(**sections), out=tmp_path / "run", branch="trunk", repo=tmp_path)
        checked = verifying.verify(repo, "trunk", replay=True, rounds=replay_rounds)
        assert (checked.wrong, checked.unknown, checked.replayed) == ((), (), rounds)


def test_a_slow_site_sends_less_than_the_others(tmp_path: Path) -> None:
    task = {"features": 8000, "rate": 0.0001}
    sections = {**AUTO, "count": 6, "rounds": 20, "task": task, "links": {"site-0": {"up": "50kbit"}}}
    run = phloem.build(table(**sections), out=tmp_path / "run")
    rows = run.records[-1].per_site
    others = [rows[f"site-{n}"].up for n in range(1, 6)]
    assert rows["site-0"].up < 0.8 * min(others)


def test_importances_go_with_every_coded_level(tmp_path: Path) -> None:
    adapt = {"importance": {"weight": 8.0}}
    plain = phloem.build(table(**LONG), out=tmp_path / "plain")
    weighed = phloem.build(table(**LONG, adapt=adapt), out=tmp_path / "weighed")
    assert weighed.summary["state_digest"] != plain.summary["state_digest"]
    again = phloem.build(table(**LONG, adapt=adapt, run={"workers": 2}), out=tmp_path / "again")
    assert again.summary["state_digest"] == weighed.summary["state_digest"]


def test_a_device_with_little_memory_is_sent_what_fits_there(tmp_path: Path) -> None:
    run = phloem.build(table(**LONG, devices={"site-2": {"memory_mb": 0.14}}), out=tmp_path / "run")
    for line in decisions(run.path):
        assert Seen(*line["told"]["seen"]["site-2"]).memory == pytest.approx(0.14e6)
        (label_up,) = (name for name, sites in line["up"].items() if "site-2" in sites)
        for name in (label_up, line["down"]):
            options = [
                o for level in LADDER for key, o in zip(level.keys, level.options, strict=True) if key == name
            ]
            assert options[0].memory_bytes(run.summary["parameters"]) <= 0.14e6
    assert {name for line in decisions(run.path)[1:] for name in line["up"]} > {label_up}


def test_a_budget_of_bytes_is_kept_and_used(tmp_path: Path) -> None:
    task, adapt = {"features": 8000, "rate": 0.0001}, {"objective": "budget", "budget_bytes": 150_000}
    run = phloem.build(table(**{**AUTO, "task": task, "rounds": 20}, adapt=adapt), out=tmp_path / "run")
    assert 0.9 * 150_000 < run.summary["total_bytes"] <= 1.02 * 150_000


def test_the_fewest_bytes_are_fewer_than_the_least_time_takes(tmp_path: Path) -> None:
    plain = phloem.build(table(**AUTO), out=tmp_path / "time")
    fewest = phloem.build(table(**AUTO, adapt={"objective": "bytes"}), out=tmp_path / "bytes")
    assert fewest.summary["total_bytes"] < plain.summary["total_bytes"]


def test_a_recipe_without_codecs_is_adaptive_and_one_with_them_is_fixed() -> None:
    assert load_recipe({"name": "x", "task": "digits", "sites": {"count": 2}}).adapts
    fixed = load_recipe({"name": "x", "task": "digits", "sites": {"count": 2}, "up": {"bits": 0.5}})
    assert not fixed.adapts
    assert fixed.down["codec"] == "ecsq"
    assert load_recipe(fixed, ["compress=auto"]).adapts


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["compress=auto", "up.bits=1"], "leave out"),
        (["compress=best"], "'auto' or 'fixed'"),
        (["adapt.objective=speed"], "'objective' is one of"),
        (["adapt.objective=budget"], "belong together"),
        (["adapt.budget_bytes=5"], "belong together"),
        (["adapt.finest='0.05'", "adapt.coarsest=bf16"], "coarser than"),
        (["adapt.importance.head=-1"], "importance"),
        (["adapt.clock=sundial"], "'clock' is one of"),
        (["device.speed=-1"], "speed"),
        (["devices.nobody.speed=1"], "nobody"),
        (["link.trace=pigeon"], "trace"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_sentence(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as told:
        load_recipe({"name": "x", "task": "digits", "sites": {"count": 2}}, changes)
    assert said in str(told.value)


def test_settings_have_a_default_that_asks_for_the_least_time() -> None:
    assert Adapting().objective == "time"


def test_an_engine_that_measures_nothing_says_so_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no transfer is measured"):
        phloem.build(table(**AUTO, adapt={"clock": "measured"}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
