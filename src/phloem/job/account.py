"""What a round cost: the bytes of every message, and the seconds that they take on the simulated clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phloem.engines.base import Answer
from phloem.job.clock import Clock
from phloem.job.record import RoundRecord, SiteRecord
from phloem.planner.device import DECODE, ENCODE
from phloem.planner.levels import DOWN, UP
from phloem.recipe import Recipe
from phloem.rounds.plan import Choice, Plan
from phloem.wire.messages import Order, Reply, Status


@dataclass(frozen=True, slots=True)
class Merging:
    """What the coordinator did in a round: how long that took here, the codec of its frame, and updates merged."""

    seconds: float
    choice: Choice
    updates: int


@dataclass(frozen=True)
class Account:
    """Counts a run's rounds. `size` is the model's parameters."""

    recipe: Recipe
    clock: Clock
    plan: Plan
    size: int

    def round(
        self,
        record: RoundRecord,
        before: RoundRecord | None,
        orders: Mapping[str, bytes],
        answers: Mapping[str, Answer],
        following: Mapping[str, bytes],
        unpaid: Mapping[str, bytes],
        merging: Merging,
    ) -> None:
        """Counts what crossed the boundary: `len` of every message, frames apart from the rest."""
        began = 0.0 if before is None else before.total_seconds
        size = self.size if record.kept is None else record.kept
        record.per_site = {name: SiteRecord() for name in self.recipe.sites.all}
        up_seconds, merged = 0.0, []
        for name, row in record.per_site.items():
            row.status = "away" if name not in answers else row.status
            if name in answers:
                reply = take_up(record, row, answers[name])
                row.metrics = dict(answers[name].metrics)
                row.status = "silent" if reply.status is Status.SILENT else "accepted"
                order = Order.unpack(orders[name])
                works = 0.0 if order.owed else self.recipe.link_of(name).train_seconds
                if reply.status is Status.UPDATE:
                    merged.append(self._choice(order).config)
                    works += self.clock.codes(name, ENCODE, merged[-1], size)
                sends = self.clock.sends(name, UP, len(answers[name].message), began + works)
                up_seconds = max(up_seconds, works + sends)
            row.status = "refused" if name in answers and name in record.refused else row.status
        up_seconds += self.clock.merges(merged, merging.choice.config, size)
        for name, row in record.per_site.items():
            for messages in (following, unpaid):
                if name in messages:
                    order = Order.unpack(messages[name])
                    row.down += order.frame_bytes
                    row.control += len(messages[name]) - order.frame_bytes
                    record.ledger_bytes += len(order.attachment)
                    row.frames_down += len(order.items)
                    seconds = self.clock.sends(name, DOWN, len(messages[name]), began + up_seconds)
                    if order.items:
                        seconds += self.clock.codes(name, DECODE, merging.choice.config, size)
                    record.down_seconds = max(record.down_seconds, seconds)
        record.seconds = up_seconds + record.down_seconds
        record.train_seconds = sum(a.train_seconds for a in answers.values())
        record.codec_seconds = merging.seconds + sum(a.codec_seconds for a in answers.values())
        self.add_up(record, before)

    def _choice(self, order: Order) -> Choice:
        """The codec that an order asks for."""
        return Choice.unpack(order.choice) if order.choice else self.plan.up_in(order.round)

    def add_up(self, record: RoundRecord, before: RoundRecord | None) -> None:
        """The sums over sites, and over the rounds so far."""
        rows, size = record.per_site.values(), self.size
        frames_up, frames_down = sum(row.frames_up for row in rows), sum(row.frames_down for row in rows)
        record.bytes_up, record.bytes_down = sum(r.up for r in rows), sum(r.down for r in rows)
        record.control_bytes = sum(r.control for r in rows)
        record.bits_per_parameter_up = 8 * record.bytes_up / (size * frames_up) if frames_up else 0.0
        record.bits_per_parameter_down = 8 * record.bytes_down / (size * frames_down) if frames_down else 0.0
        spent = record.bytes_up + record.bytes_down + record.control_bytes
        record.total_bytes = spent + (before.total_bytes if before else 0)
        record.total_seconds = record.seconds + (before.total_seconds if before else 0.0)


def take_up(record: RoundRecord, row: SiteRecord, answer: Answer) -> Reply:
    """Counts one answer."""
    reply = Reply.unpack(answer.message)
    row.up += reply.frame_bytes
    row.control += len(answer.message) - reply.frame_bytes
    record.ledger_bytes += len(reply.attachment)
    row.examples += reply.examples
    row.frames_up += reply.status is Status.UPDATE
    return reply
