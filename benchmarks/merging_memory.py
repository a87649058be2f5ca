"""How much memory merges of many branches take, in tensors of the model: each in a process of its own.

The model has four tensors of 4.2 million parameters (16.8 MB), every branch changes all of them. What is measured is
how far the process's resident memory rises above what it is with the repository open, as the kernel has it (VmHWM).
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from measuring import spread
from merging_forest import Forest
from phloem.branches import advising, joining
from phloem.branches.repository import Repository
from phloem.seeds import generator

FEW, TENSORS, SHAPE, BITS = 8, 4, (2048, 2048), 0.05
TENSOR_BYTES = 4 * SHAPE[0] * SHAPE[1]
MERGES: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "ties": {"name": "ties", "density": 0.2},
    "median": {"name": "median"},
    "krum": {"name": "krum", "bad": 3},
    "advise": {},
}


def memory(branches: int, runs: int) -> dict[str, Any]:
    """Merges of many branches, each in a process of its own."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stored = _grown(Path(scratch), branches)
        for what, count in [("mean", FEW), *((what, branches) for what in MERGES)]:
            found = []
            for _ in range(runs):
                argv = [sys.executable, __file__, scratch, what, str(count)]
                done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
            rows[f"{what} of {count}"] = spread(found)
            print(f"{what} of {count}: {rows[f'{what} of {count}']['median']:.1f} tensors", flush=True)
    return {
        "branches": branches,
        "tensors": TENSORS,
        "tensor_bytes": TENSOR_BYTES,
        "bits": 8 * statistics.fmean(stored) / (TENSORS * TENSOR_BYTES / 4),
        "in tensors": rows,
    }


def _grown(folder: Path, branches: int) -> list[int]:
    draw = generator(0, "merging", "memory")
    trunk = {f"layer{n:02d}.weight": draw.standard_normal(SHAPE, np.float32) for n in range(TENSORS)}
    grove, stored = Forest(folder, trunk), []
    change = np.float32(1e-3) * draw.standard_normal(SHAPE, np.float32)
    for number in range(branches):
        state = {
            name: array + np.roll(change, (number, place), (0, 1))
            for place, (name, array) in enumerate(trunk.items())
        }
        stored.append(grove.grow(f"branch{number:02d}", state, BITS))
        print(f"{number + 1} of {branches} branches", end="\r", file=sys.stderr, flush=True)
    grove.repo.close()
    return stored


def _alone(folder: Path, what: str, count: int) -> float:
    """One merge in this process: memory beyond what it holds before, in tensors."""
    with Repository.open(folder / ".phloem") as repo:
        names = [name for name in repo.refs.branches if name.startswith("branch")][:count]
        into = f"into{len(repo.refs.branches)}"
        repo.branch(into, "trunk")
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # VmHWM starts anew
        before = _kilobytes("VmRSS")
        if what == "advise":
            advising.advise(repo, names)
        else:
            joining.merge(repo, names, into=into, method=MERGES[what])
        return 1024 * (_kilobytes("VmHWM") - before) / TENSOR_BYTES


def _kilobytes(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found
    return int(found[1])


if __name__ == "__main__":
    print(json.dumps(_alone(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
