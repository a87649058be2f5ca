"""How two models differ, as one self-contained page: norms and cosine layer by layer, drawn, and every figure below."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phloem.ui.axes import Axis, axis_for
from phloem.ui.difference import (
    Sides,
    changed_part,
    cosine_text,
    count_text,
    most_changed,
    notes,
    number_text,
    part_text,
    share_text,
    verdict_text,
)
from phloem.ui.document import document
from phloem.ui.figures import MISSING, unbroken
from phloem.ui.history import clean
from phloem.ui.markup import Markup, element, joined
from phloem.ui.style import STYLE
from phloem.ui.svg import WIDTH

if TYPE_CHECKING:
    from phloem.branches.comparing import Difference, Figures, Layer, Row

SHOWN_LAYERS = 64  # in a chart
SHOWN_ROWS = 1000  # in a table
SHOWN_NAMES = 50  # of what cannot be compared
_LETTER, _LONGEST = 9.2, 21  # pixels that a letter of a label takes, generously; letters of a layer's name
_NUMBER = 68.0  # pixels that a figure at the end of a row takes
_TOP, _ROW, _BAR = 44, 22, 15
_STYLE = """
.headline { max-width: 46ch; }
.headline span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
.facts { grid-template-columns: repeat(4, 1fr); }
.charts figure { max-width: 560px; }
.zero { stroke: var(--soft); stroke-width: 1; }
table.long { min-width: 0; } table.long th, table.long td { padding-left: 14px; }
table.long th:first-child, table.long td:first-child { padding-left: 0; }
table.words td { text-align: left; }
dl.notes { max-width: 90ch; } dl.notes dt { font-weight: 600; margin-top: 10px; }
dl.notes dd { margin: 2px 0 0; overflow-wrap: anywhere; }
@media screen and (max-width: 760px) { .facts { grid-template-columns: 1fr 1fr; } }
@media print { table.long { break-inside: auto; font-size: .68rem; } tr { break-inside: avoid; }
  table.long th, table.long td { padding: 3px 0 3px 8px; } th { font-size: .95em; }
  thead { display: table-header-group; } h2 { break-after: avoid; } pre { white-space: pre-wrap; }
  .charts { grid-template-columns: 1fr 1fr; } }
"""


def difference_page(found: Difference, sides: Sides) -> str:
    """The page's text."""
    return document(
        f"{clean(sides.a)} → {clean(sides.b)} · model difference",
        STYLE + _STYLE,
        element("h1", "Two models, compared with Phloem"),
        element(
            "p",
            "From ",
            element("span", _bdi(sides.a)),
            " to ",
            element("span", _bdi(sides.b), ":"),
            f" {verdict_text(found)}.",
            class_="headline",
        ),
        _facts(found, sides),
        _left_out(found, sides),
        _charts(found, sides) if found.total.differing else None,
        _tables(found, sides) if found.total.differing else None,
        element("h2", "What these numbers are"),
        _meaning(found, sides),
        element("h2", "Compare them again"),
        _again(found, sides),
    )


def _facts(found: Difference, sides: Sides) -> Markup:
    total = found.total
    figures = total.figures
    changed = f"{figures.changed:,} of {figures.parameters:,}"
    rows = [
        ("Tensors that differ", f"{total.differing:,}", f"of {total.tensors:,} that both have"),
        ("Values that differ", part_text(changed_part(figures)), changed),
        ("Relative change", share_text(figures.relative), f"‖b − a‖ = {number_text(figures.norm)}"),
        ("Largest change", number_text(figures.largest), "of one value"),
    ]
    if found.base is not None:
        rows += [
            ("Cosine of their changes", cosine_text(figures.cosine), f"since {_base(sides)}"),
            ("Same direction", part_text(figures.agreement), "of the values that both changed"),
            ("Change of a", number_text(figures.moved_a), "‖a − base‖"),
            ("Change of b", number_text(figures.moved_b), f"‖b − base‖, {_times(figures.ratio)} that of a"),
        ]
    cells = []
    for what, value, note in rows:
        cells.append(
            element("div", element("dt", what), element("dd", unbroken(value), element("small", _bdi(note))))
        )
    return element("dl", *cells, class_="facts")


def _left_out(found: Difference, sides: Sides) -> Markup | None:
    """What cannot be compared, or not fully."""
    rows: list[Markup] = []
    for what, names in notes(found, sides):
        more = len(names) - SHOWN_NAMES
        parts: list[object] = []
        for name in names[:SHOWN_NAMES]:
            parts += [", ", element("bdi", name)]
        rows.append(element("dt", element("bdi", what[:1].upper() + what[1:])))
        rows.append(element("dd", *parts[1:], f" and {more:,} more" if more > 0 else None))
    if not rows:
        return None
    return joined(element("h2", "Not compared, or not fully"), element("dl", *rows, class_="notes"))


# ---- Charts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bars:
    """One row of a chart: a bar for each value, and the text at its end."""

    name: str
    values: Sequence[float | None]
    text: str


def _charts(found: Difference, sides: Sides) -> Markup:
    a, b, base = clean(sides.a), clean(sides.b), _base(sides)
    layers = _shown(found.layers)
    figures = [(layer.name, layer.figures) for layer in layers]
    change = [_Bars(name, [one.relative], share_text(one.relative)) for name, one in figures]
    note = f"a is {a}, b is {b}."
    if len(layers) < len(found.layers):
        note += f" Drawn are the {len(layers)} of {len(found.layers):,} layers that changed most; the table has all."
    made = [_figure("Relative change", _chart("‖b − a‖ ÷ ‖a‖", change, ["a"], _percent), note)]
    if found.base is None:
        norms = [_Bars(name, [one.norm], number_text(one.norm)) for name, one in figures]
        made.append(
            _figure(
                "Norm of the change", _chart("‖b − a‖", norms, ["a"], _plain), "Of all values of a layer."
            )
        )
    else:
        cosine = [_Bars(name, [one.cosine], cosine_text(one.cosine)) for name, one in figures]
        ways = [_Bars(name, [one.moved_a, one.moved_b], _times(one.ratio)) for name, one in figures]
        signs = [_Bars(name, [one.agreement], part_text(one.agreement)) for name, one in figures]
        made += [
            _figure(
                f"Cosine of their changes since {base}",
                _chart(
                    "cosine", cosine, ["a", "b"], _plain, Axis(-1.0, 1.0, (-1.0, -0.5, 0.0, 0.5, 1.0), _plain)
                ),
                "Right: the same direction. Left: against each other. In the middle: unrelated.",
            ),
            _figure(
                f"How far each moved since {base}",
                _chart("norm", ways, ["a", "b"], _plain, labels=(a, b)),
                f"At the end: the norm of {b} in times of that of {a}.",
            ),
            _figure(
                "Values that both changed in the same direction",
                _chart(
                    "share",
                    signs,
                    ["a", "b"],
                    _percent,
                    Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), _percent),
                ),
                "In the middle: half of them, as by chance.",
            ),
        ]
    return joined(element("h2", "Layer by layer"), element("div", *made, class_="charts"))


def _shown(layers: Sequence[Layer]) -> list[Layer]:
    """All layers, or those that changed most, in order."""

    def change(layer: Layer) -> float:
        return math.inf if layer.figures.relative is None else layer.figures.relative

    kept = {layer.name for layer in sorted(layers, key=change, reverse=True)[:SHOWN_LAYERS]}
    return [layer for layer in layers if layer.name in kept]


def _chart(
    unit: str,
    rows: Sequence[_Bars],
    styles: Sequence[str],
    text: Callable[[float], str],
    axis: Axis | None = None,
    labels: Sequence[str] = (),
) -> Markup:
    """A row per layer: bars from zero, or from the middle of a given axis (those to the left in another style)."""
    left = 14 + _LETTER * min(_LONGEST, max(len(row.name) for row in rows))
    right, bottom = WIDTH - _NUMBER, _TOP + _ROW * len(rows)
    middle = 0.0 if axis is None else (axis.low + axis.high) / 2
    if axis is None:
        values = [value for row in rows for value in row.values if value is not None]
        x = axis_for(values, text, left, right, zero=True, log=False, ticks=3)
    else:
        x = replace(axis, start=left, end=right)
    parts = _legend(list(zip(labels, styles, strict=False)))
    parts.append(element("text", unit, x=WIDTH, y=14, class_="name", text_anchor="end"))
    for tick in x.ticks:
        at, style = x.at(tick), "zero" if tick == middle else "grid"
        parts.append(element("line", x1=at, x2=at, y1=_TOP - 4, y2=bottom, class_=style))
        parts.append(element("text", text(tick), x=at, y=_TOP - 9, class_="tick", text_anchor="middle"))
    for number, row in enumerate(rows):
        y, thick = _TOP + number * _ROW, _BAR / len(row.values)
        parts.append(
            element("text", _short(row.name), x=left - 8, y=y + 12, class_="tick", text_anchor="end")
        )
        for place, value in enumerate(row.values):
            if value is not None and value != middle:
                style = styles[place if axis is None else int(value < middle)]
                start, end = sorted((x.at(middle), x.at(value)))
                size = {"x": start, "y": y + place * thick, "width": max(end - start, 1.0), "height": thick}
                parts.append(element("rect", **size, class_=f"bar {style}"))
        parts.append(element("text", row.text, x=WIDTH, y=y + 12, class_="tick", text_anchor="end"))
    about = f"{unit} by layer: " + "; ".join(f"{clean(row.name)} {row.text}" for row in rows)
    box = f"0 0 {WIDTH} {bottom + 4}"
    return element("svg", element("desc", about), *parts, viewBox=box, role="img", aria_label=about)


def _legend(styles: Sequence[tuple[str, str]]) -> list[Markup]:
    parts, at = [], 0.0
    for label, style in styles:
        shown = _short(label)
        parts.append(element("rect", x=at, y=3, width=12, height=12, class_=f"bar {style}"))
        parts.append(element("text", shown, x=at + 17, y=14, class_="tick"))
        at += 34 + _LETTER * len(shown)
    return parts


def _short(name: str) -> str:
    """A name's end, where its number is."""
    name = clean(name)
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _percent(share: float) -> str:
    return f"{100 * share:.10g} %"


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _times(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{number_text(ratio)}×"


def _figure(heading: str, chart: Markup, note: str) -> Markup:
    caption = element("figcaption", _bdi(note))
    return element("figure", element("h3", _bdi(heading)), chart, caption)


# ---- Tables and words -------------------------------------------------------------------------------------------


def _tables(found: Difference, sides: Sides) -> Markup:
    layers = [(one.name, [f"{one.differing:,} of {one.tensors:,}"], one.figures) for one in found.layers]
    tensors = [(row.name, [_form_text(row)], row.figures) for row in most_changed(found)]
    base = found.base is not None
    return joined(
        element("h2", "Every layer"),
        _table(["layer", "tensors that differ"], layers, base=base),
        element(
            "details",
            element("summary", f"The {len(tensors):,} tensors that differ, most changed first"),
            _table(["tensor", "type and shape"], tensors, base=base),
        ),
    )


def _table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str], Figures]], *, base: bool) -> Markup:
    heads = [*heads, "values", "differ", "relative change", "‖b − a‖", "largest"]
    heads += ["cosine", "same direction", "‖a − base‖", "‖b − base‖"] * base
    body = []
    for name, words, one in rows[:SHOWN_ROWS]:
        cells = [*words, count_text(one.parameters), part_text(changed_part(one))]
        cells += [share_text(one.relative), number_text(one.norm), number_text(one.largest)]
        against = [cosine_text(one.cosine), part_text(one.agreement)]
        cells += [*against, number_text(one.moved_a), number_text(one.moved_b)] * base
        first = element("td", _bdi(name))
        body.append(element("tr", first, *(element("td", unbroken(cell)) for cell in cells)))
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    table = element("table", element("thead", head), element("tbody", *body), class_="long")
    more = len(rows) - len(body)
    note = element("p", f"… and {more:,} more: phloem diff --json", class_="soft") if more else None
    return joined(element("div", table, class_="scroll"), note)


def _form_text(row: Row) -> str:
    dtype = row.dtype if row.dtype == row.dtype_b else f"{row.dtype} → {row.dtype_b}"
    return f"{dtype} {' × '.join(map(str, row.shape))}".rstrip()


def _meaning(found: Difference, sides: Sides) -> Markup:
    lines = [
        f"a is {clean(sides.a)} and b is {clean(sides.b)}. A value differs if any bit of it does.",
        "Relative change is ‖b − a‖ ÷ ‖a‖. Tensors that are the same were not read: in a layer and in the whole it is "
        "of those that were.",
        "Layers are made of the tensors' names: up to the first number in a name, or without its last part.",
        "Sums are in float64, over values that are finite on all sides.",
    ]
    if found.base is not None:
        lines += [
            f"The changes are a − base and b − base, where the base is {_base(sides)}. A cosine of 1 means that they "
            "have the same direction, −1 that they are opposed. Independent changes of many values have one near 0.",
            "Same direction: of the values that both changed, how many both raised or both lowered; by chance, half.",
        ]
    return element("ul", *(element("li", _bdi(text)) for text in lines))


def _again(found: Difference, sides: Sides) -> Markup:
    states = [("a", sides.a, found.a), ("b", sides.b, found.b), ("base", _base(sides), found.base)]
    rows = [
        element(
            "tr",
            element("td", what),
            element("td", _bdi(name)),
            element("td", element("code", state)),
        )
        for what, name, state in states
        if state is not None
    ]
    words = shlex.join(["phloem", "diff", clean(sides.a), clean(sides.b), "--html", "difference.html"])
    return joined(
        element("pre", element("code", words)),
        element("div", element("table", element("tbody", *rows), class_="words"), class_="scroll"),
    )


def _bdi(text: str) -> Markup:
    return element("bdi", clean(text))


def _base(sides: Sides) -> str:
    return clean(sides.base or "the base")
