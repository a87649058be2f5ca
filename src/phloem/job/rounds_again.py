"""Rounds that a run committed to a branch, merged again from what the repository has: no run directory, no data."""

from __future__ import annotations

from collections.abc import Mapping

from phloem import canonical
from phloem.branches.records import Commit, check_digest
from phloem.branches.repository import Repository
from phloem.branches.restore import Restored
from phloem.engines.host import plan_for
from phloem.errors import PhloemError, StateError
from phloem.job.branching import read_state, record_of
from phloem.job.directory import reading
from phloem.recipe import Recipe
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.plan import Choice
from phloem.rounds.result import Received


def replay_rounds(repo: Repository, commits: Mapping[str, Commit]) -> tuple[int, list[str], list[str]]:
    """Merges the rounds among these commits again, from the sites' frames.

    Gives how many gave the states that they name, what did not hold, and what could not be decided, in words.
    """
    done = 0
    wrong: list[str] = []
    unknown: list[str] = []
    lines: dict[str, list[tuple[int, str, Commit]]] = {}
    for digest, commit in commits.items():
        if commit.kind == "round":
            number = commit.recipe.get("round")
            if type(number) is not int or not commit.parents:
                wrong.append(f"the round {digest[:12]} says neither which it is nor what it came from")
                continue
            lines.setdefault(str(commit.recipe.get("run")), []).append((number, digest, commit))
    for line in lines.values():
        line.sort(key=lambda row: row[0])
        number, digest, commit = line[0]
        if number != 0 or commit.parents[0] not in commits:
            words = f"the rounds before {digest[:12]} are not here, so the later ones cannot be merged again"
            unknown.append(words)
            continue
        try:
            coordinator = _coordinator(repo, commits[commit.parents[0]], commit)
        except PhloemError as error:
            unknown.append(f"the run of {digest[:12]} cannot be merged again: {error.message}")
            continue
        before = commit.parents[0]
        for place, (number, digest, commit) in enumerate(line):
            if number != place or commit.parents[:1] != (before,):
                wrong.append(f"round {number} ({digest[:12]}) does not follow the round before it")
                break
            try:
                state = _merged(repo, coordinator, number, commit)
            except PhloemError as error:
                unknown.append(f"round {number} ({digest[:12]}) cannot be merged again: {error.message}")
                break
            if state != commit.state:
                wrong.append(f"round {number} ({digest[:12]}) does not give the state that it names")
                break
            done, before = done + 1, digest
    return done, wrong, unknown


def _merged(repo: Repository, coordinator: Coordinator, number: int, commit: Commit) -> str:
    """The state that a round gives, from its sites' frames."""
    with reading(f"the recipe of round {number}"):
        updates = [
            Received(str(one["site"]), int(one["examples"]), repo.objects.blob(check_digest(one["frame"])))
            for one in commit.recipe["inputs"]
        ]
        coordinator.merge_again(number, updates, Choice(dict(commit.coding)))
        return canonical.digest(record_of(coordinator.state, coordinator.layout))


def _coordinator(repo: Repository, start: Commit, first: Commit) -> Coordinator:
    with reading(f"the run {str(first.recipe.get('run'))[:12]}"):
        recipe = Recipe.from_json(canonical.loads(repo.objects.get(first.recipe["recipe"])))
        state = read_state(Restored(repo.objects, start.state))
        plan = plan_for(recipe, state)
        if canonical.digest(canonical.dumps(plan)) != first.recipe["plan"]:
            raise StateError("the recipe and the first state do not give the plan that the rounds name")
        return Coordinator(plan, state)
