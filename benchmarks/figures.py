"""The table of figures in the README, made from `results/`; a test compares the two.

python benchmarks/figures.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def result(name: str) -> dict[str, Any]:
    """One committed result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def times(spread: dict[str, float]) -> str:
    """A factor with its range."""
    return f"**{spread['median']:.0f}×** ({spread['min']:.0f} to {spread['max']:.0f})"


def rounds(spread: dict[str, float]) -> str:
    """A factor of rounds with its range."""
    return f"{spread['median']:.2f}× ({spread['min']:.2f} to {spread['max']:.2f})"


def interval(paired: dict[str, float], digits: int) -> str:
    """A mean difference with its 95 % interval."""
    mean, low, high = (f"{paired[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})".replace("-", "−")


def table() -> str:
    """The figures as a Markdown table."""
    digits, lm = result("digits"), result("code_lm_headline")
    hospitals, banks = result("hospitals"), result("banks")
    flower = result("flower-plain")["peer ÷ phloem"]["plain"]
    log, audit = result("ledger")["per second"], result("ledger-audit")
    costs = result("ledger-hospitals")["updates of 2 MB"]["strict"]
    traffic = result("adaptation-traffic")["rounds_of"]
    adaptation = [result(f"adaptation-{name}") for name in ("digits", "code-lm")]
    adaptation += [traffic[f"{task}, its own table"] for task in ("digits", "code-lm")]
    strangers = [traffic[f"{task}, a table of other tasks"] for task in ("digits", "code-lm")]
    target, final = digits["to_target"], digits["final"]
    lm_rounds = lm["rounds"]
    rows = [
        ("digits, bytes to 97 %, against fp32", times(target["fewer_bytes_than_fp32"]) + " fewer"),
        ("digits, the same against bf16", times(target["fewer_bytes_than_bf16"]) + " fewer"),
        ("digits, rounds to 97 %, against fp32", rounds(target["rounds_against_fp32"])),
        (
            f"digits, test accuracy after {final['rounds']} rounds minus fp32's, points",
            interval(final["points_against_fp32"], 2),
        ),
        ("code-lm, bytes to dense DiLoCo's loss of round 30, fp32", times(lm["fewer_bytes"]) + " fewer"),
        (
            "code-lm, rounds it takes",
            f"{lm_rounds['median']:.0f} ({lm_rounds['min']:.0f} to {lm_rounds['max']:.0f})",
        ),
        (
            "DiLoCo, four workers, code-lm: bytes to dense's loss of round 20, fp32; SparseLoCo's, Rice-coded",
            f"{times(result('diloco-loss')['fewer_bytes_phloem'])} fewer; "
            f"{result('diloco-loss')['fewer_bytes_sparseloco_rice']['median']:.0f}×",
        ),
        (
            "codecs chosen every round, nine lines × two devices, time to the target over the best fixed level's in "
            "hindsight, mean · worst cell: digits; code-lm (three lines); a 25.6 M-parameter model's traffic with the "
            "rounds of digits; of code-lm",
            "; ".join(f"{one['to_best']:.2f} · {one['worst_to_best']:.2f}" for one in adaptation),
        ),
        (
            "the same of the traffic, where only other tasks' rounds are known",
            "; ".join(f"{one['to_best']:.2f} · {one['worst_to_best']:.2f}" for one in strangers),
        ),
        (
            "the first over bfloat16's, worst cell; the best single level's over all cells over it",
            "; ".join(f"{one['worst_to_bf16']:.2f}" for one in adaptation)
            + " · "
            + "; ".join(f"{one['best_single_over_auto']:.2f}" for one in adaptation),
        ),
        ("hospitals, test AUROC minus pooled training's", interval(hospitals["auroc_against_pooled"], 4)),
        (
            "hospitals, bytes against fp32 (1,025 parameters)",
            times(hospitals["fewer_bytes_than_fp32"]) + " fewer",
        ),
        ("banks, test average precision minus pooled training's", interval(banks["against_pooled"], 3)),
        ("banks, the same minus the best single bank's", interval(banks["against_best_single_bank"], 3)),
        ("banks, bytes against fp32", times(banks["fewer_bytes_than_fp32"]) + " fewer"),
        (
            "Flower over ten lines of 10 Mbit/s, 25.6 M parameters at 0.05 bits: bytes a round, against plain Flower",
            times(flower["bytes"]) + " fewer",
        ),
        (
            "the same, seconds a round (ten sites on two cores)",
            f"**{flower['seconds']['median']:.0f}×** ({flower['seconds']['min']:.0f} to "
            f"{flower['seconds']['max']:.0f}) less",
        ),
        (
            "ledger, durable appends · inclusion proofs · receipts checked, a second",
            " · ".join(
                f"{log[key]['median']:,.0f}"
                for key in ("appends one by one", "inclusion proofs", "receipts checked")
            ),
        ),
        (
            f"ledger, an audit of {audit['entries']:,} entries on one core",
            f"{audit['seconds']['median']:.0f} s",
        ),
        (
            "ledger with updates of 2 MB at eight sites, every round receipted: of the bytes · of a round's time",
            f"{100 * costs['more bytes a round, share']['median']:.2f} % · "
            f"{100 * costs['share, sites at the same time']['median']:.1f} %",
        ),
    ]
    rows += [*ranks(), *branches()]
    lines = ["| figure | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines) + "\n"


def branches() -> list[tuple[str, str]]:
    """The rows of branches and merges."""
    stored, tips = result("branches-bytes"), result("branches-time")
    history, merged = result("branches-history"), result("merging-compressed")
    exact = stored["lossless"]["pairs"]
    bf16 = [row["saved"] for row in exact if row["dtype"] == "bfloat16"]
    fp32 = [row["saved"] for row in exact if row["dtype"] == "float32"]
    thin = [
        rate
        for pair in stored["tuned"]["pairs"].values()
        for rate in pair["rates"]
        if rate["way"] == "rank 24" and rate["bits"] == 0.7
    ]
    digits, lm = stored["digits"], stored["rounds"]
    looked = history["looked_at"]
    merges = [
        abs(change)
        for row in merged["digits"]["against_exact"].values()
        if row["bits"] > 1.5
        for name, change in row["mean"].items()
        if name != "alone, mean"
    ]
    return [
        (
            "a round as a commit, of the model's file, digits · code-lm",
            f"{100 * digits['commit_share']['median']:.2f} % · {100 * lm['commit_share']['median']:.2f} %",
        ),
        (
            f"a fine-tune as a commit (`--bits 0.7 --rank 24`), {len(thin)} pairs: of the model · points lost, worst",
            f"1/{min(1 / rate['share'] for rate in thin):.0f} · {max(rate['points'] for rate in thin):.2f}",
        ),
        (
            "a fine-tune as an exact commit, bytes saved, bfloat16 · float32",
            " · ".join(f"{100 * min(some):.0f} to {100 * max(some):.0f} %" for some in (bf16, fp32)),
        ),
        (
            "a tip of 25.6 M parameters restored and checked ÷ reading its file at 500 MB/s, 9 · 25 frames",
            " · ".join(f"{tips['rounds']['tips'][at]['÷ read, throttled']['median']:.2f}" for at in (1, 3)),
        ),
        (
            f"any of {history['commits']:,} commits, the same of 4.0 M parameters",
            f"{history['restored']['times']['median']:.2f} in the median; within 2 in "
            f"{history['restored']['times']['within 2']} of {len(history['restored']['rows']) - 1}",
        ),
        (
            "`log` · `branch` · `status` of those, without starting Python",
            " · ".join(
                f"{1000 * looked[name]['here']['median']:.0f} ms" for name in ("log", "branch", "status")
            ),
        ),
        (
            "merges of eight branches stored in a sixteenth against exact ones, digits, points, all methods",
            f"at most {max(merges):.1f}",
        ),
    ]


def ranks() -> list[tuple[str, str]]:
    """The rows of torch.distributed."""
    loss, steps = result("ddp-loss"), result("ddp-links-code-lm")["table"]
    bits = [8 * row["sent_bytes"] / loss["steps"] / 853_120 for row in loss["table"]["phloem-32"]["runs"]]
    exposed = [
        f"{1e3 * steps[f'100mbit/{way}']['exposed']['median']:.0f} ms"
        for way in ("bf16", "powersgd-16", "phloem-32")
    ]
    return [
        (
            f"DDP, four ranks, code-lm, {statistics.median(bits):.1f} bits per parameter sent: loss after "
            f"{loss['steps']} steps minus bfloat16's",
            interval(loss["table"]["phloem-32"]["minus_bf16"], 3),
        ),
        (
            "the same over 100 Mbit/s, what the line adds to a step: bfloat16 · PowerSGD of equal loss · Phloem",
            " · ".join(exposed),
        ),
    ]


def frontier() -> str:
    """The code-lm frontier as a Markdown table."""
    found = result("code_lm_frontier")
    dense = found["dense"]
    lines = [
        "| outer step | bits both ways | loss | MB | bytes to the dense loss |",
        "|---|---|---|---|---|",
        f"| Nesterov 0.7/0.9, fp32, 30 rounds | 32 | {dense['loss']:.3f} | {dense['total_bytes'] / 1e6:.0f} | 1 |",
    ]
    for row in found["rows"]:
        fewer = row["fewer_bytes_to_dense_loss"]
        reached = f"{fewer:.0f}× fewer, round {row['rounds_to_dense_loss']}" if fewer else "not reached"
        name = {"sgd": "SGD 1.0", "nesterov": "Nesterov 0.7/0.9"}[row["outer"]]
        lines.append(
            f"| {name} | {row['bits']:g} | {row['loss']:.3f} | {row['total_bytes'] / 1e6:.1f} | {reached} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table())
    print(frontier())
