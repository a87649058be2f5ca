from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.branches.catalog import Entry
from phloem.branches.history import in_order
from phloem.branches.refs import Refs
from phloem.ui.history import (
    DIGITS,
    BranchLine,
    Status,
    Tracking,
    branches_text,
    cells_of,
    cut,
    log_lines,
    status_text,
    time_text,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
CODES = re.compile(r"\x1b\[[0-9;]*m")


def entry(
    digest: str, *parents: str, subject: str = "words", site: str | None = None, days: float = 3
) -> Entry:
    when = (NOW - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Entry(digest, parents, "state", "update", when, "me", subject, site)


def history(text: str) -> list[Entry]:
    """Commits, each with its parents: "merge a b, a root, b root, root"."""
    rows = (row.split() for row in text.split(","))
    return [entry(name, *parents) for name, *parents in rows]


def drawn(entries: Iterable[Entry]) -> list[str]:
    """The graph alone, with the names of commits."""
    lines = log_lines(entries, {}, graph=True)
    return [re.sub(r" 20\d\d-.*", "", line) for line in lines]


# -- one line per commit ---------------------------------------------------------------------------------------------


def test_a_line_has_digest_names_time_site_and_subject_in_this_order() -> None:
    digest = "3f2a91c0de" + "0" * 54
    refs = Refs("clinic", {"trunk": digest, "clinic": digest}, {"v1": digest}, {"origin": {"trunk": digest}})
    one = entry(digest, "f" * 64, subject="tuned on ward data", site="hospital-a")
    (line,) = log_lines([one], refs.names_of())
    names = "(clinic, trunk, tag: v1, origin/trunk)"
    assert line == f"3f2a91c0de {names} 2026-05-01 12:00 · hospital-a · tuned on ward data"
    (line,) = log_lines([one], {}, now=NOW)
    assert line == "3f2a91c0de 3 days ago · hospital-a · tuned on ward data"
    (line,) = log_lines([entry(digest)], {}, now=NOW, graph=True)
    assert line == "* 3f2a91c0de 3 days ago · words"


def test_lines_come_as_soon_as_their_commits_do() -> None:
    for graph in (False, True):
        waiting = ["third", "second"]

        def commits(left: list[str] = waiting) -> Iterator[Entry]:
            yield entry("first", "second")
            while left:
                name = left.pop()
                yield entry(name, *left[-1:])

        lines = log_lines(commits(), {}, graph=graph)
        assert "first" in next(lines)
        assert waiting == ["third", "second"]
        assert "second" in next(lines)
        assert waiting == ["third"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (86399, "23 hours ago"),
        (86400, "1 day ago"),
        (13 * 86400, "13 days ago"),
        (14 * 86400, "2 weeks ago"),
        (70 * 86400, "2 months ago"),
        (729 * 86400, "23 months ago"),
        (731 * 86400, "2 years ago"),
        (-60, "2026-05-04 12:01"),
    ],
)
def test_an_age_is_said_in_the_largest_unit_that_tells_something(seconds: int, words: str) -> None:
    when = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert time_text(when, NOW) == words


def test_a_time_that_no_calendar_has_is_shown_as_it_is() -> None:
    assert time_text("2026-99-99T99:99:99Z", NOW) == "2026-99-99 99:99"


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("colours", [True, False])
def test_subjects_are_cut_to_the_terminal(width: int, colours: bool) -> None:
    subjects = ["short", "a long subject " * 20, "幹の上の枝" * 30, "e\u0301" * 100]
    entries = [entry(str(n) * 64, subject=subject, site="北") for n, subject in enumerate(subjects)]
    names = {"1" * 64: ["trunk"]}
    for line in log_lines(entries, names, now=NOW, width=width, colours=colours):
        shown = CODES.sub("", line)
        least = cells_of(shown.split("· ")[0] + "· 北 · ") + 12
        assert cells_of(shown) <= max(width, least)
        assert shown.endswith("…") or cells_of(shown) < width
    assert any("a long subject" in line for line in log_lines(entries, names))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])), st.integers(1, 30))
def test_what_is_cut_fits_and_is_the_beginning(text: str, cells: int) -> None:
    found = cut(text, cells)
    assert cells_of(found) <= cells
    assert text.startswith(found.removesuffix("…")) or found == text
    if cells_of(text) <= cells:
        assert found == text


def test_words_of_any_origin_move_no_cursor() -> None:
    evil = entry("a" * 64, subject="\x1b[2J\u202ebad\r\n\x9b31m", site="\x1b]0;x\x07\u2066")
    for graph in (True, False):
        (line,) = log_lines([evil], {}, graph=graph)
        assert line.isprintable()
        assert "bad" in line
        (line,) = log_lines([evil], {}, graph=graph, colours=True, width=60)
        assert CODES.sub("", line).isprintable()


def test_without_colours_there_are_no_codes_and_with_them_the_same_words() -> None:
    entries = history("m a b c, a r, b r, c r, r")
    names = {"m": ["trunk", "tag: v1"]}
    plain = list(log_lines(entries, names, graph=True, now=NOW))
    painted = list(log_lines(entries, names, graph=True, now=NOW, colours=True))
    assert "\x1b" not in "".join(plain)
    assert [CODES.sub("", line) for line in painted] == plain
    assert all(line.count("\x1b[0m") * 2 == line.count("\x1b[") for line in painted)
    assert "\x1b[33mm\x1b[0m" in painted[0]


# -- the graph -------------------------------------------------------------------------------------------------------

DRAWINGS = {
    "a b, b c, c": """
* a
* b
* c
""",
    "m a b, a r, b r, r": """
* m
|\\
* | a
| * b
|/
* r
""",
    "a2 a1, a1 r, b2 b1, b1 r, c r, r": """
* a2
* a1
| * b2
| * b1
|/
| * c
|/
* r
""",
    "m t a b c, t r, a r, b r, c r, r": """
*---. m
|\\ \\ \\
* | | | t
| * | | a
|/ / /
| * | b
|/ /
| * c
|/
* r
""",
    "x y, m a b, a r, y r, b r, r": """
* x
| * m
| |\\
| * | a
* | | y
|/ /
| * b
|/
* r
""",
    "t2 t1, c2 c1, m a b c1, a b, b c1, c1 t1, t1": """
* t2
| * c2
| | * m
| |/|\\
| | * | a
| | |/
| | * b
| |/
| * c1
|/
* t1
""",
    "m2 m1 a2 b2, a2 a1, b2 b1, m1 r a1 b1, a1 r, b1 r, r": """
*-. m2
|\\ \\
| * | a2
| | * b2
*-| | m1
|\\|\\|
| * | a1
|/ /
| * b1
|/
* r
""",
    "a r, b b0, c r, b0 r, r": """
* a
| * b
| |-* c
|/|
| * b0
|/
* r
""",
    "a x, b y, m a2 b2, a2 x, b2 y, x, y": """
* a
| * b
| | * m
| | |\\
| |-* | a2
|/|  /
| | * b2
| |/
* | x
 /
* y
""",
    "one, two, three": """
* one

* two

* three
""",
    "a r, one, b r, r": """
* a
| * one
|
| * b
|/
* r
""",
    "a x, b y, x, c y, y": """
* a
| * b
* | x
 /
| * c
|/
* y
""",
    "a q, m x y z q, q, x, y, z": """
* a
| *-. m
|/|\\ \\
* | | | q
 / / /
* | | x
 / /
* | y
 /
* z
""",
    "b s, m p q r, c t, p, q, r, s, t": """
* b
| *-. m
| |\\ \\
| | | | * c
| * | | | p
|  / / /
| * | | q
|  / /
| * | r
|  /
* | s
 /
* t
""",
    "o y, p z, x m, m n a b, n y, a y, b z, y, z": """
* o
| * p
| | * x
| | *-. m
| | |\\ \\
| |-* | | n
|/|  / /
| |-* | a
|/|  /
| | * b
| |/
* | y
 /
* z
""",
    "m a b c, t r, a r, b r, c r, r": """
*-. m
|\\ \\
| | | * t
*-|-| | a
  | |\\|
 / / /
*-| | b
  |\\|
 / /
* | c
|/
* r
""",
}


@pytest.mark.parametrize("text", DRAWINGS)
def test_the_graph_looks_as_it_should(text: str) -> None:
    assert drawn(history(text)) == DRAWINGS[text].strip("\n").split("\n")


def test_eight_branches_at_once_take_one_row_more() -> None:
    names = [f"b{n}" for n in range(8)]
    rows = [("m", "r", *names), *((name, "r") for name in names), ("r",)]
    lines = drawn(entry(*row) for row in rows)
    assert lines[:2] == ["*-------------. m", "|" + "\\ " * 7 + "\\"]
    assert lines[2] == "| *" + " |" * 7 + " b0"
    assert lines[3] == "|" + "/ " * 7 + "/"
    again = [("m", "t", *names), *((name, f"{name}0") for name in names)]
    again.append(("t", "r", *(f"{name}0" for name in names)))
    lines = drawn(entry(*row) for row in again)
    assert lines[-2:] == ["*" + "-|" * 7 + " | t", "|" + "\\|" * 8]


Followed = tuple[dict[str, set[str]], set[str]]


def followed(lines: Sequence[str]) -> Followed:
    """What a reader finds who follows the lines: the parents of each commit, and whose lines lead on below.

    A column has one line at most. In the row below a commit, what begins at its dashes or at its own column is its
    line; another line there goes straight on. Everywhere else a line has one way.
    """
    points: dict[int, set[str]] = {}  # by column: whose lines are at its lower end
    found: dict[str, set[str]] = {}
    at, dashed = -1, set[int]()
    for line in lines:
        cells, _, rest = re.match(r"([ |\\\\/*.-]*?)(?=$|(\b|(?<= ))([a-z0-9].*))", line).groups()  # type: ignore[union-attr]
        signs = dict(enumerate(cells))
        below: dict[int, set[str]] = {}
        if "*" in cells:
            name = str(rest).split()[0]
            own = cells.index("*") // 2
            assert signs[2 * own] == "*"
            found[name] = set()
            for child in points.get(own, ()):
                found[child].add(name)
            for lane, children in points.items():
                if signs.get(2 * lane) == "|":
                    below[lane] = children
                else:
                    assert lane in (own, at)  # only the line of the commit before may have ended
            assert {place // 2 for place, sign in signs.items() if sign == "|"} == below.keys()
            points, at, dashed = {**below, own: {name}}, own, {own}
            dashes = 0
            for step in (1, -1):
                lane = own
                while signs.get(2 * lane + step) == "-":
                    lane, dashes = lane + step, dashes + 1
                    dashed.add(lane)
            assert dashes == sum(sign == "-" and place % 2 == 1 for place, sign in signs.items())
            continue
        ways: dict[int, list[tuple[int, str]]] = {}
        for place, sign in signs.items():
            if sign != " ":
                start, end = {
                    "|": (place, place),
                    "/": (place + 1, place - 1),
                    "\\": (place - 1, place + 1),
                }[sign]
                ways.setdefault(start // 2, []).append((end // 2, sign))
        commit = points.get(at, set())
        assert set(ways) <= set(points) | dashed
        assert set(points) - {at} <= set(ways)
        for lane, ends in ways.items():
            for end, sign in ends:
                its = points.get(lane, commit)
                if lane in dashed and lane != at and lane in points and sign != "|":
                    its = commit
                below.setdefault(end, set()).update(its)
            if lane in points and lane != at:
                assert sum(sign == "|" for _, sign in ends) == 1 if lane in dashed else len(ends) == 1
        points, dashed = below, {at}
    return found, set().union(*points.values()) if points else set()


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Any commits, none before one that came from it; some have parents that are not there."""
    count = draw(st.integers(1, 24))
    most = draw(st.sampled_from([1, 2, 3, 8]))
    far = draw(st.sampled_from([2, 5, 24]))
    rows = []
    for n in range(count):
        later = st.integers(n + 1, min(n + far, count + 1))
        parents = draw(st.lists(later, max_size=most))
        rows.append(entry(f"c{n:09}", *(f"c{parent:09}" for parent in parents)))
    return rows


def check(entries: Sequence[Entry]) -> None:
    listed = {one.digest for one in entries}
    lines = drawn(entries)
    found, open_ = followed(lines)
    assert found == {one.digest: set(one.parents) & listed for one in entries}
    hidden = {entries[-1].digest} if "*" in lines[-1] else set()  # nothing is drawn below the last row
    assert open_ | hidden == {one.digest for one in entries if not set(one.parents) <= listed} | hidden


@given(histories())
def test_every_line_of_any_history_leads_to_a_parent_and_to_each(entries: list[Entry]) -> None:
    check(entries)


@given(histories())
def test_a_history_in_its_own_order_can_be_followed(entries: list[Entry]) -> None:
    commits = {one.digest: one for one in entries}
    children = {parent for one in entries for parent in one.parents}
    check(list(in_order([digest for digest in commits if digest not in children], commits)))


def test_a_reader_would_notice_a_wrong_drawing() -> None:
    assert followed(["* a", "* b"]) == ({"a": {"b"}, "b": set()}, {"b"})
    with pytest.raises(AssertionError):
        followed(["* a", "| * b", "|\\|", "* | c"])
    with pytest.raises(AssertionError):
        followed(["* a", "| * b", "|/", "* | c"])


def test_many_branches_that_merge_often_can_be_followed() -> None:
    heads, rows = [f"c{0:09}"] * 12, [entry(f"c{0:09}")]
    for n in range(1, 400):
        name = f"c{n:09}"
        if n % 13:
            rows.append(entry(name, heads[n % 12]))
            heads[n % 12] = name
        else:
            rows.append(entry(name, *dict.fromkeys(heads[n % 3 :])))
            heads[n % 12] = name
    check(rows[::-1])


def test_ten_thousand_commits_are_drawn_at_once() -> None:
    rows, heads = [entry("root")], ["root"] * 8
    for n in range(10_000):
        heads[n % 8] = f"{n:064x}"
        parents = [rows[-8].digest if n >= 8 else "root"] + (heads[:4] if n % 80 == 79 else [])
        rows.append(entry(f"{n:064x}", *parents, site="hospital-a"))
    rows.reverse()
    before = time.process_time()
    count = sum(1 for _ in log_lines(rows, {}, now=NOW, width=100))
    between = time.process_time()
    drawn_ = sum(1 for _ in log_lines(rows, {}, now=NOW, width=100, graph=True))
    assert (count, drawn_ > count) == (10_001, True)
    assert (
        between - before < 1.0
    )  # measured: 0.02 s, and 0.05 s with the graph; machines under load take longer
    assert time.process_time() - between < 2.0


# -- status and branch -----------------------------------------------------------------------------------------------


def status(**more: object) -> Status:
    head = entry("3f2a91c0de" + "0" * 54, subject="tuned on ward data", site="hospital-a")
    facts = {
        "place": ".phloem",
        "branch": "clinic",
        "head": head,
        "tracking": (),
        "commits": 1234,
        "branches": 5,
        "tags": 0,
        "bytes": 42_100_000,
    }
    return Status(**{**facts, **more})  # type: ignore[arg-type]


def test_a_status_says_where_one_is_and_what_it_takes() -> None:
    assert status_text(status(), now=NOW).split("\n") == [
        "On branch clinic",
        "3f2a91c0de 3 days ago · hospital-a · tuned on ward data",
        "1,234 commits, 5 branches: 42.1 MB in .phloem",
    ]
    text = status_text(status(tags=1, branches=1, full_bytes=84_200_000_000), now=NOW)
    assert text.endswith(
        "1,234 commits, 1 branch, 1 tag: 42.1 MB in .phloem; in full 84.2 GB, 2,000× as much"
    )


@pytest.mark.parametrize(
    ("ahead", "behind", "words"),
    [
        (0, 0, "up to date with origin/clinic"),
        (1, 0, "1 commit ahead of origin/clinic"),
        (0, 2, "2 commits behind origin/clinic"),
        (3, 1, "3 commits ahead of origin/clinic, 1 behind it"),
        (None, None, "origin/clinic has commits that are not here: phloem pull"),
    ],
)
def test_a_status_says_how_a_branch_stands_against_others(
    ahead: int | None, behind: int | None, words: str
) -> None:
    lines = status_text(status(tracking=[Tracking("origin/clinic", ahead, behind)])).split("\n")
    assert lines[2] == words


def test_a_status_says_what_is_wrong_and_what_to_do() -> None:
    text = status_text(status(small_packs=65, damaged=["ab12"], head=None))
    assert "On branch clinic, which has no commits yet: phloem commit MODEL.safetensors" in text
    assert "damaged: the pack ab12; phloem fsck says what is lost" in text
    assert "untidy: 65 small packs; phloem gc makes them one" in text
    assert "untidy" not in status_text(status(small_packs=64))


def test_branches_are_listed_in_columns_with_the_current_one_marked() -> None:
    head = entry("3f2a91c0de" + "0" * 54, subject="tuned on ward data")
    old = entry("b" * 64, subject="the model that all start from", days=30)
    rows = [
        BranchLine("clinic", head, 2, 1, current=True),
        BranchLine("trunk", old, None, None, current=False),
        BranchLine("a/long-one", old, 0, 0, current=False),
    ]
    assert branches_text(rows, now=NOW).split("\n") == [
        "* clinic      3f2a91c0de  3 days ago   2 ahead, 1 behind  tuned on ward data",
        "  trunk       bbbbbbbbbb  4 weeks ago                     the model that all start from",
        "  a/long-one  bbbbbbbbbb  4 weeks ago  even               the model that all start from",
    ]
    (line,) = branches_text(rows[1:2]).split("\n")
    assert line == f"  trunk  {'b' * DIGITS}  2026-04-04 12:00  the model that all start from"
    assert branches_text([]) == ""


@pytest.mark.parametrize("colours", [True, False])
def test_status_and_branches_fit_their_terminal(colours: bool) -> None:
    long = entry("a" * 64, subject="words " * 50 + "\x1b[31m", site="s")
    rows = [BranchLine("clinic", long, 1, 0, current=True), BranchLine("b", long, 0, 7, current=False)]
    listed = branches_text(rows, width=70, now=NOW, colours=colours)
    said = status_text(status(head=long), width=70, now=NOW, colours=colours)
    for line in [*listed.split("\n"), said.split("\n")[1]]:
        shown = CODES.sub("", line)
        assert cells_of(shown) <= 70
        assert shown.endswith("…")
        assert shown.isprintable()
        assert ("\x1b" in line) is colours
