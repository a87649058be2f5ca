"""The simulated clock: what a round takes on the recipe's lines and devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem.planner import levels, traces
from phloem.planner.device import DECODE, ENCODE, Device, device_of
from phloem.planner.levels import LADDER, UP
from phloem.planner.traces import Trace
from phloem.recipe import Recipe
from phloem.seeds import seed_for


@dataclass(frozen=True)
class Clock:
    """Seconds by a recipe's links and devices; `at` is the time on this clock when something begins."""

    recipe: Recipe

    def sends(self, site: str, direction: str, size_bytes: int, at: float) -> float:
        """How long a message takes to the coordinator (up) or to the site (down)."""
        link = self.recipe.link_of(site)
        trace = self._trace(site, direction)
        if trace is not None:
            return link.latency + trace.seconds(size_bytes, at + link.latency)
        return link.up_seconds(size_bytes) if direction == UP else link.down_seconds(size_bytes)

    def codes(self, site: str, way: str, config: Mapping[str, Any], parameters: int) -> float:
        """How long a site encodes or decodes."""
        slower = self.recipe.device_of(site).slower
        return slower * self._profile.seconds(way, key_of(config), parameters) if slower else 0.0

    def merges(self, up: Sequence[Mapping[str, Any]], down: Mapping[str, Any], parameters: int) -> float:
        """How long the coordinator decodes these updates and encodes its own frame, on a device of speed 1."""
        if not self.recipe.coordinator_device.speed:
            return 0.0
        decoding = sum(self._profile.seconds(DECODE, key_of(config), parameters) for config in up)
        return decoding + self._profile.seconds(ENCODE, key_of(down), parameters)

    @functools.cached_property
    def _profile(self) -> Device:
        return device_of(self.recipe.adapt.device)

    def _trace(self, site: str, direction: str) -> Trace | None:
        link = self.recipe.link_of(site)
        if not link.trace:
            return None
        rate = link.up if direction == UP else link.down
        return _made(link.trace, seed_for(self.recipe.seed, "line", site, direction), rate)


@functools.lru_cache(4096)
def _made(trace: str, seed: int, rate: float) -> Trace:
    maker = traces.MAKERS.get(trace)
    return traces.read_trace(Path(trace)) if maker is None else maker(seed, rate)


def key_of(config: Mapping[str, Any]) -> str:
    """The option whose costs stand for a codec's: itself, whatever its importances, or the nearest by bits."""
    config = {key: value for key, value in config.items() if key != "importance"}
    for level in LADDER:
        for key, option in zip(level.keys, level.options, strict=True):
            if config in (option.up, option.down):
                return key
    if config["codec"] in ("none", "lossless"):
        return LADDER[0].keys[0]
    bits = config.get("bits")
    if config["codec"] != "ecsq" or not bits:
        return LADDER[levels.index_of("bf16")].keys[0]
    effort = "fast" if config.get("effort", "fast") == "fast" else "balanced"
    coded = [
        (key, option.bits_up)
        for level in LADDER
        for key, option in zip(level.keys, level.options, strict=True)
        if option.effort == effort
    ]
    return min(coded, key=lambda pair: abs(math.log(pair[1] / float(bits))))[0]
