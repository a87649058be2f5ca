from __future__ import annotations

import tomllib

import pytest
from tests.tiny import ROOT
from tests.ui.made import recipe

from phloem.recipe import Recipe, load_recipe
from phloem.ui.recipe_text import recipe_text


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.toml")))
def test_the_text_of_a_resolved_recipe_is_that_recipe(name: str) -> None:
    made = load_recipe(ROOT / "examples" / name)
    assert Recipe.from_json(tomllib.loads(recipe_text(made.to_json()))) == made


def test_links_absences_and_odd_texts_come_back() -> None:
    made = recipe(
        sites={"count": 3, "away": [{"site": "site-1", "first": 2, "last": 3}]},
        links={"site-0": {"up": "56kbit"}},
        compare={"rounds": {"division": 0.25}},
        description='a "quoted" \\ text,\nin two lines, with \x7f and 𝛼',
    )
    assert Recipe.from_json(tomllib.loads(recipe_text(made.to_json()))) == made
