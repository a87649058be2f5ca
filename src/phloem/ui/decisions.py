"""What a run decided and what came of it, read from `decisions.jsonl` and written for people."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from phloem.errors import StateError
from phloem.planner.costs import Seen
from phloem.planner.decision import label
from phloem.planner.levels import LADDER
from phloem.ui.figures import time_text
from phloem.ui.plan_text import mixture_text, seconds_text

_LABELS = {
    label((place, option)): place
    for place, level in enumerate(LADDER)
    for option in range(len(level.options))
}


@dataclass(frozen=True)
class Told:
    """What the controller was told after a round: all that its next decision depends on."""

    frame_bytes: int
    loss: float
    norm: float
    spent: float
    seen: Mapping[str, Seen]


@dataclass(frozen=True)
class Decided:
    """One line of `decisions.jsonl`.

    Attributes:
        up: sites by what they were asked to send.
        seconds, low, high: predicted, and the bounds that hold four fifths.
        actual: what it took.
        covered: transfers inside their interval, and of how many.
        parameters: of the model, without pruned ones.
        trains: whether the round trained; else sites sent what they owed.
        tables: the digest of what it was decided with.
    """

    round: int
    policy: str
    why: str
    up: Mapping[str, Sequence[str]]
    down: str
    seconds: float
    low: float
    high: float
    actual: float
    covered: tuple[int, int]
    swerved: bool
    parameters: int
    tables: str
    trains: bool
    told: Told

    @property
    def number(self) -> int:
        """The round as people count, from 1."""
        return self.round + 1

    @property
    def levels_up(self) -> dict[int, int]:
        """How many sites send at each place of the ladder."""
        found: Counter[int] = Counter()
        for name, sites in self.up.items():
            found[_LABELS[name]] += len(sites)
        return dict(found)

    @property
    def level_down(self) -> int:
        """The place in the ladder of what comes down."""
        return _LABELS[self.down]

    def differs(self, before: Decided) -> bool:
        """Whether something else was chosen than in the round before."""
        ours, others = ((one.policy, one.down, one.trains, set(one.levels_up)) for one in (self, before))
        return ours != others


def read_decisions(lines: Sequence[Any], where: str) -> list[Decided]:
    """The lines as they are meant; `where` names the file in errors.

    Raises:
        StateError: a line is of another version, or damaged.
    """
    return [_read(line, f"{where}, line {number}") for number, line in enumerate(lines, 1)]


def _read(line: Any, where: str) -> Decided:
    try:
        told, predicted, actual = line["told"], line["predicted"], line["actual"]
        inside, of = actual.get("covered", (0, 0))
        found = Decided(
            int(line["round"]),
            str(line["policy"]),
            str(line["why"]),
            {str(name): [str(site) for site in sites] for name, sites in line["up"].items()},
            str(line["down"]),
            float(predicted["seconds"]),
            float(predicted["low"]),
            float(predicted["high"]),
            float(actual["seconds"]),
            (int(inside), int(of)),
            bool(actual.get("swerved")),
            int(line["parameters"]),
            str(line["tables"]),
            bool(line["trains"]),
            Told(
                int(told["frame_bytes"]),
                math.nan if told["loss"] is None else float(told["loss"]),
                float(told["norm"]),
                float(told["spent"]),
                {str(site): _seen(values) for site, values in told["seen"].items()},
            ),
        )
    except KeyError as error:
        raise StateError(
            f"{where} has no {error}: it was written by another version",
            hint="trace the run with the Phloem that made it",
        ) from error
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise StateError(f"{where} is damaged ({error!s:.120})", hint="restore it from a copy") from error
    strange = [name for name in (*found.up, found.down) if name not in _LABELS]
    if strange:
        raise StateError(
            f"{where} has a level '{strange[0]:.40}', and this version has none of that name",
            hint="trace the run with the Phloem that made it",
        )
    return found


def _seen(values: Sequence[Any]) -> Seen:
    most = len(Seen.__dataclass_fields__)
    if len(values) not in (most - 1, most) or any(  # logs of before have no round trip
        isinstance(one, bool) or not isinstance(one, (int, float)) for one in values
    ):
        raise ValueError(f"a site's round has {most} numbers")
    return Seen(*values)


@dataclass(frozen=True)
class Tally:
    """A run's decisions in a few figures.

    Attributes:
        policies: rounds by policy, most first.
        switches: rounds whose policy is another than that of the round before.
        covered: transfers inside their interval, of how many.
        rounds_covered: rounds inside theirs; the first, of which nothing was known, included.
        ratio: the median of actual over predicted seconds.
    """

    rounds: int
    policies: Mapping[str, int]
    switches: int
    swerves: int
    covered: tuple[int, int]
    rounds_covered: int
    predicted_seconds: float
    actual_seconds: float
    ratio: float

    @classmethod
    def of(cls, decided: Sequence[Decided]) -> Tally:
        """The figures of these rounds, at least one."""
        ratios = [one.actual / one.seconds for one in decided if one.seconds > 0]
        return cls(
            len(decided),
            dict(Counter(one.policy for one in decided).most_common()),
            sum(after.policy != before.policy for before, after in itertools.pairwise(decided)),
            sum(one.swerved for one in decided),
            (sum(one.covered[0] for one in decided), sum(one.covered[1] for one in decided)),
            sum(one.low <= one.actual <= one.high for one in decided),
            sum(one.seconds for one in decided),
            sum(one.actual for one in decided),
            statistics.median(ratios) if ratios else math.nan,
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        table = asdict(self)
        table["ratio"] = self.ratio if math.isfinite(self.ratio) else None
        return {**table, "covered": {"inside": self.covered[0], "transfers": self.covered[1]}}


def row_of(one: Decided) -> dict[str, Any]:
    """A round's decision as plain values, without what was told."""
    return {
        "round": one.round,
        "policy": one.policy,
        "why": one.why,
        "trains": one.trains,
        "up": {name: list(sites) for name, sites in one.up.items()},
        "down": one.down,
        "predicted": {"seconds": one.seconds, "low": one.low, "high": one.high},
        "actual_seconds": one.actual,
        "swerved": one.swerved,
    }


def shown(decided: Sequence[Decided], *, every: bool) -> list[Decided]:
    """The rounds in which something changed; or every one."""
    return [one for place, one in enumerate(decided) if every or not place or one.differs(decided[place - 1])]


def levels_text(one: Decided) -> str:
    """What the sites were asked to send, finest first."""
    return mixture_text(dict(sorted(one.up.items(), key=lambda pair: _LABELS[pair[0]])))


def print_decisions(console: Console, decided: Sequence[Decided], *, every: bool) -> None:
    """Prints the figures, then a row per round in which something changed."""
    _print_tally(console, Tally.of(decided))
    rows = shown(decided, every=every)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("round", justify="right", no_wrap=True)
    for heading in ("policy", "up", "down"):
        grid.add_column(heading, overflow="fold")
    for heading in ("predicted", "80 % within", "took"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("why", overflow="fold")
    for one in rows:
        inside = one.low <= one.actual <= one.high
        cells = (
            str(one.number),
            one.policy,
            levels_text(one),
            one.down,
            seconds_text(one.seconds),
            f"{seconds_text(one.low)} – {seconds_text(one.high)}",
            seconds_text(one.actual) + ("  " if inside else " !"),
            one.why + ("; the lines swerved" if one.swerved else ""),
        )
        grid.add_row(*(Text(_clean(cell)) for cell in cells))
    console.print(grid)
    if len(rows) < len(decided):
        console.print(Text(f"{len(decided) - len(rows)} rounds in which nothing changed: --all", style="dim"))


def _print_tally(console: Console, tally: Tally) -> None:
    rounds = f"{tally.rounds} round{'s' if tally.rounds != 1 else ''}"
    switches = f"{tally.switches or 'no'} change{'s' if tally.switches != 1 else ''} of policy"
    console.print(Text(f"{rounds}, {switches}", style="bold"))
    facts = Grid.grid(padding=(0, 3))
    facts.add_row("policies", ", ".join(f"{_clean(name)} ×{n}" for name, n in tally.policies.items()))
    inside, of = tally.covered
    if of:
        facts.add_row("transfers", f"{inside / of:.0%} of {of:,} within their interval, which 80 % should be")
    facts.add_row("rounds", f"{tally.rounds_covered} of {tally.rounds} within theirs")
    facts.add_row(
        "seconds",
        f"{time_text(tally.actual_seconds)} in all, {time_text(tally.predicted_seconds)} predicted; "
        f"in the median round {tally.ratio:.2f} of what was predicted",
    )
    if tally.swerves:
        facts.add_row("swerves", f"in {tally.swerves} rounds most lines were far from what was expected")
    console.print(facts)


def _clean(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
