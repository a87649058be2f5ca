from __future__ import annotations

import pytest
from tests.ui.made import recipe

from phloem.recipe import Recipe


@pytest.fixture
def to_target() -> Recipe:
    """A recipe that stops at 90 % accuracy."""
    return recipe(rounds={"max": 10, "stop": "target", "target": 0.9})
