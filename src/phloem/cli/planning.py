"""`phloem plan`: what would be chosen on given lines, and what it would take, before any round."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phloem.cli.calibrating import load_profile
from phloem.cli.console import check_picture, drawing, on_stdout
from phloem.cli.printing import print_json, say
from phloem.codecs.config import check_number
from phloem.engines.host import initial_state_of, load_task_of
from phloem.errors import ConfigError
from phloem.planner import traces
from phloem.planner.device import reference
from phloem.planner.levels import DOWN, UP
from phloem.planner.rounds import Worth, known_tasks
from phloem.recipe import Link, Recipe, load_recipe
from phloem.recipe.tables import link_from
from phloem.seeds import seed_for
from phloem.ui.meter import QUIET_SECONDS
from phloem.ui.plan import Question, planned
from phloem.ui.plan_plot import write_plan_plot
from phloem.ui.plan_text import bits_text, lines_text, print_plan

_LIKE = "10mbit/40ms, or up:down as in 1mbit:8mbit/60ms"
_MARKED = 8  # lines that a picture names


@dataclass(frozen=True)
class PlanCall:
    """The words of one `phloem plan`."""

    recipe: Path
    changes: Sequence[str]
    link: str | None
    device: Path | None
    speed: float | None
    parameters: int | None
    out: Path | None
    json: bool


def run_plan(call: PlanCall) -> None:
    """Prints what would be chosen, on standard output, and draws the picture.

    Raises:
        PhloemError: the recipe, the line, the device or the task is wrong.
    """
    check_picture(call.out)
    recipe = load_recipe(call.recipe, call.changes)
    question = question_of(recipe, call)
    found = planned(question)
    lines = lines_text(question.links)
    if call.json:
        told = {"task": recipe.task_name, "parameters": question.parameters, "lines": lines}
        print_json({**told, **found.to_json()})
    else:
        with on_stdout() as console:
            print_plan(console, found, lines=lines)
    for note in _notes(recipe, call, question):
        say(note)
    if call.out is not None:
        _draw(question, recipe, call.out)


def question_of(recipe: Recipe, call: PlanCall) -> Question:
    """What a recipe and the words of a call ask."""
    if call.speed is not None:
        check_number("--speed", "speed", call.speed, 1e-6, 1e6)
    if call.parameters is not None and not 1 <= call.parameters <= 10**13:
        raise ConfigError(f"--parameters must lie between 1 and 10^13, found {call.parameters}")
    links = {site: _steady(recipe, site) for site in recipe.sites.all}
    if call.link is not None:
        links = {site: line_of(call.link, link) for site, link in links.items()}
    counted = replace(recipe, compress="auto")  # what coding takes is asked even where codecs are fixed
    slower = {
        site: counted.device_of(site).slower if call.speed is None else 1 / call.speed
        for site in recipe.sites.all
    }
    return Question(
        parameters=_parameters(recipe) if call.parameters is None else call.parameters,
        links=links,
        slower=slower,
        device=reference() if call.device is None else load_profile(call.device),
        worth=Worth.of(recipe.task_name),
        settings=recipe.adapt,
        merges=1.0,
        share=recipe.sites.participation,
        rounds=recipe.rounds.max,
        memory={site: recipe.device_of(site).memory_bytes for site in recipe.sites.all},
    )


def line_of(text: str, own: Link) -> Link:
    """The line that the text names, otherwise like `own`.

    >>> line_of("1mbit:8mbit/60ms", Link())
    Link(up=1000000.0, down=8000000.0, latency=0.06, train_seconds=0.0, trace='')

    Raises:
        ConfigError: it names none.
    """
    rates, slash, latency = text.partition("/")
    up, colon, down = rates.partition(":")
    words = {"up": up, "down": down if colon else up}
    if slash:
        words["latency"] = latency
    try:
        found = link_from({"latency": own.latency, **words}, "[link]")
    except ConfigError as error:
        message = error.message.removeprefix("[link]: ")
        raise ConfigError(f"--link {text:.60}: {message}", hint=f"for example {_LIKE}") from error
    return replace(found, train_seconds=own.train_seconds)


def _steady(recipe: Recipe, site: str) -> Link:
    """A site's line; one that changes with time stands still at its mean."""
    link = recipe.link_of(site)
    if not link.trace:
        return link
    means = {}
    for way, rate in ((UP, link.up), (DOWN, link.down)):
        maker = traces.MAKERS.get(link.trace)
        seed = seed_for(recipe.seed, "line", site, way)
        trace = traces.read_trace(Path(link.trace)) if maker is None else maker(seed, rate)
        means[way] = trace.mean
    return replace(link, up=means[UP], down=means[DOWN], trace="")


def _parameters(recipe: Recipe) -> int:
    with _patience(f"making the first state of '{recipe.task_name}' to count its parameters"):
        state = initial_state_of(load_task_of(recipe), recipe)
    return sum(array.size for array in state.values())


@contextlib.contextmanager
def _patience(words: str) -> Iterator[None]:
    """Says what is being done, should it take long."""
    timer = threading.Timer(QUIET_SECONDS, say, (f"{words} (--parameters N spares that) …",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _notes(recipe: Recipe, call: PlanCall, question: Question) -> Iterator[str]:
    """What a reader of the table should know."""
    coded = "the reference device" if call.device is None else f"the device of {call.device}"
    speeds = {1 / slower for slower in question.slower.values()}
    speed = (
        "" if speeds == {1.0} else f" at {'–'.join(f'{s:g}' for s in sorted({min(speeds), max(speeds)}))}×"
    )
    yield f"{question.parameters:,} parameters, coded as on {coded}{speed}; rounds are {_worth(recipe)}"
    if call.link is None and any(recipe.link_of(site).trace for site in recipe.sites.all):
        yield "note: lines of this recipe change with time; here each has its mean rate"
    if not recipe.adapts:
        yield "note: this recipe fixes its codecs; with --set compress=auto, phloem build chooses as here"


def _worth(recipe: Recipe) -> str:
    if recipe.task_name in known_tasks():
        return f"those measured on task '{recipe.task_name}'"
    return "the mean of the tasks measured, since this one was not"


def _draw(question: Question, recipe: Recipe, path: Path) -> None:
    by_line: dict[Link, list[str]] = {}
    for site, link in question.links.items():
        by_line.setdefault(link, []).append(site)
    like = max(by_line, key=lambda link: len(by_line[link]))
    marks: dict[float, str] = {}
    for link, sites in sorted(by_line.items(), key=lambda pair: -len(pair[1]))[:_MARKED]:
        words = f"{len(sites)} sites" if len(sites) > 1 and len(by_line) > 1 else sites[0]
        marks.setdefault(link.up, bits_text(link.up) if len(by_line) == 1 else words)
    title = f"{recipe.name}: {question.parameters:,} parameters, {len(question.links)} sites"
    with drawing(path):
        write_plan_plot(question, like, path, title=title, marks=marks)
