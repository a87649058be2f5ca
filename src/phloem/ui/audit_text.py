"""Pieces of an audit's page: foreign names, identifiers, numbers, times and tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from phloem.ui.markup import Markup, element, joined

NAMES = 12  # in one cell
_LONGEST = 30  # letters of a word that is never broken


def bdi(text: object) -> Markup:
    """A foreign text, which cannot turn the direction of what stands around it; a long word in it may be broken."""
    long = max(map(len, str(text).split()), default=0) > _LONGEST
    return element("bdi", text, class_="long" if long else None)


def code(text: object) -> Markup:
    """An identifier in full."""
    return element("code", text)


def key_code(key: object) -> Markup:
    """A public key in full; its name cannot turn the direction of the rest."""
    name, plus, rest = str(key).partition("+")
    return element("code", element("bdi", name), plus, rest)


def names(sites: Collection[str]) -> Markup:
    """Some of the names, in order, and how many more there are."""
    shown = sorted(sites)[:NAMES]
    parts: list[object] = []
    for site in shown:
        parts += [", ", bdi(site)]
    more = len(sites) - len(shown)
    return joined(*parts[1:], f" and {more:,} more" if more else None)


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its word.

    >>> count(1, "entry", "entries"), count(2000, "round")
    ('1 entry', '2,000 rounds')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(seconds: float) -> str:
    """A time in UTC, or the number where no calendar has it.

    >>> moment(0), moment(1 << 52)
    ('1970-01-01 00:00:00 UTC', '4503599627370496 s after 1970')
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"


def table(
    heads: Sequence[str], rows: Sequence[Sequence[object]], style: str, numbers: Collection[int] = ()
) -> Markup:
    """A table of words; the columns in `numbers` are figures, the first one heads its row."""
    head = element(
        "tr",
        *(element("th", text, scope="col", class_=_number(n, numbers)) for n, text in enumerate(heads)),
    )
    body = [
        element("tr", *(element("td", cell, class_=_number(n, numbers)) for n, cell in enumerate(row)))
        for row in rows
    ]
    made = element("table", element("thead", head), element("tbody", *body), class_=f"words {style}")
    return element("div", made, class_="scroll")


def _number(place: int, numbers: Collection[int]) -> str | None:
    return "number" if place in numbers else None


def pairs(rows: Sequence[tuple[str, object]], style: str) -> Markup:
    """A table of two columns: what, and its value."""
    body = [element("tr", element("th", what, scope="row"), element("td", value)) for what, value in rows]
    return element("div", element("table", element("tbody", *body), class_=f"words {style}"), class_="scroll")


def folded(words: str, made: Markup, fold: bool) -> Markup:
    """The same, folded up where it is long."""
    return element("details", element("summary", words), made, class_="folded") if fold else made


def more(number: int) -> Markup | None:
    """That so many rows are not shown; None if all are."""
    return element("p", f"… and {number:,} more.", class_="soft") if number > 0 else None
