from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import table

from phloem.job.schedule import Schedule
from phloem.recipe import load_recipe

ROUNDS = 400


def schedule(count: int = 10, seed: int = 0, **sites: Any) -> Schedule:
    return Schedule(load_recipe(table(count=count, seed=seed, sites=sites)))


def test_without_faults_everybody_is_there_and_trains_and_nobody_is_late() -> None:
    plain = schedule()
    everyone = set(plain.recipe.sites.all)
    for number in range(20):
        assert plain.reachable(number) == plain.trains(number, everyone) == everyone
        assert plain.late(number, everyone) == set()


def test_the_same_seed_draws_the_same_faults_and_another_seed_others() -> None:
    faults = {"dropout": 0.3, "late": 0.3, "participation": 0.5}

    def drawn(seed: int) -> list[Any]:
        found = schedule(seed=seed, **faults)
        everyone = set(found.recipe.sites.all)
        return [(found.reachable(n), found.trains(n, everyone), found.late(n, everyone)) for n in range(20)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_dropout_and_lateness_happen_as_often_as_the_recipe_says(chance: float) -> None:
    found = schedule(dropout=chance, late=chance)
    everyone = set(found.recipe.sites.all)
    gone = sum(10 - len(found.reachable(number)) for number in range(ROUNDS))
    late = sum(len(found.late(number, everyone)) for number in range(ROUNDS))
    bound = 5 * (chance * (1 - chance) / (10 * ROUNDS)) ** 0.5  # five standard deviations of a share
    assert abs(gone / (10 * ROUNDS) - chance) < bound
    assert abs(late / (10 * ROUNDS) - chance) < bound


@pytest.mark.parametrize(("share", "asked"), [(0.01, 1), (0.3, 3), (0.5, 5), (1.0, 10)])
def test_a_share_of_all_sites_trains_and_at_least_one(share: float, asked: int) -> None:
    found = schedule(participation=share)
    everyone = set(found.recipe.sites.all)
    draws = [found.trains(number, everyone) for number in range(ROUNDS)]
    assert {len(draw) for draw in draws} == {asked}
    assert set().union(*draws) == everyone
    assert found.trains(0, {"site-4"}) <= {"site-4"}
    assert found.trains(0, set()) == set()


def test_only_sites_that_were_asked_can_be_late() -> None:
    found = schedule(late=0.9)
    assert all(found.late(number, {"site-1"}) <= {"site-1"} for number in range(50))


def test_a_gap_lasts_from_its_first_to_its_last_round() -> None:
    found = schedule(away=[{"site": "site-3", "first": 2, "last": 4}])
    assert [number for number in range(8) if "site-3" not in found.reachable(number)] == [2, 3, 4]
