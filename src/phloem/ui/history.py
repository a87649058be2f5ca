r"""History at a terminal: `log` line by line, with its graph; `status` and `branch` from facts that callers have.

In the graph a commit is `*`, and a line leads down from it to each of its parents. `/` and `\` lead to the next column,
where they join the line that is there. To a column further off, a line leads along dashes in the commit's own row,
which cross other lines without touching them:

    *---.   three branches go into trunk       *-| |   trunk takes in two that go on
    |\ \ \                                     |\|\|
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from phloem.ui.figures import ratio_text, size_text

if TYPE_CHECKING:
    from phloem.branches.catalog import Entry

#: Of a commit's digest, as far as lines show it.
DIGITS = 10
_LEAST = 12  # cells of a subject that are shown however narrow the terminal is
_HUES = tuple(f"\x1b[{code}m" for code in range(31, 37))
_RESET, _DIM, _DIGEST, _NAME, _TAG = "\x1b[0m", "\x1b[2m", "\x1b[33m", "\x1b[1;36m", "\x1b[1;33m"
_GOOD, _WARNING = "\x1b[32m", "\x1b[33m"
_DAY, _MONTH, _YEAR = 86400.0, 30.44 * 86400, 365.25 * 86400
_SPANS = (  # from how many seconds on a span is counted in which unit
    *((2 * _YEAR, _YEAR, "year"), (70 * _DAY, _MONTH, "month"), (14 * _DAY, 7 * _DAY, "week")),
    *((_DAY, _DAY, "day"), (3600.0, 3600.0, "hour"), (60.0, 60.0, "minute")),
)


# ---- log --------------------------------------------------------------------------------------------------------


def log_lines(
    entries: Iterable[Entry],
    names: Mapping[str, Sequence[str]],
    *,
    graph: bool = False,
    now: datetime | None = None,
    width: int | None = None,
    colours: bool = False,
) -> Iterator[str]:
    """The lines of a history, each as soon as its commit comes.

    Args:
        entries: no commit before those that came from it (`phloem.branches.history.in_order`).
        names: those of each commit that has some (`Refs.names_of`).
        graph: draw how they hang together, too.
        now: gives ages; without it, times are shown.
        width: the terminal's, to which subjects are cut.
        colours: with the codes of a terminal; a line without them is fit for a file.
    """
    drawing = Graph() if graph else None
    line, paint = _Line(names, now, width, colours), _coloured if colours else str
    for entry in entries:
        if drawing is None:
            yield line.of(entry)
            continue
        before, own, after = drawing.rows(entry)
        for row in before:
            yield paint(row.rstrip())
        yield line.of(entry, paint(own), len(own))
        for row in after:
            yield paint(row.rstrip())


@dataclass(frozen=True)
class _Line:
    """How the lines of commits are written."""

    names: Mapping[str, Sequence[str]]
    now: datetime | None
    width: int | None
    colours: bool

    def of(self, entry: Entry, cells: str = "", length: int = 0) -> str:
        """One commit; `cells` are its row of the graph, `length` columns wide."""
        digest, subject, time = entry.digest[:DIGITS], entry.subject, time_text(entry.time, self.now)
        if not subject.isprintable():
            subject = clean(subject)
        if entry.site:
            site = clean(entry.site)
            time, room = f"{time} · {site}", len(time) + 3 + cells_of(site)
        else:
            room = len(time)
        called = self.names.get(entry.digest)
        names = f" ({', '.join(called)})" if called else ""
        if self.width is not None:
            taken = length + DIGITS + len(names) + 1 + room + 3
            subject = cut(subject, max(self.width - taken, _LEAST))
        if not self.colours:
            return f"{cells}{digest}{names} {time} · {subject}"
        if called:
            names = f" ({', '.join(_painted(name, _TAG if name.startswith('tag: ') else _NAME) for name in called)})"
        return f"{cells}{_painted(digest, _DIGEST)}{names} {_painted(f'{time} ·', _DIM)} {subject}"


@functools.lru_cache(1 << 12)
def _coloured(row: str) -> str:
    """A row of the graph whose columns have colours in turn."""
    return re.sub(r"[^ *]", lambda sign: _painted(sign[0], _HUES[sign.start() // 2 % len(_HUES)]), row)


class Graph:
    """Draws a history row by row. Lanes are columns that lead to a commit which is still to come, without gaps."""

    def __init__(self) -> None:
        self._lanes: list[str] = []
        self._ended = -1  # the lane that ended in the row before, if no row below it shows that

    def rows(self, entry: Entry) -> tuple[list[str], str, list[str]]:
        """The rows before a commit's own, its own, and those after it."""
        lanes, here = self._lanes, entry.digest
        before: list[str] = []
        if here in lanes:
            at = lanes.index(here)
        else:
            at = len(lanes)
            if self._ended == at:  # or the two would look like one line
                before.append("| " * at)
            lanes.append(here)
        self._ended = -1
        own = "| " * at + "* " + "| " * (len(lanes) - at - 1)
        parents = tuple(dict.fromkeys(entry.parents)) if len(entry.parents) > 1 else entry.parents
        if len(parents) == 1 and parents[0] not in lanes:  # most commits
            lanes[at] = parents[0]
            return before, own, []
        if len(parents) == 1 and at and parents[0] == lanes[at - 1]:  # most of the others
            under = "| " * (at - 1) + "|" + "/ " * (len(lanes) - at)
            del lanes[at]
            return before, own, [under]
        cells = list(own)
        rows = self._branched(at, parents, cells)
        return before, "".join(cells), ["".join(row) for row in rows]

    def _branched(self, at: int, parents: Sequence[str], own: list[str]) -> list[list[str]]:
        """The rows after a commit whose line does not just go on; draws the dashes in its own."""
        lanes = self._lanes
        new = [parent for parent in parents if parent not in lanes]
        known = sorted(lanes.index(parent) for parent in parents if parent in lanes)
        left, right = [lane for lane in known if lane < at], [lane for lane in known if lane > at]
        others, under = len(lanes) - at - 1, list("| " * len(lanes))
        if not new and right == [at + 1]:  # that line comes over to this one
            right = []
        elif not new:
            under[2 * at] = " "
        for lane in left:
            under[2 * lane + 1] = "/"
            own[2 * lane + 3 : 2 * at : 2] = "-" * (at - lane - 1)
        for lane in right:
            under[2 * lane - 1] = "\\"
            own[2 * at + 1 : 2 * lane - 2 : 2] = "-" * (lane - at - 1)
        if not new:  # what is to the right takes its place
            del lanes[at]
            after = [under] if left or right or others else []
            if right:
                after.append(list("| " * at + " "))
            for row in after[-1:]:
                row[2 * at + 1 :] = "/ " * others
            self._ended = -1 if after else at
            return after
        lanes[at] = new[0]
        after = [under] if left or right else []
        if not others and len(new) > 1:  # nothing is in the way
            under[2 * at + 1 :] = "\\ " * (len(new) - 1)
            own[2 * at + 1 :] = "-" * (2 * len(new) - 5) + ". " if len(new) > 2 else " "
            lanes += new[1:]
            return [under]
        for parent in reversed(new[1:]):  # what is to the right makes way, by a column in each row
            after.append(list("| " * at + "|" + "\\ " * (len(lanes) - at)))
            lanes.insert(at + 1, parent)
        return after


# ---- status and branch ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tracking:
    """Where a branch stands against one of another place.

    Attributes:
        name: as in "origin/trunk".
        ahead, behind: how many commits only the branch has, and how many only the other; None where that one is not
            known here.
    """

    name: str
    ahead: int | None
    behind: int | None


@dataclass(frozen=True)
class Status:
    """What `phloem status` says.

    Attributes:
        place: the repository's directory or URL.
        branch: the current one.
        head: its newest commit, if it has any.
        tracking: its like-named branches in other places.
        commits, branches, tags: how many the repository has.
        bytes: what it takes up.
        full_bytes: what the states of all its commits would take up in full, each once; None where nobody counted.
        small_packs, most_small_packs: how many small packs there are, and from how many on they are made one.
        damaged: the packs that are damaged, by name.
    """

    place: str
    branch: str
    head: Entry | None
    tracking: Sequence[Tracking]
    commits: int
    branches: int
    tags: int
    bytes: int
    full_bytes: int | None = None
    small_packs: int = 0
    most_small_packs: int = 64
    damaged: Sequence[str] = ()


@dataclass(frozen=True)
class BranchLine:
    """One branch, as `phloem branch` lists it.

    Attributes:
        head: its newest commit.
        ahead, behind: how many commits only it has, and how many only the trunk; None for the trunk itself.
        current: whether it is the current one.
    """

    name: str
    head: Entry
    ahead: int | None
    behind: int | None
    current: bool


def status_text(
    found: Status, *, now: datetime | None = None, width: int | None = None, colours: bool = False
) -> str:
    """What `phloem status` prints."""
    paint = _painted if colours else _unpainted
    lines = [f"On branch {paint(found.branch, _NAME)}"]
    if found.head is None:
        lines[0] += ", which has no commits yet: phloem commit MODEL.safetensors"
    else:
        lines.append(_Line({}, now, width, colours).of(found.head))
    for one in found.tracking:
        even = one.ahead == one.behind == 0
        lines.append(paint(_tracking_text(one), _GOOD if even else _WARNING))
    counts = [_count(found.commits, "commit"), _count(found.branches, "branch", "branches")]
    counts += [_count(found.tags, "tag")] * bool(found.tags)
    size = f"{', '.join(counts)}: {size_text(found.bytes)} in {clean(found.place)}"
    if found.full_bytes and found.bytes:
        size += (
            f"; in full {size_text(found.full_bytes)}, {ratio_text(found.full_bytes / found.bytes)} as much"
        )
    lines.append(size)
    faults = [f"damaged: the pack {clean(name)}; phloem fsck says what is lost" for name in found.damaged]
    if found.small_packs > found.most_small_packs:
        faults.append(f"untidy: {found.small_packs:,} small packs; phloem gc makes them one")
    return "\n".join([*lines, *(paint(fault, _WARNING) for fault in faults)])


def branches_text(
    rows: Sequence[BranchLine],
    *,
    now: datetime | None = None,
    width: int | None = None,
    colours: bool = False,
) -> str:
    """What `phloem branch` prints: a line for each branch, the current one marked."""
    paint = _painted if colours else _unpainted
    cells = [(row.name, time_text(row.head.time, now), _apart_text(row.ahead, row.behind)) for row in rows]
    names, times, aparts = (max((len(row[n]) for row in cells), default=0) for n in range(3))
    lines = []
    for row, (name, time, apart) in zip(rows, cells, strict=True):
        mark = "* " if row.current else "  "
        label = paint(name, _NAME) if row.current else name
        digest = paint(row.head.digest[:DIGITS], _DIGEST)
        head = f"{mark}{label}{' ' * (names - len(name))}  {digest}  {paint(time.ljust(times), _DIM)}  "
        head += f"{apart:{aparts}}  " if aparts else ""
        subject = clean(row.head.subject)
        if width is not None:
            taken = 2 + names + 2 + DIGITS + 2 + times + 2 + (aparts + 2 if aparts else 0)
            subject = cut(subject, max(width - taken, _LEAST))
        lines.append(f"{head}{subject}".rstrip())
    return "\n".join(lines)


def _tracking_text(one: Tracking) -> str:
    name = clean(one.name)
    if one.ahead is None or one.behind is None:
        return f"{name} has commits that are not here: phloem pull"
    if one.ahead and one.behind:
        return f"{_count(one.ahead, 'commit')} ahead of {name}, {one.behind:,} behind it"
    if one.ahead:
        return f"{_count(one.ahead, 'commit')} ahead of {name}"
    return f"{_count(one.behind, 'commit')} behind {name}" if one.behind else f"up to date with {name}"


def _apart_text(ahead: int | None, behind: int | None) -> str:
    if ahead is None or behind is None:
        return ""
    words = [f"{ahead:,} ahead"] * bool(ahead) + [f"{behind:,} behind"] * bool(behind)
    return ", ".join(words) or "even"


# ---- Words ------------------------------------------------------------------------------------------------------


def time_text(time: str, now: datetime | None) -> str:
    """A commit's time, in UTC; with `now`, how long ago it was, unless it is to come.

    >>> from datetime import UTC
    >>> now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    >>> time_text("2026-05-01T10:30:00Z", now), time_text("2026-05-01T10:30:00Z", None)
    ('3 days ago', '2026-05-01 10:30')
    """
    if now is not None:
        try:
            past = now - datetime.fromisoformat(time)
        except ValueError:  # no calendar has it
            return f"{time[:10]} {time[11:16]}"
        if past.days >= 0:
            return _age(past.days, 0 if past.days else past.seconds)
    return f"{time[:10]} {time[11:16]}"


@functools.lru_cache(1 << 14)
def _age(days: int, seconds: int) -> str:
    for least, span, word in _SPANS:
        if days * _DAY + seconds >= least:
            count = int((days * _DAY + seconds) // span)
            return f"{count} {word}{'s' * (count > 1)} ago"
    return "just now"


def clean(text: str) -> str:
    """A foreign text without what would move the cursor, change colours or turn the direction of a line."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def cells_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, cells: int) -> str:
    """The text, if it takes no more columns than this; else its beginning, and a sign that there is more.

    >>> cut("a model", 7), cut("a longer model", 7), cut("幹幹幹", 5)
    ('a model', 'a long…', '幹幹…')
    """
    if cells_of(text) <= cells:
        return text
    left = cells - 1
    for place, sign in enumerate(text):
        left -= _cells(sign)
        if left < 0:
            return text[:place].rstrip() + "…"
    raise AssertionError


def _cells(sign: str) -> int:
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _painted(text: str, code: str) -> str:
    return f"{code}{text}{_RESET}"


def _unpainted(text: str, code: str) -> str:
    return text
