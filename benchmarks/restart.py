"""A run that is killed at four ranks and goes on at two: does it end with the loss that it would have had?

python benchmarks/restart.py

The code LM, four sites, `--engine torch` under torchrun with real processes, all killed (SIGKILL) once two of six
rounds are written; then resumed at two ranks, and at three. Beside it the same recipe in the local engine,
uninterrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import EXAMPLES, write

ROUNDS, KILLED_AFTER = 6, 2
SETTINGS = ["--set", f"rounds.max={ROUNDS}", "--set", "run.workers=0"]
MOST_SECONDS = 900.0


def under_torchrun(ranks: int, *words: object) -> subprocess.Popen[bytes]:
    """`phloem build --engine torch` at so many ranks, in a process group of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--no-python"]
    phloem = [sys.executable, "-m", "phloem.cli.main", "build", *map(str, words), "--engine", "torch"]
    return subprocess.Popen(
        [sys.executable, *launcher, *phloem],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def killed(root: Path) -> int:
    """Starts the run at four ranks and kills all of them after some rounds; the rounds that it then had."""
    running = under_torchrun(4, EXAMPLES / "code-lm.toml", *SETTINGS, "--out", root)
    rounds, end = root / "rounds.jsonl", time.monotonic() + MOST_SECONDS
    while not rounds.exists() or rounds.read_bytes().count(b"\n") < KILLED_AFTER:
        assert running.poll() is None, "the ranks ended before they were killed"
        assert time.monotonic() < end, "the ranks took too long"
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    subprocess.run(["pkill", "-KILL", "-f", str(root)], check=False)  # ranks have sessions of their own
    return rounds.read_bytes().count(b"\n")


def outcome(root: Path) -> dict[str, Any]:
    """Loss, test loss and digest of a finished run."""
    summary = json.loads((root / "summary.json").read_text("utf-8"))
    return {
        "loss": summary["metric"]["value"],
        "test_loss": summary["test"]["loss"],
        "state_digest": summary["state_digest"],
        "total_bytes": summary["total_bytes"],
    }


def main() -> None:
    """Runs it and writes the result."""
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "local"
        words = [sys.executable, "-m", "phloem.cli.main", "build", str(EXAMPLES / "code-lm.toml"), *SETTINGS]
        subprocess.run([*words, "--out", str(local)], check=True, capture_output=True)
        torn = Path(scratch) / "torn"
        had = killed(torn)
        found = {"local, uninterrupted": outcome(local)}
        for ranks in (2, 3):
            again = Path(scratch) / f"again-{ranks}"
            shutil.copytree(torn, again)
            assert under_torchrun(ranks, "--resume", again).wait(MOST_SECONDS) == 0
            found[f"killed at 4 ranks after {had} rounds, resumed at {ranks}"] = outcome(again)
    equal = len({json.dumps(row, sort_keys=True) for row in found.values()}) == 1
    for name, row in found.items():
        print(name, row, file=sys.stderr)
    print("equal to the bit" if equal else "NOT EQUAL", file=sys.stderr)
    write("restart", "python benchmarks/restart.py", {"rounds": ROUNDS, "equal": equal, "runs": found})


if __name__ == "__main__":
    main()
