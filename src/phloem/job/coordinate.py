"""The coordinator's side of a run whose sites are elsewhere: runs inside the engine's server process.

`follow` is the other end: whoever started that process sees its rounds in the run's directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

from phloem import errors
from phloem.errors import PhloemError, StateError
from phloem.job import lifecycle
from phloem.job.lifecycle import MakeEngine
from phloem.job.record import RoundRecord
from phloem.job.runner import Run
from phloem.job.watch import Watcher
from phloem.recipe import Recipe
from phloem.ui.progress import PlainDisplay

_POLL_SECONDS = 0.2


class Report:
    """What the coordinator tells whoever started it, as lines of JSON in a file; without a file, nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def say(self, words: str) -> None:
        """One line for a person."""
        self._add({"say": words})

    def fail(self, error: PhloemError) -> None:
        """The error that the run ended with."""
        self._add({"error": type(error).__name__, "message": error.message, "hint": error.hint})

    def _add(self, line: dict[str, str | None]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, str]]:
        """What was said so far."""
        try:
            lines = self.path.read_text("utf-8").split("\n") if self.path is not None else [""]
        except OSError:
            return []
        return [json.loads(line) for line in lines[:-1]]


def coordinate(
    recipe: Recipe, root: Path, engine_of: MakeEngine, say: Callable[[str], None], report: Report
) -> Run:
    """Runs the recipe to its end in `root`, or goes on with the run that is there.

    Sites elsewhere keep their own state and cannot be set back, so every round is a point to resume from. `say` is
    told one line now and then.

    Raises:
        PhloemError: as `phloem.build`; the report has it too.
    """
    recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, snapshot_every=1, workers=0))
    try:
        with contextlib.ExitStack() as claims, PlainDisplay(say) as display:
            watch = display.watch(recipe.name)
            if (root / "run.json").exists():
                return lifecycle.resume(root, watch, claims, expect=recipe, engine_of=engine_of)
            return lifecycle.start(recipe, root, watch, claims, engine_of=engine_of)
    except PhloemError as error:
        report.fail(error)
        raise


def follow(
    root: Path,
    shown: int,
    watch: Watcher,
    ended: Callable[[], str | None],
    report: Report,
    tell: Callable[[str], None],
) -> None:
    """Shows the rounds of the run in `root` as they come, from number `shown` on, until it is finished.

    `ended` says why the process is no more, or None while it goes on; `tell` is given what the coordinator says.

    Raises:
        PhloemError: the run failed, with the error that it failed with.
    """
    told = 0
    while True:
        reason = ended()  # asked first: what it wrote before its end is read after
        for line in report.lines()[told:]:
            told += 1
            if "error" in line:
                raise getattr(errors, line["error"], StateError)(line["message"], hint=line["hint"])
            tell(line["say"])
        for record in _records(root)[shown:]:
            watch.round(record)
            shown += 1
        if reason is not None:
            if (root / "summary.json").exists():
                return
            raise StateError(f"the coordinator ended before the run did: {reason}", hint="resume the run")
        time.sleep(_POLL_SECONDS)


def _records(root: Path) -> list[RoundRecord]:
    """The rounds that are written down whole."""
    try:
        lines = (root / "rounds.jsonl").read_text("utf-8").split("\n")
    except OSError:
        return []
    return [RoundRecord.from_json(line) for line in lines[:-1]]
