"""What every level would take at every site: arrays of seconds, from lines, devices and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from phloem.planner import levels
from phloem.planner.device import DECODE, ENCODE, Device
from phloem.planner.levels import DOWN, ENVELOPE_BYTES, LADDER, UP
from phloem.planner.link import Line

Seconds = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
_GAIN = 0.3
_STAYS = 3.0  # seconds that a line stays fast or slow: over longer ones its ups and downs even out
_UNLIKE = 0.5  # squared log-goodput by which the ways of a line differ
_STRIKES = 3  # a device that took twice its time so often is another device now
_OPTIONS = max(len(level.options) for level in LADDER)


@dataclass(frozen=True)
class Seen:
    """What one site's round took, as it was measured.

    Attributes:
        up_bytes, up_seconds, down_bytes, down_seconds: of the messages; 0 bytes where nothing crossed.
        encode_seconds, decode_seconds, train_seconds: at the site.
        lost: the share of the last update's square that its frame left out, error feedback included; -1 is not known.
        frame_bytes: of the frame in the message that went up.
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
    """

    up: Line = field(default_factory=Line)
    down: Line = field(default_factory=Line)
    slower: float = 1.0
    train: float = 0.0
    seen: int = 0
    strikes: int = 0
    missed: int = 0

    def after(self, seen: Seen, expected: float, *, trained: bool = True) -> SiteCosts:
        """The same after a round, whose coding was expected to take this long on the profile's device."""
        down = self.down.after(seen.down_bytes, seen.down_seconds) if seen.down_bytes else self.down
        up = self.up
        # the first order carries no frame: it shows the latency, and that is alike both ways
        if down.seen and not up.seen:
            up = replace(up, fixed=down.fixed, variances=(up.variances[0], down.variances[1] + 0.1, 0.0))
        if seen.up_bytes:
            first, up = not up.seen, up.after(seen.up_bytes, seen.up_seconds)
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
        )

    def without(self, *, asked: bool) -> SiteCosts:
        """The same after a round that it had no part in; where it was asked, its line up may have become slow.

        Only the first three times: who never answers is slow in a way that no smaller frame mends.
        """
        missed = self.missed + 1 if asked else self.missed
        up = self.up.failed() if asked and missed <= _STRIKES else self.up.rested()
        return replace(self, up=up, down=self.down.rested(), missed=missed)

    def hoped(self) -> SiteCosts:
        """The same with lines as good as they may well be."""
        return replace(self, up=self.up.hoped(), down=self.down.hoped())

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
    """

    parameters: int
    factors: Mapping[str, Mapping[int, float]]
    around: Mapping[str, float]

    @classmethod
    def of(cls, parameters: int) -> Sizes:
        """Before any frame was sent."""
        return cls(parameters, {UP: {}, DOWN: {}}, {UP: ENVELOPE_BYTES, DOWN: ENVELOPE_BYTES})

    def bytes(self, direction: str, level: int, option: int) -> float:
        """How long a message is expected to be."""
        expected = LADDER[level].options[option].bytes(direction, self.parameters)
        return expected * self.factors[direction].get(level, 1.0) + self.around[direction]

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


@dataclass(frozen=True)
class Table:
    """Seconds of a round's parts, (sites, levels) each, every site at its cheapest effort.

    Attributes:
        up: training, encoding and sending.
        down: receiving and decoding the frame that brings the result.
        efforts: the place of the chosen option in `Level.options`, (sites, levels), for what goes up.
        effort_down: the same for the one frame that goes down, (levels).
        merging: the coordinator's decoding of one update, (sites, levels).
        sending: its encoding of the frame that goes down, (levels).
    """

    up: Seconds
    down: Seconds
    efforts: Places
    effort_down: Places
    merging: Seconds
    sending: Seconds

    def round_seconds(self, up: Places, down: int) -> float:
        """A round in which the sites send at these levels, and get the result at that one."""
        rows = np.arange(len(up))
        sites = float(self.up[rows, up].max(initial=0.0) + self.down[:, down].max(initial=0.0))
        return sites + float(self.merging[rows, up].sum() + self.sending[down])


def untrained(sites: Sequence[SiteCosts]) -> list[SiteCosts]:
    """These sites, where nobody trains."""
    return [replace(site, train=0.0) for site in sites]


def table(
    sites: Sequence[SiteCosts],
    device: Device,
    sizes: Sizes,
    *,
    z: float = 0.0,
    merges: float = 1.0,
    thrifty: bool = False,
    costs: Costs | None = None,
) -> Table:
    """The table of these sites; at z standard deviations beyond what is expected of their lines.

    `merges` is the share of these sites whose updates the coordinator merges. With `thrifty` efforts are those that
    take the fewest bytes, else those that are done soonest. `costs` are the device's for these sizes, where they are
    known already.
    """
    costs = costs or costs_of(device, sizes)
    slower = np.array([site.slower for site in sites])[:, None, None]
    train = np.array([site.train for site in sites])[:, None, None]
    up = train + slower * costs.encode + _transfers([site.up for site in sites], costs.bytes_up, z)
    down = slower * costs.decode + _transfers([site.down for site in sites], costs.bytes_down, z)
    up, down = (np.where(costs.exists, seconds, np.inf) for seconds in (up, down))
    # the coordinator decodes them all, one after another
    efforts = (up + len(sites) * merges * np.where(costs.exists, costs.decode, 0.0)).argmin(axis=2)
    if thrifty:
        efforts = np.broadcast_to(
            np.where(costs.exists, costs.bytes_up, np.inf).argmin(axis=1), efforts.shape
        )
    once = np.where(costs.exists, merges * costs.encode, np.inf)
    effort_down = (down.max(axis=0, initial=0.0) + once).argmin(axis=1)
    if thrifty:
        effort_down = np.where(costs.exists, costs.bytes_down, np.inf).argmin(axis=1)
    places = np.arange(len(LADDER))
    return Table(
        np.take_along_axis(up, efforts[:, :, None], axis=2)[:, :, 0],
        down[:, places, effort_down],
        efforts,
        effort_down,
        merges * costs.decode[places[None, :], efforts],
        once[places, effort_down],
    )


@dataclass(frozen=True)
class Costs:
    """Of every option, (levels, options): whether it is there, seconds on the profile's device, bytes."""

    exists: npt.NDArray[np.bool_]
    encode: Seconds
    decode: Seconds
    bytes_up: Seconds
    bytes_down: Seconds


def costs_of(device: Device, sizes: Sizes) -> Costs:
    """What every option takes on a device, at the sizes that are expected."""
    shape = len(LADDER), _OPTIONS
    exists = np.zeros(shape, np.bool_)
    encode, decode, size_up, size_down = (np.zeros(shape) for _ in range(4))
    for place, level in enumerate(LADDER):
        for option, key in enumerate(level.keys):
            exists[place, option] = True
            encode[place, option] = device.seconds(ENCODE, key, sizes.parameters)
            decode[place, option] = device.seconds(DECODE, key, sizes.parameters)
            size_up[place, option] = sizes.bytes(UP, place, option)
            size_down[place, option] = sizes.bytes(DOWN, place, option)
    return Costs(exists, encode, decode, size_up, size_down)


def _transfers(lines: Sequence[Line], sizes: Seconds, z: float) -> Seconds:
    """`Line.seconds` of every line and size, (sites, levels, options)."""
    rows = [
        (
            line.bytes_per_second,
            line.fixed_seconds,
            *line.variances,
            line.noise,
            line.width,
            line.swing,
            line.at,
        )
        for line in lines
    ]
    columns = np.array(rows).reshape(-1, 9).T[:, :, None, None]
    goodput, fixed, var_goodput, var_fixed, covariance, noise, width, swing, at = columns
    moving = sizes[None] / goodput
    moving *= np.exp(-swing * np.sqrt((_STAYS + at / goodput) / (_STAYS + moving)))
    median = fixed + moving
    if not z:
        return np.asarray(median)
    share, rest = moving / median, fixed / median
    known = share**2 * var_goodput + rest**2 * var_fixed - 2 * share * rest * covariance
    return np.asarray(median * np.exp(z * width * np.sqrt(np.maximum(known, 0.0) + noise)))


def expected_coding(
    device: Device, sizes: Sizes, up: tuple[int, int] | None, down: tuple[int, int] | None
) -> float:
    """The seconds that a site's coding takes on the profile's device, for (level, option) each way."""
    total = 0.0
    for way, chosen in ((ENCODE, up), (DECODE, down)):
        if chosen is not None:
            total += device.seconds(way, levels.LADDER[chosen[0]].keys[chosen[1]], sizes.parameters)
    return total
