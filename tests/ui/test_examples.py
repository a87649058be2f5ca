from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ("axes", "charts", "figures", "markup", "outcome", "progress", "recipe_text", "sections", "tally")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"phloem.ui.{name}"))
    assert found.failed == 0
