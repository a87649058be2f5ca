from __future__ import annotations

import inspect

import pytest

from phloem import errors
from phloem.errors import ConfigError, PhloemError, StoreError, nearest, unknown_key

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PhloemError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_keeps_its_sentence_and_its_hint_apart_and_prints_both(kind: type[PhloemError]) -> None:
    error = kind("what was found", hint="what to do")
    assert (error.message, error.hint, str(error)) == (
        "what was found",
        "what to do",
        "what was found (what to do)",
    )
    assert str(kind("alone")) == "alone"


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_in_the_tree_that_the_docstring_draws(kind: type[PhloemError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_errors_can_be_caught_as_the_builtin_kind_that_people_expect() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(StoreError, OSError)


def test_an_unknown_key_names_the_nearest_or_lists_them_all() -> None:
    assert "did you mean 'fraction'" in str(unknown_key("fracton", ["fraction", "block"], "codec"))
    assert "known here: block, fraction" in str(unknown_key("zzz", ["fraction", "block"], "codec"))
    assert nearest("zzz", ["fraction"]) is None
