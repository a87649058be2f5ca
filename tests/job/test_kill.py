"""SIGKILL at any moment, resume, and the run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import ROOT, table

from phloem.seeds import generator

MEASURED = {"train_seconds", "codec_seconds", "choice_seconds", "wall_seconds"}
FAULTS: dict[str, Any] = {
    "sites": {"dropout": 0.2, "late": 0.2},
    "server": {"name": "nesterov", "learning_rate": 0.7},
}


def process(recipe: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """A real process with a group of its own, workers included."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tiny", str(recipe), str(out), *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        start_new_session=True,
    )


def finish(recipe: Path, out: Path) -> None:
    assert process(recipe, out).wait() == 0


def ended_within(running: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return running.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def lines_of(out: Path) -> int:
    path = out / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def written(path: Path, **sections: Any) -> Path:
    path.write_text(json.dumps(table(**{**FAULTS, **sections})))
    return path


def outcome(out: Path) -> Any:
    """What two runs must have in common to the bit."""
    summary = json.loads((out / "summary.json").read_text())
    lines = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    rounds = [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]
    blobs = sorted(str(path.relative_to(out)) for path in (out / "objects").glob("*/[!.]*"))
    keys = (
        "state_digest",
        "commit",
        "chain",
        "total_bytes",
        "bytes_up",
        "bytes_down",
        "control_bytes",
        "test",
        "sites",
    )
    model = (out / "model.safetensors").read_bytes()
    assert not (out / "private").exists()
    assert not list(out.rglob(".*")), "something was left half-written"
    return {key: summary[key] for key in keys}, rounds, blobs, model, (out / "refs" / "trunk").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(written(folder / "recipe.json", rounds=6), folder / "run")
    return outcome(folder / "run")


def killed_at_writes(folder: Path, writes: list[int], **sections: Any) -> tuple[Any, int]:
    """The outcome of a run that dies at each of these writes in turn, and how often it really died."""
    recipe, out = written(folder / "recipe.json", rounds=6, **sections), folder / "run"
    died = 0
    for number in writes:
        code = process(recipe, out, str(number)).wait()
        assert code in (0, -signal.SIGKILL)
        died += code != 0
    finish(recipe, out)
    return outcome(out), died


def drawn_writes(label: str, count: int, most: int) -> list[int]:
    return [int(number) for number in generator(0, "writes", label).integers(1, most, size=count)]


def test_a_run_killed_in_the_middle_of_writing_ends_the_same(tmp_path: Path, uninterrupted: Any) -> None:
    found, died = killed_at_writes(tmp_path, [2, *drawn_writes("quick", 4, 90)])
    assert died >= 4
    assert found == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"run": {"snapshot_every": 3}},
        {"run": {"workers": 2}},
        {"run": {"workers": 2, "residuals": "disk", "snapshot_every": 2}},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_many_random_writes_ends_the_same(
    tmp_path: Path, uninterrupted: Any, sections: dict[str, Any], seed: int
) -> None:
    found, died = killed_at_writes(tmp_path, drawn_writes(f"slow {seed}", 7, 80), **sections)
    assert died >= 3
    assert found == uninterrupted


@pytest.mark.slow
def test_a_run_that_chooses_its_codecs_chooses_the_same_when_it_was_killed(tmp_path: Path) -> None:
    auto: dict[str, Any] = {"compress": "auto", "run": {"snapshot_every": 2}}
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    finish(written(whole / "recipe.json", rounds=6, **auto), whole / "run")
    found, died = killed_at_writes(torn, drawn_writes("auto", 9, 90), **auto)
    assert died >= 4
    assert found == outcome(whole / "run")
    logs = [(folder / "run" / "decisions.jsonl").read_text() for folder in (whole, torn)]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_run_killed_at_every_single_write_of_its_first_rounds_ends_the_same(
    tmp_path: Path, uninterrupted: Any
) -> None:
    for number in range(1, 150, 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        found, died = killed_at_writes(folder, [number])
        assert died == 1
        assert found == uninterrupted, f"killed before write {number}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"run": {"snapshot_every": 3}},
        {"run": {"workers": 2}},
        {"run": {"keep_updates": True, "workers": 1}},
    ],
    ids=str,
)
def test_a_run_killed_at_random_moments_ends_the_same(
    tmp_path: Path, uninterrupted: Any, sections: dict[str, Any]
) -> None:
    slow = {"task": {"delay": 0.05}, "rounds": 6}
    recipe, out = written(tmp_path / "recipe.json", **slow, **sections), tmp_path / "run"
    draw = generator(0, "moments", str(sections))
    died = 0
    for _ in range(6):
        running = process(recipe, out)
        rounds = int(draw.integers(1, 5))
        while ended_within(running, 0.02) is None and lines_of(out) < rounds:
            pass
        if ended_within(running, float(draw.uniform(0.0, 0.2))) is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            died += 1
    finish(recipe, out)
    assert died >= 3
    found = outcome(out)
    assert found[0]["state_digest"] == uninterrupted[0]["state_digest"]
    drop = {"commit"}  # the delay is part of the recipe, and so of every commit
    totals = [
        [{k: v for k, v in line.items() if k not in drop} for line in one[1]]
        for one in (found, uninterrupted)
    ]
    assert totals[0] == totals[1]
