"""What compression would be chosen on given lines, computed before any round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from phloem.planner import levels, policies
from phloem.planner.costs import SiteCosts, Sizes
from phloem.planner.decision import label
from phloem.planner.device import Device
from phloem.planner.levels import DOWN, LADDER, UP
from phloem.planner.link import Line
from phloem.planner.policies import COMMON, DEADLINE, Proposal
from phloem.planner.rounds import Worth
from phloem.planner.settings import Adapting
from phloem.planner.tables import Costs, Table, Tables
from phloem.recipe import Link

_CERTAIN = 1e-12


@dataclass(frozen=True)
class Question:
    """What is to be planned.

    Attributes:
        links: by site.
        slower: by site, its device's time over the profile's.
        merges: the same for the coordinator; 0 takes no time.
        share: of the sites that a round asks.
        rounds: that a budget of bytes is for.
        memory: by site, the bytes that it can spare for coding; 0 or none where that is not known.
    """

    parameters: int
    links: Mapping[str, Link]
    slower: Mapping[str, float]
    device: Device
    worth: Worth
    settings: Adapting
    merges: float = 1.0
    share: float = 1.0
    rounds: int = 1
    memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def allowed(self) -> list[int]:
        """The levels that [adapt] leaves, as places in the ladder."""
        first, last = (levels.index_of(name) for name in (self.settings.finest, self.settings.coarsest))
        return list(range(first, last + 1))

    def costs(self, *, held: bool = True) -> Table:
        """The seconds of every level at every site: infinite where its memory does not hold it, unless not `held`."""
        sites = [
            replace(costs_of(link, self.slower[site]), memory=self.memory.get(site, 0.0) if held else 0.0)
            for site, link in self.links.items()
        ]
        costs = Costs.of(self.device, Sizes.of(self.parameters))
        found = Tables(sites, costs, merges=self.merges, allowed=self.allowed).at()
        return replace(found, merging=found.merging * self.share)


@dataclass(frozen=True)
class Row:
    """One level, taken by every site and on the way down.

    Seconds up and down are those of the slowest site, and add up, with training and coding, to the round's. `rounds`
    are over those without compression; `cost` is seconds for what one round without compression does.
    """

    level: str
    effort_up: str
    effort_down: str
    bits_up: float
    bits_down: float
    bytes_up: float
    bytes_down: float
    up_seconds: float
    down_seconds: float
    train_seconds: float
    coding_seconds: float
    seconds: float
    rounds: float
    cost: float
    allowed: bool


@dataclass(frozen=True)
class Offer:
    """What one policy would do: sites by what they send, what comes down, and what that costs."""

    policy: str
    up: Mapping[str, Sequence[str]]
    down: str
    seconds: float
    rounds: float
    cost: float


@dataclass(frozen=True)
class Planned:
    """Every level, and what a run would choose, the best first."""

    rows: Sequence[Row]
    offers: Sequence[Offer]

    @property
    def best(self) -> Offer:
        """What would be chosen."""
        return self.offers[0]

    @property
    def best_row(self) -> Row:
        """The best of the levels that everybody takes."""
        return min((row for row in self.rows if row.allowed), key=lambda row: row.cost)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        rows = [
            {**asdict(row), "time_to_target": row.cost / self.best.cost, "best": row is self.best_row}
            for row in self.rows
        ]
        offers = [{**asdict(one), "time_to_target": one.cost / self.best.cost} for one in self.offers]
        return {"levels": rows, "choices": offers}


def costs_of(link: Link, slower: float) -> SiteCosts:
    """A site whose line is known for certain."""

    def line(rate: float) -> Line:
        fixed = math.log(max(link.latency, 1e-6))
        return Line(math.log(rate / 8), fixed, (0.0, 0.0, 0.0), _CERTAIN, 1)

    return SiteCosts(line(link.up), line(link.down), slower, link.train_seconds, 1)


def planned(question: Question) -> Planned:
    """The answer: every level's costs, then what the objective's policies would do with them."""
    costs, free = question.costs(), question.costs(held=False)
    everywhere = {level: policies.all_at(level, len(question.links)) for level in question.allowed}
    fitting = [level for level, one in everywhere.items() if costs.fits(one.up, one.down)]
    rows = [replace(_row(question, free, n), allowed=n in fitting) for n in range(len(LADDER))]
    every = _proposals(question, costs, fitting).items()
    offers = [_offer(question, costs, name, one) for name, one in every if costs.fits(one.up, one.down)]
    if question.settings.objective == "time":
        offers.sort(key=lambda one: one.cost)
    return Planned(rows, offers)


def _row(question: Question, costs: Table, level: int) -> Row:
    links = list(question.links.values())
    up_site, down_site = int(costs.up[:, level].argmax()), int(costs.down[:, level].argmax())
    sizes = Sizes.of(question.parameters)
    option_up, option_down = int(costs.efforts[up_site, level]), int(costs.effort_down[level])
    bytes_up, bytes_down = sizes.bytes(UP, level, option_up), sizes.bytes(DOWN, level, option_down)
    up_seconds = max(links[up_site].latency, 1e-6) + 8 * bytes_up / links[up_site].up
    down_seconds = max(links[down_site].latency, 1e-6) + 8 * bytes_down / links[down_site].down
    everybody = policies.all_at(level, len(links))
    seconds, rounds = costs.round_seconds(everybody.up, level), question.worth.inflation(level)
    train = links[up_site].train_seconds
    options = LADDER[level].options
    return Row(
        LADDER[level].name,
        options[option_up].effort,
        options[option_down].effort,
        options[option_up].bits_up,
        options[option_down].bits_down,
        bytes_up,
        bytes_down,
        up_seconds,
        down_seconds,
        train,
        max(seconds - train - up_seconds - down_seconds, 0.0),
        seconds,
        rounds,
        seconds * rounds,
        level in question.allowed,
    )


def _proposals(question: Question, costs: Table, fitting: Sequence[int]) -> dict[str, Proposal]:
    """What the objective's policies propose, as the controller asks them once it knows every line."""
    progress = np.array(question.worth.progress())
    allowed, sites, settings = question.allowed, len(question.links), question.settings
    if settings.objective == "deadline":
        return {"deadline": policies.within(costs, progress, settings.deadline_seconds, allowed)}
    if settings.objective in ("bytes", "budget"):
        sizes = Sizes.of(question.parameters)
        up, down = (np.array([sizes.bytes(w, n, 0) for n in range(len(LADDER))]) for w in (UP, DOWN))
        budget = settings.budget_bytes / question.rounds if settings.objective == "budget" else None
        asked = max(round(sites * question.share), 1)
        found = policies.by_bytes(np.array([up, down]), progress, fitting, asked, budget)
        return {settings.objective: Proposal(np.full(sites, found.up[0], np.intp), found.down)}
    whole = {policies.name_of(level): policies.all_at(level, sites) for level in fitting}
    rates = {
        name: policies.worth(one, progress) / costs.round_seconds(one.up, one.down)
        for name, one in whole.items()
    }
    best = max(rates, key=rates.__getitem__)
    offers = {best: whole[best], COMMON: policies.common(costs, progress, rates[best], allowed)}
    if sites > 1:
        offers[DEADLINE] = policies.by_deadline(costs, progress, rates[best], allowed)
    return offers


def _offer(question: Question, costs: Table, name: str, proposal: Proposal) -> Offer:
    up: dict[str, list[str]] = {}
    for row, site in sorted(enumerate(question.links), key=lambda pair: int(proposal.up[pair[0]])):
        level = int(proposal.up[row])
        up.setdefault(label((level, int(costs.efforts[row, level]))), []).append(site)
    worth = policies.worth(proposal, np.array(question.worth.progress()))
    seconds = costs.round_seconds(proposal.up, proposal.down)
    down = label((proposal.down, int(costs.effort_down[proposal.down])))
    return Offer(name, up, down, seconds, 1 / worth, seconds / worth)


def cost_by_rate(question: Question, rates: Sequence[float], like: Link) -> list[list[float]]:
    """By level, then by rate up: the cost where every site has such a line, and otherwise `like` (rate down, too)."""
    slower = max(question.slower.values())
    asked = max(len(question.links) * question.share, 1.0)
    coding = Costs.of(question.device, Sizes.of(question.parameters))
    sites = (
        costs_of(replace(like, up=rate, down=rate * like.down / like.up, trace=""), slower) for rate in rates
    )
    costs = [Tables([site], coding, merges=question.merges).at() for site in sites]
    return [
        [
            question.worth.inflation(level)
            * float(
                one.up[0, level] + one.down[0, level] + asked * one.merging[0, level] + one.sending[level]
            )
            for one in costs
        ]
        for level in range(len(LADDER))
    ]
