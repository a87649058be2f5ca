"""A plan as tables for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from phloem.planner import levels, policies
from phloem.planner.policies import COMMON, DEADLINE
from phloem.recipe import Link
from phloem.ui.figures import rate_text, ratio_text, size_text, time_text
from phloem.ui.plan import Offer, Planned, Row

_LINES = 6  # that are shown: the slowest, and the fastest
_ALMOST = 1.005  # a gain that is none
_POLICIES = {
    COMMON: "one level up, one down",
    DEADLINE: "a level per site, all of them done by one time",
    "bytes": "the most per byte",
    "budget": "the most that the budget allows",
}


def bits_text(rate: float) -> str:
    """A line's rate.

    >>> bits_text(10e6), bits_text(2.5e5), bits_text(1e9)
    ('10 Mbit/s', '250 kbit/s', '1 Gbit/s')
    """
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= factor:
            return f"{rate / factor:.3g} {unit}bit/s"
    return f"{rate:.3g} bit/s"


def link_text(link: Link) -> str:
    """A line in words.

    >>> link_text(Link(1e6, 8e6, 0.06))
    '1 Mbit/s up, 8 Mbit/s down, 60 ms'
    """
    ways = (
        f"{bits_text(link.up)} both ways"
        if link.up == link.down
        else (f"{bits_text(link.up)} up, {bits_text(link.down)} down")
    )
    return f"{ways}, {seconds_text(link.latency)}"


def seconds_text(seconds: float) -> str:
    """A duration to compare with others: three digits where that is not too many.

    >>> seconds_text(0.00423), seconds_text(0.114), seconds_text(1.06), seconds_text(125)
    ('4.2 ms', '114 ms', '1.06 s', '2 min 5 s')
    """
    if 0.00995 <= seconds < 9.995:
        return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"
    return time_text(seconds)


def lines_text(links: Mapping[str, Link]) -> list[str]:
    """The sites by their lines, slowest first: one row where all are alike."""
    by_line: dict[str, list[str]] = {}
    for site, link in sorted(links.items(), key=lambda pair: (pair[1].up, pair[1].down)):
        by_line.setdefault(link_text(link), []).append(site)
    return [f"{_sites_text(sites, len(links))}: {words}" for words, sites in by_line.items()]


def _sites_text(sites: Sequence[str], of: int) -> str:
    if len(sites) == of:
        return f"all {of} sites" if of > 1 else sites[0]
    return ", ".join(sites) if len(sites) <= 3 else f"{len(sites)} sites"


def mixture_text(up: Mapping[str, Sequence[str] | int]) -> str:
    """Levels and how many sites have each; one level alone is just named.

    >>> mixture_text({"0.2 fast": ["a", "b"], "0.05 fast": ["c"]}), mixture_text({"bf16": ["a"]})
    ('0.2 fast ×2, 0.05 fast ×1', 'bf16')
    """
    counts = {name: sites if isinstance(sites, int) else len(sites) for name, sites in up.items()}
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ×{count}" for name, count in counts.items())


def headline(found: Planned) -> str:
    """What is best, in a sentence."""
    best, whole = found.best, found.rows[0]
    words = mixture_text(best.up)
    both = f"{words} both ways" if words == best.down else f"{words} up, {best.down} down"
    gain = whole.cost / best.cost
    than = f", and at the target {ratio_text(gain)} sooner than uncompressed" if gain > _ALMOST else ""
    return f"best here: {both}: {seconds_text(best.seconds)} a round{than}"


def print_plan(console: Console, found: Planned, *, lines: Sequence[str]) -> None:
    """Prints the headline, the lines, a row per level, and what a run would choose."""
    console.print(Text(headline(found), style="bold"))
    more = len(lines) - _LINES
    shown = lines if more <= 1 else [*lines[: _LINES - 1], f"… {more} lines more …", lines[-1]]
    for line in shown:
        console.print(Text(line, style="dim"))
    console.print(_levels_grid(console, found))
    offers = _different(found)
    if len(offers) > 1 or found.best.policy != policies.name_of(levels.index_of(found.best_row.level)):
        console.print(_offers_grid(found, offers))
        known = [f"{one.policy}: {_POLICIES[one.policy]}" for one in offers if one.policy in _POLICIES]
        console.print(Text(" · ".join(known), style="dim"))
    if len(found.best.up) > 1:
        of = sum(map(len, found.best.up.values()))
        each = [f"{name}: {_sites_text(sites, of)}" for name, sites in found.best.up.items()]
        console.print(Text(f"up, with '{found.best.policy}': " + " · ".join(each)))


def _different(found: Planned) -> list[Offer]:
    """The choices without those that are another's in other words."""
    kept: list[Offer] = []
    for one in found.offers:
        if all((one.up, one.down) != (other.up, other.down) for other in kept):
            kept.append(one)
    return kept


_OPTIONAL = ("bits\nup", "bits\ndown", "bytes\nup", "bytes\ndown", "coding")


def _levels_grid(console: Console, found: Planned) -> Grid:
    """The table of levels; what is least missed is left out where the terminal is narrow."""
    rows = [_cells(row, found) for row in found.rows]
    for without in (0, 2, 4, 5):
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
        headings = [heading for heading in rows[0] if heading not in _OPTIONAL[:without]]
        for place, heading in enumerate(headings):
            grid.add_column(heading, justify="right" if place > 1 else "left", no_wrap=True)
        for row, cells in zip(found.rows, rows, strict=True):
            style = "bold" if row is found.best_row else "" if row.allowed else "dim"
            grid.add_row(*(Text(cells[heading]) for heading in headings), style=style)
        wide = console.measure(grid, options=console.options.update(width=10_000)).maximum
        if wide <= console.width:
            break
    return grid


def _cells(row: Row, found: Planned) -> dict[str, str]:
    efforts = row.effort_up if row.effort_up == row.effort_down else f"{row.effort_up}/{row.effort_down}"
    mark = " ◂" if row is found.best_row else "  "
    cells = {
        "level": row.level,
        "effort": efforts or "–",
        "bits\nup": rate_text(row.bits_up),
        "bits\ndown": rate_text(row.bits_down),
        "bytes\nup": size_text(row.bytes_up),
        "bytes\ndown": size_text(row.bytes_down),
        "time\nup": seconds_text(row.up_seconds),
        "time\ndown": seconds_text(row.down_seconds),
    }
    if any(one.train_seconds for one in found.rows):
        cells["training"] = seconds_text(row.train_seconds)
    return cells | {
        "coding": seconds_text(row.coding_seconds),
        "a round": seconds_text(row.seconds),
        "rounds": f"{row.rounds:.2f}×",
        "time to\ntarget": f"{row.cost / found.best.cost:.2f}×{mark}" if row.allowed else "barred  ",
    }


def _offers_grid(found: Planned, offers: Sequence[Offer]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(("policy", "up", "down", "a round", "rounds", "time to\ntarget")):
        grid.add_column(heading, justify="right" if place > 2 else "left", overflow="fold")
    for one in offers:
        cells = (one.policy, mixture_text(one.up), one.down, seconds_text(one.seconds), f"{one.rounds:.2f}×")
        last = f"{one.cost / found.best.cost:.2f}×{' ◂' if one is found.best else '  '}"
        style = "bold" if one is found.best else ""
        grid.add_row(*(Text(cell) for cell in (*cells, last)), style=style)
    return grid
