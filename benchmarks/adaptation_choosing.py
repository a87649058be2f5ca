"""What choosing takes: the controller's seconds in a round, by number of sites, on mobile lines.

python benchmarks/adaptation_choosing.py
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from adaptation import recipe_of
from adaptation_traffic import Lines, auto
from measuring import RESULTS, quiet, write
from phloem.planner.control import Controller
from phloem.planner.levels import LADDER
from phloem.recipe import Recipe

SITES, RUNS, ROUNDS = (10, 100, 1000), 5, 20


class Timed(Controller):
    """A controller that says how long it took."""

    spent = 0.0

    def decide(self, *words: Any) -> Any:
        started = time.perf_counter()
        found = super().decide(*words)
        self.spent += time.perf_counter() - started
        return found

    def observe(self, *words: Any, **rest: Any) -> Any:
        started = time.perf_counter()
        found = super().observe(*words, **rest)
        self.spent += time.perf_counter() - started
        return found


def milliseconds(sites: int) -> float:
    """Of one round, the mean over some twenty of a run."""
    table = recipe_of("digits", 1, "cellular", "full").to_json()
    recipe = Recipe.from_json({**table, "sites": {"count": sites}})
    known = json.loads((RESULTS / "adaptation-traffic.json").read_text())
    controller = Timed(recipe.sites.all, known["parameters"], owes=False)
    worth = [1.0] * len(LADDER)
    lines = Lines(recipe, known["frames"], known["parameters"])
    rounds = auto(lines, controller, worth, [0.5] * len(LADDER), ROUNDS)["rounds"]
    return 1e3 * controller.spent / float(rounds)


def main() -> None:
    """Every number of sites."""
    quiet()
    rows = {}
    for sites in SITES:
        found = [milliseconds(sites) for _ in range(RUNS)]
        rows[str(sites)] = {"median": statistics.median(found), "least": min(found), "most": max(found)}
        print(sites, rows[str(sites)], file=sys.stderr, flush=True)
    write("adaptation-choosing", "python benchmarks/adaptation_choosing.py", {"milliseconds_a_round": rows})


if __name__ == "__main__":
    main()
