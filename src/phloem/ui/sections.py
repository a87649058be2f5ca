"""The sections of a report that are words and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from phloem.job.record import RoundRecord
from phloem.recipe import Recipe
from phloem.ui.figures import (
    metric_text,
    metric_words,
    rate_text,
    size_text,
    target_text,
    time_text,
    unbroken,
)
from phloem.ui.markup import Markup, element, joined
from phloem.ui.outcome import cells, codecs_text, measured_text, outcomes
from phloem.ui.recipe_text import recipe_text

SHOWN_REFUSALS = 200


def facts(recipe: Recipe, summary: Mapping[str, Any], records: Sequence[RoundRecord]) -> Markup:
    """The run's main figures."""
    name = summary["metric"]["name"]
    row = outcomes(summary)[0]
    sent = f"{size_text(summary['bytes_up'])} up, {size_text(summary['bytes_down'])} down, "
    sent += f"{size_text(summary['control_bytes'])} control"
    longer = row.rounds < summary["rounds"]
    if longer:
        sent = f"{size_text(summary['total_bytes'])} in all {summary['rounds']} rounds: {sent}"
    goal = "" if row.target is None else f" to {target_text(name, row.target)}"
    rates = f"{rate_text(row.bits_up)} / {rate_text(row.bits_down)}"
    cells: list[tuple[str, str, str]] = [
        (
            f"{metric_words(name)}, test data",
            metric_text(name, row.test),
            f"{metric_text(name, row.stop)} on the stopping data",
        ),
        (
            f"Rounds{goal}",
            row.rounds_text,
            f"{recipe.rounds.max} at most"
            if recipe.rounds.stop == "target"
            else f"of {summary['rounds']}" * longer,
        ),
        (f"Bytes{goal if row.reached else ''}", size_text(row.size_bytes), sent),
        ("Bits per parameter", rates, "up / down; fp32 has 32"),
        (
            f"Simulated time{goal if row.reached else ''}",
            time_text(row.seconds),
            "links alone" if not recipe.link.train_seconds else "",
        ),
        ("Sites", str(len(summary["sites"])), _size(summary)),
    ]
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", unbroken(heading[:1].upper() + heading[1:])),
                element("dd", value, _small(note)),
            )
            for heading, value, note in cells
        ),
        class_="facts",
    )


def _size(summary: Mapping[str, Any]) -> str:
    kept = summary.get("parameters_kept", summary["parameters"])
    left = "" if kept == summary["parameters"] else f", {kept:,} of them kept"
    return f"{summary['parameters']:,} parameters{left}"


def _small(note: str) -> Markup | None:
    return element("small", note) if note else None


def comparison(summary: Mapping[str, Any]) -> Markup | None:
    """A column per run, if the baselines were run."""
    rows = outcomes(summary)
    if len(rows) == 1:
        return None
    (_, labels), *columns = cells(rows)
    body = []
    for heading, texts in columns:
        words = unbroken(" ".join(heading.split()))
        body.append(element("tr", element("th", words, scope="row"), *map(_figure_cell, texts)))
    short = (label.removeprefix("uncompressed ") for label in labels)
    head = element("tr", element("td"), *(element("th", label, scope="col") for label in short))
    table = element("table", element("thead", head), element("tbody", *body), class_="runs")
    return joined(element("h2", "Against no compression"), element("div", table, class_="scroll"))


def _figure_cell(text: str) -> Markup:
    return element("td", element("em", text) if text.endswith("fewer") else text)


def table(heads: Sequence[str], body: Sequence[Markup], style: str | None = None) -> Markup:
    """A table that scrolls where the page is narrow."""
    head = element("tr", *(element("th", text, scope="col", class_=style) for text in heads))
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def site_table(summary: Mapping[str, Any], records: Sequence[RoundRecord]) -> Markup:
    """Every site: its examples, its rounds, its bytes."""
    refused = Counter(name for record in records for name in record.refused)
    body = [
        element(
            "tr",
            element("td", name),
            element("td", f"{row['examples']:,}"),
            element("td", f"{row['rounds_accepted']} of {summary['rounds']}"),
            element("td", str(refused[name])),
            element("td", size_text(row["bytes_up"])),
            element("td", size_text(row["bytes_down"])),
            element("td", size_text(row["control_bytes"])),
        )
        for name, row in summary["sites"].items()
    ]
    return table(["site", "examples", "accepted", "refused", "up", "down", "control"], body)


def refusals(records: Sequence[RoundRecord]) -> Markup:
    """Every update that did not enter the trunk, and why."""
    found = [(r.round + 1, site, reason) for r in records for site, reason in sorted(r.refused.items())]
    heading = element("h2", "Refused updates")
    if not found:
        return joined(heading, element("p", "None: every update that was sent entered the model."))
    rows = [
        element(
            "tr",
            element("td", str(number)),
            element("td", site, class_="text"),
            element("td", reason, class_="text"),
        )
        for number, site, reason in found[:SHOWN_REFUSALS]
    ]
    more = len(found) - SHOWN_REFUSALS
    words = "Nothing of them is in the model. What came too late is owed and goes into later frames."
    return joined(
        heading,
        element("p", f"{len(found)} in all. {words}"),
        table(["round", "site", "reason"], rows, "text"),
        element("p", f"… and {more} more: see rounds.jsonl.") if more > 0 else None,
    )


def meaning(recipe: Recipe, summary: Mapping[str, Any]) -> Markup:
    """What was measured, what was simulated, and what was not compressed."""
    link, changes = recipe.link, json.dumps(recipe.compare)
    line = f"{_bit_rate(link.up)} up, {_bit_rate(link.down)} down, {time_text(link.latency)} latency one way"
    lines = [
        "Bytes are measured: the length of every message that crossed the boundary between a site and "
        "the coordinator, in both directions. Control is whatever is not a frame: chain and state prefixes, "
        "lists of who was merged, sample counts.",
        f"The frames: {codecs_text(recipe)}. Every site makes the first state from the seed; it is not sent.",
        f"Simulated time is what these messages take on the recipe's links ({line}"
        + (f"; links of their own: {len(recipe.links)} of the sites" if recipe.links else "")
        + (
            f"), with {time_text(link.train_seconds)} of training a round."
            if link.train_seconds
            else "), without training: it compares communication and nothing else."
        ),
        f"Measured on the machine that ran it, all sites summed: {measured_text(summary)}.",
        "Training data never leave a site. The frames are not encrypted or anonymised by compression: "
        "they say something about the data that they come from.",
        "The stopping data decide when the target counts as reached (in the first round that has it); the "
        "test data only give the final figure. This is one run with one seed; others give other figures.",
    ]
    if recipe.prune is not None:
        lines.append(
            f"Weights were pruned while it learned: {summary['parameters_kept']:,} of "
            f"{summary['parameters']:,} were kept in the end. Everyone derives which ones from the trunk; frames "
            "carry these alone, and bits per parameter are of all."
        )
    if summary.get("compare"):
        lines.append(
            "fp32 and bf16 were really run, with the same sites, data, links and server optimiser, averaging "
            "by examples alone"
            + (f", and with these changes, under which they do best: {changes}." if recipe.compare else ".")
        )
    return element("ul", *(element("li", text) for text in lines))


def _bit_rate(rate: float) -> str:
    """Bits per second.

    >>> _bit_rate(10e6), _bit_rate(56000.0)
    ('10 Mbit/s', '56 kbit/s')
    """
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if rate >= size:
            return f"{rate / size:g} {unit}"
    return f"{rate:g} bit/s"


def reproduction(recipe: Recipe, summary: Mapping[str, Any]) -> Markup:
    """The command, the recipe, and the digest that must come out."""
    compare = " --compare" if summary.get("compare") else ""
    return joined(
        element("p", f"Save the recipe below as {recipe.name}.toml and run"),
        element("pre", element("code", f"phloem build {recipe.name}.toml{compare}")),
        element(
            "p",
            "With the same versions, data and kind of processor, the final model is the same to the bit; ",
            "its digest is ",
            element("code", summary["state_digest"]),
            ".",
        ),
        element(
            "details",
            element("summary", "The recipe, every default written out"),
            element("pre", element("code", recipe_text(recipe.to_json()))),
        ),
    )


def provenance(summary: Mapping[str, Any]) -> Markup:
    """Versions, seeds and digests."""
    rows = [*((name, text) for name, text in summary["versions"].items()), ("seed", summary["seeds"]["run"])]
    rows += [(name, summary[name]) for name in ("plan", "commit", "chain") if name in summary]
    body = [
        element("tr", element("td", name), element("td", element("code", str(text)), class_="text"))
        for name, text in rows
    ]
    table = element("div", element("table", element("tbody", *body)), class_="scroll")
    return element("details", element("summary", "Versions, seed and digests"), table)
