"""How many threads one call of a kernel may use; results never depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from phloem.errors import ConfigError

_MOST = 256
_threads = [1]
_here: ContextVar[int] = ContextVar("threads", default=1)


def set_threads(count: int) -> None:
    """Let every later call of a native kernel use this many threads (the default is one).

    Raises:
        ConfigError: not a number from 1 to 256.
    """
    if type(count) is not int or not 1 <= count <= _MOST:
        raise ConfigError(f"Expected a number of threads from 1 to {_MOST}, found {count!r}.")
    _threads[0] = count


@contextmanager
def at_least(count: int) -> Iterator[None]:
    """While this lasts, calls of this thread may use so many threads, or more where `set_threads` says so."""
    token = _here.set(count)
    try:
        yield
    finally:
        _here.reset(token)


def threads() -> int:
    """How many threads a call may use."""
    return max(_threads[0], _here.get())
