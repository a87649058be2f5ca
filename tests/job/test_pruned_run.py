"""A whole run that prunes: resumed, replayed and spread over workers it ends at the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.job.test_kill import drawn_writes, finish, killed_at_writes, outcome, written
from tests.tiny import table

import phloem
from phloem import canonical
from phloem.errors import ConfigError
from phloem.job.directory import TRUNK
from phloem.masks import everything
from phloem.pruning import Pruning, pruned
from phloem.recipe import load_recipe
from phloem.rounds.site import add
from phloem.store.files import Store
from phloem.tensors import Layout, state_digest
from phloem.wire import frame as frames

PRUNE = {"sparsity": 0.7, "begin": 1, "end": 5, "every": 2, "regrow": 0.2}
SECTIONS: dict[str, Any] = {"task": {"features": 30}, "prune": PRUNE}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(written(folder / "recipe.json", rounds=6, **SECTIONS), folder / "run")
    return outcome(folder / "run")


def test_a_pruned_run_killed_in_the_middle_of_writing_ends_the_same(
    tmp_path: Path, uninterrupted: Any
) -> None:
    found, died = killed_at_writes(tmp_path, drawn_writes("pruned", 4, 90), **SECTIONS)
    assert died >= 3
    assert found == uninterrupted
    assert found[1][-1]["kept"] == 90 - round(0.7 * 90) + 4


@pytest.mark.parametrize("run", [{"workers": 2}, {"snapshot_every": 3}, {"residuals": "disk"}], ids=str)
def test_how_a_machine_runs_it_changes_nothing(tmp_path: Path, uninterrupted: Any, run: Any) -> None:
    finish(written(tmp_path / "recipe.json", rounds=6, run=run, **SECTIONS), tmp_path / "run")
    assert outcome(tmp_path / "run")[0]["state_digest"] == uninterrupted[0]["state_digest"]


def test_a_stranger_replays_the_trunk_from_the_frames_alone(tmp_path: Path) -> None:
    run = phloem.build(table(rounds=6, down={"codec": "ecsq", "bits": 4.0}, **SECTIONS), out=tmp_path / "run")
    store = Store(run.path)
    commits, digest = [], store.read(TRUNK)
    while digest is not None:
        commits.insert(0, canonical.loads(store.get(digest)))
        digest = next(iter(commits[0]["parents"]), None)
    genesis, *rounds = commits
    plan = canonical.loads(store.get(genesis["plan"]))
    schedule = Pruning(**plan["prune"])
    layout = Layout.from_json(store.get(genesis["layout"]))
    state = layout.named(frames.unpack(store.get(genesis["frame"]), layout).decode())
    kept = everything(layout)
    for number, commit in enumerate(rounds, 1):
        decoded = frames.unpack(store.get(commit["frame"]), kept.layout).decode()
        state = add(state, kept.scatter(decoded))
        state, kept = pruned(schedule, state, layout, number, plan["seed"], kept)
        assert state_digest(state) == commit["state"]
        assert kept.size == commit["kept"]
    assert state_digest(state) == run.summary["state_digest"]
    assert int((run.state["weight"] == 0).sum()) >= round(0.7 * 90)
    assert run.summary["parameters_kept"] == kept.size < run.summary["parameters"]


def test_a_pruned_run_sends_fewer_bytes_in_both_directions(tmp_path: Path) -> None:
    dense = phloem.build(table(rounds=6, task={"features": 30}), out=tmp_path / "dense").summary
    sparse = phloem.build(table(rounds=6, **SECTIONS), out=tmp_path / "sparse").summary
    assert sparse["bytes_up"] < 0.9 * dense["bytes_up"]
    assert sparse["bytes_down"] < 0.9 * dense["bytes_down"]
    assert dense["parameters_kept"] == dense["parameters"]
    report = (tmp_path / "sparse" / "report.html").read_text("utf-8")
    assert f"{sparse['parameters_kept']} of 94 were kept in the end" in report
    assert "sparsity = 0.7" in report
    assert "kept in the end" not in (tmp_path / "dense" / "report.html").read_text("utf-8")


def test_a_recipe_with_an_absurd_schedule_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"\[prune\]: 'sparsity' must lie between"):
        load_recipe(table(prune={**PRUNE, "sparsity": 2.0}))
    with pytest.raises(ConfigError, match="'sparsity'"):
        load_recipe(table(prune={"begin": 1, "end": 3}))
    with pytest.raises(ConfigError, match="did you mean 'sparsity'"):
        load_recipe(table(prune={**PRUNE, "sparsty": 0.5}))
    resolved = load_recipe(table(prune=PRUNE))
    assert load_recipe(json.loads(json.dumps(resolved.to_json()))) == resolved


def test_a_task_that_takes_the_mask_is_told_it_in_the_shapes_of_its_tensors(tmp_path: Path) -> None:
    run = phloem.build(
        table(rounds=4, **{**SECTIONS, "task": {"features": 30, "name": "tests.job.keeping:Keeping"}}),
        out=tmp_path / "run",
    )
    told = [line.per_site["site-0"].metrics["kept"] for line in run.records]
    assert told[:2] == [94.0, 94.0]
    assert told[3] == run.records[2].kept < 94
    assert np.isfinite(run.summary["test"]["loss"])
