"""Branches trained separately, then merged: Branch-Train-Merge across the sites of a recipe, on a schedule if asked.

Every site trains a branch of its own from the trunk, each round a commit on it; then the branches are merged into the
trunk as one commit. With more than one cycle the sites go on from there. Tensors that are kept local never leave a
site's branch: the trunk merges the others, and every branch takes the trunk over except for those.

Source: Li et al., Branch-Train-Merge, 2022 (arXiv 2208.03306); personalisation by local layers: Arivazhagan et al.,
Federated learning with personalization layers, 2019 (arXiv 1912.00818), and FedBN, Li et al. 2021 (arXiv 2102.07623).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phloem.branches import history, joining, methods
from phloem.branches.refs import TRUNK, check_name
from phloem.branches.repository import Repository, open_repo
from phloem.branches.restore import Restored
from phloem.engines.host import initial_state_of, load_task_of
from phloem.errors import ConfigError
from phloem.files.sources import matching
from phloem.job.branching import import_state, read_state
from phloem.job.build import build, free_directory
from phloem.job.watch import Unwatched, Watcher
from phloem.recipe import Away, Recipe, load_recipe
from phloem.tensors import Layout
from phloem.wire.contents import Contents

_FOR_EVER = 1_000_000_000


@dataclass(frozen=True)
class Built:
    """What training separately gave.

    Attributes:
        trunk: the merged commit.
        metric: the name of the task's metric.
        branches: the metric of every site's branch on the task's test data, before it was merged for the last time.
        merged: that of the trunk.
        personal: that of every branch after it took the trunk over, where something is kept local.
        bytes: what crossed the sites' lines, frames and the rest.
    """

    trunk: str
    metric: str
    branches: Mapping[str, float]
    merged: float
    personal: Mapping[str, float]
    bytes: int


def build_branches(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    changes: tuple[str, ...] = (),
    repo: str | Path | None = None,
    into: str = TRUNK,
    prefix: str = "",
    method: Mapping[str, Any] | None = None,
    weights: str = "examples",
    cycles: int = 1,
    keep_local: str | None = None,
    out: str | Path | None = None,
    author: str = "unknown",
    watch: Callable[[str], Watcher] | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> Built:
    """Trains a branch per site of a recipe, from one trunk, and merges them.

    Args:
        recipe: as for `phloem.build`; its rounds are those of every branch in every cycle.
        changes: "rounds.max=10" and the like.
        repo: the repository; by default the one of this directory.
        into: the trunk; made from the task's first state if it is not there.
        prefix: put before the sites' names to make those of their branches.
        method: how branches are merged; by default {"name": "mean"}.
        weights: "examples" or "equal".
        cycles: how often branches are trained and merged.
        keep_local: a regular expression: tensors that stay each branch's own.
        out: where the runs' directories go; by default the first free runs/NAME.
        author: who makes the commits.
        watch: gives a watcher for a site's run.
        tell: told in a line what is being done.

    Raises:
        ConfigError: the recipe or the repository is not as it must be.
    """
    resolved = load_recipe(recipe, changes)
    if cycles < 1:
        raise ConfigError(f"cycles: expected at least 1, found {cycles}")
    methods.from_json(method or {"name": "mean"}).check([1.0] * len(resolved.sites.all))
    names = {site: check_name(prefix + site) for site in resolved.sites.all}
    root = Path(out) if out is not None else free_directory(resolved.name)
    with open_repo(repo) as repository, contextlib.ExitStack() as claims:
        task = load_task_of(resolved, claims)
        own = Contents(Layout.of(task.initial_state(0)).specs)
        if keep_local is not None:
            matching(own, keep_local)
        _check_related(repository, into, list(names.values()))
        if into not in repository.refs.branches:
            state = initial_state_of(task, resolved)
            import_state(
                repository,
                into,
                None,
                state,
                message=f"{resolved.name}: the state that all branches start from",
                author=author,
            )
        sent = 0
        for cycle in range(cycles):
            for site, branch in names.items():
                tell(f"cycle {cycle + 1} of {cycles}: '{branch}' trains")
                is_new = branch not in repository.refs.branches
                run = build(
                    alone(resolved, site),
                    out=root / f"{cycle}-{site}",
                    branch=branch,
                    repo=repository.folder.root,
                    start_from=into if is_new else None,
                    author=author,
                    watch=watch(f"{branch}, cycle {cycle + 1}") if watch else Unwatched(),
                )
                sent += int(run.summary["total_bytes"])
            before = {branch: _measured(repository, task, branch) for branch in names.values()}
            trained = [branch for branch in names.values() if repository.show(branch).examples]
            idle = sorted(set(names.values()) - set(trained))
            if not trained:
                raise ConfigError("no site has anything to train on, so there is nothing to merge")
            tell(
                f"cycle {cycle + 1} of {cycles}: merging {len(trained)} branches into '{into}'"
                + (f"; nothing to train on: {', '.join(idle)}" if idle else "")
            )
            made = joining.merge(
                repository,
                trained,
                into=into,
                method=method,
                weights=weights,
                keep_local=keep_local,
                author=author,
                message=f"{resolved.name}: cycle {cycle + 1}, {len(trained)} branches",
            )
            if keep_local is not None or cycle + 1 < cycles:
                for branch in names.values():
                    joining.merge(
                        repository, [into], into=branch, keep_local=keep_local, author=author,
                        message=f"Take over '{into}'" + (f", keep {keep_local}" if keep_local else ""),
                    )  # fmt: skip
        personal = {} if keep_local is None else {b: _measured(repository, task, b) for b in names.values()}
        merged = _measured(repository, task, into)
        return Built(made.commit, task.metric.name, before, merged, personal, sent)


def _check_related(repo: Repository, into: str, names: Sequence[str]) -> None:
    """Nothing, if branches that are there already have a commit in common with the trunk.

    Raises:
        ConfigError: one has not, so that it could not be merged in the end.
    """
    refs, commits = repo.refs, repo.objects.catalog.commits()
    there = [name for name in names if name in refs.branches]
    if there and into not in refs.branches:
        raise ConfigError(f"there is a branch '{there[0]}' already, and no '{into}' that it started from")
    for name in there:
        history.merge_base([refs.branches[into], refs.branches[name]], commits)


def alone(recipe: Recipe, site: str) -> Recipe:
    """The recipe in which only one site can be reached: the data are divided as before, and nobody else trains."""
    gone = [Away(other, 0, _FOR_EVER) for other in recipe.sites.all if other != site]
    sites = replace(recipe.sites, away=gone, dropout=0.0, late=0.0, participation=1.0)
    run = replace(recipe.run, keep_updates=True)
    rounds = replace(recipe.rounds, stop="rounds")
    return replace(recipe, sites=sites, run=run, rounds=rounds, ledger=None)


def _measured(repo: Repository, task: Any, branch: str) -> float:
    state = read_state(Restored(repo.objects, repo.show(branch).state))
    return float(task.evaluate(state, "test")[task.metric.name])
