"""Codec configurations as dataclass fields: strict in both directions, ranges said in words."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from phloem.errors import ConfigError, unknown_key


class FromConfig:
    """Builds a frozen dataclass from its JSON dict; unknown keys are refused by name."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The codec with this configuration.

        Raises:
            ConfigError: a key is unknown (the nearest is named), missing, or out of range.
        """
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        name = getattr(cls, "name", cls.__name__)
        for key in config:
            if key not in fields:
                raise unknown_key(key, fields, f"codec '{name}'")
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if needed and field.name not in config:
                raise ConfigError(f"codec '{name}' lacks '{field.name}'")
        return cls(**config)


def check_number(owner: str, key: str, value: Any, low: float, high: float) -> float:
    """`value` as a float inside [low, high], or a ConfigError that says what was expected."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{owner}: '{key}' must be a number, found {value!r}")
    if not low <= value <= high:
        raise ConfigError(f"{owner}: '{key}' must lie between {low:g} and {high:g}, found {value!r:.40}")
    return float(value)


def check_whole(owner: str, key: str, value: Any, low: int, high: int) -> int:
    """`value`, if it is a whole number inside [low, high]."""
    check_number(owner, key, value, low, high)
    if not isinstance(value, int):
        raise ConfigError(f"{owner}: '{key}' must be a whole number, found {value!r}")
    return value


def check_choice(owner: str, key: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{owner}: '{key}' must be one of {', '.join(choices)}, found {value!r:.40}")
    return str(value)
