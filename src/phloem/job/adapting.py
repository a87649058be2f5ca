"""Adaptation inside a run: tells the controller what each round took, and writes down what was decided and why."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from phloem import canonical
from phloem.engines.base import Answer
from phloem.job.clock import Clock
from phloem.job.record import RoundRecord
from phloem.planner import levels, rounds
from phloem.planner.control import Controller
from phloem.planner.costs import Seen
from phloem.planner.decision import Decision, label
from phloem.planner.device import DECODE, ENCODE, Device, device_of
from phloem.planner.levels import DOWN, UP
from phloem.planner.settings import MEASURED
from phloem.recipe import Recipe
from phloem.rounds.adapting import AdaptiveChoice
from phloem.rounds.choose import Choose
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.plan import Plan
from phloem.rounds.result import RoundResult
from phloem.tasks.base import Metric
from phloem.wire.messages import Report

VERSION = 2
"""Of a line of `decisions.jsonl`."""


def chooser_for(recipe: Recipe, plan: Plan, parameters: int) -> Choose | None:
    """What chooses codecs in a run of this recipe; None where they are fixed."""
    return TimedChoice(controller_for(recipe, parameters)) if recipe.adapts else None


def controller_for(recipe: Recipe, parameters: int) -> Controller:
    """The controller of a recipe's runs, which knows its task, how much memory devices have, and nothing of lines."""
    made = Controller(
        recipe.sites.all,
        parameters,
        settings=recipe.adapt,
        task=recipe.task_name,
        device=device_of(recipe.adapt.device),
        rounds=recipe.rounds.max,
        owes=recipe.server.name != "adam"
        and recipe.prune is None,  # a round without training would prune, too
    )
    made.sites = {
        name: replace(one, memory=recipe.device_of(name).memory_bytes) for name, one in made.sites.items()
    }
    return made


class TimedChoice(AdaptiveChoice):
    """The adaptive choice, and what choosing takes on this machine."""

    seconds = 0.0

    def opened(self, round_number: int, asked: Sequence[str], parameters: int) -> None:
        """Decides for the round."""
        started = time.perf_counter()
        super().opened(round_number, asked, parameters)
        self.seconds += time.perf_counter() - started

    def spent(self) -> float:
        """The seconds since this was asked last."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Adaptation:
    """One run's side of it: what the controller is told, on the clock that the recipe asks for."""

    def __init__(self, choice: TimedChoice, recipe: Recipe, clock: Clock, metric: Metric) -> None:
        self.choice, self.recipe, self.clock, self.metric = choice, recipe, clock, metric

    @classmethod
    def of(cls, recipe: Recipe, coordinator: Coordinator, clock: Clock, metric: Metric) -> Adaptation | None:
        """The adaptation of a run; None where its codecs are fixed."""
        choice = coordinator.chooser
        return cls(choice, recipe, clock, metric) if isinstance(choice, TimedChoice) else None

    def observe(
        self,
        record: RoundRecord,
        result: RoundResult,
        orders: Mapping[str, bytes],
        answers: Mapping[str, Answer],
        before: RoundRecord | None,
    ) -> dict[str, Any] | None:
        """Tells the controller what a round took; gives the line for `decisions.jsonl`. None where nobody trained."""
        started = time.perf_counter()
        decision, controller = self.choice.decision, self.choice.controller
        record.choice_seconds = self.choice.spent()
        if decision is None or decision.round != record.round:
            return None
        record.trained = decision.trains
        sent = {update.site: len(update.frame) for update in result.accepted}
        seen = {}
        for site, answer in answers.items():
            if site in decision.up:
                report = result.reports.get(site, Report())
                frame = sent.get(site, 0)
                seen[site] = self._seen(site, orders[site], answer, report, decision, before, frame)
        loss = -record.metric if self.metric.higher_is_better else record.metric
        spent = (before.total_bytes if before is not None else 0) + sum(
            len(answer.message) for answer in answers.values()
        )
        told: dict[str, Any] = {
            "frame_bytes": len(result.frame),
            "loss": loss,
            "norm": result.norm,
            "spent": spent,
        }
        found = controller.observe(record.round, seen, **told)
        record.choice_seconds += time.perf_counter() - started
        exponent, parameters = controller.worth.exponent, controller.sizes.parameters
        known = {"exponent": exponent, "parameters": parameters, "tables": tables_digest(controller.device)}
        return {"version": VERSION, **line_of(decision, found, seen, told), **known}

    def _seen(
        self,
        site: str,
        order: bytes,
        answer: Answer,
        report: Report,
        decision: Decision,
        before: RoundRecord | None,
        frame_bytes: int,
    ) -> Seen:
        updated = frame_bytes > 0
        up_bytes = len(answer.message) if updated else 0
        lost = -1.0 if report.lost is None else report.lost
        if self.recipe.adapt.clock == MEASURED and answer.turnaround_seconds is not None:
            # without an update nobody knows which part of the time was work
            waited = answer.turnaround_seconds
            return Seen.shared(up_bytes, len(order), waited, report, frame_bytes) if updated else Seen()
        clock, size = self.clock, self.choice.controller.sizes.parameters
        ended = 0.0 if before is None else before.total_seconds
        came = ended - (0.0 if before is None else before.down_seconds)
        train = self.recipe.link_of(site).train_seconds if decision.trains else 0.0
        encode = clock.codes(site, ENCODE, decision.config(site), size) if updated else 0.0
        down = self.choice.controller.previous_down
        decode = clock.codes(site, DECODE, down, size) if down is not None else 0.0
        return Seen(
            up_bytes,
            clock.sends(site, UP, up_bytes, ended + train + encode) if updated else 0.0,
            len(order),
            clock.sends(site, DOWN, len(order), came),
            encode,
            decode,
            train,
            lost,
            frame_bytes,
            self.recipe.device_of(site).memory_bytes,
        )


def told_in_short(lines: Sequence[Mapping[str, Any]], controller: Controller) -> dict[str, Any]:
    """What a run's summary says of its choices: policies by rounds, changes of level, how predictions held.

    `slower` is the time that a site's device took over the profile's.
    """
    policies = [str(line["policy"]) for line in lines]
    chosen = [(line["up"], line["down"]) for line in lines]
    covered = [sum(line["actual"]["covered"][place] for line in lines) for place in (0, 1)]
    ratios = [
        line["actual"]["seconds"] / line["predicted"]["seconds"]
        for line in lines
        if line["actual"]["seconds"]
    ]
    return {
        "policies": {name: policies.count(name) for name in dict.fromkeys(policies)},
        "changes": sum(before != after for before, after in itertools.pairwise(chosen)),
        "transfers": covered[1],
        "transfers_in_interval": covered[0],
        "slower": {name: round(site.slower, 3) for name, site in sorted(controller.sites.items())},
        "actual_over_predicted": statistics.median(ratios) if ratios else None,
    }


def tables_digest(device: Device) -> str:
    """What stands for the tables that choices are made from: what rounds are worth, and the device's profile."""
    memory = [option.memory_bytes(1_000_000) for level in levels.LADDER for option in level.options]
    known = [rounds.tables(), rounds.strangers(), memory, device.to_json()]
    return canonical.digest(canonical.dumps(known))[:16]


def line_of(
    decision: Decision, found: Mapping[str, Any], seen: Mapping[str, Seen], told: Mapping[str, Any]
) -> dict[str, Any]:
    """One line of `decisions.jsonl`: what was chosen and why, what was expected, what came, and all that was told."""
    up: dict[str, list[str]] = {}
    for site, choice in sorted(decision.up.items()):
        up.setdefault(label(choice), []).append(site)
    median, low, high = decision.predicted
    loss = told["loss"]
    return {
        "round": decision.round,
        "policy": decision.policy,
        "why": decision.why,
        "trains": decision.trains,
        "up": up,
        "down": label(decision.down),
        "predicted": {"seconds": median, "low": low, "high": high},
        "actual": dict(found),
        "scores": dict(decision.scores),
        "told": {
            **told,
            "loss": loss if math.isfinite(loss) else None,
            "seen": {site: one.to_json() for site, one in sorted(seen.items())},
        },
    }
