"""What a ledger costs: the eight hospitals with three witnesses, and a model whose updates are 2 MB.

    python benchmarks/ledger_hospitals.py

The witnesses are three processes of `phloem witness serve` on loopback, with their own keys and databases; two of them
must sign every checkpoint. The same run is made without a ledger, and with one under each rule, one after the other,
five times. Its time is what it took on this machine, all eight sites one after the other in one process: training and
codecs are a few milliseconds here, so that a ledger weighs as much as it ever can. Every run with a ledger is then
audited, with replay, and must come out valid.

`ms of the ledger a round` is what was spent inside the ledger's own functions, at the coordinator and at all sites
together: the difference of two runs' times is mostly noise. `share, sites at the same time` is what a ledger takes of a
round in a deployment: every site does an eighth of what all sites did here, the coordinator does what it did here, and
the bytes take their time on the recipe's lines.

The larger model has a million parameters, sent as bf16: its updates are 2 MB. It trains by nothing but noise, for
0.25 s a site, which is little for its size.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import phloem
from measuring import spread, write
from phloem.engines.local import LocalEngine
from phloem.ledger.book import Book
from phloem.ledger.party import Party
from phloem.recipe import Recipe, load_recipe
from phloem.tasks.base import Memory, Metric

EXAMPLES = Path(__file__).parents[1] / "examples"
RULES = ("none", "strict", "lagged 8", "audit-only")
PHLOEM = [sys.executable, "-m", "phloem.cli.main"]


class Noise:
    """A model of a million parameters that learns nothing, and takes a quarter of a second for it."""

    metric = Metric("accuracy")

    def __init__(self, sites: Any, seed: int) -> None:
        self.seed = seed

    def initial_state(self, seed: int) -> dict[str, Any]:
        """A million zeros."""
        return {"weight": np.zeros((1000, 1000), np.float32)}

    def shard(self, site: str) -> str:
        """Nothing but a name."""
        return site

    def train(self, state: Any, shard: str, memory: Memory, seed: int) -> Any:
        """Noise, after a while."""
        until = time.perf_counter() + 0.25
        draw = np.random.default_rng(seed)
        state = {name: array + draw.standard_normal(array.shape, np.float32) for name, array in state.items()}
        while time.perf_counter() < until:
            pass
        return state, memory, 10, {}

    def evaluate(self, state: Any, part: str) -> dict[str, float]:
        """Always the same."""
        return {"accuracy": 0.5}


@contextlib.contextmanager
def witnesses(folder: Path, count: int) -> Iterator[list[str]]:
    """So many witnesses at work; the lines that a recipe names them by."""
    log = subprocess.run(
        [*PHLOEM, "ledger", "init", str(folder / "log"), "--origin", "example.org/hospitals"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[1]
    lines, processes = [], []
    try:
        for n in range(count):
            root = folder / f"w{n}"
            said = subprocess.run(
                [*PHLOEM, "witness", "init", str(root), "--name", f"w{n}.example"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
            key = next(word for word in said if word.startswith(f"w{n}.example+"))
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            lines.append(f"w{n} {key} http://127.0.0.1:{port}")
            processes.append(
                subprocess.Popen(
                    [*PHLOEM, "witness", "serve", str(root), "--log", log, "--port", str(port)],
                    stderr=subprocess.DEVNULL,
                )
            )
            _wait_for(port)
        yield lines
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit("a witness did not start")


@contextlib.contextmanager
def clocked() -> Iterator[dict[type, float]]:
    """The seconds that the ledger takes at the coordinator and at the sites, and that sites take at all."""
    spent: dict[type, float] = {}
    kept = {}

    def timed(owner: type, function: Any) -> Any:
        @functools.wraps(function)
        def call(*words: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*words, **more)
            finally:
                spent[owner] += time.perf_counter() - started

        return call

    for owner, names in (
        (Book, ("opened", "heard", "received", "merged", "measured")),
        (Party, ("admit", "update", "word")),
        (LocalEngine, ("deliver",)),
    ):
        spent[owner] = 0.0
        for name in names:
            kept[owner, name] = getattr(owner, name)
            setattr(owner, name, timed(owner, kept[owner, name]))
    try:
        yield spent
    finally:
        for (owner, name), function in kept.items():
            setattr(owner, name, function)


def measure(recipe: Recipe, rule: str, folder: Path, seen: list[str]) -> dict[str, float]:
    """One run under a rule about receipts, and its audit."""
    table = recipe.to_json()
    table["ledger"] = None
    if rule != "none":
        table["ledger"] = {"receipts": rule, "witnesses": seen, "quorum": 2, "folder": str(folder / "log")}
    root = Path(tempfile.mkdtemp(dir=folder)) / "run"
    with clocked() as spent:
        run = phloem.build(table, out=root)
    rounds, summary = len(run.records), run.summary
    wall = sum(record.wall_seconds for record in run.records[1:]) / (rounds - 1)
    sites = len(recipe.sites.all)
    at_sites = spent[LocalEngine] / rounds
    together = at_sites / sites + max(0.0, wall - at_sites) + summary["seconds"] / rounds
    found = {
        "ms a round": 1000 * wall,
        "ms a round, sites at the same time, on its links": 1000 * together,
        "ms of the ledger a round, sites": 1000 * spent[Party] / rounds,
        "ms of the ledger a round, coordinator": 1000 * spent[Book] / rounds,
        "share of the ledger": (spent[Party] + spent[Book]) / rounds / wall,
        "share, sites at the same time": (spent[Party] / sites + spent[Book]) / rounds / together,
        "bytes a round": summary["total_bytes"] / rounds,
        "bytes of the ledger a round": sum(r.ledger_bytes for r in run.records) / rounds,
        "bytes of a frame": (summary["bytes_up"] + summary["bytes_down"])
        / max(1, sum(row.frames_up + row.frames_down for r in run.records for row in r.per_site.values())),
    }
    if rule != "none":
        started = time.perf_counter()
        done = subprocess.run(
            [*PHLOEM, "ledger", "audit", str(root), "--replay", "--json"], capture_output=True, text=True
        )
        audit = json.loads(done.stdout)
        if audit["verdict"] != "valid" or audit["rounds_replayed"] != rounds or done.returncode:
            raise SystemExit(f"the audit says {audit['verdict']}: {audit['findings'][:3]}")
        found["seconds to audit with replay"] = time.perf_counter() - started
        found["entries"] = float(summary["ledger"]["entries"])
    return found


def compared(recipe: Recipe, runs: int, what: str) -> dict[str, Any]:
    """The figures under every rule, and each against no ledger in the same run."""
    rows: dict[str, list[dict[str, float]]] = {rule: [] for rule in RULES}
    for number in range(runs):
        with tempfile.TemporaryDirectory() as scratch, witnesses(Path(scratch), 3) as seen:
            for rule in RULES:
                rows[rule].append(measure(recipe, rule, Path(scratch), seen))
        print(f"{what}: run {number + 1} of {runs} done", file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    for rule, all_ in rows.items():
        found[rule] = {key: spread([one[key] for one in all_]) for key in all_[0]}
        if rule != "none":
            for key in ("ms a round", "bytes a round"):
                shares = [one[key] / none[key] - 1 for one, none in zip(all_, rows["none"], strict=True)]
                found[rule][f"more {key}, share"] = spread(shares)
    return found


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    hospitals = load_recipe(EXAMPLES / "hospitals.toml")
    large = load_recipe(
        {
            "name": "large",
            "task": "ledger_hospitals:Noise",
            "sites": {"count": 8},
            "rounds": {"max": 6},
            "up": {"codec": "bf16"},
            "down": {"codec": "bf16"},
            "link": {"up": "10mbit", "down": "50mbit", "latency": "20ms"},
        }
    )
    result = {
        "hospitals": compared(hospitals, options.runs, "hospitals"),
        "updates of 2 MB": compared(large, options.runs, "updates of 2 MB"),
    }
    print(json.dumps(result, indent=1), file=sys.stderr)
    write("ledger-hospitals", f"python benchmarks/ledger_hospitals.py --runs {options.runs}", result)


if __name__ == "__main__":
    main()
