"""Phloem carries what the branches make: compressed updates for distributed and federated learning.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phloem.api import Feedback, decode, encode
    from phloem.branches.repository import Repository, open_repo
    from phloem.errors import ConfigError, FormatError, PhloemError, StateError, StoreError
    from phloem.files import decode_file, encode_file, inspect_file
    from phloem.files.compressing import compress_file
    from phloem.job.build import build
    from phloem.job.runner import Run
    from phloem.recipe import Recipe, load_recipe
    from phloem.tensors import Layout, state_digest

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "phloem.errors",
    "Feedback": "phloem.api",
    "FormatError": "phloem.errors",
    "Layout": "phloem.tensors",
    "PhloemError": "phloem.errors",
    "Recipe": "phloem.recipe",
    "Repository": "phloem.branches.repository",
    "Run": "phloem.job.runner",
    "StateError": "phloem.errors",
    "StoreError": "phloem.errors",
    "build": "phloem.job.build",
    "compress_file": "phloem.files.compressing",
    "decode": "phloem.api",
    "decode_file": "phloem.files",
    "encode": "phloem.api",
    "encode_file": "phloem.files",
    "inspect_file": "phloem.files",
    "load_recipe": "phloem.recipe",
    "open_repo": "phloem.branches.repository",
    "state_digest": "phloem.tensors",
}

__all__ = [
    "ConfigError",
    "Feedback",
    "FormatError",
    "Layout",
    "PhloemError",
    "Recipe",
    "Repository",
    "Run",
    "StateError",
    "StoreError",
    "build",
    "compress_file",
    "decode",
    "decode_file",
    "encode",
    "encode_file",
    "inspect_file",
    "load_recipe",
    "open_repo",
    "state_digest",
]


def __getattr__(name: str) -> Any:
    """The public name, from the module that it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'phloem' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
