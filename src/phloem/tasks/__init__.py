"""What the sites train on: four tasks on real data, and the seam for a user's own.

A task knows its model, each site's data and how to measure a state; it knows nothing of rounds, frames or
bytes. Tasks are loaded by name, so torch and scikit-learn are imported only by a run that needs them.

    digits      a small CNN on scikit-learn's handwritten digits, label-skewed sites
    hospitals   breast-cancer diagnosis on the Wisconsin records, unequal hospitals
    banks       card fraud over several banks: generated transactions, or your own CSV
    code-lm     a byte-level GPT on the source text of Python's standard library
"""

from __future__ import annotations

from phloem.tasks.base import TASKS, Memory, Metric, Part, Task, load_task

__all__ = ["TASKS", "Memory", "Metric", "Part", "Task", "load_task"]
