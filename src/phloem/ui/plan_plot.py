"""Pictures of a plan and of a run's choices: time to the target by line rate; levels and seconds by round."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phloem.errors import ConfigError
from phloem.planner.levels import LADDER
from phloem.recipe import Link
from phloem.ui.decisions import Decided
from phloem.ui.plan import Question, cost_by_rate
from phloem.ui.plan_text import bits_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLOWEST, FASTEST = 1e5, 1e10  # bits per second
_EACH_DECADE = 24
_NAMED = 8  # changes of policy that are named, and not just marked
# From fine to coarse, dark to light and told apart in grey, too (viridis); the uncompressed ones are grey.
_COLOURS = ("#6e7681", "#a3a9b1", "#440154", "#3e4989", "#26828e", "#1f9e89", "#6ece58", "#d8c61c")
_UP, _DOWN, _BAND, _SOFT = "#0072b2", "#d55e00", "#0072b2", "#59636e"


def write_plan_plot(
    question: Question, like: Link, path: Path, *, title: str, marks: Mapping[float, str]
) -> None:
    """Draws the time to the target over the line's rate, a curve per level; the best is named under the curves.

    `like` has what all lines share: latency, training, and the rate down by the rate up. `marks` are rates with a name.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = _figure(9.6, 6.0)
    axes = figure.subplots()
    count = round(_EACH_DECADE * 5)
    rates = [SLOWEST * (FASTEST / SLOWEST) ** (place / count) for place in range(count + 1)]
    costs = cost_by_rate(question, rates, like)
    allowed = question.allowed
    best = [min(allowed, key=lambda level: costs[level][place]) for place in range(len(rates))]
    envelope = [costs[level][place] for place, level in enumerate(best)]
    axes.plot(rates, envelope, color="#e69f00", alpha=0.45, linewidth=9, solid_capstyle="round", label="best")
    for level in range(len(LADDER)):
        style: dict[str, Any] = {"color": _COLOURS[level], "linewidth": 1.8 if level in allowed else 0.8}
        style["linestyle"] = "-" if level in allowed else ":"
        axes.plot(rates, costs[level], label=_level_words(level), **style)
    axes.set(xscale="log", yscale="log", xlim=(SLOWEST, FASTEST))
    low = min(envelope)
    axes.set_ylim(low / 2.2, 1.4 * max(max(row) for row in costs))
    _strip(axes, rates, best)
    for rate, words in marks.items():
        if SLOWEST <= rate <= FASTEST:
            axes.axvline(rate, color="#1b1f24", linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                words,
                (rate, 0.985),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                va="top",
                fontsize=9,
                rotation=90 if len(marks) > 1 else 0,
            )
    axes.xaxis.set_major_formatter(lambda value, _: bits_text(value))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ratio = like.down / like.up
    both = "both ways" if ratio == 1 else f"up; down it is {ratio:.3g} times that"
    axes.set_xlabel(f"rate of every site's line, {both} ({1000 * like.latency:g} ms)")
    axes.set_ylabel("seconds for what an uncompressed round does")
    _finish(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", frameon=False, fontsize=9, title="bits/parameter up"
    )
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def _level_words(level: int) -> str:
    name = LADDER[level].name
    return {"none": "32 (none)", "bf16": "16 (bf16)"}.get(name, name)


def _strip(axes: Axes, rates: Sequence[float], best: Sequence[int]) -> None:
    """Under the curves, which level is best from where to where."""
    place, span = 0, len(rates) - 1
    for level, group in itertools.groupby(best):
        length = len(list(group))
        first, last = rates[place], rates[min(place + length, span)]
        axes.axvspan(first, last, 0, 0.045, color=_COLOURS[level], linewidth=0)
        if length > 0.045 * span:
            axes.text(
                (first * last) ** 0.5,
                0.021,
                LADDER[level].name,
                transform=axes.get_xaxis_transform(),
                color="#1b1f24" if level in (1, 6, 7) else "#ffffff",
                ha="center",
                va="center",
                fontsize=8.5,
            )
        place += length


def write_trace_plot(decided: Sequence[Decided], path: Path, *, title: str) -> None:
    """Draws levels up and down over the rounds, and under them the seconds predicted and taken.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = _figure(9.6, 6.4)
    above, below = figure.subplots(2, 1, sharex=True)
    rounds = [one.number for one in decided]
    _levels(above, decided)
    below.fill_between(
        rounds,
        [one.low for one in decided],
        [one.high for one in decided],
        color=_BAND,
        alpha=0.18,
        linewidth=0,
        step="mid",
        label="four of five should lie here",
    )
    below.step(
        rounds,
        [one.seconds for one in decided],
        where="mid",
        color=_UP,
        linewidth=1.2,
        label="predicted",
    )
    missed = [one for one in decided if not one.low <= one.actual <= one.high]
    hit = [one for one in decided if one.low <= one.actual <= one.high]
    size = 22 if len(decided) <= 60 else 8
    for group, colour, words in ((hit, "#1b1f24", "took"), (missed, _DOWN, "took, outside")):
        below.scatter(
            [one.number for one in group],
            [one.actual for one in group],
            s=size,
            color=colour,
            zorder=3,
            label=words if group else None,
        )
    below.set_yscale("log")
    below.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    below.yaxis.set_minor_formatter(lambda value, _: _tick(below, value))
    below.set_xlabel("round")
    below.set_ylabel("seconds of a round")
    changes = [after for before, after in itertools.pairwise(decided) if before.policy != after.policy]
    for one in changes if len(changes) <= _NAMED else ():
        above.text(
            one.number - 0.4, 1.01, one.policy, transform=above.get_xaxis_transform(), fontsize=8, color=_SOFT
        )
    below.xaxis.get_major_locator().set_params(integer=True)
    for axes in (above, below):
        for one in changes:
            axes.axvline(one.number - 0.5, color=_SOFT, linewidth=0.7, linestyle=":")
        _finish(axes)
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=8.5)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def _tick(axes: Axes, value: float) -> str:
    """A label between powers of ten, where the axis has few of these."""
    low, high = axes.get_ylim()
    digit = f"{value:e}"[0]
    return f"{value:,g}" if high / max(low, 1e-300) < 30 and digit in "235" else ""


def _levels(axes: Axes, decided: Sequence[Decided]) -> None:
    used = {level for one in decided for level in (*one.levels_up, one.level_down)}
    most = max((count for one in decided for count in one.levels_up.values()), default=1)
    spots = [(one.number, level, count) for one in decided for level, count in one.levels_up.items()]
    if any(len(one.levels_up) > 1 for one in decided):
        axes.scatter(
            [spot[0] for spot in spots],
            [spot[1] for spot in spots],
            s=[12 + 60 * spot[2] / most for spot in spots],
            color=_UP,
            alpha=0.75,
            linewidth=0,
            label="up; larger where more sites",
        )
    else:
        axes.step([s[0] for s in spots], [s[1] for s in spots], where="mid", color=_UP, lw=2.2, label="up")
    axes.step(
        [one.number for one in decided],
        [one.level_down for one in decided],
        where="mid",
        color=_DOWN,
        linewidth=1.4,
        linestyle=(0, (5, 2)),
        label="down",
    )
    first, last = min(used), max(used)
    axes.set_ylim(last + 0.6, first - 0.6)
    axes.set_yticks(range(first, last + 1), [LADDER[level].name for level in range(first, last + 1)])
    axes.set_ylabel("level (bits/parameter up)")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib", hint="pip install 'phloem[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _finish(axes: Axes) -> None:
    axes.grid(visible=True, which="major", color="#d5dae0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
