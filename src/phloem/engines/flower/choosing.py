"""`bits="auto"` of `Compressed`: the planner's controller chooses what every node sends, and what comes down.

How long a node took shows here from sending its message to having the reply; what of that was work, the mod reports.
Only the sum of both ways is left, as under `phloem build --engine flower`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phloem.errors import ConfigError
from phloem.planner import levels
from phloem.planner.control import Controller
from phloem.planner.costs import Seen
from phloem.rounds.adapting import AdaptiveChoice
from phloem.rounds.result import RoundResult
from phloem.wire.messages import Order

AUTO = "auto"


def first(bits: str, **others: Any) -> dict[str, Any]:
    """The codec of a first round of which nothing is known.

    Raises:
        ConfigError: `bits` is another word, or `others`, by name, say what is to be chosen.
    """
    if bits != AUTO:
        raise ConfigError(f"'bits' must be a number or '{AUTO}', found {bits!r:.60}")
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ConfigError(f"bits='{AUTO}' chooses the codecs", hint=f"leave out '{given[0]}'")
    return levels.first_config()


class NodesChoice(AdaptiveChoice):
    """The choice of a strategy's run, whose nodes come and go."""

    def __init__(self, parameters: int) -> None:
        # whole models are merged by a strategy that may take as large a step however little came
        super().__init__(Controller((), parameters, owes=False))

    def observe(
        self,
        result: RoundResult,
        orders: Mapping[str, bytes],
        came: Mapping[str, int],
        waited: Mapping[str, float],
    ) -> None:
        """Tells the controller what a round took.

        Of every node that was asked: its order, the bytes that came back, and the seconds between the two. Who was not
        waited for teaches nothing, nor who was sent the whole model, beside which an update's time does not show.
        """
        if self.decision is None or self.decision.round != result.round:
            return
        frames = {update.site: len(update.frame) for update in result.accepted}
        seen = {}
        for site in self.decision.up.keys() & orders.keys():
            order, report = Order.unpack(orders[site]), result.reports.get(site)
            if site not in frames or report is None or site not in waited or order.key_chain is not None:
                continue
            seen[site] = Seen.shared(
                came[site],
                len(orders[site]) if order.items else 0,  # else an evaluation has brought the result
                waited[site],
                report,
                frames[site],
            )
        self.controller.observe(
            result.round,
            seen,
            frame_bytes=len(result.frame),
            loss=0.0,  # a strategy's metrics have names of its own
            norm=result.norm,
        )
        for name, known in self.controller.sites.items():
            if not known.down.seen:  # where evaluations bring results, only the way up shows
                self.controller.sites[name] = replace(known, down=replace(known.up, seen=0))
