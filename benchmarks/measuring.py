"""What every benchmark shares: runs in a scratch directory, medians with spread, paired bounds, one JSON each."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import phloem
from phloem.job.record import versions
from phloem.kernels import backend_name
from phloem.recipe import Recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results"
EXAMPLES = HERE.parent / "examples"

# two-sided 95 % quantiles of Student's t, by degrees of freedom (Abramowitz and Stegun, table 26.10)
_T95 = {4: 2.776, 9: 2.262, 19: 2.093, 24: 2.064, 29: 2.045, 39: 2.023, 59: 2.001}


def run(recipe: Recipe, label: str) -> dict[str, Any]:
    """One run's summary, with `curve`: (round, metric, total bytes) after every round."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        finished = phloem.build(recipe, out=Path(scratch) / "run")
    curve = [[r.round + 1, r.metric, r.total_bytes] for r in finished.records]
    summary = finished.summary
    metric = summary["metric"]
    print(
        f"{label:44s} {metric['name']} {metric['value']:.4f}  test {summary['test'][metric['name']]:.4f}  "
        f"rounds {summary['rounds']:4d}  to target {summary['rounds_to_target']}  "
        f"MB {summary['total_bytes'] / 1e6:9.3f}  {time.perf_counter() - started:5.1f} s",
        file=sys.stderr,
        flush=True,
    )
    return {**summary, "curve": curve}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def paired(differences: Sequence[float]) -> dict[str, float]:
    """Mean of paired differences with its two-sided 95 % interval (Student's t)."""
    n = len(differences)
    mean = statistics.fmean(differences)
    half = _t95(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def _t95(freedom: int) -> float:
    return _T95[max(known for known in _T95 if known <= freedom)]


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def write(name: str, command: str, result: Mapping[str, Any]) -> None:
    """Puts `results/NAME.json` in place, with what a reader needs to judge it."""
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    document = {
        "command": command,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": versions(),
        "kernels": backend_name(),
        "commit": commit,
        **result,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(f"written: benchmarks/results/{name}.json", file=sys.stderr)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def quiet() -> None:
    """Leaves only warnings on the log."""
    logging.basicConfig(level=logging.WARNING)
