"""Ten thousand commits on one branch: any of them restored, what they take, and how fast their history is looked at.

The commits are drawn rounds (`branches_models.py`) of 0.05 bits each, made by what commits a run's rounds, with
key-frames where it puts them. Restoring goes through a reader of 500 MB/s, as in `branches_time.py`, and is divided
by reading the whole file through it. Each commit is restored once before it is timed: the page cache has its frames
then, so that the reader alone sets the pace, not the disk of this machine. The costliest chain is the one that the
planner of chains thinks costliest of all commits. `log`, `branch` and `status` run as the command does: in this
process, and as processes of their own, beside `phloem --version`, which is what starting Python takes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from branches_disk import sizes
from branches_line import Line, step_for
from branches_models import Shapes, Training, initial, say
from branches_reader import RATE, Reader, read_file, throttled
from branches_time import restore, seconds
from measuring import spread
from phloem.branches import chains
from phloem.branches.repository import Repository
from phloem.cli.main import main as command

BITS = 0.05
CALLS = {
    "log": ["log"],
    "log -n 20": ["log", "-n", "20"],
    "log --graph": ["log", "--graph"],
    "branch": ["branch"],
    "status": ["status"],
}
TIMES = 5


def measure(scratch: Path, shapes: Shapes, count: int, picked: int) -> dict[str, Any]:
    """All of it."""
    started = time.perf_counter()
    repo = Repository.create(scratch / ".phloem")
    training = Training(shapes)
    line = Line(repo, initial(shapes), training, step_for(training, BITS))
    frames, took = [], []
    for number in range(count):
        took.append(seconds(lambda: frames.append(line.next())))
        if number % 1000 == 999:
            say(
                f"history: {number + 1} commits, {1000 * statistics.fmean(took[-1000:]):.0f} ms each", started
            )
    answer: dict[str, Any] = {
        "parameters": training.layout.size,
        "tensors": len(training.layout.specs),
        "file_bytes": 4 * training.layout.size,
        "commits": count,
        "frame_bits": 8 * statistics.fmean(frames) / training.layout.size,
        "making_seconds": sum(took),
        "commit_ms": pace(took),
        "bytes": sizes(repo),
        "restored": restored(repo, scratch, picked),
    }
    repo.close()
    say("history: restored", started)
    answer["looked_at"] = looked_at(scratch)
    say("history: looked at", started)
    return answer


def pace(took: list[float]) -> dict[str, Any]:
    """Milliseconds a commit, around the tenth and around the tenth before the last, and of all."""
    ms = [1000 * one for one in took]
    around = min(10, len(ms) // 2)
    return {
        "at the beginning": spread(ms[: 2 * around]),
        "at the end": spread(ms[-2 * around :]),
        "all": spread(ms),
        "mean": statistics.fmean(ms),
    }


def restored(repo: Repository, scratch: Path, picked: int) -> dict[str, Any]:
    """Some commits restored, and the costliest, in times of reading the file."""
    state = repo.restored("trunk")
    memory = {spec.name: np.zeros(4 * spec.size, np.uint8) for spec in state.contents.specs}
    model = scratch / "model.safetensors"
    repo.checkout("trunk", model)
    whole = bytearray(model.stat().st_size)
    theirs = spread([seconds(lambda: read_file(model, whole, Reader())) for _ in range(2 * TIMES + 1)])
    entries = list(repo.log("trunk"))
    costs = [
        (chains.times_reading(chains.cheapest(one.state, state.size, repo.objects.encodings), state.size), n)
        for n, one in enumerate(entries)
    ]
    worst = max(costs)[1]
    chosen = np.random.default_rng(0).choice(len(entries), min(picked, len(entries)), replace=False)
    rows = []
    for place in [*sorted(map(int, chosen)), worst]:
        digest = entries[place].digest
        restore(repo, digest, memory)
        before = time.process_time()
        with throttled() as reader:
            took = seconds(lambda digest=digest: restore(repo, digest, memory))
        used = time.process_time() - before
        before = time.process_time()
        opening = seconds(lambda digest=digest: repo.restored(digest))
        rows.append(
            {
                "commit": len(entries) - 1 - place,
                "chain": len(repo.restored(digest).chain),
                "seconds": took,
                "cpu_seconds": used,
                "times": took / theirs["median"],
                "read_bytes": reader.taken,
                "opening_seconds": opening,
                "opening_cpu_seconds": time.process_time() - before,
                "planned_times": costs[place][0],
            }
        )
    of = [row["times"] for row in rows[:-1]]
    return {
        "bytes_per_second": RATE,
        "reading the file": theirs,
        "times": {**spread(of), "within 2": sum(one <= 2 for one in of)},
        "chain": spread([row["chain"] for row in rows[:-1]]),
        "opening": spread([row["opening_seconds"] for row in rows[:-1]]),
        "of all cores": spread([row["cpu_seconds"] for row in rows[:-1]]),
        "costliest": rows[-1],
        "worst": max(rows, key=lambda row: row["times"]),
        "rows": rows,
    }


def looked_at(scratch: Path) -> dict[str, Any]:
    """Seconds of looking at the history, in this process and in one of its own."""
    phloem = str(Path(sys.executable).with_name("phloem"))
    where = ["--repo", str(scratch / ".phloem")]

    def process(words: list[str]) -> dict[str, Any]:
        call = [phloem, *words]
        before = _used()
        took = _five(lambda: seconds(lambda: subprocess.run(call, check=True, stdout=subprocess.DEVNULL)))
        return {"process": took, "process, of all cores": (_used() - before) / (TIMES + 1)}

    found: dict[str, Any] = {"phloem --version": process(["--version"])}
    for name, words in CALLS.items():
        try:
            here = _five(lambda words=words: _here([*words, *where]))
            found[name] = {"here": here, **process([*words, *where])}
        except (SystemExit, subprocess.CalledProcessError, NotImplementedError) as error:
            found[name] = {"missing": f"{type(error).__name__}: {error}"}
    return found


def _used() -> float:
    """Seconds of processors that processes took which are over."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _five(call: Callable[[], float]) -> dict[str, float]:
    call()
    return spread([call() for _ in range(TIMES)])


def _here(words: list[str]) -> float:
    def run() -> None:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            try:
                command(words)
            except SystemExit as end:
                if end.code:
                    raise

    return seconds(run)
