"""Every error that Phloem raises on purpose, sorted by what the reader should do next.

    PhloemError
    ├── ConfigError      fix the call or the recipe; nothing was done
    ├── FormatError      the bytes are not what they claim to be; never retry
    ├── ProofError       the bytes are well formed and do not prove what they should: distrust who sent them
    ├── StateError       a run and its record disagree, or the run is from another version
    └── StoreError       the disk failed (full, missing, unreadable); may be retried
        ├── NotFoundError    no such blob or reference
        └── ConflictError    the reference moved since it was read

A message is one sentence that says what was expected and what was found; `hint` says what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PhloemError(Exception):
    """The root of the tree: a sentence, and a hint that says what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


class ConfigError(PhloemError, ValueError):
    """The call or the recipe asks for something that cannot be: fix it and call again."""


class FormatError(PhloemError, ValueError):
    """The bytes are not what they claim to be: truncated, altered, or meant for something else."""


class ProofError(PhloemError):
    """A signature or a proof does not hold: what it was to show is not shown."""


class StateError(PhloemError):
    """A run disagrees with its own record: another version, another recipe, or another digest."""


class StoreError(PhloemError, OSError):
    """The store could not read or write: a full disk, a missing directory, no permission."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        PhloemError.__init__(self, message, hint=hint)


class NotFoundError(StoreError):
    """The store has no such blob or reference."""


class ConflictError(StoreError):
    """The reference no longer has the value that the caller read."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be, or None.

    >>> nearest("allpha", ["alpha", "beta"])
    'alpha'
    """
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_key(word: str, known: Iterable[str], where: str) -> ConfigError:
    """The error for a key that nobody reads, naming the nearest key that somebody does."""
    names = sorted(known)
    near = nearest(word, names)
    hint = f"did you mean '{near}'?" if near else f"known here: {', '.join(names)}"
    return ConfigError(f"{where} has no key '{word}'", hint=hint)
