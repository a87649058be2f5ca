"""How two models differ, at a terminal: the figures of the whole, then a row per layer or per tensor, drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phloem.ui.figures import MISSING
from phloem.ui.history import clean

if TYPE_CHECKING:
    from phloem.branches.comparing import Difference, Figures, Row
    from phloem.tensors import TensorSpec

SHOWN_TENSORS = 20
Justify = Literal["left", "right"]
_SHOWN_NAMES = 5  # in one line
_LONGEST_BAR, _SHORTEST_BAR = 24, 6  # cells
_BETWEEN = 3  # columns between two cells
_WIDE = 118  # columns from which on every figure is shown
_PARTS = " ▏▎▍▌▋▊▉"
_SIGNS = str.maketrans({"−": "-", "–": "-", "‖": "|", "÷": "/", "×": "x", "→": ">", "…": "..."})


@dataclass(frozen=True)
class Sides:
    """What people call the two models, and what both came from."""

    a: str
    b: str
    base: str | None = None


def print_difference(console: Console, found: Difference, sides: Sides, *, layers: bool = False) -> None:
    """Prints a comparison: with `layers` every layer in order, otherwise the tensors that changed most."""
    console.print(_fit(console, headline(found, sides), "bold"))
    facts = Table.grid(padding=(0, 3))
    for name, text in facts_of(found, sides):
        facts.add_row(Text(name), _fit(console, text))
    console.print(facts)
    for what, names in notes(found, sides):
        console.print(_fit(console, f"{what}: {some(names)}", "yellow"))
    differing = found.total.differing
    if not differing:
        return
    if layers:
        rows = [(layer.name, layer.figures) for layer in found.layers]
    else:
        rows = [(row.name, row.figures) for row in most_changed(found)[:SHOWN_TENSORS]]
    console.print(_table(console, rows, "layer" if layers else "tensor", base=found.base is not None))
    if not layers and differing > len(rows):
        left = f"… and {differing - len(rows):,} more that changed less; --layers has all, layer by layer"
        console.print(_fit(console, left, "dim"))


def _fit(console: Console, text: str, style: str = "") -> Text:
    """The text, without signs that a terminal lacks which knows ASCII only."""
    return Text(text.translate(_SIGNS) if console.options.ascii_only else text, style=style)


# ---- Words that the page has, too -------------------------------------------------------------------------------


def headline(found: Difference, sides: Sides) -> str:
    """The comparison in one sentence."""
    return f"From {clean(sides.a)} to {clean(sides.b)}: {verdict_text(found)}."


def verdict_text(found: Difference) -> str:
    """How many tensors differ, in words."""
    total, others = found.total, len(found.only_a) + len(found.only_b) + len(found.unlike)
    if not total.tensors:
        return "no tensor in common"
    if total.differing:
        return f"{total.differing:,} of {tensors_text(total.tensors)} differ"
    if not others:
        return "the same to the bit"
    return f"{tensors_text(total.tensors)} that both have, the same to the bit"


def facts_of(found: Difference, sides: Sides) -> list[tuple[str, str]]:
    """The figures of the whole, each with its name."""
    total = found.total.figures
    rows = [
        (
            "values that differ",
            f"{total.changed:,} of {total.parameters:,} ({part_text(changed_part(total))})",
        )
    ]
    if found.total.differing:
        size = f"‖b − a‖ = {number_text(total.norm)}, ‖a‖ = {number_text(total.norm_a)}"
        rows.append(("relative change", f"{share_text(total.relative)}: {size}, of what differs"))
        rows.append(("largest change", number_text(total.largest)))
    if found.base is not None:
        base = clean(sides.base or "the base")
        if total.cosine is None:
            still = sides.b if total.way_a else sides.a
            rows.append(
                (f"since {base}", f"{clean(still)} has not moved" if total.way_a or total.way_b else MISSING)
            )
        else:
            agreement = part_text(total.agreement)
            rows.append((f"since {base}", f"cosine {cosine_text(total.cosine)} between their changes"))
            rows.append(
                ("", f"{agreement} of the values that both changed went the same way (by chance: 50 %)")
            )
            rows.append(
                ("", f"{clean(sides.b)} moved {number_text(total.ratio)}× as far as {clean(sides.a)}")
            )
    return rows


def notes(found: Difference, sides: Sides) -> list[tuple[str, list[str]]]:
    """What cannot be compared, or not fully: for each kind, what it is and which tensors."""
    retyped = [row for row in found.rows if row.dtype != row.dtype_b]
    places = (sides.a, sides.b, sides.base or "the base")
    rows = [
        (f"only in {clean(sides.a)}", [clean(spec.name) for spec in found.only_a]),
        (f"only in {clean(sides.b)}", [clean(spec.name) for spec in found.only_b]),
        ("of another form", [f"{clean(x.name)} ({form_text(x)} → {form_text(y)})" for x, y in found.unlike]),
        ("of another type", [f"{clean(row.name)} ({row.dtype} → {row.dtype_b})" for row in retyped]),
        ("NaN or infinite, left out", [_not_finite_text(row, places) for row in found.not_finite]),
        (f"not in {clean(places[2])}", [clean(name) for name in found.not_in_base]),
    ]
    return [(what, names) for what, names in rows if names]


def most_changed(found: Difference) -> list[Row]:
    """The tensors that differ, by their relative change; first those that were 0."""
    differing = (row for row in found.rows if not row.identical)
    return sorted(differing, key=lambda row: (-_size(row.figures.relative), row.name))


def changed_part(figures: Figures) -> float:
    """Which part of the values differ."""
    return figures.changed / figures.parameters if figures.parameters else 0.0


def some(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are.

    >>> some(["a", "b"]), some([str(n) for n in range(9)])
    ('a, b', '0, 1, 2, 3, 4 and 4 more')
    """
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def form_text(spec: TensorSpec) -> str:
    """A tensor's type and shape."""
    return f"{spec.dtype} {' × '.join(map(str, spec.shape)) or 'scalar'}"


def tensors_text(count: int) -> str:
    """A number of tensors."""
    return f"{count:,} tensor{'s' if count != 1 else ''}"


def number_text(value: float | None) -> str:
    """A number to three digits.

    >>> number_text(8127.4), number_text(0.004502), number_text(11.0), number_text(0.0), number_text(None)
    ('8,127', '0.00450', '11.0', '0', '–')
    """
    if value is None:
        return MISSING
    if not value or 999.5 <= value < 1e7:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def share_text(share: float | None) -> str:
    """A share, in per cent to three digits.

    >>> share_text(0.00062433), share_text(1.0), share_text(0.0), share_text(25.0)
    ('0.0624 %', '100 %', '0 %', '2,500 %')
    """
    return MISSING if share is None else f"{number_text(100 * share)} %"


def part_text(part: float | None) -> str:
    """A part of a whole, in per cent to one digit; what is not nothing, or not all, does not look so.

    >>> part_text(0.7951), part_text(1e-9), part_text(1 - 1e-9), part_text(1.0)
    ('79.5 %', '<0.1 %', '>99.9 %', '100 %')
    """
    if part is None:
        return MISSING
    if part in (0.0, 1.0):
        return f"{100 * part:.0f} %"
    return "<0.1 %" if part < 0.0005 else ">99.9 %" if part > 0.9995 else f"{100 * part:.1f} %"


def cosine_text(cosine: float | None) -> str:
    """A cosine, with its sign.

    >>> cosine_text(0.1234), cosine_text(-1.0), cosine_text(-1e-9)
    ('+0.123', '−1.000', '0.000')
    """
    if cosine is None:
        return MISSING
    return f"{cosine:+.3f}".replace("-", "−") if abs(cosine) >= 0.0005 else "0.000"


def count_text(count: int) -> str:
    """A number of values, short.

    >>> count_text(999), count_text(16_777_216), count_text(7_240_000_000)
    ('999', '16.8 M', '7.24 G')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            return f"{count / size:.3g} {unit}"
    return str(count)


# ---- The table --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    heading: Text
    cells: Sequence[Text]
    justify: Justify = "right"
    style: str = ""


def _table(console: Console, rows: Sequence[tuple[str, Figures]], what: str, *, base: bool) -> Table:
    """The rows, with bars as long as there is room for."""
    plain = console.options.ascii_only
    every = [figures for _, figures in rows]

    def column(heading: str, cells: Iterable[str], justify: Justify = "right", style: str = "") -> _Column:
        return _Column(_fit(console, heading), [_fit(console, cell) for cell in cells], justify, style)

    columns = [
        column(what, (clean(name) for name, _ in rows), "left"),
        column("values", (count_text(one.parameters) for one in every)),
        column("differ", (part_text(changed_part(one)) for one in every)),
        column("change", (share_text(one.relative) for one in every)),
    ]
    ways = []
    if base and console.width >= _WIDE:
        ways.append(column("agree", (part_text(one.agreement) for one in every)))
        ways.append(column("norms", (number_text(one.ratio) for one in every)))
    if base:
        ways.append(column("cosine", (cosine_text(one.cosine) for one in every)))
    bare = console.measure(_made([*columns, *ways]), options=console.options.update(width=10_000)).maximum
    length = min(_LONGEST_BAR, (console.width - bare) // (1 + base) - _BETWEEN)
    if length >= _SHORTEST_BAR:
        most = max(_finite(one.relative) for one in every) or 1.0
        bars = [bar(_finite(one.relative) / most, length, plain=plain).ljust(length) for one in every]
        columns.append(column("‖b − a‖ ÷ ‖a‖" if length >= 13 else "", bars, "left", "cyan"))
        half = (length - 1) // 2
        balances = [_cosine_bar(one.cosine, half, plain=plain) for one in every]
        scale = _fit(console, "−1" + "+1".rjust(2 * half - 1))
        ways += [_Column(scale, balances, "left")] * base
    return _made([*columns, *ways])


def _made(columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        fold: Literal["fold", "ellipsis"] = "ellipsis" if number else "fold"
        table.add_column(
            column.heading, justify=column.justify, style=column.style, no_wrap=number > 0, overflow=fold
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def bar(share: float, length: int, *, plain: bool = False) -> str:
    """A bar from the left; what is not nothing is seen. `plain` is for terminals that have no block characters.

    >>> bar(0.5, 3), bar(1e-9, 3), bar(0.0, 3), bar(1.0, 3, plain=True)
    ('█▌', '▏', '', '###')
    """
    if plain:
        return "#" * max(round(share * length), int(share > 0))
    whole, part = divmod(max(round(8 * share * length), int(share > 0)), 8)
    return "█" * whole + _PARTS[part].strip()


def balance(value: float | None, half: int, *, plain: bool = False) -> tuple[str, str]:
    """What lies left and right of the middle of a bar from −1 to +1, each of `half` cells.

    >>> balance(-0.5, 4), balance(0.25, 4), balance(None, 2)
    (('  ██', '    '), ('    ', '█   '), ('  ', '  '))
    """
    value = value or 0.0
    left = right = ""
    if value > 0:
        right = bar(value, half, plain=plain)
    elif plain:
        left = bar(-value, half, plain=True)
    else:  # from the right there are halves only
        whole, part = divmod(max(round(2 * -value * half), int(value < -1e-3)), 2)
        left = "▐" * part + "█" * whole
    return left.rjust(half), right.ljust(half)


def _cosine_bar(value: float | None, half: int, *, plain: bool) -> Text:
    left, right = balance(value, half, plain=plain)
    return Text.assemble((left, "magenta"), ("|" if plain else "│", "dim"), (right, "green"))


# ---- Figures ----------------------------------------------------------------------------------------------------


def _size(relative: float | None) -> float:
    return math.inf if relative is None else relative


def _finite(relative: float | None) -> float:
    return 0.0 if relative is None else relative


def _not_finite_text(row: Row, places: Sequence[str]) -> str:
    counts = [f"{n:,} in {clean(place)}" for n, place in zip(row.not_finite, places, strict=True) if n]
    return f"{clean(row.name)} ({', '.join(counts)})"
