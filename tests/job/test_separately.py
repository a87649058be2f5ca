"""Branches trained separately by the sites of a recipe, and merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.tiny import table

from phloem.branches import verifying
from phloem.branches.repository import Repository
from phloem.errors import ConfigError
from phloem.job.branching import read_state
from phloem.job.rounds_again import replay_rounds
from phloem.job.separately import alone, build_branches
from phloem.recipe import load_recipe


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.create(tmp_path / ".phloem") as made:
        yield made


def test_every_site_trains_its_branch_and_the_trunk_takes_all_in(repo: Repository, tmp_path: Path) -> None:
    told: list[str] = []
    built = build_branches(
        table(rounds=4), repo=repo.folder.root, out=tmp_path / "runs", author="x", tell=told.append
    )
    sites = load_recipe(table()).sites.all
    assert set(built.branches) == set(sites) <= set(repo.refs.branches)
    merged = repo.show("trunk")
    assert [merged.kind, merged.parents[1:]] == ["merge", tuple(repo.resolve(site) for site in sites)]
    for site in sites:
        assert [entry.kind for entry in repo.log(site)] == ["round"] * 4 + ["import"]
        assert repo.resolve(f"{site}~4") == repo.resolve("trunk~1")
        own = {
            one["site"]
            for entry in repo.log(site)
            for one in repo.objects.commit(entry.digest).recipe.get("inputs", [])
        }
        assert own == {site}
    checked = verifying.verify(repo, replay=True, rounds=replay_rounds)
    assert (checked.wrong, checked.unknown, checked.replayed) == ((), (), 4 * len(sites) + 1)
    assert len(told) == len(sites) + 1
    assert built.bytes > 0
    assert built.merged >= min(built.branches.values())


def test_on_a_schedule_and_with_tensors_that_stay_each_branchs_own(repo: Repository, tmp_path: Path) -> None:
    built = build_branches(
        table(rounds=2), repo=repo.folder.root, out=tmp_path / "runs", cycles=2, keep_local="bias"
    )
    states = {site: read_state(repo.restored(site)) for site in built.branches}
    trunk = read_state(repo.restored("trunk"))
    first, *others = states
    for site in others:
        assert np.array_equal(states[site]["weight"], trunk["weight"])
        assert not np.array_equal(states[site]["bias"], states[first]["bias"])
    start = read_state(repo.restored("trunk~2"))
    assert np.array_equal(trunk["bias"], start["bias"])
    assert set(built.personal) == set(built.branches)
    checked = verifying.verify(repo, first, replay=True, rounds=replay_rounds)
    assert (checked.wrong, checked.unknown) == ((), ())


def test_a_site_without_data_is_left_out_and_named(repo: Repository, tmp_path: Path) -> None:
    told: list[str] = []
    recipe = table(rounds=2)
    site = load_recipe(recipe).sites.all[1]
    build_branches(
        recipe,
        changes=(f'task.idle_site="{site}"',),
        repo=repo.folder.root,
        out=tmp_path / "runs",
        tell=told.append,
    )
    assert told[-1].endswith(f"nothing to train on: {site}")
    assert repo.resolve(site) not in repo.show("trunk").parents


def test_what_cannot_be_is_refused(repo: Repository, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cycles: expected at least 1"):
        build_branches(table(), repo=repo.folder.root, out=tmp_path / "runs", cycles=0)
    with pytest.raises(ConfigError, match="can be called"):
        build_branches(table(), repo=repo.folder.root, out=tmp_path / "runs", prefix="../")
    recipe = load_recipe(table())
    assert [gap.site for gap in alone(recipe, "site-0").sites.away] == [
        s for s in recipe.sites.all if s != "site-0"
    ]
