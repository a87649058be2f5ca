"""Who can be reached, who is asked to train and who answers too late: drawn from the recipe's seed."""

from __future__ import annotations

from dataclasses import dataclass

from phloem.recipe import Recipe
from phloem.seeds import generator


@dataclass(frozen=True)
class Schedule:
    """The recipe's faults and participation, the same in every repetition of the run."""

    recipe: Recipe

    def reachable(self, round_number: int) -> set[str]:
        """The sites that an order can be brought to in this round."""
        sites = self.recipe.sites
        gone = {gap.site for gap in sites.away if gap.first <= round_number <= gap.last}
        gone |= self._drawn("dropout", round_number, sites.all, sites.dropout)
        return set(sites.all) - gone

    def trains(self, round_number: int, reachable: set[str]) -> set[str]:
        """The sites asked to train: a share of those that can be reached."""
        share = self.recipe.sites.participation
        if share >= 1 or not reachable:
            return reachable
        count = min(len(reachable), max(1, round(share * len(self.recipe.sites.all))))
        draw = generator(self.recipe.seed, "participation", round_number)
        return {str(name) for name in draw.choice(sorted(reachable), count, replace=False)}

    def late(self, round_number: int, asked: set[str]) -> set[str]:
        """The sites whose updates arrive after the round was closed."""
        return asked & self._drawn("late", round_number, self.recipe.sites.all, self.recipe.sites.late)

    def _drawn(self, label: str, round_number: int, names: tuple[str, ...], chance: float) -> set[str]:
        if chance == 0:
            return set()
        draw = generator(self.recipe.seed, label, round_number).random(len(names))
        return {name for name, value in zip(names, draw, strict=True) if value < chance}
