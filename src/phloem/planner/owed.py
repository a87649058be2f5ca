"""When a round without training pays: sites send what their last frames left out, before they train on.

While nothing is known of a line, the first frames are coarse; once it has shown itself, what they left out costs an
exchange, and to train from a trunk that lacks it costs a part of a round. Error feedback would bring it a round later
(Seide et al., 2014); where training takes long and the line is fast, that is the dearer way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phloem.planner.policies import Proposal

_LEAST = 0.1  # of an update's square that the finer frames keep more
_CAUTION = 0.5


def pays(before: Proposal, chosen: Proposal, lost: Sequence[float], exchange: float, whole: float) -> bool:
    """Whether frames at `chosen` levels are worth an exchange, after a round whose frames were at `before`.

    `lost` is the share of an update's square that frames leave out, by level; `exchange` are the seconds that one
    takes, and `whole` those of a round with training.
    """
    more = kept(chosen, lost) - kept(before, lost)
    return more >= _LEAST and exchange <= _CAUTION * more * whole < np.inf


def kept(proposal: Proposal, lost: Sequence[float]) -> float:
    """The share of an update's square that arrives: the geometric mean of both ways."""
    share = 1.0 - np.array(lost)
    return float(np.sqrt(share[proposal.up].mean() * share[proposal.down]))
