"""The recipe's apps and the engine between them, in one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from tests.engines.flower.inside import Inside
from tests.tiny import table

import phloem
from phloem.engines.flower.apps import site_app
from phloem.engines.flower.engine import FlowerEngine, Patience
from phloem.errors import ConfigError, StateError
from phloem.job import lifecycle
from phloem.job.coordinate import Report, coordinate
from phloem.job.runner import Run
from phloem.recipe import load_recipe
from phloem.rounds import events

pytestmark = pytest.mark.service("flower")


class Prompt(Inside):
    """A grid of pushes and pulls; `lose` drops the replies of these nodes."""

    lose: frozenset[int] = frozenset()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.replies = self.send_and_receive(list(messages))
        self.replies = [m for m in self.replies if m.metadata.src_node_id not in self.lose]
        return [f"message-{n}" for n in range(self._number - len(list(messages)) + 1, self._number + 1)]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found, self.replies = self.replies, []
        return found


def grid_of(tmp_path: Path, recipe: Any) -> Prompt:
    sites = recipe.sites.all
    config = {
        number: {"site": site, "phloem-state": str(tmp_path / "states")}
        for number, site in enumerate(sites, 1)
    }
    return Prompt({number: site_app(recipe.to_json()) for number in config}, config)


def built(tmp_path: Path, recipe: Any, grid: Prompt, nodes: Any = None, out: str = "run") -> Run:
    engine = FlowerEngine(grid, recipe.sites.all, nodes, Patience(5.0, 0.5))
    return coordinate(recipe, tmp_path / out, lambda *_: engine, lambda words, *_: None, Report(None))


def test_the_apps_end_with_the_state_of_the_local_engine(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=3, rounds=4))
    local = phloem.build(recipe, out=tmp_path / "local")
    run = built(tmp_path, recipe, grid_of(tmp_path, recipe))
    assert run.summary["state_digest"] == local.summary["state_digest"]
    for path in (tmp_path / "states").rglob("*"):
        if path.is_dir() and path.parent == tmp_path / "states":
            assert path.stat().st_mode & 0o077 == 0, "what a site owes is nobody else's to read"


def test_a_site_that_lost_what_it_held_begins_again_and_catches_up(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=3, rounds=6))
    grid, calls = grid_of(tmp_path, recipe), []

    def losing(message: Message) -> Message:
        if message.metadata.dst_node_id == 2:
            calls.append(1)
            if len(calls) == 4:
                shutil.rmtree(tmp_path / "states" / recipe.sites.all[1])
        return message

    grid.alter_down = losing
    run = built(tmp_path, recipe, grid)
    lost = recipe.sites.all[1]
    assert ["lacks the frames" in r.refused.get(lost, "") for r in run.records].count(True) == 1
    assert lost in run.records[-1].accepted


def test_a_damaged_blob_at_a_site_costs_a_round_and_no_more(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=3, rounds=6))
    grid, calls = grid_of(tmp_path, recipe), []
    damaged = recipe.sites.all[1]

    def damaging(message: Message) -> Message:
        if message.metadata.dst_node_id == 2:
            calls.append(1)
            if len(calls) == 3:
                for blob in (tmp_path / "states" / damaged).rglob("objects/*/*"):
                    blob.write_bytes(b"?" + blob.read_bytes()[1:])
        return message

    grid.alter_down = damaging
    run = built(tmp_path, recipe, grid)
    assert damaged in run.records[0].accepted
    assert damaged in run.records[-1].accepted


def test_a_site_that_does_not_answer_is_left_out_and_named(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=2, rounds=2))
    grid = grid_of(tmp_path, recipe)
    engine = FlowerEngine(grid, recipe.sites.all, None, Patience(5.0, 0.3))
    engine._meet()
    grid.lose = frozenset({2})
    run = coordinate(recipe, tmp_path / "run", lambda *_: engine, lambda words, *_: None, Report(None))
    assert all("no answer within" in r.refused[recipe.sites.all[1]] for r in run.records)


def test_what_a_node_says_of_itself_is_printable_and_short(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=2, rounds=1))
    grid = grid_of(tmp_path, recipe)
    grid.config = {**grid.config, 2: {"site": "[/x]\x1b[2J" + "y" * 10_000}}
    said: list[str] = []
    engine = FlowerEngine(grid, recipe.sites.all, None, Patience(0.5, 0.5), said.append)
    with pytest.raises(StateError, match="not connected"):
        engine.deliver(dict.fromkeys(recipe.sites.all, b""))
    refusal = next(words for words in said if "cannot take part" in words)
    assert refusal.isprintable()
    assert len(refusal) < 600


def test_a_list_of_nodes_that_lacks_a_site_is_refused_in_words(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=2, rounds=1))
    with pytest.raises(ConfigError, match="nobody says which node is site 'site-1'"):
        built(tmp_path, recipe, grid_of(tmp_path, recipe), {"site-0": 1})


def test_a_registered_node_cannot_take_another_sites_name(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=2, rounds=1))
    grid = grid_of(tmp_path, recipe)
    said: list[str] = []
    engine = FlowerEngine(grid, recipe.sites.all, {"site-0": 2, "site-1": 1}, Patience(0.5, 0.5), said.append)
    with pytest.raises(StateError, match="not connected"):
        engine.deliver(dict.fromkeys(recipe.sites.all, b""))
    assert any("is registered as another site" in words for words in said)


def test_every_exchange_of_the_last_round_is_told_once(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=2, rounds=2))
    seen: list[events.Event] = []
    phloem.build(recipe, out=tmp_path / "run", emit=seen.append)
    opened = [event.round for event in seen if isinstance(event, events.RoundOpened)]
    assert opened == [0, 1, 2]


def test_an_interrupted_end_of_a_run_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last result had not reached the sites: a resume brings it, and counts the round as before."""
    recipe = load_recipe(table(count=2, rounds=2))
    whole = phloem.build(recipe, out=tmp_path / "whole")
    close = lifecycle.Runner._close

    def dying(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle.Runner, "_close", dying)
    with pytest.raises(KeyboardInterrupt):
        phloem.build(recipe, out=tmp_path / "run")
    monkeypatch.setattr(lifecycle.Runner, "_close", close)
    run = phloem.build(resume=tmp_path / "run")
    assert run.summary["state_digest"] == whole.summary["state_digest"]
    assert [r.total_bytes for r in run.records] == [r.total_bytes for r in whole.records]
