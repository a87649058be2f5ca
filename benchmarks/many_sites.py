"""Memory and seconds of one machine that plays very many sites: residuals in memory, and on disk.

    python benchmarks/many_sites.py                   10, 100 and 1,000 sites, both ways; writes results/many_sites.json
    python benchmarks/many_sites.py --sites 1000      one size

Every run is a process of its own; its memory is the kernel's high-water mark (VmHWM). The model has 151,306
parameters. Data are generated: every site has 16 images of its own noise, so the figures say nothing of learning.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import phloem
from measuring import write
from phloem.seeds import generator
from phloem.tasks import Metric
from phloem.tensors import State

HIDDEN, INPUTS, CLASSES = 744, 192, 10  # 151,042 parameters
EXAMPLES = 16


class Generated:
    """A two-layer network on generated data, one step of gradient descent per round."""

    metric = Metric("loss", higher_is_better=False)

    def __init__(self, sites: Sequence[str], seed: int) -> None:
        self.seed = seed

    def initial_state(self, seed: int) -> State:
        draw = generator(seed, "weights")
        return {
            "first.weight": draw.normal(0, 0.05, (HIDDEN, INPUTS)).astype(np.float32),
            "first.bias": np.zeros(HIDDEN, np.float32),
            "second.weight": draw.normal(0, 0.05, (CLASSES, HIDDEN)).astype(np.float32),
            "second.bias": np.zeros(CLASSES, np.float32),
        }

    def shard(self, site: str) -> dict[str, Any]:
        return {"site": site}  # drawn when it is needed, so that data do not count as memory

    def train(
        self, state: State, shard: dict[str, Any], memory: Any, seed: int
    ) -> tuple[State, Any, int, Mapping[str, float]]:
        loss, steps = self._loss_and_steps(state, shard["site"])
        return (
            {name: state[name] - np.float32(0.1) * steps[name] for name in state},
            {},
            EXAMPLES,
            {"loss": loss},
        )

    def evaluate(self, state: State, part: str) -> Mapping[str, float]:
        return {"loss": self._loss_and_steps(state, part)[0]}

    def _loss_and_steps(self, state: State, label: str) -> tuple[float, State]:
        draw = generator(self.seed, "examples", label)
        y = draw.integers(CLASSES, size=EXAMPLES)
        x = (draw.normal(size=(EXAMPLES, INPUTS)) + np.eye(CLASSES, INPUTS)[y] * 4).astype(np.float32)
        hidden = np.maximum(x @ state["first.weight"].T + state["first.bias"], 0)
        scores = hidden @ state["second.weight"].T + state["second.bias"]
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        loss = -float(np.log(shares[np.arange(EXAMPLES), y]).mean())
        shares[np.arange(EXAMPLES), y] -= 1
        shares /= EXAMPLES
        back = (shares @ state["second.weight"]) * (hidden > 0)
        return loss, {
            "first.weight": back.T @ x,
            "first.bias": back.sum(axis=0),
            "second.weight": shares.T @ hidden,
            "second.bias": shares.sum(axis=0),
        }


def one(sites: int, residuals: str, rounds: int, participation: float) -> dict[str, Any]:
    """One run in this process."""
    recipe = {
        "name": "many-sites",
        "task": {"name": "many_sites:Generated"},
        "sites": {"count": sites, "participation": participation},
        "rounds": {"max": rounds},
        "up": {"bits": 0.05},
        "down": {"bits": 0.1},
        "run": {"residuals": residuals, "keep_updates": False},
    }
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        run = phloem.build(recipe, out=Path(scratch) / "run")
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "sites": sites,
        "residuals": residuals,
        "parameters": run.summary["parameters"],
        "rounds": rounds,
        "peak_mb": round(peak / 1024, 1),
        "seconds_per_round": round((time.perf_counter() - started) / rounds, 2),
        "state_digest": run.summary["state_digest"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--participation", type=float, default=1.0)
    parser.add_argument(
        "--alone", metavar="RESIDUALS", help="one run in this process, as JSON (used by the others)"
    )
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(one(given.sites[0], given.alone, given.rounds, given.participation)))
        return
    rows = []
    for sites in given.sites:
        for residuals in ("memory", "disk"):
            child = [sys.executable, __file__, "--sites", str(sites), "--alone", residuals]
            child += ["--rounds", str(given.rounds), "--participation", str(given.participation)]
            done = subprocess.run(
                child, cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True, text=True
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(
                "{sites:6d} sites  {residuals:7s} {peak_mb:8.1f} MB  {seconds_per_round:6.2f} s/round".format(
                    **rows[-1]
                )
            )
    command = f"python benchmarks/many_sites.py --rounds {given.rounds} --participation {given.participation}"
    write("many_sites", command, {"rounds": given.rounds, "participation": given.participation, "rows": rows})


if __name__ == "__main__":
    main()
