"""Makes `tests.tiny` importable however pytest was started, and spares the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)


@pytest.fixture(autouse=True)
def memory_instead_of_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process do not wait for the disk; those that are killed are other processes, and do."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
