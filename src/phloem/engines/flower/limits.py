"""What Flower's time limits mean for a line: said before training, in words."""

from __future__ import annotations

from dataclasses import dataclass

from phloem.errors import ConfigError
from phloem.recipe import rate

CHUNK_BYTES = 5 << 20
"""Flower moves arrays in chunks of 5 MiB, two at a time …"""

AT_A_TIME = 2
SESSION_SECONDS = 180.0
"""… and forgets an upload when no chunk of it was finished for this long (flwr 1.41)."""


@dataclass(frozen=True, slots=True)
class Line:
    """The slowest line, in bits per second."""

    up: float
    down: float

    @classmethod
    def of(cls, text: str | tuple[str, str]) -> Line:
        """The line in words: one rate, or (up, down).

        >>> Line.of(("1mbit", "8mbit")).down
        8000000.0
        """
        up, down = (text, text) if isinstance(text, str) else text
        return cls(rate(up, "line"), rate(down, "line"))


def check_line(line: Line, largest_bytes: int, timeout: float) -> None:
    """Nothing, if `largest_bytes` can cross the line both ways.

    Raises:
        ConfigError: a chunk would take longer than Flower waits for it, or the whole longer than `timeout` seconds.
    """
    together = min(largest_bytes, AT_A_TIME * CHUNK_BYTES)
    seconds = 8 * together / line.up
    if seconds > SESSION_SECONDS:
        needed = 8 * together / SESSION_SECONDS
        raise ConfigError(
            f"{together:,} bytes take {seconds:.0f} s up a line of {line.up / 1e6:g} Mbit/s, and Flower gives "
            f"an upload up after {SESSION_SECONDS:.0f} s",
            hint=f"fewer bits, or a line of at least {needed / 1e6:.2f} Mbit/s",
        )
    for way, bits_per_second in (("up", line.up), ("down", line.down)):
        seconds = 8 * largest_bytes / bits_per_second
        if seconds > timeout:
            raise ConfigError(
                f"{largest_bytes:,} bytes take {seconds:.0f} s {way} the slowest line, longer than the "
                f"{timeout:.0f} s that a round may take",
                hint="raise the timeout, or send fewer bits",
            )
