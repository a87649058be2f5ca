"""Training without federation, for comparison: one shard (a site's, or all of them pooled) in one place."""

from __future__ import annotations

import sys
from typing import Any

from phloem.engines.host import initial_state_of, load_task_of
from phloem.recipe import Recipe
from phloem.seeds import seed_for


def train_alone(recipe: Recipe, site: str | None) -> dict[str, float]:
    """Test figures of the task trained on one site's data, or on all data pooled where `site` is None.

    As many passes as the recipe has rounds; the state that did best on the stopping part counts, which favours
    this side of the comparison.
    """
    task: Any = load_task_of(recipe)
    state, memory = initial_state_of(task, recipe), {}
    shard = task.pooled_shard() if site is None else task.shard(site)
    name, better = task.metric.name, task.metric.higher_is_better
    best, best_state = None, state
    for number in range(recipe.rounds.max):
        state, memory, _, _ = task.train(
            state, shard, memory, seed_for(recipe.seed, "alone", str(site), number)
        )
        value = float(task.evaluate(state, "stop")[name])
        if best is None or (value > best if better else value < best):
            best, best_state = value, state
    figures = {key: float(value) for key, value in task.evaluate(best_state, "test").items()}
    print(f"{recipe.name} seed {recipe.seed} {site or 'pooled'}: {name} {figures[name]:.4f}", file=sys.stderr)
    return figures
