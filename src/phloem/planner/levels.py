"""The levels: ways to send an update, from all of it down to almost nothing, each at one effort or more.

A level says how much is kept, an effort how hard the encoder works to say it in fewer bytes. Rounds depend on the
level alone, seconds on both. Sites may send at different levels; down there is one frame for everybody, and it has
about twice the bits, since it carries the union of what the sites sent.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

UP, DOWN = "up", "down"
HEADER_BYTES, ENVELOPE_BYTES = 20, 47
"""What the smallest of frames takes, and what is around it: an envelope, and a report."""


@dataclass(frozen=True)
class Option:
    """One codec's configuration for each direction, and how many bits per parameter it is expected to take.

    Attributes:
        effort: the encoder's effort; "" where the codec has none.
        up, down: as a recipe has it.
        bits_up, bits_down: of a frame, on the wire.
    """

    effort: str
    up: Mapping[str, Any]
    down: Mapping[str, Any]
    bits_up: float
    bits_down: float

    def bytes(self, direction: str, parameters: int) -> float:
        """How long a frame of a model of that many parameters is expected to be, without its envelope."""
        bits = self.bits_up if direction == UP else self.bits_down
        return HEADER_BYTES + bits * parameters / 8

    def memory_bytes(self, parameters: int) -> float:
        """What coding takes besides the update, the state and the residual, its frames included.

        Every codec goes through a large update in parts, so that this grows with the frame and not with the update.
        """
        most, growing, each = _MEMORY[self.effort]
        frame = max(self.bytes(UP, parameters), self.bytes(DOWN, parameters))
        return min(most, growing * parameters) + each * frame


@dataclass(frozen=True)
class Level:
    """One fidelity, by its name in tables: "none", "bf16", or the bits per parameter that travel up."""

    name: str
    options: tuple[Option, ...]

    @cached_property
    def family(self) -> str:
        """The codec: to change it is a larger step than to change a level of it."""
        return str(self.options[0].up["codec"])

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The names under which costs of the options are kept."""
        return tuple(f"{self.name} {option.effort}".strip() for option in self.options)


def _whole(codec: str, bits: float) -> Level:
    config = {"codec": codec}
    return Level(codec, (Option("", config, config, bits, bits),))


#: Bits that `balanced` needs for what `fast` does with one, at this many bits and more. On four recorded updates the
#: median is 0.6 to 0.9 (benchmarks/results/codecs-table.json); these are on the safe side.
_EQUAL_QUALITY = ((0.0, 0.8), (0.3, 0.87), (1.0, 0.93))


def _coded(up: float, down: float) -> Level:
    def at(bits: float, effort: str) -> tuple[dict[str, Any], float]:
        share = [s for least, s in _EQUAL_QUALITY if bits >= least][-1] if effort == "balanced" else 1.0
        return {"codec": "ecsq", "bits": round(share * bits, 4), "effort": effort}, share * bits

    options = []
    for effort in ("fast", "balanced"):
        (up_config, up_bits), (down_config, down_bits) = at(up, effort), at(down, effort)
        options.append(Option(effort, up_config, down_config, up_bits, down_bits))
    return Level(f"{up:g}", tuple(options))


LADDER: tuple[Level, ...] = (
    _whole("none", 32.0),
    _whole("bf16", 16.0),
    _coded(2.0, 2.0),
    _coded(0.5, 1.0),
    _coded(0.2, 0.4),
    _coded(0.1, 0.2),
    _coded(0.05, 0.1),
    _coded(0.02, 0.05),
)
"""Finest first. Steps of about two, because between them rounds and bytes change by less than links do."""

_MEMORY = {"": (2e6, 8.0, 1.1), "fast": (24e6, 4.0, 8.0), "balanced": (30e6, 7.0, 2.0)}
"""By effort: bytes for parts at most, bytes per parameter until then, and bytes per byte of a frame.

Not less than is needed, nor several times as much: `tests/planner/test_memory.py` measures both.
"""

START, START_BYTES = "0.05", 6_000
"""The first round, when nothing is known of any line: the finest level whose frames are no longer than that, which
takes a twentieth of a second on a line of 1 Mbit/s; where none is, this one.

A coarse round on a fast line costs a part of one round, since what it leaves out is owed; a fine one on a slow line
may cost as much as the rest of the run.
"""


def names() -> tuple[str, ...]:
    """The levels' names, finest first."""
    return tuple(level.name for level in LADDER)


def index_of(name: str) -> int:
    """The place of a level."""
    return names().index(name)


@functools.cache
def configs() -> list[dict[str, Any]]:
    """Every configuration that some option has, in one order for all time: an order names one by its place."""
    found: list[dict[str, Any]] = []
    for level in LADDER:
        for option in level.options:
            for config in (option.up, option.down):
                if dict(config) not in found:
                    found.append(dict(config))
    return found


def codecs() -> set[str]:
    """The codecs of all levels, both ways."""
    return {str(config["codec"]) for config in configs()}


def first_config() -> dict[str, Any]:
    """The codec of a first round of which nothing is known."""
    return dict(LADDER[index_of(START)].options[0].up)
