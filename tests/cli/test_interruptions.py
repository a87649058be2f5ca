"""What a user sees when a run stops half-way, and how it goes on; in processes of their own."""

from __future__ import annotations

import json
import resource
import shlex
import signal
from pathlib import Path

import pytest
from tests.cli.calls import finish, start, write_recipe


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_says_how_to_go_on_and_the_result_is_the_same(tmp_path: Path, workers: int) -> None:
    slow = write_recipe(tmp_path / "slow.toml", rounds=6, task={"delay": 0.05}, run={"workers": workers})
    whole = finish(start("build", slow, "--out", tmp_path / "whole", "--json"))
    assert whole.code == 0, whole.err

    run = tmp_path / "run"
    process = start("build", slow, "--out", run, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "round 1 of 6" in line:
            break
    process.send_signal(signal.SIGINT)
    said = finish(process)
    assert said.code == 130, said.err
    assert "Traceback" not in said.err
    note = said.err.splitlines()[-1]
    assert note == f"interrupted; go on with: phloem build --resume {shlex.quote(str(run))}"

    again = finish(start("build", "--resume", run, "--json"))
    assert again.code == 0, again.err
    assert json.loads(again.out)["state_digest"] == json.loads(whole.out)["state_digest"]


def test_an_interrupted_baseline_goes_on_with_compare(tmp_path: Path) -> None:
    slow = write_recipe(tmp_path / "slow.toml", rounds=3, task={"delay": 0.03})
    run = tmp_path / "run"
    process = start("build", slow, "--out", run, "--compare", start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "uncompressed fp32: round 1 of 3" in line:
            break
    process.send_signal(signal.SIGINT)
    said = finish(process)
    assert said.code == 130, said.err
    assert said.err.splitlines()[-1].endswith(f"--resume {shlex.quote(str(run))} --compare")

    again = finish(start("build", "--resume", run, "--compare", "--json"))
    assert again.code == 0, again.err
    assert set(json.loads(again.out)["compare"]) == {"fp32", "bf16"}


def test_a_full_disk_is_one_error_and_the_run_goes_on_later(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", rounds=6)
    whole = finish(start("build", recipe, "--out", tmp_path / "whole", "--json"))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))

    run = tmp_path / "run"
    said = finish(start("build", recipe, "--out", run, preexec_fn=limit))
    assert said.code == 1, said.err
    assert said.out == ""
    assert len(said.errors) == 1
    assert "Traceback" not in said.err

    again = finish(start("build", "--resume", run, "--json"))
    assert again.code == 0, again.err
    assert json.loads(again.out)["state_digest"] == json.loads(whole.out)["state_digest"]


def test_a_worker_that_dies_is_one_error(tmp_path: Path) -> None:
    task = {"dying_site": "site-1", "fault_from": 1}
    recipe = write_recipe(tmp_path / "dying.toml", task=task, run={"workers": 2})
    said = finish(start("build", recipe, "--out", tmp_path / "run"))
    assert (said.code, said.out) == (1, "")
    assert len(said.errors) == 1
    assert "site-1" in said.errors[0]
    assert "Traceback" not in said.err


def test_whoever_stops_reading_the_json_is_not_complained_to(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", rounds=2)
    process = start("build", recipe, "--out", tmp_path / "run", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0, err
    assert "Traceback" not in err
