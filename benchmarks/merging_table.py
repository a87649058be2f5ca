"""The figures of merges as Markdown, from results/merging-NAME.json, put between markers of `benchmarks/README.md`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from branches_table import NOTHING, README, cell, markdown, put
from measuring import RESULTS

#: Rows of the poisoned merges, by what the result calls them.
POISONED = {
    "mean": "mean",
    "ties": "TIES, 0.2",
    "dare": "DARE, 0.5",
    "trimmed-mean": "trimmed mean, 0.2",
    "median": "median",
    "geometric-median": "geometric median",
    "krum": "Krum, f = 1",
    "krum, keep 5": "Krum, f = 1, keeping 5",
}
Result = Mapping[str, Any]


def found(name: str) -> Result:
    """One result; empty where there is none yet."""
    path = RESULTS / f"merging-{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def signed(values: list[float], digits: int = 1) -> str:
    """A median and its range, with signs."""
    low, here, high = min(values), statistics.median(values), max(values)
    return f"{here:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})".replace("-", "−")


def plain(values: list[float], digits: int) -> str:
    """The same without."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def methods_table(result: Result) -> str:
    """Merges beside joint training."""
    labels = dict.fromkeys(key for task in ("digits", "code_lm") for key in _seeds(result, task))
    rows = []
    for label in labels:
        row = [label]
        for task, digits in (("digits", 1), ("code_lm", 3)):
            values = _seeds(result, task).get(label)
            row.append(plain(values, digits) if values else NOTHING)
        rows.append(row)
    return markdown(["", "digits, accuracy", "code LM, bits per byte"], rows)


def _seeds(result: Result, task: str) -> dict[str, list[float]]:
    rows = result.get(task, {}).get("seeds", [])
    keys = [key for key, value in rows[0].items() if isinstance(value, float)] if rows else []
    return {key: [row[key] for row in rows] for key in keys}


def compressed_table(result: Result) -> str:
    """What merges of branches stored with loss differ by."""
    rows = []
    for task, digits, title in (("digits", 2, "digits, points"), ("code_lm", 4, "code LM, bits per byte")):
        for bits, row in result.get(task, {}).get("against_exact", {}).items():
            merges = {label: value for label, value in row["mean"].items() if label != "alone, mean"}
            widest = max(merges, key=lambda label: abs(merges[label]))
            rows.append(
                [
                    title,
                    f"{bits} (1/{32 / row['bits']:.0f})",
                    *(
                        f"{merges[label]:+.{digits}f}".replace("-", "−")
                        for label in ("mean", "task-arithmetic", "ties")
                    ),
                    f"{widest}: {merges[widest]:+.{digits}f}".replace("-", "−"),
                    f"{row['mean']['alone, mean']:+.{digits}f}".replace("-", "−"),
                ]
            )
    head = [
        "",
        "bits (of float32)",
        "mean",
        "task arithmetic",
        "TIES",
        "the widest of all methods",
        "a branch alone",
    ]
    return markdown(head, rows)


def poisoned_table(result: Result) -> str:
    """One of eight branches poisoned."""
    points = result.get("points", {})
    rows = []
    for key, title in POISONED.items() if points else ():
        row = [title]
        for lost in points.values():
            row += [signed(lost["against_itself"][key]), signed(lost["against_the_honest_mean"][key])]
        rows.append(row)
    head = [""] + [f"{what}: {against}" for what in points for against in ("itself", "the mean")]
    return markdown(head, rows)


def advice_table(result: Result) -> str:
    """How often the advice is right."""
    keys = ("free", "scored", "always merge", "always apart", "either")
    rows = [
        [name, str(one["points"]), *(f"{100 * one[key]:.0f} %" for key in keys)]
        for name, one in result.get("rates", {}).items()
    ]
    head = [
        "sites",
        "points",
        "from the states",
        "with scores",
        "always merging",
        "always apart",
        "both are right",
    ]
    return markdown(head, rows)


def memory_table(result: Result) -> str:
    """Memory in tensors."""
    found = result.get("in tensors", {})
    rows = [[name, plain([row["min"], row["median"], row["max"]], 1)] for name, row in found.items()]
    return markdown(["", "tensors of 16.8 MB beyond the open repository"], rows)


TABLES: Mapping[str, Callable[[Result], str]] = {
    "methods": methods_table,
    "compressed": compressed_table,
    "poisoned": poisoned_table,
    "advice": advice_table,
    "memory": memory_table,
}


def fill() -> None:
    """Puts every table into the README."""
    text = README.read_text("utf-8")
    for name, table in TABLES.items():
        text = put(text, f"merging-{name}", cell(lambda name=name, table=table: table(found(name))))
    README.write_text(text, "utf-8")
