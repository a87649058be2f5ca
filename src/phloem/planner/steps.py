"""How far a round may go from the round before: a line that is slow shows it on the way."""

from __future__ import annotations

import numpy as np

from phloem.planner.levels import LADDER
from phloem.planner.policies import Proposal
from phloem.planner.tables import Seconds, Table

_STAKE, _STEP = 0.25, 0.35  # of a round


def by_steps(
    chosen: Proposal, before: Proposal, found: Table, slowest: Table, *, most: int, held: bool
) -> Proposal:
    """The proposal, with nobody much finer than before.

    That is a level finer, where it takes a third of the round more at most (no level is worth more than that), or
    as far as the slowest that the line may well be takes a quarter of the round more. Where `held`, nobody goes to a
    finer codec. To coarser levels everybody goes at once; `most` is the coarsest allowed.
    """
    whole = found.round_seconds(before.up, before.down)
    down = found.down.max(axis=0) + found.sending
    slow_down = slowest.down.max(axis=0) + slowest.sending
    least = [
        _least(int(level), found.up[row], slowest.up[row], whole, held=held)
        for row, level in enumerate(before.up)
    ]
    least_down = _least(before.down, down, slow_down, whole, held=held)
    return Proposal(
        np.maximum(chosen.up, np.minimum(np.array(least, np.intp), most)),
        max(chosen.down, min(least_down, most)),
    )


def _least(level: int, seconds: Seconds, slow: Seconds, whole: float, *, held: bool) -> int:
    """The finest level that may follow this one, by what each takes, and takes at its slowest, in a round so long."""
    least = level
    while least > 0:
        step = least == level and seconds[least - 1] <= seconds[level] + _STEP * whole
        if not step and slow[least - 1] > seconds[level] + _STAKE * whole:
            break
        if held and LADDER[least - 1].family != LADDER[least].family:
            break
        least -= 1
    return least
