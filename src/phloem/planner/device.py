"""What a device takes to encode and decode: for each option a fixed cost and a cost per parameter."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from phloem.errors import ConfigError, StateError
from phloem.planner import levels

VERSION = 1
ENCODE, DECODE = "encode", "decode"


@dataclass(frozen=True)
class Device:
    """A device's costs, as measured on it or on another.

    Attributes:
        costs: by the key of an option (`Level.keys`), seconds as (fixed, per parameter) for "encode" and "decode".
        memory_bytes: what a site may use besides its model and its training; 0 is not known.
        copy_bytes_per_second: of a plain copy of memory, which no codec beats.
        made_by: what was measured: processor, cores, kernels, versions.
    """

    costs: Mapping[str, Mapping[str, tuple[float, float]]]
    memory_bytes: float = 0.0
    copy_bytes_per_second: float = 0.0
    made_by: Mapping[str, str] | None = None

    def seconds(self, way: str, key: str, parameters: int) -> float:
        """What encoding or decoding a model of that many parameters takes."""
        fixed, each = self.costs[key][way]
        return fixed + each * parameters

    def to_json(self) -> dict[str, Any]:
        """The profile as a file has it."""
        return {
            "version": VERSION,
            "made_by": dict(self.made_by or {}),
            "memory_bytes": self.memory_bytes,
            "copy_bytes_per_second": self.copy_bytes_per_second,
            "costs": {key: {way: list(cost) for way, cost in row.items()} for key, row in self.costs.items()},
        }

    @classmethod
    def from_json(cls, table: Any, where: str) -> Device:
        """The profile that `to_json` gave; `where` names it in errors.

        Raises:
            StateError: it is none, is of another version, or lacks an option of this one.
        """
        try:
            if table["version"] != VERSION:
                raise StateError(
                    f"{where} is a profile of version {table['version']}, this is version {VERSION}"
                )
            costs = {
                str(key): {str(way): (float(cost[0]), float(cost[1])) for way, cost in row.items()}
                for key, row in table["costs"].items()
            }
            found = cls(
                costs,
                float(table["memory_bytes"]),
                float(table["copy_bytes_per_second"]),
                {str(key): str(value) for key, value in table["made_by"].items()},
            )
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"{where} is no profile of a device", hint="make one: phloem calibrate"
            ) from error
        for key in itertools.chain.from_iterable(level.keys for level in levels.LADDER):
            costs_of = found.costs.get(key, {})
            ways = [costs_of.get(way, (-1.0, 0.0)) for way in (ENCODE, DECODE)]
            if any(not (0 <= a < 1e6 and 0 <= b < 1.0) for a, b in ways):
                raise StateError(
                    f"{where} has no sound cost of '{key}'", hint="make it again: phloem calibrate"
                )
        return found


def device_of(path: str) -> Device:
    """The profile in a file; of "" the reference.

    Raises:
        ConfigError: the file cannot be read. StateError: it is no profile.
    """
    if not path:
        return reference()
    try:
        table = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"[adapt]: 'device' names {path}, which cannot be read: {error}",
            hint="make it: phloem calibrate --out FILE",
        ) from error
    return Device.from_json(table, path)


@functools.cache
def reference() -> Device:
    """The device that is assumed until another is known: one core of an ordinary server."""
    text = resources.files("phloem.planner").joinpath("reference.json").read_text("utf-8")
    return Device.from_json(json.loads(text), "the reference profile")
