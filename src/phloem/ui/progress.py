"""What a run looks like while it goes on: a live view on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from phloem.job.record import RoundRecord
from phloem.recipe import Recipe
from phloem.tasks.base import Metric
from phloem.ui.figures import metric_text, metric_words, size_text, time_text
from phloem.ui.outcome import THIS, outcome
from phloem.ui.tally import Tally

LINE_EVERY_SECONDS = 2.0
_SHOWN_REFUSALS = 4


class Display(Protocol):
    """Shows runs, one after another."""

    def watch(self, label: str) -> RunWatcher:
        """The watcher of the next run."""
        ...

    def tell(self, words: str) -> None:
        """Shows one line that is not about a round."""
        ...

    def __enter__(self) -> Display: ...

    def __exit__(self, *failure: object) -> None: ...


class RunWatcher:
    """Keeps the tally of one run and tells its display what changed."""

    def __init__(self, label: str, show: Callable[[Tally, str], None]) -> None:
        self.label, self._show = label, show
        self.tally: Tally | None = None

    def started(self, recipe: Recipe, metric: Metric, parameters: int, done: Sequence[RoundRecord]) -> None:
        """The sites have their data."""
        self.tally = Tally(self.label, recipe, metric.name, parameters, list(done))
        self._show(self.tally, "started")

    def round(self, record: RoundRecord) -> None:
        """A round is over."""
        assert self.tally is not None
        self.tally.records.append(record)
        self.tally.here += 1
        self._show(self.tally, "round")

    def finished(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        assert self.tally is not None
        self.summary = summary
        self._show(self.tally, "finished")


class PlainDisplay:
    """Lines for a log file: the first round, the last one, and in between one line every two seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._last_line = -math.inf
        self._refused: dict[str, str] = {}
        self._unsaid = False  # whether there is a round that no line was written about

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *failure: object) -> None:
        return None

    def watch(self, label: str) -> RunWatcher:
        """The watcher of the next run."""
        return RunWatcher(label, self._show)

    def tell(self, words: str) -> None:
        """Writes the line."""
        self._write(words)

    def _show(self, tally: Tally, what: str) -> None:
        prefix = tally.recipe.name if tally.label == THIS else tally.label
        if what == "started":
            done = f", {tally.done} of {tally.recipe.rounds.max} rounds done before" if tally.records else ""
            if tally.label == THIS and tally.recipe.description:
                self._write(f"{prefix}: {tally.recipe.description}")
            self._write(f"{prefix}: {tally.title()}{done}")
            self._last_line = -math.inf
            return
        last = tally.last
        if last is None:
            return
        if what == "finished":
            if self._unsaid:
                self._line(prefix, tally, last)
            return
        self._refused |= last.refused
        self._unsaid = True
        if self._clock() - self._last_line >= LINE_EVERY_SECONDS or tally.here == 1:
            self._line(prefix, tally, last)

    def _line(self, prefix: str, tally: Tally, last: RoundRecord) -> None:
        parts = [
            tally.rounds(),
            tally.score(),
            f"{tally.size()} ({tally.parts(', ')})",
            f"{tally.rates(', ')} bits/parameter",
            f"{time_text(last.total_seconds)} simulated",
        ]
        if tally.left_text and tally.done < tally.recipe.rounds.max:
            parts.append(tally.left_text)
        if self._refused:
            parts.append(f"refused: {refusals_text(self._refused)}")
        self._write(f"{prefix}: {'; '.join(parts)}")
        self._refused = {}
        self._unsaid = False
        self._last_line = self._clock()


def refusals_text(refused: dict[str, str]) -> str:
    """Who was refused, and why; a long list is cut.

    >>> refusals_text({"b": "late", "a": "NaN in 'w'"})
    "a (NaN in 'w'), b (late)"
    """
    shown = [f"{site} ({reason})" for site, reason in sorted(refused.items())[:_SHOWN_REFUSALS]]
    more = len(refused) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


class LiveDisplay:
    """One view that is drawn again in place: a line per finished run, and the one that goes on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._over: list[Text] = []
        self._now: RenderableType = Text("preparing the sites' data …", style="dim")
        self._live = Live(get_renderable=self._view, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def watch(self, label: str) -> RunWatcher:
        """The watcher of the next run."""
        self._watcher = RunWatcher(label, self._show)
        if self._over:
            self._now = Text(f"{label}: preparing the sites' data …", style="dim")
        return self._watcher

    def tell(self, words: str) -> None:
        """Shows the line above the view."""
        self._console.print(Text(words, style="dim"))

    def _view(self) -> RenderableType:
        return Group(*self._over, self._now)

    def _show(self, tally: Tally, what: str) -> None:
        if what == "finished":
            row = outcome(self._watcher.summary, tally.label)
            verdict = "target not reached" if row.reached is False else f"{row.rounds} rounds"
            score = f"{metric_words(row.metric)} {metric_text(row.metric, row.stop)}"
            text = f"{tally.label}: {score}, {verdict}, {size_text(row.size_bytes)}"
            self._over.append(Text(text, style="dim"))
            self._now = Text("writing the report …", style="dim")
        else:
            self._now = live_view(tally)
        self._live.refresh()


def live_view(tally: Tally) -> RenderableType:
    """The view of a run that goes on."""
    recipe, last = tally.recipe, tally.last
    title = Text(recipe.name, style="bold")
    if tally.label != THIS:
        title.append(f"  {tally.label}", style="bold magenta")
    elif recipe.description:
        title.append(f"  {recipe.description}", style="not bold dim")
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=1.0, completed=tally.share_done, width=32),
        Text(tally.rounds()),
        Text(tally.score(), style="bold"),
        Text(tally.goal(), style="dim"),
    )
    facts = Table.grid(padding=(0, 2))
    sent = Text.assemble((tally.size(), "bold"), f"   {tally.parts(' · ')}")
    facts.add_row(Text("sent", style="dim"), sent)
    if last:
        facts.add_row(Text("bits per parameter", style="dim"), Text(tally.rates(" · ")))
        trained = time_text(sum(r.train_seconds for r in tally.records))
        times = f"{time_text(last.total_seconds)} simulated on the links · {trained} training measured"
        facts.add_row(Text("time", style="dim"), Text(f"{times} · {tally.left_text}".rstrip(" ·")))
    refused = [(r.round, r.refused) for r in tally.records if r.refused]
    if refused:
        number, latest = refused[-1]
        count = sum(len(names) for _, names in refused)
        line = f"{count} so far; round {number + 1}: {refusals_text(latest)}"
        facts.add_row(Text("refused", style="yellow"), Text(line, style="yellow"))
    return Padding(Group(title, Text(tally.title(), style="dim"), bar, facts), (0, 0, 0, 1))
