"""Branches: version control for models. States are named by their content; a commit costs what changed.

The layers of this package, each over those before it:

    records    what is written down: commits, encodings, merges      blobs      bytes wherever they lie
    packs      many small objects in one immutable file              refs       names: branches, tags
    folder     a repository in a directory                           catalog    what is where; derived, may be deleted
    chains     which encodings give a state, at what cost            restore    a state, tensor by tensor, verified
    repository the whole, with its verbs
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phloem.branches.repository import Repository, open_repo

_HOMES = {"Repository": "phloem.branches.repository", "open_repo": "phloem.branches.repository"}

__all__ = ["Repository", "open_repo"]


def __getattr__(name: str) -> Any:
    """The public name, from the module that it lives in: commands that only read history load no codec."""
    if name not in _HOMES:
        raise AttributeError(f"module 'phloem.branches' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
