"""Runs whose rounds are commits on a branch: the same states, whoever carries them, killed or not, and replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.job.test_build import StopAfter, Stopped
from tests.tiny import table

import phloem
from phloem.branches import verifying
from phloem.branches.records import Commit
from phloem.branches.repository import Repository
from phloem.errors import ConfigError, StateError
from phloem.job.branching import Publisher, read_state
from phloem.job.rounds_again import replay_rounds
from phloem.tensors import state_digest


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / ".phloem") as made:
        yield made


def built(repo: Repository, out: Path, branch: str = "trunk", rounds: int = 5, **rest: Any) -> phloem.Run:
    call = {name: rest.pop(name) for name in ("start_from", "watch", "resume") if name in rest}
    where = {} if "resume" in call else {"out": out}
    return phloem.build(
        table(rounds=rounds, **rest), branch=branch, repo=repo.folder.root, author="tester", **where, **call
    )


def rounds_of(repo: Repository, ref: str = "trunk") -> list[Commit]:
    return [repo.objects.commit(entry.digest) for entry in repo.log(ref)][::-1]


def valid(repo: Repository, ref: str = "trunk") -> int:
    """How many rounds and merges were made again, all of them with the same bits."""
    checked = verifying.verify(repo, ref, replay=True, rounds=replay_rounds)
    assert (checked.wrong, checked.unknown) == ((), ())
    return checked.replayed


FAULTS: dict[str, Any] = {
    "sites": {"dropout": 0.2, "late": 0.2},
    "server": {"name": "nesterov", "learning_rate": 0.7},
}


@pytest.mark.parametrize("faults", [{}, FAULTS], ids=["plain", "faults"])
def test_every_round_is_a_commit_whose_state_is_the_runs(
    repo: Repository, tmp_path: Path, faults: dict[str, Any]
) -> None:
    run = built(repo, tmp_path / "run", **faults)
    commits = rounds_of(repo)
    assert [commit.kind for commit in commits] == ["import"] + ["round"] * 5
    assert [commit.state for commit in commits[1:]] == [record.state for record in run.records]
    assert commits[-1].state == run.summary["state_digest"]
    assert commits[-1].metrics == {"metric": run.records[-1].metric}
    assert commits[-1].author == "tester"
    assert state_digest(read_state(repo.restored())) == run.summary["state_digest"]
    assert valid(repo) == 5


def test_without_the_branch_the_run_is_the_same_to_the_bit(repo: Repository, tmp_path: Path) -> None:
    alone = phloem.build(table(rounds=5, **FAULTS), out=tmp_path / "alone")
    run = built(repo, tmp_path / "run", **FAULTS)
    assert run.summary["chain"] == alone.summary["chain"]


def test_a_run_goes_on_from_where_the_branch_stands(repo: Repository, tmp_path: Path) -> None:
    first = built(repo, tmp_path / "one", rounds=3)
    second = built(repo, tmp_path / "two", rounds=2, seed=5)
    commits = rounds_of(repo)
    assert len(commits) == 6
    assert [commits[3].state, commits[5].state] == [
        first.summary["state_digest"],
        second.summary["state_digest"],
    ]
    assert valid(repo) == 5
    built(repo, tmp_path / "three", branch="north", start_from="trunk~2", rounds=2, seed=6)
    assert repo.resolve("north~2") == repo.resolve("trunk~2")
    assert valid(repo, "north") == 5


@pytest.mark.parametrize("after", [1, 2, 4])
def test_an_interrupted_run_goes_on_and_no_round_is_lost_or_there_twice(
    repo: Repository, tmp_path: Path, after: int
) -> None:
    with Repository.create(tmp_path / "other") as other:
        wanted = [c.state for c in rounds_of(other)] if built(other, tmp_path / "whole", **FAULTS) else []
        with pytest.raises(Stopped):
            built(repo, tmp_path / "run", watch=StopAfter(after), **FAULTS)
        assert len(rounds_of(repo)) == after + 1
        resumed = phloem.build(resume=tmp_path / "run")  # the run remembers its branch
        assert resumed.summary["rounds"] == 5
        assert [commit.state for commit in rounds_of(repo)] == wanted
        assert valid(repo) == 5


def test_what_a_killed_process_did_not_commit_is_committed_by_the_next(
    repo: Repository, tmp_path: Path
) -> None:
    """The run's directory may be ahead of the branch by any number of rounds."""
    built(repo, tmp_path / "run")
    states = [commit.state for commit in rounds_of(repo)]
    for at in range(6):
        repo.branch(f"b{at}", f"trunk~{5 - at}")
        assert Publisher(repo, f"b{at}", tmp_path / "run", "tester").catch_up() == 5 - at
        assert [commit.state for commit in rounds_of(repo, f"b{at}")] == states
    assert Publisher(repo, "new", tmp_path / "run", "tester").catch_up() == 5
    assert [commit.state for commit in rounds_of(repo, "new")] == states


def test_a_branch_that_stands_elsewhere_is_refused(repo: Repository, tmp_path: Path) -> None:
    built(repo, tmp_path / "one", rounds=2)
    phloem.build(table(rounds=2, seed=9), out=tmp_path / "other")
    with pytest.raises(
        StateError, match=r"neither this run's start nor one of its rounds.*a branch of its own"
    ):
        Publisher(repo, "trunk", tmp_path / "other", "tester")


def test_a_run_that_keeps_no_frames_is_refused_before_it_starts(repo: Repository, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps no frames"):
        built(repo, tmp_path / "run", run={"keep_updates": False})
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="there is no repository"):
        phloem.build(table(), out=tmp_path / "run", branch="trunk", repo=tmp_path / "nowhere")


def test_a_start_that_is_no_such_model_is_refused_by_name(repo: Repository, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    run = phloem.build(table(rounds=1), out=tmp_path / "run")
    model = tmp_path / "run" / "model.safetensors"
    again = phloem.build(table(rounds=1), changes=[f'start="{model}"'], out=tmp_path / "again")
    assert again.summary["state_digest"] != run.summary["state_digest"]
    for change, words in (
        ({"weight": np.zeros((4, 5), np.float32)}, r"'weight' has the shape \[4, 5\]"),
        ({"more": np.zeros(1, np.float32)}, "has the tensor 'more'"),
        ({"bias": np.zeros(3, np.int64)}, "'bias' of .* is int64"),
    ):
        save_file({**run.state, **change}, tmp_path / "wrong.safetensors")
        start = f'start="{tmp_path / "wrong.safetensors"}"'
        with pytest.raises(ConfigError, match=words):
            phloem.build(table(rounds=1), changes=[start], out=tmp_path / "no")
        assert not (tmp_path / "no").exists()


def test_pruned_runs_are_committed_exactly(repo: Repository, tmp_path: Path) -> None:
    prune = {"sparsity": 0.5, "begin": 2, "end": 4}
    run = built(repo, tmp_path / "run", rounds=6, prune=prune)
    assert state_digest(read_state(repo.restored())) == run.summary["state_digest"]
    assert [c.state for c in rounds_of(repo)][-1] == run.summary["state_digest"]
    assert valid(repo) == 6


def test_a_round_that_lies_about_a_sites_frame_or_its_state_is_found(
    repo: Repository, tmp_path: Path
) -> None:
    from phloem.branches.drafts import Draft

    built(repo, tmp_path / "run", rounds=2)
    honest = repo.show("trunk")
    inputs = [dict(one) for one in honest.recipe["inputs"]]
    for number, change in enumerate(({"examples": 7}, {"frame": inputs[1]["frame"]}, {"site": "site-1"})):
        lied = [{**inputs[0], **change}, *inputs[1:]]
        forged = replace(honest, recipe={**honest.recipe, "inputs": lied})
        with repo.folder.scratch() as scratch:
            repo.publish(Draft(repo.folder, repo.objects, scratch), forged, f"forged-{number}", None)
        checked = verifying.verify(repo, f"forged-{number}", replay=True, rounds=replay_rounds)
        assert checked.wrong or checked.unknown
    assert verifying.verify(repo, replay=True).unknown == (
        "the rounds of runs are merged again by `phloem verify --replay`",
    )


def test_a_runs_ledger_key_signs_its_commits(repo: Repository, tmp_path: Path) -> None:
    built(repo, tmp_path / "run", rounds=2, ledger={})
    checked = verifying.verify(repo)
    assert checked.wrong == ()
    assert [(name.split("+")[0], count) for name, count in checked.signers.items()] == [("coordinator", 3)]
    assert json.loads((tmp_path / "run" / "branch.json").read_bytes())["branch"] == "trunk"
