"""What one run's marks and notes say: a row for every round, and what carrying a message costs beside its payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flower_deployment import Run, difference
from measuring import spread

PHASES = (("train", "begin", "trained"), ("evaluate", "trained", "end"))


def rounds_of(run: Run) -> list[dict[str, Any]]:
    """Every round of a run: seconds, bytes on the wire and of payloads, what sites and processors did."""
    at = {(mark["mark"], mark["round"]): mark for mark in run.marks}
    numbers = sorted({number for mark, number in at if mark == "end"})
    rows = []
    for number in numbers:
        begin, end = at["begin", number], at["end", number]
        notes = [note for note in run.notes if note["round"] == number]
        row: dict[str, Any] = {
            "round": number,
            "seconds": _seconds(begin, end),
            **{f"{name} seconds": _seconds(at[a, number], at[b, number]) for name, a, b in PHASES},
            "wire": _wire(difference(begin["counters"], end["counters"])),
            **{
                f"{name} wire": _wire(difference(at[a, number]["counters"], at[b, number]["counters"]))
                for name, a, b in PHASES
            },
            "payload": {way: sum(t[3] for t in end["traffic"] if t[2] == way) for way in ("up", "down")},
            "site": {
                "training seconds": _spread([note["train"] for note in notes if note["phase"] == "train"]),
                "codec seconds": _spread([note["codec"] for note in notes if note["phase"] == "train"]),
                "codec seconds, evaluating": _spread(
                    [note["codec"] for note in notes if note["phase"] == "evaluate"]
                ),
                "processor seconds before the app": _spread([note["handed"]["cpu"] for note in notes]),
                "processor seconds": _spread([note["ended"]["cpu"] for note in notes]),
                "peak bytes": _spread([note["peak_bytes"] for note in notes]),
            },
            "server app": {
                "processor seconds": end["cpu"] - begin["cpu"],
                "merge seconds": _seconds(at["train received", number], at["trained", number]),
                "codec seconds": end["codec"] - begin["codec"],
            },
            "processors": {k: end["processor"][k] - begin["processor"][k] for k in end["processor"]},
        }
        if ("evaluated", number) in at:
            row["accuracy"] = at["evaluated", number]["accuracy"]
        rows.append(row)
    return rows


def messages_of(run: Run, nodes: Mapping[int, int]) -> dict[str, Any]:
    """Payloads and what carrying them costs: a phase moves one message down and one up a site's line."""
    at = {(mark["mark"], mark["round"]): mark for mark in run.marks}
    traffic = {
        (number, phase, nodes[node], way): size
        for (mark, number), facts in at.items()
        if mark == "end"
        for phase, node, way, size, _ in facts["traffic"]
    }
    noted = {
        (note["round"], note["phase"], note["site"], way): note[f"payload_{way}"]
        for note in run.notes
        for way in ("down", "up")
    }
    found: dict[str, Any] = {
        "reported bytes are len(payload) at the site": traffic == noted,
        "messages": len(traffic),
        **{
            f"greet {way}, payload bytes": _spread(
                [n for (_, p, _, w), n in traffic.items() if (p, w) == ("greet", way)]
            )
            for way in ("down", "up")
        },
    }
    for name, a, b in PHASES:
        for way in ("down", "up"):
            rest, sizes = [], []
            for number in sorted({n for n, *_ in traffic if n > 1}):
                wire = difference(at[a, number]["counters"], at[b, number]["counters"])
                for site, count in enumerate(wire):
                    size = traffic.get((number, name, site, way))
                    if size is not None:
                        sizes.append(size)
                        rest.append(count[f"{way}_bytes"] - size)
            if sizes:
                found[f"{name} {way}"] = {
                    "payload bytes": spread(sizes),
                    "bytes beside the payload": spread(rest),
                }
    return found


def _seconds(begin: Mapping[str, Any], end: Mapping[str, Any]) -> float:
    """Between two marks, without the pauses in which counters were read."""
    return float((end["at"] - begin["at"]) - (end["paused"] - begin["paused"]))


def _wire(sites: Sequence[Mapping[str, int]]) -> dict[str, int]:
    found = {way: sum(site[f"{way}_bytes"] for site in sites) for way in ("up", "down")}
    return {
        **found,
        "both": found["up"] + found["down"],
        "packets": sum(s["up_packets"] + s["down_packets"] for s in sites),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return spread(values) if values else None
