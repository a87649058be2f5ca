"""Leaves out the tests of modules that import flwr where it is not installed, and waits for no disk."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

if importlib.util.find_spec("flwr") is None:
    tests = Path(__file__).parent.glob("test_*.py")
    collect_ignore = [path.name for path in tests if 'service("flower")' in path.read_text("utf-8")]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nodes keep need not outlive the machine here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
