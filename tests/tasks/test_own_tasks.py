from __future__ import annotations

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest

from phloem.seeds import seed_for
from phloem.tasks import Task, load_task
from phloem.tensors import Layout, state_digest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OWN = {"own_task_torch": "Wine", "own_task_numpy": "Diabetes", "own_task_sklearn": "LinearDigits"}
GOALS = {"own_task_torch": 0.9, "own_task_numpy": 65.0, "own_task_sklearn": 0.9}
SITES = ["a", "b", "c"]


@pytest.fixture(params=sorted(OWN))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    importlib.invalidate_caches()
    return str(request.param)


def test_an_own_task_learns_through_the_seam(name: str) -> None:
    task = load_task(f"{name}:{OWN[name]}", SITES, 0, {})
    assert isinstance(task, Task)
    state = task.initial_state(0)
    memories: dict[str, dict[str, np.ndarray]] = {site: {} for site in SITES}
    layout = Layout.of(state)
    for number in range(20):
        total, weight = [np.zeros(spec.shape) for spec in layout.specs], 0
        for site in SITES:
            seed = seed_for(0, site, number)
            trained, memories[site], examples, _ = task.train(state, task.shard(site), memories[site], seed)
            assert Layout.of(trained) == layout
            total = [a + examples * b for a, b in zip(total, layout.arrays(trained), strict=True)]
            weight += examples
        state = layout.named([(array / weight).astype(np.float32) for array in total])
    assert task.metric.reached(task.evaluate(state, "stop")[task.metric.name], GOALS[name])
    assert set(task.evaluate(state, "test")) >= {task.metric.name}


def test_an_own_task_repeats_to_the_bit_and_leaves_its_input(name: str) -> None:
    one, two = (load_task(f"{name}:{OWN[name]}", SITES, 0, {}) for _ in range(2))
    state = one.initial_state(0)
    before = state_digest(state)
    first = one.train(state, one.shard("a"), {}, 5)[0]
    second = two.train(state, two.shard("a"), {}, 5)[0]
    assert state_digest(first) == state_digest(second) != before
    assert state_digest(state) == before


@pytest.mark.parametrize("name_only", sorted(OWN))
def test_an_own_task_takes_less_than_thirty_lines_of_code(name_only: str) -> None:
    text = (EXAMPLES / f"{name_only}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    body = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    lines = [line for line in ast.get_source_segment(text, body[0]).splitlines() if line.strip()]  # type: ignore[union-attr]
    assert len(lines) < 30
