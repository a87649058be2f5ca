"""Random streams by name: one root seed, a label for every use, no stream shared by two uses.

Two streams with different labels are independent for every practical purpose, and adding a new use never
shifts an old one. That is what keeps runs reproducible while the code around them changes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def seed_for(root: int, *labels: str | int) -> int:
    """A 63-bit seed for the stream that `labels` name under `root`.

    The seed is the first 63 bits of SHA-256 over the length-prefixed labels, so `("a", "bc")` and
    `("ab", "c")` differ.

    >>> seed_for(0, "site-1", 3) == seed_for(0, "site-1", 3) != seed_for(0, "site-1", 4)
    True
    """
    digest = hashlib.sha256(b"phloem.seed")
    for label in (root, *labels):
        text = f"{type(label).__name__}:{label}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def generator(root: int, *labels: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) on the stream that `labels` name under `root`."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(seed_for(root, *labels)))
