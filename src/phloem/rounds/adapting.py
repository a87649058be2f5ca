"""The adaptive choice: the planner's controller in the place where a coordinator asks for codecs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from phloem.planner import levels
from phloem.planner.control import Controller
from phloem.planner.decision import Decision
from phloem.rounds.choose import DOWN
from phloem.rounds.plan import Choice


class AdaptiveChoice:
    """What the controller decides for each round, once the round has its sites."""

    reports = True

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.decision: Decision | None = None

    @property
    def owed(self) -> bool:
        """Whether the round that was decided last trains nothing."""
        return self.decision is not None and not self.decision.trains

    def opened(self, round_number: int, asked: Sequence[str], parameters: int) -> None:
        """Decides for the round."""
        if parameters != self.controller.sizes.parameters:  # weights were pruned
            self.controller.sizes = replace(self.controller.sizes, parameters=parameters)
        self.decision = self.controller.decide(round_number, asked)

    def __call__(self, site: str, round_number: int) -> Choice:
        """The choice of the round's decision; where nobody was asked to train, the trunk's step is as the last was."""
        if self.decision is not None and self.decision.round == round_number:
            config = self.decision.config(None if site == DOWN else site)
        else:
            start = levels.LADDER[levels.index_of(levels.START)].options[0]
            config = self.controller.previous_down or dict(start.down)
        return Choice(self.controller.settings.weighed(config))

    def save(self) -> dict[str, Any]:
        """The controller's state."""
        return self.controller.save()

    def load(self, saved: Mapping[str, Any]) -> None:
        """Goes on from there; the round's decision is made once more."""
        self.controller.load(saved)
