"""`[adapt]` of a recipe: what an automatic choice is for, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError
from phloem.planner import levels

OBJECTIVES = ("time", "bytes", "budget", "deadline")
SIMULATED, MEASURED = "simulated", "measured"
CLOCKS = ("", SIMULATED, MEASURED)


@dataclass(frozen=True)
class Adapting:
    """What the choice of codecs is for.

    Attributes:
        objective: "time" reaches the target soonest; "bytes" with the fewest bytes; "budget" spends `budget_bytes`
            evenly over the rounds that are left and gets the most out of them; "deadline" gets the most out of rounds
            of `deadline_seconds`.
        budget_bytes: all bytes of the run, both ways.
        deadline_seconds: of a round, training included.
        clock: "simulated" takes durations from the recipe's links and devices, so that a run is the same wherever it
            is made; "measured" takes them from the wire. "" is simulated in the local engine, measured elsewhere.
        device: a profile that `phloem calibrate --out` wrote, for the coordinator, and for sites until they report; ""
            is one core of an ordinary server.
        finest, coarsest: names of levels that bound every choice.
        importance: weights of the error by patterns of tensor names, as of `ecsq`: what counts more is sent finer.
    """

    objective: str = "time"
    budget_bytes: float = 0.0
    deadline_seconds: float = 0.0
    clock: str = ""
    device: str = ""
    finest: str = levels.LADDER[0].name
    coarsest: str = levels.LADDER[-1].name
    importance: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_one("objective", self.objective, OBJECTIVES)
        _check_one("clock", self.clock, CLOCKS)
        for key in ("finest", "coarsest"):
            _check_one(key, getattr(self, key), levels.names())
        codec_from(self.weighed({"codec": "ecsq", "bits": 1.0}))  # refused before anything was begun
        if levels.index_of(self.finest) > levels.index_of(self.coarsest):
            raise ConfigError("[adapt]: 'finest' is coarser than 'coarsest'")
        for key, objective in (("budget_bytes", "budget"), ("deadline_seconds", "deadline")):
            value = getattr(self, key)
            if not 0 <= value < 1e18:
                raise ConfigError(f"[adapt]: '{key}' must be positive, found {value!r}")
            if (value > 0) != (self.objective == objective):
                raise ConfigError(f"[adapt]: objective = '{objective}' and '{key}' belong together")

    def weighed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A level's codec with the importances, where it takes any."""
        weighs = self.importance and config["codec"] == "ecsq"
        return {**config, "importance": dict(self.importance)} if weighs else dict(config)


def _check_one(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        words = ", ".join(f"'{one}'" for one in known)
        raise ConfigError(f"[adapt]: '{key}' is one of {words}, found {value!r:.40}")
