"""The policies between which a run chooses: every fixed level, one common level, and a level per site by a deadline.

A policy proposes a level for every site and one for the way down. What it would have taken can be said after every
round, whichever was in use, because levels differ in bytes and not in what they do to the line; so all are scored on
the same rounds, and nothing has to be tried out.

Source: the selector of research/adaptive-hardware.md §5b; the product of rounds and seconds after Hegde et al.,
NAC-FL, 2023. Here in the form progress over time: a round of T seconds that is worth g uncompressed rounds is good by
g - T / rate, at the best rate known (Dinkelbach's method for a ratio).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phloem.planner.levels import LADDER
from phloem.planner.tables import Places, Seconds, Table

COMMON, DEADLINE, CAUTIOUS = "common", "deadline", "cautious"
CAUTIOUS_SIGMAS = 0.84
"""Eighty of a hundred transfers are done by then."""

MOST_AHEAD = 2
"""Levels by which a site may be finer than the middle one: a liar gets no further, and sites stay comparable."""

_MOST_DEADLINES = 64


@dataclass(frozen=True)
class Proposal:
    """A level per site (places in the ladder) for what goes up, and one for what comes down."""

    up: Places
    down: int


def all_at(level: int, sites: int) -> Proposal:
    """Everybody, and the way down, at one level."""
    return Proposal(np.full(sites, level, np.intp), level)


def fitted(proposal: Proposal, table: Table, allowed: Sequence[int]) -> Proposal:
    """The same with other levels where a site has no memory for its own: the next coarser that fits, or finer."""

    def nearest(level: int, seconds: Seconds) -> int:
        fits = [one for one in allowed if np.isfinite(seconds[one])]
        return min(fits, key=lambda one: (one < level, abs(one - level)), default=level)

    up = np.array([nearest(int(level), table.up[row]) for row, level in enumerate(proposal.up)], np.intp)
    return Proposal(up, nearest(proposal.down, table.down.max(axis=0, initial=0.0)))


def together(proposal: Proposal) -> Proposal:
    """The same with everybody at the coarsest level that somebody has."""
    return Proposal(np.full_like(proposal.up, proposal.up.max(initial=0)), proposal.down)


def name_of(level: int) -> str:
    """The policy that always takes this level."""
    return f"all {LADDER[level].name}"


def worth(proposal: Proposal, progress: Seconds) -> float:
    """What a round of this proposal is worth, in uncompressed rounds: both directions lose, each half of it."""
    return float(np.sqrt(np.mean(progress[proposal.up]) * progress[proposal.down]))


def common(table: Table, progress: Seconds, rate: float, allowed: Sequence[int]) -> Proposal:
    """One level up and one down, the best by what the round is worth less its seconds at that rate."""
    sites = len(table.up)
    up_seconds = table.up.max(axis=0, initial=0.0) + table.merging.sum(axis=0)
    down_seconds = table.down.max(axis=0, initial=0.0) + table.sending
    best = max(
        ((u, d) for u in allowed for d in allowed),
        key=lambda pair: (
            float(np.sqrt(progress[pair[0]] * progress[pair[1]]))
            - rate * float(up_seconds[pair[0]] + down_seconds[pair[1]])
        ),
    )
    return Proposal(np.full(sites, best[0], np.intp), best[1])


def by_deadline(table: Table, progress: Seconds, rate: float, allowed: Sequence[int]) -> Proposal:
    """Every site at the level that is worth most and done by a common time; that time is the best by the same score."""
    levels = np.array(allowed)
    up, merging = table.up[:, levels], table.merging[:, levels]
    deadlines = np.unique(up[up >= up.min(axis=1).max()])
    if len(deadlines) > _MOST_DEADLINES:
        deadlines = deadlines[np.linspace(0, len(deadlines) - 1, _MOST_DEADLINES).astype(np.intp)]
    fits = up[None] <= deadlines[:, None, None]  # (deadlines, sites, levels)
    choice = np.where(fits, progress[levels], -1.0).argmax(axis=2)
    middle = np.median(choice, axis=1).astype(np.intp)[:, None]
    choice = np.maximum(choice, middle - MOST_AHEAD)  # `levels` are a range, finest first
    places = choice[:, :, None]
    seconds = np.take_along_axis(up[None], places, axis=2).max(axis=(1, 2))
    seconds += np.take_along_axis(merging[None], places, axis=2).sum(axis=(1, 2))
    gained = progress[levels][choice].mean(axis=1)
    down_seconds = table.down[:, levels].max(axis=0) + table.sending[levels]
    scores = np.sqrt(gained[:, None] * progress[levels]) - rate * (seconds[:, None] + down_seconds)
    best, down = np.unravel_index(int(scores.argmax()), scores.shape)
    return Proposal(levels[choice[best]], int(levels[down]))


def within(table: Table, progress: Seconds, seconds: float, allowed: Sequence[int]) -> Proposal:
    """What is worth most and is done in these seconds; where nothing is, what is done soonest."""
    levels, sites = np.array(allowed), len(table.up)
    tried = [all_at(level, sites) for level in allowed]
    for down in levels:
        left = seconds - table.down[:, down].max(initial=0.0) - table.sending[down]
        up = table.up[:, levels]
        for merging in (0.0, *table.merging[:, levels].sum(axis=0)):
            choice = np.where(up <= left - merging, progress[levels], -1.0 - up).argmax(axis=1)
            middle = int(np.median(choice)) if sites else 0
            tried.append(Proposal(levels[np.maximum(choice, middle - MOST_AHEAD)], int(down)))
    took = [table.round_seconds(one.up, one.down) for one in tried]
    gained = [worth(one, progress) for one in tried]
    fitting = [place for place in range(len(tried)) if took[place] <= seconds]
    if not fitting:
        return tried[min(range(len(tried)), key=took.__getitem__)]
    return tried[max(fitting, key=gained.__getitem__)]


def by_bytes(
    sizes: npt.NDArray[np.float64],
    progress: Seconds,
    allowed: Sequence[int],
    sites: int,
    budget: float | None = None,
) -> Proposal:
    """The levels that are worth most per byte; or that are worth most of those whose round fits in `budget`.

    `sizes` are a message's bytes up, and down, by level.
    """
    pairs = [(u, d) for u in allowed for d in allowed]
    spent = {(up, down): sites * float(sizes[0, up] + sizes[1, down]) for up, down in pairs}
    gained = {pair: float(np.sqrt(progress[pair[0]] * progress[pair[1]])) for pair in pairs}
    if budget is None:
        best = max(pairs, key=lambda pair: gained[pair] / spent[pair])
    else:
        fitting = [pair for pair in pairs if spent[pair] <= budget]
        best = (
            max(fitting, key=lambda pair: (gained[pair], -spent[pair]))
            if fitting
            else min(pairs, key=spent.__getitem__)
        )
    return Proposal(np.full(sites, best[0], np.intp), best[1])
