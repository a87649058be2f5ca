"""Merging branches: methods against joint training, branches stored with loss, poison, advice, memory.

    python benchmarks/merging.py methods        every merge method beside joint training: digits, and a small code LM
    python benchmarks/merging.py compressed     the same merges of branches that were committed with loss
    python benchmarks/merging.py poisoned       one of eight branches poisoned, in three ways
    python benchmarks/merging.py advice         how often `advise` is right, over sites from very different to alike
    python benchmarks/merging.py advice --fit   what fits its line best, on other seeds; written nowhere
    python benchmarks/merging.py memory         64 branches merged: memory in tensors
    python benchmarks/merging.py table          puts the figures into benchmarks/README.md

Each writes results/merging-NAME.json. Every branch is trained by a task's own code, written as safetensors, committed
to a repository in a temporary directory and merged there: what is measured is what comes out of it.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import merging_table
from measuring import quiet, write

PARTS = ("methods", "compressed", "poisoned", "advice", "memory")


def measured(part: str, given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """What is said of a part's options, and what it gave."""
    if part == "memory":
        import merging_memory

        said = f" --branches {given.branches} --runs {given.runs}"
        return said, merging_memory.memory(given.branches, given.runs)
    if part == "advice":
        import merging_advice

        return f" --seeds {given.seeds}", merging_advice.advice(given.seeds, given.fit)
    import merging_methods

    if part == "poisoned":
        return f" --seeds {given.seeds}", merging_methods.poisoned(given.seeds)
    run = {"methods": merging_methods.methods, "compressed": merging_methods.compressed}[part]
    return f" --seeds {given.seeds} --lm {given.lm}", run(given.seeds, given.lm)


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=(*PARTS, "table"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lm", type=int, default=3, help="seeds of the code LM, in methods and compressed")
    parser.add_argument("--fit", action="store_true", help="of advice: find the line")
    parser.add_argument("--branches", type=int, default=64, help="of memory")
    parser.add_argument("--runs", type=int, default=3, help="of memory")
    given = parser.parse_args()
    if given.part == "table":
        merging_table.fill()
        return
    quiet()
    torch.set_num_threads(1)  # sums, and so the figures, depend on it
    started = time.perf_counter()
    said, result = measured(given.part, given)
    if not given.fit:
        result["took_seconds"] = round(time.perf_counter() - started)
        write(f"merging-{given.part}", f"python benchmarks/merging.py {given.part}{said}", result)


if __name__ == "__main__":
    main()
