"""A repository with a first commit, for the tests of branches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.branches.makers import model, written

from phloem.branches.repository import Repository


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    """A repository whose trunk is `model()`."""
    with Repository.create(tmp_path / ".phloem") as made:
        made.commit(written(tmp_path / "model.safetensors", model()), message="the model that all start from")
        yield made
