"""The charts of a report, from the rounds of a run and of its baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phloem.job.record import RoundRecord
from phloem.ui.axes import Axis, axis_for
from phloem.ui.figures import (
    is_share,
    metric_text,
    metric_words,
    rate_text,
    short_size_text,
    size_text,
    target_text,
    time_text,
)
from phloem.ui.markup import Markup
from phloem.ui.outcome import THIS
from phloem.ui.svg import BOTTOM, LEFT, RIGHT, TOP, Bar, Level, Series, bar_chart, line_chart

SHOWN_SITES = 24
STYLES: Mapping[str, str] = {"this": "a", "fp32": "b", "bf16": "c"}

Runs = Mapping[str, Sequence[RoundRecord]]
"""Rounds by run: "this" first, then the baselines that were run."""


def metric_charts(summary: Mapping[str, Any], runs: Runs) -> list[tuple[str, Markup]]:
    """The metric against bytes, and against the simulated clock; each with its heading."""
    words = metric_words(summary["metric"]["name"])
    return [
        (
            f"{words} against bytes",
            _metric_chart(
                summary, runs, lambda r: r.total_bytes, short_size_text, "bytes sent, up + down + control"
            ),
        ),
        (
            f"{words} against time",
            _metric_chart(
                summary, runs, lambda r: r.total_seconds, _short_time, "simulated time on the recipe's links"
            ),
        ),
    ]


def _metric_chart(
    summary: Mapping[str, Any],
    runs: Runs,
    spent: Callable[[RoundRecord], float],
    text: Callable[[float], str],
    label: str,
) -> Markup:
    name, target = summary["metric"]["name"], summary["target"]
    series = tuple(
        Series(THIS if run == "this" else run, STYLES[run], tuple((spent(r), r.metric) for r in records))
        for run, records in runs.items()
    )
    x = axis_for([a for one in series for a, _ in one.points], text, LEFT, RIGHT)
    values = [b for one in series for _, b in one.points]
    y = _metric_axis(name, [*values, *([] if target is None else [target])])
    level = None if target is None else Level(target, f"target {target_text(name, target)}")
    ends = [
        f"{one.label} ends at {metric_text(name, one.points[-1][1])} with {text(one.points[-1][0])}"
        for one in series
        if one.points
    ]
    scale = " (logarithmic)" if x.log else ""
    return line_chart(
        f"{metric_words(name)} on the stopping data against {label}",
        "; ".join(ends) + ".",
        x,
        y,
        (label + scale, f"{metric_words(name)}, stopping data"),
        series,
        level,
    )


def _metric_axis(name: str, values: Sequence[float]) -> Axis:
    if is_share(name):
        return axis_for(values, lambda v: f"{100 * v:g} %", BOTTOM, TOP + 12)
    return axis_for(values, lambda v: f"{v:g}", BOTTOM, TOP + 12, log=False)


def rate_chart(records: Sequence[RoundRecord]) -> Markup:
    """Bits per parameter of the frames of each round, up and down."""
    series = (
        Series("up", "a", tuple((r.round + 1.0, r.bits_per_parameter_up or math.nan) for r in records)),
        Series("down", "b", tuple((r.round + 1.0, r.bits_per_parameter_down or math.nan) for r in records)),
    )
    values = [b for one in series for _, b in one.points]
    y = axis_for(values, lambda v: f"{v:.3g}", BOTTOM, TOP + 12, zero=True)
    last = records[-1]
    up, down = rate_text(last.bits_per_parameter_up), rate_text(last.bits_per_parameter_down)
    about = f"{up} up and {down} down in the last round."
    return line_chart(
        "Bits per parameter by round", about, _round_axis(records), y, ("round", "bits per parameter"), series
    )


def error_chart(records: Sequence[RoundRecord]) -> Markup | None:
    """What the frames to the sites left out, by round; None where nothing was left out."""
    points = tuple((r.round + 1.0, r.nmse_down) for r in records)
    values = [b for _, b in points if math.isfinite(b)]
    if not any(values):
        return None
    y = axis_for(values, lambda v: f"{v:.3g}", BOTTOM, TOP + 12, zero=True, log=False)
    return line_chart(
        "Left out of the frames to the sites, by round",
        f"{values[-1]:.3g} in the last round.",
        _round_axis(records),
        y,
        ("round", "energy left out of a frame, share (NMSE)"),
        (Series("down", "b", points),),
    )


def _round_axis(records: Sequence[RoundRecord]) -> Axis:
    axis = axis_for([1.0, max(2.0, float(len(records)))], lambda v: f"{v:g}", LEFT, RIGHT, log=False)
    whole = tuple(tick for tick in axis.ticks if tick == int(tick) and tick >= 1)
    return Axis(axis.low, axis.high, whole, axis.text, axis.start, axis.end)


def site_chart(summary: Mapping[str, Any]) -> Markup:
    """Bytes of every site (the largest ones where there are many): up, down, control."""
    sites = summary["sites"]
    order = sorted(sites, key=lambda name: -_total(sites[name]))[:SHOWN_SITES]
    bars = [
        Bar(
            name,
            (sites[name]["bytes_up"], sites[name]["bytes_down"], sites[name]["control_bytes"]),
            size_text(_total(sites[name])),
        )
        for name in sorted(order)
    ]
    least, most = (min(map(_total, sites.values())), max(map(_total, sites.values()))) if sites else (0, 0)
    return bar_chart(
        "Bytes by site",
        f"From {size_text(least)} to {size_text(most)} a site; the table has every figure.",
        bars,
        (("up", "a"), ("down", "b"), ("control", "d")),
        "bytes, whole run",
    )


def _total(site: Mapping[str, int]) -> int:
    return site["bytes_up"] + site["bytes_down"] + site["control_bytes"]


def _short_time(seconds: float) -> str:
    """A tick of a time axis.

    >>> _short_time(0.1), _short_time(10), _short_time(1000)
    ('0.1 s', '10 s', '16.7 min')
    """
    if seconds < 0.01:
        return time_text(seconds)
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
