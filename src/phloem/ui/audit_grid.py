"""Rounds × sites as a picture: who was merged, left out, absent, or not asked. Strips of it fit a phone and a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from phloem.ledger.history import Part, Round
from phloem.ui.markup import Markup, element, joined

WIDTH = 520  # as the charts of a report have it
COLUMNS, STRIPS, SITES = 40, 6, 40  # of one strip; strips; rows
_ROW, _TOP, _LETTER = 19, 22, 9.2
_WORDS = {
    Part.MERGED: "merged into the model",
    Part.LEFT_OUT: "left out, with a reason",
    Part.ABSENT: "asked, no update came",
    Part.OPEN: "in a round that was never merged",
    None: "not asked",
}
_STYLES = {Part.MERGED: "merged", Part.LEFT_OUT: "left", Part.ABSENT: "absent", Part.OPEN: "open"}

Parts = Mapping[str, Part]


def grid(rounds: Sequence[Round], flagged: Collection[int]) -> Markup:
    """The picture of these rounds; those in `flagged`, which something was found about, have a mark above them."""
    table = [row.parts() for row in rounds]
    sites = _shown(table)
    names = {site for parts in table for site in parts}
    step = max(1, math.ceil(len(rounds) / (COLUMNS * STRIPS)))
    columns = [slice(at, at + step) for at in range(0, len(rounds), step)]
    strips = [
        _strip(rounds, table, sites, columns[at : at + COLUMNS], flagged)
        for at in range(0, len(columns), COLUMNS)
    ]
    notes = []
    if step > 1:
        notes.append(f"Each column stands for {step} rounds; the heights are shares of them.")
    if len(names) > len(sites):
        notes.append(f"Of {len(names):,} sites, the {len(sites)} with the most to see are drawn.")
    return joined(
        _legend({part for parts in table for part in parts.values()}, flagged=bool(flagged)),
        element("div", *strips, class_="charts strips"),
        element("p", " ".join(notes), class_="soft") if notes else None,
    )


def _shown(table: Sequence[Parts]) -> list[str]:
    """The sites that are drawn, by name; of many, those that were left out or absent most."""
    weight: Counter[str] = Counter()
    for parts in table:
        for site, part in parts.items():
            weight[site] += 1 if part is Part.MERGED else 1000
    return sorted(sorted(weight, key=lambda site: (-weight[site], site))[:SITES])


def _legend(found: Collection[Part], *, flagged: bool) -> Markup:
    kinds: list[Part | None] = [part for part in Part if part in found]
    items = [
        element("li", element("svg", _cell(part, 1, 1, 13, 13), viewBox="0 0 15 15"), _WORDS[part])
        for part in [*kinds, None]
    ]
    if flagged:
        mark = element("svg", element("path", d="M2 3h11l-5.5 9z", class_="flag"), viewBox="0 0 15 15")
        items.append(element("li", mark, "something was found about this round"))
    return element("ul", *items, class_="legend")


def _strip(
    rounds: Sequence[Round],
    table: Sequence[Parts],
    sites: Sequence[str],
    columns: Sequence[slice],
    flagged: Collection[int],
) -> Markup:
    longest = max((len(site) for site in sites), default=0)
    left = 16 + _LETTER * min(max(longest, 5), 15)
    wide = min(24.0, (WIDTH - left) / max(len(columns), 10))
    parts: list[Markup] = []
    for line, site in enumerate(sites):
        shown = site if len(site) <= 15 else site[:14] + "…"
        y = _TOP + line * _ROW
        parts.append(element("text", shown, x=left - 8, y=y + 13.5, class_="tick", text_anchor="end"))
    for place, column in enumerate(columns):
        x, here = left + place * wide, rounds[column]
        if any(row.number in flagged for row in here):
            middle = x + wide / 2
            parts.append(element("path", d=f"M{middle - 5:.1f} {_TOP - 11}h10l-5 8z", class_="flag"))
        for line, site in enumerate(sites):
            found = [parts_of.get(site) for parts_of in table[column]]
            y = _TOP + line * _ROW
            if len(found) == 1:
                parts.append(_titled(here[0], site, found[0], x + 1, y + 1, wide - 2, _ROW - 2))
            else:
                parts.append(_shares(found, x + 1, y + 1, wide - 2, _ROW - 2))
    parts += _numbers(rounds, columns, left, wide, _TOP + _ROW * len(sites))
    first, last = rounds[columns[0]][0].number, rounds[columns[-1]][-1].number
    words = f"Rounds {first} to {last}" if first != last else f"Round {first}"
    counts = Counter(
        part for parts_of in table[columns[0].start : columns[-1].stop] for part in parts_of.values()
    )
    said = ", ".join(f"{counts[part]:,} {part}" for part in Part if counts[part])
    return element(
        "figure",
        element(
            "svg",
            element("title", words),
            element("desc", f"{said}. The table below has every round."),
            *parts,
            viewBox=f"0 0 {WIDTH} {_TOP + _ROW * len(sites) + 26}",
            role="img",
            aria_label=f"{words}: {said}",
        ),
    )


def _numbers(
    rounds: Sequence[Round], columns: Sequence[slice], left: float, wide: float, y: float
) -> list[Markup]:
    """The rounds' numbers under the columns, as many as there is room for."""
    made, room = [], -math.inf
    for place, column in enumerate(columns):
        text = str(rounds[column][0].number)
        half = _LETTER * len(text) / 2
        x = max(left + (place + 0.5) * wide, left + half)
        if x - half > room and (place % 5 == 0 or len(columns) <= 12):
            made.append(element("text", text, x=x, y=y + 16, class_="tick", text_anchor="middle"))
            room = x + half + 4
    made.append(element("text", "round", x=left - 8, y=y + 16, class_="name", text_anchor="end"))
    return made


def _titled(row: Round, site: str, part: Part | None, x: float, y: float, wide: float, high: float) -> Markup:
    """A cell that says what it is when a pointer rests on it."""
    cell = _cell(part, x, y, wide, high)
    if part in (None, Part.MERGED):
        return cell
    reason = row.reason(site) if part is Part.LEFT_OUT else ""
    words = f"round {row.number}, {site}: {reason or _WORDS[part]}"
    return element("g", element("title", words), cell)


def _cell(part: Part | None, x: float, y: float, wide: float, high: float) -> Markup:
    """One cell: told apart by its form as well as by its colour."""
    if part is None:
        return element("circle", cx=x + wide / 2, cy=y + high / 2, r=1.3, class_="cell idle")
    if part is Part.OPEN:
        return element(
            "rect", x=x, y=y + high / 3, width=wide, height=high / 3, class_=f"cell {_STYLES[part]}"
        )
    inset = 0.6 if part is Part.ABSENT else 0.0
    made = element(
        "rect",
        x=x + inset,
        y=y + inset,
        width=wide - 2 * inset,
        height=high - 2 * inset,
        rx=1.5,
        class_=f"cell {_STYLES[part]}",
    )
    if part is not Part.LEFT_OUT:
        return made
    slash = element("line", x1=x, y1=y + high, x2=x + wide, y2=y, class_="slash")
    return joined(made, slash)


def _shares(found: Sequence[Part | None], x: float, y: float, wide: float, high: float) -> Markup:
    """Several rounds in one cell: from the bottom, the shares that were merged, left out, and anything else."""
    made, bottom = [], y + high
    for parts, style in (
        ((Part.MERGED,), "merged"),
        ((Part.LEFT_OUT,), "left"),
        ((Part.ABSENT, Part.OPEN), "share"),
    ):
        tall = high * sum(part in parts for part in found) / len(found)
        if tall:
            made.append(
                element("rect", x=x, y=bottom - tall, width=wide, height=tall, class_=f"cell {style}")
            )
            bottom -= tall
    return joined(*made)
