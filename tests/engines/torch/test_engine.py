"""`phloem build --engine torch`: real ranks against the local engine; and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from tests.tiny import ROOT, table

import phloem
from phloem.cli.main import main
from phloem.errors import ConfigError
from phloem.job.record import read_summary
from phloem.ui.recipe_text import recipe_text

MEASURED = {"train_seconds", "codec_seconds", "choice_seconds", "wall_seconds", "ranks"}
PHLOEM = ["-m", "phloem.cli.main"]
FAULTS: dict[str, Any] = {
    "count": 5,
    "rounds": 6,
    "sites": {"participation": 0.7, "dropout": 0.2, "late": 0.2},
    "server": {"name": "nesterov", "learning_rate": 0.7},
    "task": {"nan_site": "site-1", "fault_from": 2},
    "run": {"residuals": "disk", "snapshot_every": 2},
}
AUTO: dict[str, Any] = {
    "compress": "auto",
    "count": 5,
    "rounds": 8,
    "sites": {"participation": 0.8, "dropout": 0.1},
    "task": {"features": 400, "rate": 0.002},
    "link": {"up": "1mbit", "down": "5mbit", "trace": "cellular-3g"},
    "links": {"site-2": {"up": "10kbit"}},
}
LONG: dict[str, Any] = {  # so long that a round without training pays
    "compress": "auto",
    "count": 5,
    "rounds": 5,
    "task": {"features": 9_000, "rate": 0.0001},
    "link": {"up": "1gbit", "down": "1gbit", "latency": "1ms", "train_seconds": 2.0},
    "run": {"snapshot_every": 2},
}
PRUNED: dict[str, Any] = {
    "count": 2,
    "task": {"features": 30},
    "prune": {"sparsity": 0.7, "begin": 1, "end": 3, "every": 1, "regrow": 0.2},
    "later": [{"round": 2, "up": {"codec": "bf16"}, "down": {"codec": "bf16"}}],
    "rounds": 5,
}


def written(folder: Path, **sections: Any) -> Path:
    path = folder / "recipe.toml"
    path.write_text(recipe_text(table(**sections)), encoding="utf-8")
    return path


def outcome(root: Path, *, but: Sequence[str] = ()) -> Any:
    """What two runs must have in common to the bit."""
    left_out = MEASURED | set(but)
    summary = {key: value for key, value in read_summary(root).items() if key not in left_out}
    lines = [json.loads(line) for line in (root / "rounds.jsonl").read_text().splitlines()]
    rounds = [{key: value for key, value in line.items() if key not in left_out} for line in lines]
    assert not (root / "private").exists()
    assert not list(root.rglob(".*")), "something was left half-written"
    return summary, rounds, (root / "model.safetensors").read_bytes()


@dataclass(frozen=True)
class Ended:
    """How a rank's process ended."""

    code: int
    err: str


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


class Ranks:
    """Processes that are ranks without torchrun, so that nobody ends them when one has ended."""

    def __init__(self, calls: Sequence[Sequence[object]], folders: Sequence[Path]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        where = {"WORLD_SIZE": str(len(calls)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, *map(str, call)],
                cwd=folder,
                env=environment(RANK=str(rank), **where),
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, (call, folder) in enumerate(zip(calls, folders, strict=True))
        ]

    def ended(self, seconds: float = 120.0) -> list[Ended]:
        """How they ended, in the order of ranks."""
        try:
            said = [process.communicate(timeout=seconds)[1] for process in self.processes]
            return [Ended(p.returncode, err) for p, err in zip(self.processes, said, strict=True)]
        finally:
            for process in self.processes:
                process.kill()

    def kill(self, rank: int, root: Path, rounds: int) -> list[Ended]:
        """Kills a rank once the run has so many rounds; how all of them ended."""
        while lines_of(root) < rounds:
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self.processes[0].wait(timeout=0.02) is None, self.ended()
        self.processes[rank].send_signal(signal.SIGKILL)
        return self.ended(20.0)


def lines_of(root: Path) -> int:
    path = root / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def build(*words: object) -> list[object]:
    """The words of one rank's call."""
    return [*PHLOEM, "build", *words, "--engine", "torch"]


def at_ranks(count: int, *words: object, cwd: Path) -> list[Ended]:
    """The same call at each of these ranks."""
    return Ranks([build(*words)] * count, [cwd] * count).ended()


def under_torchrun(count: int, *words: object, cwd: Path) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "--no-python"]
    return subprocess.Popen(
        [sys.executable, *launcher, sys.executable, *map(str, build(*words))],
        cwd=cwd,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


# -- in this process -------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """This process is the only rank."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("sections", [FAULTS, PRUNED, AUTO, LONG], ids=["faults", "pruned", "auto", "long"])
def test_one_rank_gives_the_result_of_the_local_engine(sections: dict[str, Any], tmp_path: Path) -> None:
    local = phloem.build(table(**sections), out=tmp_path / "local")
    run = phloem.build(table(**sections), out=tmp_path / "run", engine="torch")
    assert outcome(run.path) == outcome(local.path)
    (rank,) = run.summary["ranks"]
    assert (rank["sites"], rank["sent_bytes"]) == ([*run.summary["sites"]], 0)


def test_without_a_group_the_engine_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"torch.distributed is not started"):
        phloem.build(table(), out=tmp_path / "run", engine="torch")
    assert not (tmp_path / "run").exists()


def test_without_torchrun_the_command_shows_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as left:
        main(["build", str(written(tmp_path)), "--engine", "torch", "--out", str(tmp_path / "run")])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "error: --engine torch runs under torchrun: RANK is not set" in said
    assert "hint: torchrun --nproc-per-node 4 --no-python phloem build RECIPE.toml --engine torch" in said


# -- ranks as processes ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("sections", [FAULTS, AUTO, LONG], ids=["faults", "auto", "long"])
def test_under_torchrun_the_ranks_give_the_result_of_the_local_engine(
    count: int, sections: dict[str, Any], tmp_path: Path
) -> None:
    recipe = written(tmp_path, **sections)
    local = phloem.build(recipe, out=tmp_path / "local")
    with under_torchrun(count, recipe, "--out", "run", cwd=tmp_path) as process:
        _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert outcome(tmp_path / "run") == outcome(local.path)
    last = sections["rounds"]
    assert said.count(f"round {last} of {last}") == 1, "one rank tells"
    rows = read_summary(tmp_path / "run")["ranks"]
    assert [row["sites"] for row in rows] == [[f"site-{n}" for n in range(r, 5, count)] for r in range(count)]
    assert sum(row["sent_bytes"] for row in rows) >= sum(row["received_bytes"] for row in rows) > 0


@pytest.mark.slow
def test_more_ranks_than_sites_give_the_same_result_and_the_ledger_holds(tmp_path: Path) -> None:
    large = {
        "task": {"features": 12_000, "rate": 0.001},
        "up": {"codec": "none"},
    }  # messages of more than one part
    recipe = written(tmp_path, **{**PRUNED, **large}, ledger={"receipts": "lagged 2"})
    local = phloem.build(recipe, out=tmp_path / "local")
    ended = at_ranks(3, recipe, "--out", "run", cwd=tmp_path)
    assert [one.code for one in ended] == [0, 0, 0], ended
    assert outcome(tmp_path / "run", but=["ledger"]) == outcome(local.path, but=["ledger"])
    with pytest.raises(SystemExit) as left:
        main(["ledger", "audit", str(tmp_path / "run"), "--replay"])
    assert left.value.code == 0


@pytest.mark.slow
def test_killed_ranks_are_named_and_the_run_goes_on_with_any_number_of_ranks_and_engine(
    tmp_path: Path,
) -> None:
    recipe = written(tmp_path, **{**FAULTS, "task": {"delay": 0.2}, "rounds": 9})
    local = phloem.build(recipe, out=tmp_path / "local")
    root = tmp_path / "run"
    ended = Ranks([build(recipe, "--out", root)] * 3, [tmp_path] * 3).kill(2, root, 3)
    assert [one.code for one in ended] == [1, 1, -signal.SIGKILL]
    assert re.search(r"error: rank 0: rank [12] is gone", ended[0].err)
    assert f"hint: go on with --resume {root} once" in ended[0].err
    assert ended[1].err.count("\n") == 1
    assert re.match(r"error: rank 1: rank [02] is gone", ended[1].err)
    ended = Ranks([build("--resume", root)] * 2, [tmp_path] * 2).kill(0, root, 5)
    assert [one.code for one in ended] == [-signal.SIGKILL, 1]
    assert "rank 1: rank 0 is gone" in ended[1].err
    assert lines_of(root) < 9
    phloem.build(resume=root, changes=["rounds.max=9"])
    assert outcome(root) == outcome(local.path)


@pytest.mark.slow
def test_torchrun_leaves_a_rank_time_to_name_the_one_that_was_killed(tmp_path: Path) -> None:
    recipe, root = written(tmp_path, rounds=50, task={"delay": 0.3}), tmp_path / "run"
    with under_torchrun(2, recipe, "--out", root, cwd=tmp_path) as process:
        while lines_of(root) < 1:
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert process.wait(timeout=0.02) is None
        os.kill(pid_of(1, str(root)), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "error: rank 0: rank 1 is gone" in said
    assert f"go on with --resume {root}" in said


def pid_of(rank: int, word: str) -> int:
    """The process of a rank whose call has this word."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (path / "environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in variables and word.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    (pid,) = found
    return pid


@pytest.mark.slow
def test_a_local_run_goes_on_at_ranks(tmp_path: Path) -> None:
    recipe = written(tmp_path, **FAULTS)
    local = phloem.build(recipe, out=tmp_path / "local")

    class Enough(phloem.job.watch.Unwatched):
        def round(self, record: Any) -> None:
            if record.round == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phloem.build(recipe, out=tmp_path / "run", watch=Enough())
    ended = at_ranks(2, "--resume", "run", cwd=tmp_path)
    assert [one.code for one in ended] == [0, 0], ended
    assert outcome(tmp_path / "run") == outcome(local.path)
    again = at_ranks(2, "--resume", "run", cwd=tmp_path)
    assert [one.code for one in again] == [0, 0]
    assert "was finished before" in again[0].err


@pytest.mark.slow
def test_sites_move_between_machines_and_bring_what_they_own(tmp_path: Path) -> None:
    """Each rank has a folder of its own, as on a machine of its own."""
    recipe = written(tmp_path, **{**FAULTS, "task": {"delay": 0.2}, "rounds": 9, "run": {}})
    local = phloem.build(recipe, out=tmp_path / "local")
    hosts = [tmp_path / f"host {n}" for n in range(3)]
    for host in hosts:
        host.mkdir()
    ended = Ranks([build(recipe, "--out", "run")] * 3, hosts).kill(1, hosts[0] / "run", 7)
    assert [one.code for one in ended] == [1, -signal.SIGKILL, 1]
    assert len(list((hosts[2] / "run" / "private" / "objects").glob("*/*"))) <= 8, "old snapshots stay"
    ended = Ranks([build("--resume", "run")] * 2, [hosts[0], tmp_path]).ended()
    assert [one.code for one in ended] == [1, 1]
    assert re.search(r"blob [0-9a-f]{12} of the snapshot is at no rank", ended[0].err)
    others = [hosts[0], hosts[2], hosts[1], tmp_path]
    ended = Ranks([build("--resume", "run")] * 4, others).ended()
    assert [one.code for one in ended] == [0, 0, 0, 0], ended
    assert outcome(hosts[0] / "run") == outcome(local.path)
    assert [host for host in (*hosts[1:], tmp_path) if (host / "run").exists()] == []


@pytest.mark.slow
def test_keys_for_the_ledger_do_not_move_between_machines(tmp_path: Path) -> None:
    ledger = {"receipts": "lagged 2"}
    recipe = written(tmp_path, count=2, rounds=6, task={"delay": 0.2}, ledger=ledger)
    local = phloem.build(recipe, out=tmp_path / "local")
    hosts = [tmp_path / f"host {n}" for n in range(3)]
    for host in hosts:
        host.mkdir()
    Ranks([build(recipe, "--out", "run")] * 2, hosts[:2]).kill(0, hosts[0] / "run", 2)
    again = build("--resume", "run")
    ended = Ranks([again] * 3, [hosts[0], hosts[2], hosts[1]]).ended()
    assert [one.code for one in ended] == [2, 2, 2], ended
    for one in ended:
        assert "site 'site-1' is at rank 1 now, and its key is at rank 2" in one.err
    ended = Ranks([again] * 2, hosts[:2]).ended()
    assert [one.code for one in ended] == [0, 0], ended
    found, wanted = read_summary(hosts[0] / "run"), local.summary  # notices are of other sizes after a break
    assert [found[key] for key in ("commit", "bytes_up")] == [wanted[key] for key in ("commit", "bytes_up")]


@pytest.mark.slow
def test_a_rank_that_is_too_slow_is_named(tmp_path: Path) -> None:
    recipe = written(tmp_path, count=1, task={"delay": 300.0})  # all of it at rank 0
    slow, quick = build(recipe, "--out", "run"), [*build(recipe, "--out", "run"), "--timeout-seconds", 20]
    processes = Ranks([slow, quick], [tmp_path] * 2)
    assert processes.processes[1].wait(120) == 1
    processes.processes[0].send_signal(signal.SIGINT)
    ended = processes.ended()
    assert re.match(r"error: rank 1: rank 0 sent nothing \(20\.\d s waited\)\n", ended[1].err)


WRONG = """
import sys
from phloem.cli.main import main
from phloem.job import following

merge = following.merge

def forgetful(coordinator, schedule, asked, messages, receive):
    if coordinator.round == 2:
        messages = dict(list(messages.items())[1:])
    return merge(coordinator, schedule, asked, messages, receive)

following.merge = forgetful
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_rank_that_merges_something_else_ends_the_run_by_name_and_round(tmp_path: Path) -> None:
    recipe, right = written(tmp_path), build("recipe.toml", "--out", "run")
    ended = Ranks([right, right, ["-c", WRONG, *right[2:]]], [tmp_path] * 3).ended()
    assert [one.code for one in ended] == [1, 1, 1], recipe
    for one in ended:
        assert "rank 2 merged round 2 to the trunk" in one.err
    assert [one.err.count("\n") for one in ended[1:]] == [1, 1]


@pytest.mark.slow
def test_ranks_with_another_recipe_or_none_end_the_run_before_it_begins(tmp_path: Path) -> None:
    written(tmp_path)
    here, there = (
        build("recipe.toml", "--out", "run"),
        build("recipe.toml", "--set", "seed=7", "--out", "run"),
    )
    ended = Ranks([here, there], [tmp_path] * 2).ended()
    assert [one.code for one in ended] == [2, 2]
    for one in ended:
        assert re.search("the ranks disagree about the run: the recipe's digest is .* at rank 1", one.err)
    (tmp_path / "empty").mkdir()
    ended = Ranks([here, here], [tmp_path, tmp_path / "empty"]).ended()
    assert [one.code for one in ended] == [2, 2]
    for one in ended:
        assert one.err.startswith("error: rank 1: "), one.err
        assert "recipe.toml" in one.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_fails_at_one_rank_is_told_at_every_rank(tmp_path: Path) -> None:
    recipe = written(tmp_path, task={"bad_shape_site": "site-1", "fault_from": 1})
    ended = at_ranks(2, recipe, "--out", "run", cwd=tmp_path)
    assert [one.code for one in ended] == [2, 2]
    for one in ended:
        assert "error: rank 1: site 'site-1' trained a model of another shape" in one.err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    ended = at_ranks(2, recipe, "--out", "taken", cwd=tmp_path)
    assert [one.code for one in ended] == [2, 2]
    assert "error: taken is not empty" in ended[0].err
    assert ended[1].err == "error: rank 1: taken is not empty\n"


@pytest.mark.slow
def test_comparisons_and_branches_are_rank_0s(tmp_path: Path) -> None:
    recipe = written(tmp_path, rounds=2)
    main_of = [sys.executable, *PHLOEM]
    subprocess.run([*main_of, "init"], cwd=tmp_path, env=environment(), check=True, capture_output=True)
    ended = at_ranks(2, recipe, "--out", "run", "--compare", "--branch", "trunk", cwd=tmp_path)
    assert [one.code for one in ended] == [0, 0], ended
    summary = read_summary(tmp_path / "run")
    assert set(summary["compare"]) == {"fp32", "bf16"}
    assert len(summary["ranks"]) == 2
    told = subprocess.run(
        [*main_of, "log"], cwd=tmp_path, env=environment(), check=True, capture_output=True, text=True
    )
    assert told.stdout.count("tiny: round") == 2
