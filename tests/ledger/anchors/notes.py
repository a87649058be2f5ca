"""Checkpoints to be anchored, and what it takes to anchor them."""

from __future__ import annotations

import importlib.util

import pytest

from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.note import Note, signed

ORIGIN = "example.org/log"
SIGNER = Signer.from_seed(ORIGIN, NOTE, bytes(32))
ROOT = bytes(range(1, 33))

needs_evm = pytest.mark.skipif(importlib.util.find_spec("web3") is None, reason="needs the extra [evm]")
needs_tsa = pytest.mark.skipif(
    importlib.util.find_spec("rfc3161_client") is None, reason="needs the extra [tsa]"
)


def note(size: int = 21, root: bytes = ROOT, origin: str = ORIGIN) -> bytes:
    """A signed checkpoint."""
    return signed(Checkpoint(origin, size, root).pack(), [SIGNER])


def checkpoint(size: int = 21, root: bytes = ROOT, origin: str = ORIGIN) -> Checkpoint:
    return Checkpoint.unpack(Note.unpack(note(size, root, origin)).text)
