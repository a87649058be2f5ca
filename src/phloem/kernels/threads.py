"""How many threads one call of a kernel may use; results never depend on it."""

from __future__ import annotations

from phloem.errors import ConfigError

_MOST = 256
_threads = [1]


def set_threads(count: int) -> None:
    """Let every later call of a native kernel use this many threads (the default is one).

    Raises:
        ConfigError: not a number from 1 to 256.
    """
    if type(count) is not int or not 1 <= count <= _MOST:
        raise ConfigError(f"Expected a number of threads from 1 to {_MOST}, found {count!r}.")
    _threads[0] = count


def threads() -> int:
    """How many threads a call may use."""
    return _threads[0]
