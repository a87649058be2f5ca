"""What is known of every site's line and device, and of how long messages are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from phloem.planner import levels
from phloem.planner.device import DECODE, ENCODE, Device
from phloem.planner.levels import DOWN, ENVELOPE_BYTES, LADDER, UP
from phloem.planner.link import Line
from phloem.wire.messages import Report

_GAIN = 0.3
_LATENCY_BYTES = 20_000  # what a line of 10 Mbit/s carries in 16 ms
_UNLIKE = 0.5  # squared log-goodput by which the ways of a line differ
_STRIKES = 3  # a device that took twice its time so often is another device now


@dataclass(frozen=True)
class Seen:
    """What one site's round took, as it was measured.

    Attributes:
        up_bytes, up_seconds, down_bytes, down_seconds: of the messages; 0 bytes where nothing crossed.
        encode_seconds, decode_seconds, train_seconds: at the site.
        lost: the share of the last update's square that its frame left out, error feedback included; -1 is not known.
        frame_bytes: of the frame in the message that went up.
        memory: bytes that the site can spare for coding; 0 is not known.
        round_trip_seconds: of the line, as the system knows it; 0 is not known.
    """

    up_bytes: int = 0
    up_seconds: float = 0.0
    down_bytes: int = 0
    down_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    train_seconds: float = 0.0
    lost: float = -1.0
    frame_bytes: int = 0
    memory: float = 0.0
    round_trip_seconds: float = 0.0

    @classmethod
    def shared(cls, up_bytes: int, down_bytes: int, waited: float, report: Report, frame_bytes: int) -> Seen:
        """A round as whoever sent the order and waited for the reply saw it, less what the site says that it worked.

        Only the sum of both transfers shows there; each gets the part of it that its bytes have, and what its latency
        stands for. A site that says it worked longer than the whole took is believed as far as that goes: its times
        are scaled down to it.
        """
        worked = report.train_seconds + report.encode_seconds + report.decode_seconds
        share = min(1.0, 0.999 * waited / worked) if worked > 0 else 1.0
        moving = waited - share * worked
        up_share = (up_bytes + _LATENCY_BYTES) / (up_bytes + down_bytes + 2 * _LATENCY_BYTES)
        return cls(
            up_bytes,
            moving * up_share,
            down_bytes,
            moving * (1.0 - up_share),
            share * report.encode_seconds,
            share * report.decode_seconds,
            share * report.train_seconds,
            -1.0 if report.lost is None else report.lost,
            frame_bytes,
            report.spare_bytes,
        )

    def to_json(self) -> list[float]:
        """The fields in their order."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


@dataclass(frozen=True)
class SiteCosts:
    """What is known of one site.

    Attributes:
        up, down: its line.
        slower: its device's time over the profile's.
        train: seconds of a round's training, smoothed.
        seen: rounds that it took part in.
        strikes: rounds in a row in which coding took more than twice what was expected of this device.
        missed: rounds in a row in which it was asked and gave no answer.
        memory: bytes that it can spare for coding; 0 is not known.
    """

    up: Line = field(default_factory=Line)
    down: Line = field(default_factory=Line)
    slower: float = 1.0
    train: float = 0.0
    seen: int = 0
    strikes: int = 0
    missed: int = 0
    memory: float = 0.0

    def after(self, seen: Seen, expected: float, *, trained: bool = True) -> SiteCosts:
        """The same after a round, whose coding was expected to take this long on the profile's device."""
        down = self.down.after(seen.down_bytes, seen.down_seconds) if seen.down_bytes else self.down
        up = self.up
        # the first order carries no frame: it shows the latency, and that is alike both ways
        if down.seen and not up.seen:
            up = replace(up, fixed=down.fixed, variances=(up.variances[0], down.variances[1] + 0.1, 0.0))
        if seen.up_bytes:
            first, up = not up.seen, up.heard(seen.round_trip_seconds, seen.up_seconds)
            up = up.after(seen.up_bytes, seen.up_seconds)
            # and the first update shows more of the way down than those orders did
            if first and up.seen and down.seen:
                certain = up.variances[0] + _UNLIKE
                if certain < down.variances[0]:
                    down = replace(down, goodput=up.goodput, variances=(certain, *down.variances[1:]))
        slower, train, strikes = self.slower, self.train, self.strikes
        if seen.up_bytes:
            gain = _GAIN if self.seen else 1.0
            coded = max(seen.encode_seconds + seen.decode_seconds, 0.0)
            if expected > 0:
                found = min(coded / expected, 1e6)
                strikes = strikes + 1 if found > 2 * slower else 0
                slower = found if strikes >= _STRIKES else slower + gain * (found - slower)
                strikes = 0 if strikes >= _STRIKES else strikes
            if trained:
                train += gain * (max(seen.train_seconds, 0.0) - train)
        return replace(
            self,
            up=up,
            down=down,
            slower=slower,
            train=train,
            seen=self.seen + bool(seen.up_bytes),
            strikes=strikes,
            missed=0,
            memory=seen.memory if seen.memory > 0 else self.memory,
        )

    def without(self, *, asked: bool) -> SiteCosts:
        """The same after a round that it had no part in; where it was asked, its line up may have become slow.

        Only the first three times: who never answers is slow in a way that no smaller frame mends.
        """
        missed = self.missed + 1 if asked else self.missed
        up = self.up.failed() if asked and missed <= _STRIKES else self.up.rested()
        return replace(self, up=up, down=self.down.rested(), missed=missed)

    def as_it_was(self, before: SiteCosts, seen: Seen, *, trained: bool) -> SiteCosts:
        """The site at the moment of a round, for the question what another level would have taken in its place."""
        up = self.up.as_it_was(before.up, seen.up_bytes, seen.up_seconds)
        down = self.down
        if seen.down_bytes:
            down = down.as_it_was(before.down, seen.down_bytes, seen.down_seconds)
        return replace(self, up=up, down=down, train=max(seen.train_seconds, 0.0) if trained else self.train)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "up": self.up.to_json(),
            "down": self.down.to_json(),
            "slower": self.slower,
            "train": self.train,
            "seen": self.seen,
            "strikes": self.strikes,
            "missed": self.missed,
            "memory": self.memory,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> SiteCosts:
        """What `to_json` gave."""
        lines = {way: Line.from_json(table[way]) for way in (UP, DOWN)}
        return cls(**{**table, **lines})


@dataclass(frozen=True)
class Sizes:
    """How long messages are: expected from their bits, then corrected by those that were sent.

    Attributes:
        factors: frames found over frames expected, by direction and level.
        around: bytes of a message besides its frame, by direction.
        copies: how often an update crosses its sender's line.
    """

    parameters: int
    factors: Mapping[str, Mapping[int, float]]
    around: Mapping[str, float]
    copies: int = 1

    @classmethod
    def of(cls, parameters: int, copies: int = 1) -> Sizes:
        """Before any frame was sent."""
        return cls(parameters, {UP: {}, DOWN: {}}, {UP: ENVELOPE_BYTES, DOWN: ENVELOPE_BYTES}, copies)

    def bytes(self, direction: str, level: int, option: int) -> float:
        """How many bytes a message is expected to be, all its copies together."""
        expected = LADDER[level].options[option].bytes(direction, self.parameters)
        message = expected * self.factors[direction].get(level, 1.0) + self.around[direction]
        return message * self.copies if direction == UP else message

    def least(self, direction: str, level: int) -> float:
        """The same with whichever effort takes the fewest bytes."""
        return min(self.bytes(direction, level, option) for option in range(len(LADDER[level].options)))

    def after(self, direction: str, frames: Sequence[tuple[int, int, float]], around: float) -> Sizes:
        """The same after frames of so many bytes, each as (level, option, bytes), and what was around them.

        What most of a level's frames were long, counts; one sender's do not move it.
        """
        ratios: dict[int, list[float]] = {}
        for level, option, found in frames:
            expected = LADDER[level].options[option].bytes(direction, self.parameters)
            ratios.setdefault(level, []).append(min(max(found / expected, 0.05), 20.0))
        factors = dict(self.factors[direction])
        for level, values in ratios.items():
            before, middle = factors.get(level), float(np.median(values))
            factors[level] = middle if before is None else before + _GAIN * (middle - before)
        extra = self.around[direction]
        extra += _GAIN * (around - extra) if around >= 0 else 0.0
        return replace(
            self,
            factors={**self.factors, direction: factors},
            around={**self.around, direction: extra},
        )


def expected_coding(
    device: Device, sizes: Sizes, up: tuple[int, int] | None, down: tuple[int, int] | None
) -> float:
    """The seconds that a site's coding takes on the profile's device, for (level, option) each way."""
    total = 0.0
    for way, chosen in ((ENCODE, up), (DECODE, down)):
        if chosen is not None:
            total += device.seconds(way, levels.LADDER[chosen[0]].keys[chosen[1]], sizes.parameters)
    return total
