"""The report's section about codecs that were chosen while the run went on."""

from __future__ import annotations

from collections.abc import Sequence

from phloem.ui.decisions import Decided, Tally, levels_text, shown
from phloem.ui.markup import Markup, element, joined
from phloem.ui.plan_text import seconds_text
from phloem.ui.sections import table

_MOST_ROWS = 60


def choices(decided: Sequence[Decided]) -> Markup | None:
    """A row per round in which another choice was made; nothing where codecs were fixed."""
    if not decided:
        return None
    rows = shown(decided, every=False)
    tally = Tally.of(decided)
    inside, of = tally.covered
    words = (
        f"Every round chose from what the rounds before took; {len(decided) - len(rows)} of {len(decided)} chose as "
        f"the round before. {inside:,} of {of:,} transfers took a time inside the interval given for it, which four "
        "fifths should. decisions.jsonl has all that was known: phloem trace RUN --check decides again from it."
    )
    body = [
        element(
            "tr",
            element("td", str(one.number)),
            element("td", levels_text(one)),
            element("td", one.down),
            element(
                "td", f"{seconds_text(one.seconds)} ({seconds_text(one.low)} – {seconds_text(one.high)})"
            ),
            element("td", seconds_text(one.actual)),
            element("td", f"{one.policy}: {one.why}"),
        )
        for one in rows[:_MOST_ROWS]
    ]
    more = (
        element("p", f"and {len(rows) - _MOST_ROWS} more: phloem trace") if len(rows) > _MOST_ROWS else None
    )
    heads = ["round", "up", "down", "expected", "took", "policy, and why"]
    return joined(element("h2", "Codecs chosen"), element("p", words), table(heads, body, "text"), more)
