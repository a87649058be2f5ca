"""The tables of a recipe that say who takes part, for how long, over which lines and on which devices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phloem.codecs.config import check_number
from phloem.errors import ConfigError, unknown_key
from phloem.planner.traces import MAKERS
from phloem.rounds.merge import MergeRule
from phloem.strict import from_table

NAME = r"(?!\.{1,2}$)[\w.-]{1,64}"  # becomes the name of a directory: neither . nor ..
STOPS = ("rounds", "target")
_RATE = re.compile(r"\s*([0-9.]+)\s*([kmg]?)bit(?:/s|ps)?\s*", re.IGNORECASE)
_TIME = re.compile(r"\s*([0-9.]+)\s*(us|ms|s)\s*", re.IGNORECASE)
_RATE_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_TIME_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Away:
    """A site that cannot be reached from round `first` up to and including round `last`."""

    site: str
    first: int
    last: int

    def __post_init__(self) -> None:
        check_number("[[sites.away]]", "first", self.first, 0, 1e9)
        check_number("[[sites.away]]", "last", self.last, self.first, 1e9)


@dataclass(frozen=True)
class Sites:
    """Who takes part, and how reliably: either `count` sites called site-0, site-1, … or `names`.

    `participation`: share of the sites asked to train in a round. `dropout`: chance that a site cannot be reached
    in a round. `late`: chance that its update comes after the round was closed (it is refused and owed again).
    """

    count: int = 0
    names: list[str] = field(default_factory=list)
    participation: float = 1.0
    dropout: float = 0.0
    late: float = 0.0
    away: list[Away] = field(default_factory=list)

    def __post_init__(self) -> None:
        if bool(self.count) == bool(self.names):
            raise ConfigError("[sites] needs either 'count' or 'names'")
        check_number("[sites]", "count", self.count, 0, 100_000)
        if len(set(self.names)) != len(self.names) or not all(re.fullmatch(NAME, n) for n in self.names):
            raise ConfigError("[sites]: 'names' must be different, of letters, digits, '.', '_' and '-'")
        check_number("[sites]", "participation", self.participation, 1e-9, 1.0)
        check_number("[sites]", "dropout", self.dropout, 0.0, 0.999)
        check_number("[sites]", "late", self.late, 0.0, 0.999)
        unknown = [gap.site for gap in self.away if gap.site not in self.all]
        if unknown:
            raise unknown_key(unknown[0], self.all, "[sites]: away names a site that is not there; the list")

    @property
    def all(self) -> tuple[str, ...]:
        """Every site's name, sorted."""
        width = len(str(self.count - 1))
        return tuple(sorted(self.names or [f"site-{n:0{width}}" for n in range(self.count)]))


@dataclass(frozen=True)
class Rounds:
    """How long, and how updates are merged.

    `stop` = "rounds" runs `max` rounds; "target" stops once the task's metric on the stopping data reaches
    `target`, after `max` rounds at the latest. `division` is p of `phloem.rounds.merge.MergeRule`; `clip_norm`
    bounds the Euclidean norm of a site's update.
    """

    max: int = 30
    stop: str = "rounds"
    target: float | None = None
    division: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_number("[rounds]", "max", self.max, 1, 1_000_000)
        if self.stop not in STOPS:
            raise ConfigError(f"[rounds]: 'stop' is one of {', '.join(STOPS)}, found '{self.stop}'")
        if self.stop == "target" and self.target is None:
            raise ConfigError("[rounds]: stop = 'target' needs a 'target'")
        if self.target is not None:
            check_number("[rounds]", "target", self.target, -1e300, 1e300)
        if self.clip_norm is not None:
            check_number("[rounds]", "clip_norm", self.clip_norm, 1e-12, 1e12)
        MergeRule(self.division)


@dataclass(frozen=True)
class Link:
    """A site's line. Rates in bits per second ("10mbit"), latency in seconds ("40ms"), one way.

    `train_seconds` is what one round of training takes on the simulated clock; 0 shows communication alone. `trace`
    lets the rates change with time: a maker's name (`phloem.planner.traces.MAKERS`) or a file.
    """

    up: float = 10e6
    down: float = 10e6
    latency: float = 0.04
    train_seconds: float = 0.0
    trace: str = ""

    def __post_init__(self) -> None:
        if self.trace and self.trace not in MAKERS and not self.trace.endswith(".json"):
            known = ", ".join(f"'{name}'" for name in MAKERS)
            raise ConfigError(f"[link]: 'trace' is {known} or a .json file, found {self.trace!r:.60}")
        check_number("[link]", "up", self.up, 1.0, 1e15)
        check_number("[link]", "down", self.down, 1.0, 1e15)
        check_number("[link]", "latency", self.latency, 0.0, 1e6)
        check_number("[link]", "train_seconds", self.train_seconds, 0.0, 1e9)

    def up_seconds(self, size_bytes: int) -> float:
        """How long `size_bytes` take to the coordinator."""
        return self.latency + 8 * size_bytes / self.up

    def down_seconds(self, size_bytes: int) -> float:
        """How long `size_bytes` take to the site."""
        return self.latency + 8 * size_bytes / self.down


@dataclass(frozen=True)
class Speed:
    """What a site's device takes to code on the simulated clock: the reference profile's time over `speed`.

    1 is one core of an ordinary server, 0.25 a quarter of it. 0, the default, is 1 where codecs are chosen, and where
    they are fixed a device that takes no time. `memory_mb` is what it can spare for coding, in megabytes, where codecs
    are chosen: only what fits is; 0 is enough for all.
    """

    speed: float = 0.0
    memory_mb: float = 0.0

    def __post_init__(self) -> None:
        check_number("[device]", "speed", self.speed, 0.0, 1e6)
        check_number("[device]", "memory_mb", self.memory_mb, 0.0, 1e9)

    @property
    def memory_bytes(self) -> float:
        """What it can spare for coding; 0 where that is not known."""
        return 1e6 * self.memory_mb

    @property
    def slower(self) -> float:
        """Its time over the reference profile's."""
        return 1.0 / self.speed if self.speed else 0.0


@dataclass(frozen=True)
class Running:
    """How this machine runs the job; none of it changes a result.

    `workers`: 0 trains in this process, n > 0 in n processes. `keep_updates`: whether the sites' frames stay in the
    run directory (a replay needs them). `snapshot_every`: rounds between two points that a resume can start from.
    `residuals`: where sites that are not at work keep their residual and their task's memory, in "memory" or on
    "disk"; on disk, a thousand sites of one machine need no more memory than ten.
    """

    workers: int = 0
    keep_updates: bool = True
    snapshot_every: int = 1
    residuals: str = "memory"

    def __post_init__(self) -> None:
        check_number("[run]", "workers", self.workers, 0, 256)
        check_number("[run]", "snapshot_every", self.snapshot_every, 1, 1_000_000)
        if self.residuals not in ("memory", "disk"):
            raise ConfigError(f"[run]: 'residuals' must be 'memory' or 'disk', found {self.residuals!r:.40}")


def link_from(table: dict[str, Any], where: str) -> Link:
    """The line that a table describes; `where` names it in errors.

    Raises:
        ConfigError: a key, a type or a range is wrong.
    """
    for key in ("up", "down"):
        if isinstance(table.get(key), str):
            table[key] = rate(table[key], f"{where}: '{key}'")
    if isinstance(table.get("latency"), str):
        table["latency"] = _quantity(
            table["latency"], _TIME, _TIME_UNITS, f"{where}: 'latency'", "a time like '40ms'"
        )
    return from_table(Link, table, where)


def rate(text: str, what: str) -> float:
    """The bits per second that a text such as "10mbit" names; `what` is for the message.

    Raises:
        ConfigError: it is no rate.
    """
    return _quantity(text, _RATE, _RATE_UNITS, what, "a rate like '10mbit'")


def _quantity(text: str, pattern: re.Pattern[str], units: Mapping[str, float], what: str, like: str) -> float:
    match = pattern.fullmatch(text)
    try:
        if match:
            return float(match[1]) * units[match[2].lower()]
    except ValueError:
        pass
    raise ConfigError(f"{what} must be {like}, found '{text}'")
