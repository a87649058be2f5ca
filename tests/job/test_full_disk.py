"""A disk that is full: one sentence, and with space the run goes on to the same end."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny import ROOT, table

import phloem
from phloem.errors import StoreError

ROUNDS = 8


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the run where the disk is large enough."""
    run = phloem.build(table(rounds=ROUNDS), out=tmp_path_factory.mktemp("large") / "run")
    return str(run.summary["commit"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_full_disk_is_one_sentence_and_with_space_the_run_ends_the_same(
    small_disk: Path, wanted: str
) -> None:
    """The disk grows by a few pages at a time, so that it is full at many different moments."""
    out, found = small_disk / "run", list[StoreError]()
    for size in range(60, 400, 12):
        resize(small_disk, f"{size}k")
        where = {"resume": out} if (out / "run.json").exists() else {"out": out}
        try:
            phloem.build(table(rounds=ROUNDS), **where)
        except StoreError as error:
            found.append(error)
        else:
            break
    resize(small_disk, "4m")
    run = phloem.build(table(rounds=ROUNDS), resume=out)
    assert len({error.message for error in found}) > 2
    for error in found:
        assert "\n" not in str(error)
        assert "No space left on device" in error.message
        assert "free some space" in (error.hint or "")
    assert run.summary["commit"] == wanted
    assert len(json.loads(json.dumps(run.summary))["sites"]) == 3
    halves = list(out.rglob(".*"))
    assert halves == []


def test_a_file_that_may_not_grow_is_one_sentence_and_without_the_limit_the_run_ends_the_same(
    tmp_path: Path, wanted: str
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(table(rounds=ROUNDS)))
    command = [sys.executable, "-m", "tests.tiny", str(tmp_path / "recipe.json"), str(tmp_path / "run")]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("phloem.errors.StoreError: ")
    assert "File too large" in last
    run = phloem.build(table(rounds=ROUNDS), resume=tmp_path / "run")
    assert run.summary["commit"] == wanted
