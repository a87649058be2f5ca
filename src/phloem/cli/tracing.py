"""`phloem trace`: what a past run chose and why, and whether that follows from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem.cli.console import check_picture, drawing, on_stdout
from phloem.cli.printing import print_json, say, stderr_meter
from phloem.errors import StateError
from phloem.job.adapting import controller_for, tables_digest
from phloem.job.directory import DECISIONS, RunDirectory, reading
from phloem.planner.decision import Decision, label
from phloem.recipe import Recipe
from phloem.rounds.adapting import AdaptiveChoice
from phloem.ui.decisions import Decided, Tally, print_decisions, read_decisions, row_of
from phloem.ui.meter import Meter
from phloem.ui.plan_plot import write_trace_plot
from phloem.ui.plan_text import mixture_text

_SAME = 1e-6  # logarithms differ in their last digits from one library to another


@dataclass(frozen=True)
class TraceCall:
    """The words of one `phloem trace`."""

    run: Path
    every: bool
    check: bool
    out: Path | None
    json: bool


def run_trace(call: TraceCall) -> bool:
    """Prints what was chosen, or with `check` whether it follows; False where it does not.

    Raises:
        PhloemError: there is no run, or its record is damaged or of another version.
    """
    check_picture(call.out)
    directory, recipe, _ = RunDirectory.open(call.run)
    decided = read_decisions(directory.decisions(), str(call.run / DECISIONS))
    if not decided:
        _nothing(call, recipe)
        return True
    followed = True
    if call.check:
        followed = _check(call, recipe, decided)
    elif call.json:
        print_json({"summary": Tally.of(decided).to_json(), "decisions": [row_of(one) for one in decided]})
    else:
        with on_stdout() as console:
            print_decisions(console, decided, every=call.every)
    if call.out is not None:
        with drawing(call.out):
            write_trace_plot(decided, call.out, title=f"{recipe.name}: what was chosen, and what it took")
    return followed


def _nothing(call: TraceCall, recipe: Recipe) -> None:
    up, down = recipe.codecs
    later = "" if not recipe.later else f", and others from round {recipe.later[0].round} on"
    if recipe.adapts:
        words = f"{call.run} has decided nothing yet: no round was trained"
    else:
        words = (
            f"{call.run} chose nothing: its codecs were fixed, {_codec(up)} up and {_codec(down)} down{later}"
        )
    if call.json:
        codecs = None if recipe.adapts else {"up": up, "down": down}
        print_json({"summary": None, "decisions": [], "codecs": codecs})
        say(words)
    else:
        print(words, flush=True)
    if call.out is not None:
        say(f"note: {call.out} was not drawn: there is nothing to draw")


def _codec(config: Mapping[str, Any]) -> str:
    if "stages" in config:
        return " → ".join(_codec(one) for one in config["stages"])
    words = [f"{key}={value}" for key, value in config.items() if key != "codec"]
    return " ".join([str(config["codec"]), *(f"({', '.join(words)})" for _ in words[:1])])


def _check(call: TraceCall, recipe: Recipe, decided: Sequence[Decided]) -> bool:
    with stderr_meter() as meter, reading(call.run / DECISIONS):
        own = tables_digest(controller_for(recipe, decided[0].parameters).device)
        if decided[0].tables != own:
            raise StateError(
                f"the choices in {call.run} were made from other tables than this version's",
                hint="check them with the Phloem, and the device's profile, that made them",
            )
        found = first_strange(recipe, decided, meter)
    if call.json:
        first = None if found is None else {"round": found[0].round, "found": found[1]}
        print_json({"followed": found is None, "decisions": len(decided), "first_not_followed": first})
    elif found is None:
        print(f"all {len(decided)} decisions follow from what was measured", flush=True)
    else:
        print(
            f"round {found[0].number} does not follow from what was measured: it has {_words(found[0])}, "
            f"and should have {found[1]}",
            flush=True,
        )
    return found is None


def first_strange(recipe: Recipe, decided: Sequence[Decided], meter: Meter) -> tuple[Decided, str] | None:
    """Decides every round once more; the first that comes out different, and what it should have been."""
    choice = AdaptiveChoice(controller_for(recipe, decided[0].parameters))
    for one in decided:
        meter.tell(f"round {one.number} of {decided[-1].number}")
        asked = sorted(site for sites in one.up.values() for site in sites)
        choice.opened(one.round, asked, one.parameters)
        again = choice.decision
        assert again is not None
        up = {site: name for name, sites in one.up.items() for site in sites}
        same = {site: label(chosen) for site, chosen in again.up.items()} == up and again.trains == one.trains
        if not (same and label(again.down) == one.down and again.policy == one.policy):
            return one, _words_again(again)
        if not math.isclose(again.predicted[0], one.seconds, rel_tol=_SAME):
            return one, f"predicted {again.predicted[0]:.6g} seconds and not {one.seconds:.6g}"
        told = one.told
        choice.controller.observe(
            one.round,
            told.seen,
            frame_bytes=told.frame_bytes,
            loss=told.loss,
            norm=told.norm,
            spent=told.spent,
        )
    return None


def _words(one: Decided) -> str:
    up = {name: len(sites) for name, sites in one.up.items()}
    return _sentence(one.policy, up, one.down, trains=one.trains)


def _words_again(decision: Decision) -> str:
    counts: dict[str, int] = {}
    for chosen in decision.up.values():
        counts[label(chosen)] = counts.get(label(chosen), 0) + 1
    return _sentence(decision.policy, counts, label(decision.down), trains=decision.trains)


def _sentence(policy: str, up: Mapping[str, int], down: str, *, trains: bool) -> str:
    without = "" if trains else ", without training"
    return f"taken '{policy}' with {mixture_text(dict(sorted(up.items())))} up, {down} down{without}"
