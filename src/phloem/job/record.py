"""What a run reports: one record per round, one summary at the end. Every size is a `len`."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from phloem.errors import StateError
from phloem.recipe import Recipe
from phloem.tasks.base import Metric


@dataclass
class SiteRecord:
    """One site's part in one round.

    `metrics` is what its training reported. It does not travel: the local engine sees it because every site
    is on this machine.
    """

    up: int = 0
    down: int = 0
    control: int = 0
    examples: int = 0
    status: str = "idle"  # accepted · refused · silent · idle · away
    frames_up: int = 0
    frames_down: int = 0  # more than one where a site catches up
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class RoundRecord:
    """One round: what was sent, what came of it, and how long it took.

    `bytes_up` and `bytes_down` are frames, `control_bytes` everything around them; the three are disjoint.
    `ledger_bytes` of the control bytes are the ledger's.
    `bytes_down` brings this round's result to the sites. `seconds` is the simulated clock, `down_seconds` of
    them bring the result to the sites; `train_seconds` and `codec_seconds` are measured, summed over sites,
    and `choice_seconds`, what choosing codecs took. Where `trained` is false, sites sent what they still owed of the
    rounds before. `kept` is the number of weights that the trunk then has,
    where the recipe prunes.
    """

    round: int
    metric: float
    metrics: dict[str, float]
    accepted: list[str]
    refused: dict[str, str]
    bytes_up: int = 0
    bytes_down: int = 0
    control_bytes: int = 0
    ledger_bytes: int = 0
    bits_per_parameter_up: float = 0.0
    bits_per_parameter_down: float = 0.0
    nmse_down: float = 0.0
    seconds: float = 0.0
    down_seconds: float = 0.0
    train_seconds: float = 0.0
    codec_seconds: float = 0.0
    choice_seconds: float = 0.0
    wall_seconds: float = 0.0
    total_bytes: int = 0
    total_seconds: float = 0.0
    state: str | None = None
    kept: int | None = None
    trained: bool = True
    commit: str = ""
    per_site: dict[str, SiteRecord] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of `rounds.jsonl`."""
        return json.dumps(without_nan(dataclasses.asdict(self)), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> RoundRecord:
        """The record of such a line."""
        table = json.loads(line)
        sites = {name: SiteRecord(**row) for name, row in table.pop("per_site").items()}
        table["metrics"] = {
            name: math.nan if value is None else value for name, value in table["metrics"].items()
        }
        if table["metric"] is None:
            table["metric"] = math.nan
        return cls(**table, per_site=sites)


def without_nan(value: Any) -> Any:
    """`value` with None for every number that JSON cannot write: a NaN or an infinity.

    >>> without_nan({"loss": math.nan, "rounds": [1, 2.5]})
    {'loss': None, 'rounds': [1, 2.5]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list) else value


def read_summary(root: Path) -> dict[str, Any]:
    """The `summary.json` of a finished run.

    Raises:
        StateError: there is none, or it is damaged.
    """
    try:
        summary: dict[str, Any] = json.loads((root / "summary.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise StateError(f"{root} is not finished", hint="continue it with --resume") from error
    except (OSError, ValueError) as error:
        raise StateError(f"{root}/summary.json is damaged: {error}", hint="restore the file") from error
    return summary


def summarize(
    recipe: Recipe, metric: Metric, records: Sequence[RoundRecord], parameters: int, end: dict[str, Any]
) -> dict[str, Any]:
    """The content of `summary.json`; `end` has what is known only at the end (test metrics, digests)."""
    target = recipe.rounds.target
    reached = next((r for r in records if target is not None and metric.reached(r.metric, target)), None)
    up_frames = sum(row.up > 0 for r in records for row in r.per_site.values())
    down_frames = sum(row.frames_down for r in records for row in r.per_site.values())
    bytes_up, bytes_down = sum(r.bytes_up for r in records), sum(r.bytes_down for r in records)
    control, trained = sum(r.control_bytes for r in records), sum(r.trained for r in records)
    summary = {
        "name": recipe.name,
        "metric": {"name": metric.name, "value": records[-1].metric, "part": "stop"},
        "higher_is_better": metric.higher_is_better,
        "target": target,
        "rounds": trained,
        "rounds_without_training": len(records) - trained,
        "rounds_to_target": sum(r.trained for r in records[: reached.round + 1]) if reached else None,
        "bytes_to_target": reached.total_bytes if reached else None,
        "seconds_to_target": reached.total_seconds if reached else None,
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "control_bytes": control,
        "total_bytes": bytes_up + bytes_down + control,
        "parameters": parameters,
        "parameters_kept": parameters if records[-1].kept is None else records[-1].kept,
        "bits_per_parameter_up": 8 * bytes_up / (parameters * up_frames) if up_frames else 0.0,
        "bits_per_parameter_down": 8 * bytes_down / (parameters * down_frames) if down_frames else 0.0,
        "seconds": records[-1].total_seconds,
        "train_seconds": sum(r.train_seconds for r in records),
        "codec_seconds": sum(r.codec_seconds for r in records),
        "choice_seconds": sum(r.choice_seconds for r in records),
        "wall_seconds": sum(r.wall_seconds for r in records),
        "updates_refused": sum(len(r.refused) for r in records),
        "sites": {name: _site_totals(records, name) for name in recipe.sites.all},
        "seeds": {"run": recipe.seed},
        "versions": versions(),
        **end,
    }
    plain: dict[str, Any] = without_nan(summary)
    return plain


def _site_totals(records: Sequence[RoundRecord], name: str) -> dict[str, int]:
    rows = [record.per_site[name] for record in records]
    return {
        "bytes_up": sum(row.up for row in rows),
        "bytes_down": sum(row.down for row in rows),
        "control_bytes": sum(row.control for row in rows),
        "rounds_accepted": sum(row.status == "accepted" for row in rows),
        "examples": max(row.examples for row in rows),
    }


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("phloem", "numpy", "torch", "scikit-learn"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
