"""The figures of branches as Markdown, from results/branches-NAME.json: printed part by part, and put into the README.

A cell whose result is not there is a dash. `fill` replaces what stands between the markers of `benchmarks/README.md`:

    <!-- branches-time --> ... <!-- end of branches-time -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from measuring import HERE, RESULTS

README = HERE / "README.md"
NAMES = ("bytes", "time", "history", "exact", "peers")
NOTHING = "—"
Result = Mapping[str, Any]


def found(name: str) -> Result:
    """One result; empty where there is none yet."""
    path = RESULTS / f"branches-{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def cell(find: Callable[[], str]) -> str:
    """What is found, or a dash."""
    try:
        return find()
    except (LookupError, TypeError):
        return NOTHING


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; one row of dashes where there are none."""
    rows = rows or [[NOTHING] * len(head)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def percent(share: float, digits: int = 2) -> str:
    """A share in percent."""
    return f"{100 * share:.{digits}f} %"


def middle(spread: Mapping[str, float], unit: str = "", digits: int = 2, scale: float = 1.0) -> str:
    """A median and its range."""
    low, here, high = (f"{scale * spread[key]:,.{digits}f}" for key in ("min", "median", "max"))
    return f"{here}{unit} ({low} to {high})"


# -- bytes -------------------------------------------------------------------------------------------------------


def bytes_table(result: Result) -> str:
    """Rounds, fine-tunes and exact versions."""
    parts = (
        rounds_table(result),
        "**A fine-tuned branch**, at fewer and fewer bits:\n",
        tuned_table(result),
        "**An exact version** of a fine-tuned model, saved against the size of its file:\n",
        lossless_table(result),
    )
    return "\n".join(parts)


def rounds_table(result: Result) -> str:
    """A round of code-lm and of digits in the repository."""
    rows = []
    for row in result.get("rounds", {}).get("seeds", []):
        one, plain = row["0.3/0.28"], row["uncompressed"]
        rows.append(
            [
                f"code-lm, 0.3 up, 0.28 down, seed {row['seed']}",
                f"{one['commit_bytes']:,.0f} = {percent(one['commit_share'])}",
                f"{one['all_share'] * one['full_bytes']:,.0f} = {percent(one['all_share'])}",
                f"{one['stop']:.3f} / {plain['stop']:.3f} nats",
                f"{one['stop'] - plain['stop']:+.3f}".replace("-", "−"),
            ]
        )
    for row in result.get("digits", {}).get("seeds", []):
        one, plain = row["phloem"], row["uncompressed"]
        rows.append(
            [
                f"digits, 0.03 up, 0.05 down, seed {row['seed']}",
                f"{one['commit_bytes']:,.0f} = {percent(one['commit_share'])}",
                f"{one['all_share'] * one['full_bytes']:,.0f} = {percent(one['all_share'])}",
                f"{100 * one['accuracy']:.1f} / {100 * plain['accuracy']:.1f} %",
                f"{100 * (one['accuracy'] - plain['accuracy']):+.1f}".replace("-", "−"),
            ]
        )
    head = ["run", "a commit, bytes", "all that is kept, by round", "at the end / uncompressed", "difference"]
    return markdown(head, rows)


def tuned_table(result: Result) -> str:
    """What a fine-tuned branch loses at every rate."""
    pairs = result.get("tuned", {}).get("pairs", {})
    rows = [
        [
            name,
            f"{rate['bits']:g}",
            rate["way"],
            f"1/{1 / rate['frame_share']:.0f}",
            f"1/{1 / rate['share']:.1f}" + (" (with a key-frame)" if rate["key_frame"] else ""),
            f"{round(rate['points'], 2) + 0.0:.2f} ({rate['worst_points']:.2f})".replace("-", "−"),
            percent(rate["improvement"], 1).replace("-", "−"),
        ]
        for name, pair in pairs.items()
        for rate in pair["rates"]
    ]
    head = [
        "pair", "bits", "coded", "frame", "on the disk", "points lost (worst seed)", "of the loss's improvement",
    ]  # fmt: skip
    return markdown(head, rows)


def lossless_table(result: Result) -> str:
    """Exact versions beside zstd and XOR."""
    rows = [
        [
            row["pair"],
            row["dtype"],
            percent(row["unchanged"], 1),
            percent(row["saved"], 1).replace("-", "−") + (" (with a key-frame)" if row["key_frame"] else ""),
            percent(1 - row["frame_share"], 1),
            *(
                percent(1 - row["others"][name], 1)
                for name in ("XOR + planes + zstd-3", "XOR + zstd-3", "zstd-19")
            ),
        ]
        for row in result.get("lossless", {}).get("pairs", [])
    ]
    head = [
        "pair", "type", "values unchanged", "saved on the disk", "by the frame", "XOR + planes + zstd-3",
        "XOR + zstd-3", "zstd-19 of the file",
    ]  # fmt: skip
    return markdown(head, rows)


# -- time --------------------------------------------------------------------------------------------------------


def time_table(result: Result) -> str:
    """Tips beside reading the file."""
    rows = [
        [
            form,
            str(tip["commits"]) + (", repacked" if tip.get("repacked") else ""),
            str(tip["chain"]),
            middle(tip["throttled"], " ms", 0, 1000),
            middle(tip["÷ read, throttled"]),
            middle(tip["page cache"], " ms", 0, 1000),
            middle(tip["÷ read"], digits=1),
            middle(tip["÷ read and SHA-256"]),
            f"{1000 * tip['opening']['median']:.0f} ms",
        ]
        for form in ("commits", "rounds")
        for tip in result.get(form, {}).get("tips", [])
    ]
    head = [
        "made by", "commits", "frames", "at 500 MB/s", "÷ reading", "page cache", "÷ reading",
        "÷ reading and SHA-256", "of it opening",
    ]  # fmt: skip
    out = [
        f"{form}: {cell(lambda form=form: middle(result[form]['checkout']['checkout'], ' s'))}, "
        f"{cell(lambda form=form: middle(result[form]['checkout']['ratio']))} times copying the file and syncing it"
        for form in ("commits", "rounds")
    ]
    return markdown(head, rows) + "\nTo a durable file: " + "; ".join(out) + ".\n"


# -- history -----------------------------------------------------------------------------------------------------


def history_table(result: Result) -> str:
    """Ten thousand commits."""
    times = lambda: result["restored"]["times"]  # noqa: E731
    sizes = lambda: result["bytes"]  # noqa: E731
    whole = lambda: result["commits"] * result["file_bytes"]  # noqa: E731

    def row_of(which: str) -> str:
        one = result["restored"][which]
        return f"{one['times']:.2f} ({one['chain']} frames, {1000 * one['seconds']:.0f} ms)"

    parts = ("frames", "key-frames", "states", "commits", "encodings", "indexes of packs")
    rows = [
        ("parameters · tensors", cell(lambda: f"{result['parameters']:,} · {result['tensors']}")),
        ("any commit ÷ reading the file at 500 MB/s, median", cell(lambda: middle(times()))),
        ("within 2", cell(lambda: f"{times()['within 2']} of {times()['n']}")),
        ("worst of those", cell(lambda: row_of("worst"))),
        ("the costliest chain", cell(lambda: row_of("costliest"))),
        ("of processors, ms", cell(lambda: middle(result["restored"]["of all cores"], digits=0, scale=1000))),
        ("of it opening, ms", cell(lambda: middle(result["restored"]["opening"], digits=0, scale=1000))),
        (
            "on the disk, against full copies",
            cell(lambda: f"{sizes()['total'] / 1e6:,.0f} MB = {percent(sizes()['total'] / whole())}"),
        ),
        *((f"of it {part}", cell(lambda part=part: f"{sizes()[part] / 1e6:,.1f} MB")) for part in parts),
        ("key-frames", cell(lambda: f"{sizes()['key-frames, number']:,}")),
        ("the catalog, derived", cell(lambda: f"{sizes()['catalog'] / 1e6:,.1f} MB")),
        *(
            (
                f"a commit, ms, {where}",
                cell(lambda where=where: middle(result["commit_ms"][where], digits=0)),
            )
            for where in ("at the beginning", "at the end")
        ),
    ]
    looked = result.get("looked_at", {})
    for name, one in looked.items():
        here = middle(one["here"], digits=0, scale=1000) if "here" in one else NOTHING
        process = (
            middle(one["process"], digits=0, scale=1000) if "process" in one else one.get("missing", NOTHING)
        )
        rows.append(
            (
                f"`{name if name.startswith('phloem') else 'phloem ' + name}`, ms: here · process",
                f"{here} · {process}",
            )
        )
    return markdown(["10,000 commits" if not result else f"{result['commits']:,} commits", "measured"], rows)


# -- exactness ---------------------------------------------------------------------------------------------------


def exact_table(result: Result) -> str:
    """A thousand lossy commits."""
    errors = lambda: result["errors"]  # noqa: E731
    count = result.get("commits", 0)
    restored = result.get("restored", {})
    rows = [
        ("commits whose error is within 1.6 steps", cell(lambda: f"{errors()['bound held']:,} of {count:,}")),
        ("the largest error, in steps", cell(lambda: f"{errors()['largest, steps']:.3f}")),
        (
            "commits that name their largest error rightly",
            cell(lambda: f"{errors()['recorded']:,} of {count:,}"),
        ),
        *(
            (
                f"distance from the given model after commit {number}, in updates",
                cell(lambda number=number: f"{errors()['of an update'][number]:.2f}"),
            )
            for number in ("1", "10", "100", "1000")
        ),
        (
            "the same frames from the same models",
            cell(lambda: f"{result['the same frames again']:,} of {count:,}"),
        ),
        (
            "the same frames from the reference kernels",
            cell(lambda: "{same} of {of}".format(**result["encoded by the reference"])),
        ),
        *(
            (f"states restored, equal bits, {name}", f"{one['equal']} of {restored['states']}")
            for name, one in restored.items()
            if name != "states"
        ),
        ("states restored, CUDA", result.get("cuda", NOTHING)),
    ]
    return markdown(
        ["a thousand lossy commits" if not count else f"{count:,} lossy commits", "measured"], rows
    )


# -- peers -------------------------------------------------------------------------------------------------------


def peers_table(result: Result) -> str:
    """Twenty versions, by everybody."""
    tables = []
    for history in ("dense", "sparse"):
        peers = result.get("histories", {}).get(history, {})
        copies = cell(lambda peers=peers: peers["copies"]["bytes"])
        rows = []
        for name, one in peers.items():
            if "missing" in one:
                rows.append([name, one["missing"], *[NOTHING] * 4])
                continue
            few = "" if one["versions"] == result["versions"] else f" (from {one['versions']})"
            rows.append(
                [
                    name,
                    f"{one['bytes'] / 1e6:,.1f}{few} = {percent(one['bytes'] / copies, 1)}",
                    f"{one['commit_seconds']:.2f}",
                    f"{one['tip_seconds']:.2f}",
                    f"{one['earlier_seconds']:.2f}"
                    + ("" if one["earlier_number"] == 10 else f" ({one['earlier_number']}th)"),
                    "yes" if one["exact"] else f"off by {one['tip_error']:.2g} of an update",
                ]
            )
        head = [f"{history} history", "MB", "s to commit", "s, tip", "s, 10th", "the given bits"]
        tables.append(markdown(head, rows))
    return "\n".join(tables)


PRINTED: Mapping[str, Callable[[Result], str]] = {
    "bytes": bytes_table,
    "time": time_table,
    "history": history_table,
    "exact": exact_table,
    "peers": peers_table,
}


def table(results: Mapping[str, Result]) -> dict[str, str]:
    """The tables by name."""
    return {name: PRINTED[name](results.get(name, {})) for name in NAMES}


def fill() -> None:
    """Puts the tables of the results that are there into the README, between their markers."""
    text = README.read_text("utf-8")
    for name, made in table({name: found(name) for name in NAMES}).items():
        text = put(text, f"branches-{name}", made)
    README.write_text(text, "utf-8")


def put(text: str, name: str, made: str) -> str:
    """A README with this between its markers of that name."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{README.name} has no markers of {name}")
    return pattern.sub(lambda match: start + made + end, text)
