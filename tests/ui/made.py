"""Rounds and summaries whose figures are known, without a run."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from tests.tiny import table

from phloem.job.record import RoundRecord, SiteRecord, summarize
from phloem.recipe import Recipe
from phloem.tasks.base import Metric

DIGEST = "0123456789abcdef" * 4


def recipe(**sections: Any) -> Recipe:
    return Recipe.from_json({**table(), **sections})


def rounds(
    metrics: Sequence[float],
    *,
    scale: int = 1,
    sites: Sequence[str] = ("site-0", "site-1", "site-2"),
    **refused: str,
) -> list[RoundRecord]:
    """Rounds with these metrics; a site sends 100 bytes, gets 50 (times `scale`) and has 10 of control."""
    records = []
    for number, metric in enumerate(metrics):
        per_site = {name: SiteRecord(100 * scale, 50 * scale, 10, 20, "accepted", 1) for name in sites}
        count = len(sites)
        spent = (150 * scale + 10) * count
        records.append(
            RoundRecord(
                number,
                metric,
                {"accuracy": metric, "loss": 0.5},
                list(sites),
                dict(refused) if number == 1 else {},
                bytes_up=100 * scale * count,
                bytes_down=50 * scale * count,
                control_bytes=10 * count,
                bits_per_parameter_up=0.02 * scale,
                bits_per_parameter_down=0.01 * scale,
                nmse_down=0.5,
                seconds=0.1,
                train_seconds=0.2,
                codec_seconds=0.01,
                wall_seconds=0.3,
                total_bytes=spent * (number + 1),
                total_seconds=0.1 * (number + 1),
                state=DIGEST,
                commit=DIGEST,
                per_site=per_site,
            )
        )
    return records


def summary_of(made: Recipe, records: list[RoundRecord], **compared: dict[str, Any]) -> dict[str, Any]:
    value = records[-1].metric
    end = {
        "test": {"accuracy": value, "loss": math.nan},
        "state_digest": DIGEST,
        "commit": DIGEST,
        "chain": DIGEST,
        "plan": DIGEST,
        "description": made.description,
    }
    summary = summarize(made, Metric("accuracy"), records, 1000, end)
    return {**summary, "compare": copy.deepcopy(compared)} if compared else summary
