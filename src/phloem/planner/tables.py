"""What every level would take at every site: arrays of seconds, from lines, devices and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phloem.planner.costs import SiteCosts, Sizes
from phloem.planner.device import DECODE, ENCODE, Device
from phloem.planner.levels import DOWN, LADDER, UP, index_of
from phloem.planner.link import HOPE, Line

Seconds = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
_STAYS = 3.0  # seconds that a line stays fast or slow: over longer ones its ups and downs even out
_OPTIONS = max(len(level.options) for level in LADDER)


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

    def fits(self, up: Places, down: int) -> bool:
        """Whether every site has the memory for it."""
        rows = np.arange(len(up))
        return bool(np.isfinite(self.up[rows, up]).all() and np.isfinite(self.down[:, down]).all())

    def round_seconds(self, up: Places, down: int) -> float:
        """A round in which the sites send at these levels, and get the result at that one."""
        rows = np.arange(len(up))
        sites = float(self.up[rows, up].max(initial=0.0) + self.down[:, down].max(initial=0.0))
        return sites + float(self.merging[rows, up].sum() + self.sending[down])


@dataclass(frozen=True)
class Costs:
    """Of every option, (levels, options): whether it is there, seconds on the profile's device, bytes.

    `memory` are bytes as well: what coding takes besides the model.
    """

    exists: npt.NDArray[np.bool_]
    encode: Seconds
    decode: Seconds
    bytes_up: Seconds
    bytes_down: Seconds
    memory: Seconds

    @classmethod
    def of(cls, device: Device, sizes: Sizes) -> Costs:
        """What every option takes on a device, at the sizes that are expected."""
        shape = len(LADDER), _OPTIONS
        exists = np.zeros(shape, np.bool_)
        encode, decode, size_up, size_down, memory = (np.zeros(shape) for _ in range(5))
        for place, level in enumerate(LADDER):
            for option, key in enumerate(level.keys):
                memory[place, option] = level.options[option].memory_bytes(sizes.parameters)
                exists[place, option] = True
                encode[place, option] = device.seconds(ENCODE, key, sizes.parameters)
                decode[place, option] = device.seconds(DECODE, key, sizes.parameters)
                size_up[place, option] = sizes.bytes(UP, place, option)
                size_down[place, option] = sizes.bytes(DOWN, place, option)
        return cls(exists, encode, decode, size_up, size_down, memory)

    def fitting(self, memory: Seconds, allowed: Sequence[int]) -> npt.NDArray[np.bool_]:
        """What sites with so many bytes to spare can code, (sites, levels, options); 0 bytes are not known.

        Where nothing fits, it is what needs the least of the levels that are allowed.
        """
        least = np.where(self.exists, self.memory, np.inf)[list(allowed)].min()
        room = np.where(memory > 0, np.maximum(memory, least), np.inf)
        return np.asarray(self.exists & (self.memory[None] <= room[:, None, None]))


class Tables:
    """The tables of the same sites: expected, hoped for, or later than expected.

    `allowed` are the levels of which every site can code one at least, whatever its memory: all if not given.
    `merges` is the share of these sites whose updates the coordinator merges. With `thrifty` efforts are those that
    take the fewest bytes, else those that are done soonest. With `together` there is no coordinator: every site decodes
    all updates, and nothing comes down, which is level "none" for no time; no other level is to be had.
    """

    def __init__(
        self,
        sites: Sequence[SiteCosts],
        costs: Costs,
        *,
        merges: float = 1.0,
        thrifty: bool = False,
        together: bool = False,
        allowed: Sequence[int] | None = None,
    ) -> None:
        self.costs, self.merges, self.thrifty, self.together = costs, merges, thrifty, together
        facts = np.array([(site.slower, site.train, site.memory) for site in sites]).reshape(-1, 3).T
        self._slower, self._train = facts[:2, :, None, None]
        self._fits = costs.fitting(facts[2], range(len(LADDER)) if allowed is None else allowed)
        self._up, self._down = _Lines([site.up for site in sites]), _Lines([site.down for site in sites])
        self._made: dict[tuple[float, bool, bool], Table] = {}

    def at(self, z: float = 0.0, *, hoped: bool = False, trains: bool = True) -> Table:
        """The table at z standard deviations beyond what is expected of the lines.

        With `hoped` lines are as good as they may well be; without `trains` nobody trains.
        """
        key = z, hoped, trains
        if key not in self._made:
            self._made[key] = self._table(z, hoped=hoped, trains=trains)
        return self._made[key]

    def _table(self, z: float, *, hoped: bool, trains: bool) -> Table:
        costs, merges = self.costs, self.merges
        up = self._slower * costs.encode + self._up.seconds(costs.bytes_up, z, hoped=hoped)
        up = up + self._train if trains else up
        down = self._slower * costs.decode + self._down.seconds(costs.bytes_down, z, hoped=hoped)
        up, down = (np.where(self._fits, seconds, np.inf) for seconds in (up, down))
        # the coordinator decodes them all, one after another; without one the slowest site's time counts
        if self.together:
            merges = merges * float(self._slower.max(initial=0.0))
        efforts = (up + len(up) * merges * np.where(costs.exists, costs.decode, 0.0)).argmin(axis=2)
        once = np.where(costs.exists, merges * costs.encode, np.inf)
        effort_down = (down.max(axis=0, initial=0.0) + once).argmin(axis=1)
        if self.thrifty:
            fits_all = self._fits.all(axis=0)
            efforts = np.where(self._fits, costs.bytes_up, np.inf).argmin(axis=2)
            effort_down = np.where(fits_all, costs.bytes_down, np.inf).argmin(axis=1)
        places = np.arange(len(LADDER))
        downwards, sending = down[:, places, effort_down], once[places, effort_down]
        if self.together:
            sending = np.where(places == index_of("none"), 0.0, np.inf)
            downwards = np.broadcast_to(sending, downwards.shape)
        return Table(
            np.take_along_axis(up, efforts[:, :, None], axis=2)[:, :, 0],
            downwards,
            efforts,
            effort_down,
            merges * costs.decode[places[None, :], efforts],
            sending,
        )


class _Lines:
    """`Line.seconds` of many lines at once, at the moment of a transfer (`Line.as_it_was`), or as hoped for."""

    def __init__(self, lines: Sequence[Line]) -> None:
        rows = [
            (
                line.goodput,
                line.fixed,
                *line.variances,
                line.noise,
                line.width,
                line.moving,
                line.swing,
                line.at,
            )
            for line in lines
        ]
        self.columns = np.array(rows).reshape(-1, 10).T[:, :, None, None]

    def seconds(self, sizes: Seconds, z: float, *, hoped: bool) -> Seconds:
        """Of every line and size, (lines, levels, options)."""
        log_goodput, log_fixed, var_goodput, var_fixed, covariance, noise, width, share, swing, at = (
            self.columns
        )
        if hoped:
            log_goodput = log_goodput + HOPE * (1 - share) * np.sqrt(np.maximum(var_goodput - noise, 0.0))
        goodput, fixed = np.exp(log_goodput), np.exp(log_fixed)
        moving = sizes[None] / goodput
        moving *= np.exp(-swing * np.sqrt((_STAYS + at / goodput) / (_STAYS + moving)))
        median = fixed + moving
        if not z:
            return np.asarray(median)
        share, rest = moving / median, fixed / median
        known = share**2 * var_goodput + rest**2 * var_fixed - 2 * share * rest * covariance
        return np.asarray(median * np.exp(z * np.sqrt(np.maximum(known, 0.0) + width**2 * noise)))
