"""The controller: which level every site sends at in this round, from what the rounds before took.

Deterministic: what it decides follows from its settings and from what it was told (`Seen`), and from nothing else. It
asks no clock and draws no number, so that its log replays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from phloem.planner import policies
from phloem.planner.costs import Seen, SiteCosts, Sizes, expected_coding
from phloem.planner.decision import Decision, Scores, label
from phloem.planner.device import DECODE, ENCODE, Device, reference
from phloem.planner.guard import Guard
from phloem.planner.levels import DOWN, LADDER, START, START_BYTES, UP, index_of
from phloem.planner.link import EIGHTY, Line
from phloem.planner.owed import pays
from phloem.planner.policies import CAUTIOUS, CAUTIOUS_SIGMAS, COMMON, DEADLINE, Proposal
from phloem.planner.rounds import Worth
from phloem.planner.settings import Adapting
from phloem.planner.steps import by_steps
from phloem.planner.tables import Costs, Table, Tables

_FORGETS = 0.97
_FAMILY_ROUNDS = 5  # from one change of the codec to the next
_BF16 = index_of("bf16")
_SWERVED = 0.7  # log-seconds by which the median line surprised: scores of before count less
_REMEMBERS = 0.2


class Controller:
    """Decides round by round; `decide`, then `observe` what came of it."""

    def __init__(
        self,
        sites: Iterable[str],
        parameters: int,
        *,
        settings: Adapting | None = None,
        task: str = "",
        device: Device | None = None,
        rounds: int = 1_000_000,
        owes: bool = True,
        peers: int = 0,
    ) -> None:
        """What a run is chosen for.

        `device` is the coordinator's, and the sites' until they report; `rounds` are those that a budget is for;
        `owes` says whether a round without training does no harm: a server's step that is the same however small the
        update was (Adam's) would. With `peers` there is no coordinator: a site sends so many others its update, nothing
        comes down, and all send at one level, since what one sends is on everybody's line. That is for "time" only.
        """
        self.settings = settings or Adapting()
        self.device = device or reference()
        self.rounds, self.owes, self.peers = rounds, owes, peers
        self.sites = {name: SiteCosts() for name in sites}
        self.sizes = Sizes.of(parameters, peers or 1)
        self.worth = Worth.of(task)
        self.guard = Guard()
        self.scores = Scores()
        self.policy = "start"
        self.changed = -_FAMILY_ROUNDS  # the round of the last change of codec
        self.spent = 0.0  # bytes of the run so far
        self.done = 0  # rounds
        self.rounds_scored = 0  # since the lines last swerved
        self.down: tuple[int, int] | None = None  # what brought the last result
        self.brought = 0  # the bytes of that frame
        self._costs: tuple[Sizes, Costs] | None = None  # of the sizes of now
        self._levels: dict[str, int] = {}  # of every site's last update
        self._trained: list[str] = []  # who sent an update in the last round, if that round trained
        self._decided: tuple[Decision, dict[str, Proposal], tuple[str, ...]] | None = None

    @property
    def previous_down(self) -> dict[str, Any] | None:
        """The codec of the frame that brought the last result, before the first None."""
        return None if self.down is None else dict(LADDER[self.down[0]].options[self.down[1]].down)

    # -- before a round --------------------------------------------------------------------------------------

    def decide(self, number: int, asked: Sequence[str]) -> Decision:
        """What round `number` does with these sites; asked again, it says the same."""
        asked = tuple(sorted(asked))
        if self._decided is not None and self._decided[0].round == number and self._decided[2] == asked:
            return self._decided[0]
        allowed = self._allowed(number)
        known = self._tables([self.sites.get(name, SiteCosts()) for name in asked], allowed)
        found = known.at()
        proposals = self._proposals(known, allowed, len(asked))
        policy, why = self._policy(proposals, allowed)
        chosen = proposals[policy] if policy != "start" else self._all_at(self._start(allowed), len(asked))
        wanted = chosen
        if self.settings.objective == "time":
            chosen = self._by_steps(number, chosen, asked, allowed, known)
        chosen = chosen if self.peers else policies.fitted(chosen, found, allowed)
        chosen = policies.together(chosen) if self.peers else chosen
        held = wanted.down != chosen.down or not np.array_equal(wanted.up, chosen.up)
        why += "; on the way there by steps" * held + self.guard.words(number)
        trains = not self._owed(asked, chosen, known)
        why += "; without training, what is owed first" * (not trains)
        decision = Decision(
            number,
            policy,
            why,
            {
                name: (int(level), int(found.efforts[row, level]))
                for row, (name, level) in enumerate(zip(asked, chosen.up, strict=True))
            },
            (chosen.down, int(found.effort_down[chosen.down])),
            self._predicted(known, chosen, trains=trains),
            self.scores.rates(),
            trains,
        )
        self._decided = decision, proposals, asked
        return decision

    def _by_steps(
        self,
        number: int,
        chosen: Proposal,
        asked: Sequence[str],
        allowed: Sequence[int],
        known: Tables,
    ) -> Proposal:
        """The proposal as far as `by_steps` lets it go from the round before."""
        start = self._start(allowed)
        up = np.array([self._levels.get(name, start) for name in asked], np.intp)
        if self.down is None or not asked:
            return Proposal(np.maximum(chosen.up, up), chosen.down if self.peers else max(chosen.down, start))
        before, held = Proposal(up, self.down[0]), number - self.changed < _FAMILY_ROUNDS
        return by_steps(chosen, before, known.at(), known.at(EIGHTY), most=max(allowed), held=held)

    def _owed(self, asked: Sequence[str], chosen: Proposal, known: Tables) -> bool:
        """Whether the sites had better send what they owe before they train again."""
        if not (self.owes and asked) or self.settings.objective != "time" or list(asked) != self._trained:
            return False
        assert self.down is not None
        before = Proposal(np.array([self._levels[name] for name in asked], np.intp), self.down[0])
        whole, exchange = (
            known.at(trains=one).round_seconds(chosen.up, chosen.down) for one in (True, False)
        )
        return pays(before, chosen, self.worth.lost, exchange, whole)

    def _start(self, allowed: Sequence[int]) -> int:
        usual, ways = index_of(START), (UP,) if self.peers else (UP, DOWN)
        short = [
            level
            for level in range(usual)
            if max(self.sizes.least(way, level) for way in ways) <= START_BYTES
        ]
        first = min(short, default=usual)
        return min(allowed, key=lambda level: abs(level - first))

    def _allowed(self, number: int) -> list[int]:
        finest, usual = index_of(self.settings.finest), index_of(self.settings.coarsest)
        coarsest = max(self.guard.coarsest(number, usual, _BF16), finest)
        return list(range(finest, coarsest + 1))

    def _tables(self, views: Sequence[SiteCosts], allowed: Sequence[int]) -> Tables:
        if self._costs is None or self._costs[0] is not self.sizes:
            self._costs = self.sizes, Costs.of(self.device, self.sizes)
        thrifty = self.settings.objective in ("bytes", "budget")
        return Tables(views, self._costs[1], thrifty=thrifty, together=self.peers > 0, allowed=allowed)

    def _all_at(self, level: int, sites: int) -> Proposal:
        whole = policies.all_at(level, sites)
        return replace(whole, down=index_of("none")) if self.peers else whole

    def _proposals(self, known: Tables, allowed: Sequence[int], sites: int) -> dict[str, Proposal]:
        progress = np.array(self.worth.progress())
        found, everywhere = known.at(), {level: self._all_at(level, sites) for level in allowed}
        fitting = [level for level, one in everywhere.items() if found.fits(one.up, one.down)]
        every = {policies.name_of(level): everywhere[level] for level in fitting}
        objective = self.settings.objective
        if objective == "deadline":
            within = policies.within(found, progress, self.settings.deadline_seconds, allowed)
            return {**every, objective: within}
        if objective in ("bytes", "budget"):
            budget = self._allowance() if objective == "budget" else None
            least = [[self.sizes.least(way, level) for level in range(len(LADDER))] for way in (UP, DOWN)]
            chosen = policies.by_bytes(np.array(least), progress, fitting or allowed, sites, budget)
            return {**every, objective: chosen}
        median = known.at(hoped=True)
        rate = self._rate(median, progress, allowed)
        every[COMMON] = policies.common(median, progress, rate, allowed)
        if sites > 1 and not self.peers:
            every[DEADLINE] = policies.by_deadline(median, progress, rate, allowed)
            cautious = known.at(CAUTIOUS_SIGMAS, hoped=True)
            every[CAUTIOUS] = policies.by_deadline(cautious, progress, rate, allowed)
        return every

    def _rate(self, median: Table, progress: Any, allowed: Sequence[int]) -> float:
        """Uncompressed rounds per second, at the best known."""
        rates = self.scores.rates()
        if rates:
            return 1.0 / max(min(rates.values()), 1e-12)
        whole = [self._all_at(level, len(median.up)) for level in allowed]
        return max(
            policies.worth(one, progress) / max(median.round_seconds(one.up, one.down), 1e-12)
            for one in whole
        )

    def _allowance(self) -> float:
        return (self.settings.budget_bytes - self.spent) / max(self.rounds - self.done, 1)

    def _policy(self, proposals: Mapping[str, Proposal], allowed: Sequence[int]) -> tuple[str, str]:
        objective = self.settings.objective
        if objective == "budget" and self._allowance() <= 0:
            return objective, "the budget is spent: as little as can be"
        if objective != "time":
            return objective, f"for the objective '{objective}'"
        names = set(proposals)
        if self.guard.off:
            coarsest = policies.name_of(max(allowed))
            names = {coarsest} if coarsest in self.scores.seconds else names
        return self.scores.best(names, self.policy) or ("start", "nothing is known of any line yet")

    def _predicted(self, known: Tables, chosen: Proposal, *, trains: bool) -> tuple[float, float, float]:
        came = chosen.down if self.down is None else self.down[0]
        came = came if known.at().fits(chosen.up, came) else chosen.down  # it has to fit in any case
        median, low, high = (
            known.at(z, trains=trains).round_seconds(chosen.up, came) for z in (0.0, -EIGHTY, EIGHTY)
        )
        return median, low, high

    # -- after it --------------------------------------------------------------------------------------------

    def observe(
        self,
        number: int,
        seen: Mapping[str, Seen],
        *,
        frame_bytes: int,
        loss: float,
        norm: float,
        spent: float = 0.0,
    ) -> dict[str, Any]:
        """Takes in what a round took, per site; gives what was found, for the log.

        `frame_bytes` is the length of the frame that brought the result down, `norm` the Euclidean norm of the trunk's
        step, `loss` the task's metric on the stopping data, lower better; `spent` are all bytes of the run so far.
        """
        assert self._decided is not None
        decision, proposals, asked = self._decided
        assert decision.round == number
        before = dict(self.sites)
        covered = self._learn(decision, seen)
        came = [one.down_bytes - self.brought for one in seen.values() if one.down_bytes]
        self.sizes = self.sizes.after(DOWN, [(*decision.down, frame_bytes)], min(came, default=-1.0))
        self.brought = frame_bytes
        took = self._would_have_taken(before, seen, proposals, asked, trains=decision.trains)
        actual = self._took(decision, seen)
        swerved = self._swerved(before, seen)
        self.rounds_scored = 0 if swerved else self.rounds_scored + 1
        forgets = _REMEMBERS if swerved else min(_FORGETS, self.rounds_scored / (self.rounds_scored + 2))
        if took:
            self.scores = self.scores.after(took, forgets)
        now = {name: up[0] for name, up in decision.up.items()} if self.peers else {"": decision.down[0]}
        was = self._levels if self.peers else {} if self.down is None else {"": self.down[0]}
        if any(LADDER[was.get(name, level)].family != LADDER[level].family for name, level in now.items()):
            self.changed = number
        self.policy = decision.policy
        self.down = decision.down
        sent = sorted(name for name, one in seen.items() if one.up_bytes)
        self._levels |= {name: decision.up[name][0] for name in (seen if self.peers else sent)}
        self._trained = sent if decision.trains else []
        coarsest = max((level for level, _ in decision.up.values()), default=index_of(START))
        if decision.trains:  # else the step is smaller than any that it watches
            self.guard = self.guard.after(number, loss, norm, coarsest)
        self.spent, self.done = max(float(spent), self.spent), number + 1
        return {"seconds": actual, "covered": covered, "swerved": swerved}

    def _learn(self, decision: Decision, seen: Mapping[str, Seen]) -> list[int]:
        """Lines, devices, sizes and worth after a round; how many transfers, of all, took what was expected."""
        inside = transfers = 0
        lost: dict[int, list[float]] = {}
        frames: list[tuple[int, int, float]] = []
        around: list[float] = []
        for name, one in sorted(seen.items()):
            site = self.sites.setdefault(name, SiteCosts())
            for line, size, seconds in (
                (site.up, one.up_bytes, one.up_seconds),
                (site.down, one.down_bytes, one.down_seconds),
            ):
                if size and seconds > 0 and line.seen:
                    transfers += 1
                    inside += line.seconds(size, -EIGHTY) <= seconds <= line.seconds(size, EIGHTY)
            up = decision.up.get(name) if one.up_bytes else None
            down = self.down if one.down_bytes else None
            expected = expected_coding(self.device, self.sizes, up, down)
            self.sites[name] = site.after(one, expected, trained=decision.trains)
            if up is not None and one.frame_bytes:
                frames.append((*up, one.frame_bytes))
                around.append(one.up_bytes / self.sizes.copies - one.frame_bytes)
            if 0 <= one.lost <= 1 and name in self._trained:  # of the update before
                lost.setdefault(self._levels[name], []).append(one.lost)
        if frames:
            self.sizes = self.sizes.after(UP, frames, float(np.median(around)))
        if lost:
            most = max(sorted(lost), key=lambda level: len(lost[level]))
            self.worth = self.worth.after(most, float(np.median(lost[most])))
        for name in self.sites.keys() - seen.keys():
            self.sites[name] = self.sites[name].without(asked=name in decision.up)
        return [inside, transfers]

    def _would_have_taken(
        self,
        before: Mapping[str, SiteCosts],
        seen: Mapping[str, Seen],
        proposals: Mapping[str, Proposal],
        asked: Sequence[str],
        *,
        trains: bool,
    ) -> dict[str, tuple[float, float]]:
        """Seconds and worth of this round under every policy, had it trained."""
        present = [row for row, name in enumerate(asked) if name in seen and seen[name].up_bytes]
        if not present:
            return {}
        views = []
        for row in present:
            name, one = asked[row], seen[asked[row]]
            old = before.get(name, SiteCosts())
            views.append(self.sites[name].as_it_was(old, one, trained=trains))
        found = self._tables(views, range(len(LADDER))).at(hoped=True)
        progress = np.array(self.worth.progress())
        took = {}
        for name, proposal in proposals.items():
            here = Proposal(proposal.up[present], proposal.down)
            if not found.fits(here.up, here.down):
                continue
            took[name] = found.round_seconds(here.up, here.down), policies.worth(here, progress)
        return took

    def _took(self, decision: Decision, seen: Mapping[str, Seen]) -> float:
        """The seconds of the round as it was: its orders, which brought the last result, and its updates."""
        came = max((one.down_seconds + one.decode_seconds for one in seen.values()), default=0.0)
        went = max(
            (one.train_seconds + one.encode_seconds + one.up_seconds for one in seen.values()), default=0.0
        )
        coded = [(DECODE, decision.up[name]) for name, one in seen.items() if one.up_bytes]
        if self.down is not None and not self.peers:
            coded.append((ENCODE, self.down))
        merging = sum(self.device.seconds(way, label(choice), self.sizes.parameters) for way, choice in coded)
        return came + went + merging

    def _swerved(self, before: Mapping[str, SiteCosts], seen: Mapping[str, Seen]) -> bool:
        """Whether most lines were far from what was expected of them: the times have changed."""
        surprises = []
        for name, one in seen.items():
            line = before[name].up if name in before else Line()
            if line.seen and one.up_bytes and one.up_seconds > 0:
                surprises.append(abs(math.log(one.up_seconds / line.seconds(one.up_bytes))))
        return bool(surprises) and float(np.median(surprises)) > _SWERVED

    # -- saved and restored ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Everything between two rounds, as plain values."""
        return {
            "sites": {name: site.to_json() for name, site in self.sites.items()},
            "sizes": {way: {str(k): v for k, v in rows.items()} for way, rows in self.sizes.factors.items()},
            "around": dict(self.sizes.around),
            "worth": [self.worth.exponent, self.worth.seen],
            "guard": self.guard.to_json(),
            "scores": asdict(self.scores),
            "policy": self.policy,
            "changed": self.changed,
            "spent": self.spent,
            "done": self.done,
            "rounds_scored": self.rounds_scored,
            "down": self.down,
            "brought": self.brought,
            "levels": self._levels,
            "trained": self._trained,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Stands again where `save` was called."""
        self.sites = {name: SiteCosts.from_json(row) for name, row in saved["sites"].items()}
        factors = {way: {int(k): float(v) for k, v in rows.items()} for way, rows in saved["sizes"].items()}
        self.sizes = replace(self.sizes, factors=factors, around=dict(saved["around"]))
        self.worth = replace(self.worth, exponent=saved["worth"][0], seen=saved["worth"][1])
        self.guard = Guard.from_json(saved["guard"])
        self.scores = Scores(dict(saved["scores"]["seconds"]), dict(saved["scores"]["progress"]))
        self.policy, self.changed = saved["policy"], saved["changed"]
        self.spent, self.done = saved["spent"], saved["done"]
        self.rounds_scored = saved["rounds_scored"]
        self.down = None if saved["down"] is None else (saved["down"][0], saved["down"][1])
        self._levels, self.brought = dict(saved["levels"]), saved["brought"]
        self._trained = list(saved.get("trained", []))
