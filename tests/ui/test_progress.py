from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console
from tests.ui.made import recipe, rounds, summary_of

from phloem.job.record import RoundRecord
from phloem.recipe import Recipe
from phloem.tasks.base import Metric
from phloem.ui.outcome import THIS
from phloem.ui.progress import LiveDisplay, PlainDisplay, live_view, refusals_text
from phloem.ui.table import print_outcome
from phloem.ui.tally import Tally


def _tally(made: Recipe, records: list[RoundRecord], here: int = 0) -> Tally:
    return Tally(THIS, made, "accuracy", 1000, records, here)


def _drawn(tally: Tally) -> str:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(live_view(tally))
    return console.export_text()


class Clock:
    """Goes on by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_at_most_every_two_seconds_and_never_miss_the_last_round() -> None:
    lines: list[str] = []
    clock = Clock()
    made = recipe(rounds={"max": 50})
    records = rounds([0.5] * 50)
    with PlainDisplay(lines.append, clock) as display:
        watch = display.watch(THIS)
        watch.started(made, Metric("accuracy"), 1000, ())
        for record in records:
            clock.now += 0.1
            watch.round(record)
        watch.finished(summary_of(made, records))
    said = [line for line in lines if "round " in line]
    assert len(said) == 4
    assert "round 1 of 50" in said[0]
    assert "round 50 of 50" in said[-1]
    assert len(set(said)) == len(said)


def test_a_refused_site_is_named_even_if_its_round_had_no_line() -> None:
    lines: list[str] = []
    clock = Clock()
    made = recipe(rounds={"max": 4})
    watch = PlainDisplay(lines.append, clock).watch(THIS)
    watch.started(made, Metric("accuracy"), 1000, ())
    for record in rounds([0.5] * 4, **{"site-1": "late"}):
        watch.round(record)
    clock.now = 5.0
    watch.round(rounds([0.5])[0])
    assert "refused: site-1 (late)" in lines[-1]


def test_a_baseline_is_labelled() -> None:
    lines: list[str] = []
    watch = PlainDisplay(lines.append, Clock()).watch("bf16")
    watch.started(recipe(), Metric("accuracy"), 1000, ())
    watch.round(rounds([0.5])[0])
    assert all(line.startswith("bf16: ") for line in lines)


def test_the_bar_follows_the_best_metric_to_the_target(to_target: Recipe) -> None:
    assert _tally(to_target, rounds([0.1, 0.5, 0.3])).share_done == pytest.approx(0.5)
    assert _tally(to_target, rounds([0.1, 0.9])).share_done == 1.0
    assert _tally(to_target, rounds([math.nan])).share_done == pytest.approx(0.1)
    assert _tally(to_target, rounds([0.9])).share_done == 1.0


def test_the_bar_follows_a_falling_metric_too() -> None:
    made = recipe(rounds={"max": 100, "stop": "target", "target": 1.0})
    assert _tally(made, rounds([3.0, 2.0])).share_done == pytest.approx(0.5)


def test_the_time_left_is_measured_here_and_an_upper_bound_with_a_target(to_target: Recipe) -> None:
    records = rounds([0.1, 0.2, 0.3])
    assert _tally(to_target, records).left_text == ""
    tally = _tally(to_target, records, here=1)
    assert tally.seconds_left == pytest.approx(7 * 0.3)
    assert tally.left_text == "at most 2.1 s left"


def test_the_live_view_shows_bytes_rates_times_and_refusals(to_target: Recipe) -> None:
    text = _drawn(_tally(to_target, rounds([0.1, 0.2], **{"site-2": "NaN in 'w'"}), here=2))
    for words in (
        "round 2 of at most 10",
        "accuracy 20.0 %",
        "until 90 %",
        "up 600 B · down 300 B · control 60 B",
        "0.02 up · 0.01 down",
        "0.2 s simulated",
        "training measured",
        "1 so far; round 2: site-2 (NaN in 'w')",
    ):
        assert words in text


def test_the_live_view_of_nothing_yet_is_drawn(to_target: Recipe) -> None:
    assert "the first round is trained" in _drawn(_tally(to_target, []))


def test_markup_in_names_is_not_obeyed() -> None:
    made = recipe(description="[red]not red[/red]")
    assert "[red]not red[/red]" in _drawn(_tally(made, rounds([0.5], **{"site-1": "[bold]"})))


def test_a_live_display_goes_through_three_runs(to_target: Recipe) -> None:
    records = rounds([0.5, 0.95])
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=120)
    with LiveDisplay(console) as display:
        for label in (THIS, "uncompressed fp32", "bf16"):
            watch = display.watch(label)
            watch.started(to_target, Metric("accuracy"), 1000, ())
            for record in records:
                watch.round(record)
            watch.finished(summary_of(to_target, records))
    assert "uncompressed fp32: accuracy 95.0 %, 2 rounds, 960 B" in drawn.getvalue()


def test_many_refusals_are_cut_short() -> None:
    assert refusals_text({f"s{n}": "late" for n in range(9)}).endswith("s3 (late) and 5 more")


@pytest.mark.parametrize("width", [60, 80, 130])
def test_the_table_fits_its_terminal(to_target: Recipe, tmp_path: Path, width: int) -> None:
    base = summary_of(to_target, rounds([0.5, 0.91], scale=100))
    summary = summary_of(to_target, rounds([0.4, 0.92]), fp32=base, bf16=base)
    console = Console(file=io.StringIO(), width=width, record=True)
    print_outcome(console, summary, tmp_path)
    lines = console.export_text().splitlines()
    assert any("fewer" in line for line in lines)
    assert all(len(line) <= width for line in lines if "report:" not in line)
