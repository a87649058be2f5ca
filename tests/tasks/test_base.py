from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from phloem.errors import ConfigError
from phloem.tasks import TASKS, Metric, Task, load_task
from phloem.tasks.base import check_range

SITES = ["a", "b", "c"]


class Own:
    """The smallest task there is."""

    metric = Metric("error", higher_is_better=False)

    def __init__(self, sites: list[str], seed: int, *, size: int, rate: float = 0.5, on: bool = True) -> None:
        self.size, self.rate, self.on = size, rate, on

    def initial_state(self, seed: int) -> dict[str, Any]:
        return {"w": np.zeros(self.size, np.float32)}

    def shard(self, site: str) -> object:
        return site

    def train(self, state: Any, shard: Any, memory: Any, seed: int) -> Any:
        return state, memory, 1, {}

    def evaluate(self, state: Any, part: str) -> dict[str, float]:
        return {"error": 0.0}


class Unfinished:
    """Has no seam at all."""

    def __init__(self, sites: list[str], seed: int) -> None:
        pass


class Siteless:
    """Cannot be told its sites."""

    def __init__(self, seed: int) -> None:
        pass


OWN = f"{__name__}:Own"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setitem(sys.modules, __name__, request.module)


def test_a_users_class_is_loaded_by_its_import_path() -> None:
    task = load_task(OWN, SITES, 0, {"size": 3, "rate": 1})
    assert isinstance(task, Task)
    assert task.initial_state(0)["w"].shape == (3,)


@pytest.mark.parametrize("name", ["digits", "hospitals"])
def test_a_named_task_fulfils_the_seam(name: str) -> None:
    assert isinstance(load_task(name, SITES, 0, {}), Task)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("zzz", {}, "there is no task 'zzz'"),
        ("digits", {"alhpa": 1}, "did you mean 'alpha'"),
        ("digits", {"epochs": 1.5}, "'epochs' of task 'digits' must be a whole number, found 1.5"),
        ("digits", {"epochs": True}, "must be a whole number, found True"),
        ("digits", {"learning_rate": "fast"}, "must be a number, found 'fast'"),
        ("digits", {"epochs": 0}, "'epochs' must be at least 1, found 0"),
        ("digits", {"learning_rate": 0}, "must be more than 0"),
        ("digits", {"learning_rate": math.nan}, "must be more than 0"),
        ("digits", {"momentum": 1}, "at most 0.9999"),
        ("digits", {"alpha": 0}, "must be more than 0"),
        (OWN, {}, "needs the option 'size'"),
        (OWN, {"size": 2, "on": 1}, "must be true or false, found 1"),
        (f"{__name__}:Owned", {}, "did you mean 'Own'"),
        (f"{__name__}:Unfinished", {}, "has no 'metric'"),
        (f"{__name__}:Siteless", {}, "does not take 'sites'"),
        ("no_such_package_here:Task", {}, "cannot be imported"),
        (":Task", {}, "not of the form"),
    ],
)
def test_a_wrong_task_or_option_is_named(name: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task(name, SITES, 0, options)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("sites", [[], ["a", "a"]])
def test_sites_are_at_least_one_and_distinct(sites: list[str]) -> None:
    with pytest.raises(ConfigError, match="at least one site"):
        load_task("digits", sites, 0, {})


def test_unknown_sites_and_parts_are_refused() -> None:
    task = load_task("hospitals", SITES, 0, {})
    with pytest.raises(ConfigError, match="no site 'd'"):
        task.shard("d")
    with pytest.raises(ConfigError, match="'stop' or 'test'"):
        task.evaluate(task.initial_state(0), "train")  # type: ignore[arg-type]


def test_a_target_is_reached_from_the_right_side_and_never_by_nan() -> None:
    assert Metric("accuracy").reached(0.98, 0.97)
    assert not Metric("accuracy").reached(0.96, 0.97)
    assert Metric("loss", higher_is_better=False).reached(1.9, 2.0)
    assert not Metric("loss", higher_is_better=False).reached(2.1, 2.0)
    assert not Metric("loss", higher_is_better=False).reached(math.nan, 2.0)


def test_a_range_may_exclude_its_lower_end() -> None:
    check_range("x", 0, 0)
    with pytest.raises(ConfigError):
        check_range("x", 0, 0, above=True)


def test_every_short_name_points_to_a_class() -> None:
    assert set(TASKS) == {"digits", "hospitals", "banks", "code-lm"}
    assert all(path.count(":") == 1 for path in TASKS.values())


def test_naming_the_tasks_loads_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, phloem.tasks, phloem.tasks.partition; print({'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
