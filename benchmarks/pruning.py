"""Accuracy against size: one-shot pruning and quantisation of trained models, and pruning while they learn.

    python benchmarks/pruning.py                     five seeds of digits, three of code-lm; writes results/pruning.json
    python benchmarks/pruning.py --seeds 1 --lm 0    a first look
    python benchmarks/pruning.py --plot              docs/pruning.png from results/pruning.json (needs matplotlib)

Every model is trained over compressed frames by its recipe, once with all weights and once with [prune], for equally
many rounds. The one-shot rows start from the model with all weights, the others from the one pruned while it
learned. A size is that of the file that `phloem compress` writes, and what is measured is what `phloem decode` makes of
it, on test data. Pruned training saves on the wire too: its bytes stand beside those with all weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

import phloem
from measuring import EXAMPLES, RESULTS, quiet, spread, write
from phloem.codecs.registry import BY_NAME
from phloem.engines.host import load_task_of
from phloem.files import decode_file
from phloem.files.compressing import compress_file
from phloem.recipe import Recipe, load_recipe

PRUNES: tuple[str | float | None, ...] = (None, 0.5, 0.8, 0.9, 0.95, 0.98, "2:4")
QUANTIZERS = (None, "int8", "int4", "ecsq:4", "ecsq:3", "ecsq:2")
LM_ROUNDS = 30
_LM = ["rounds.max=30", "rounds.stop=rounds", "up.bits=0.1", "down.bits=0.2"]
_LM_PRUNE = "prune={sparsity=0.8, begin=3, end=18, every=3}"
_QUICK = ["run.keep_updates=false", "run.snapshot_every=100000"]


def trained(recipe: Recipe, label: str) -> tuple[phloem.Run, dict[str, Any]]:
    """A finished run and what it cost."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        run = phloem.build(recipe, out=Path(scratch) / "run")
    summary = run.summary
    metric = summary["metric"]["name"]
    row = {
        "test": summary["test"][metric],
        "bytes_up": summary["bytes_up"],
        "bytes_down": summary["bytes_down"],
        "total_bytes": summary["total_bytes"],
        "kept": summary["parameters_kept"],
        "bytes_by_round": [record.bytes_up + record.bytes_down for record in run.records],
    }
    say(f"{label:36s} {metric} {row['test']:.4f}  {row['total_bytes'] / 1e6:.3f} MB", started)
    return run, row


def say(text: str, started: float) -> None:
    """One line of progress."""
    print(f"{text}  {time.perf_counter() - started:5.1f} s", file=sys.stderr, flush=True)


def compressed(recipe: Recipe, state: phloem.tensors.State, prunes: Sequence[Any]) -> list[dict[str, Any]]:
    """Test metric and size of a model under every pair of pruning and quantiser."""
    task = load_task_of(recipe)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        model, frame, again = (Path(scratch) / name for name in ("model", "frame", "again"))
        save_file(state, model)
        for prune in prunes:
            for quantize in QUANTIZERS:
                if (prune is None and quantize is None) or (quantize == "int4" and "int4" not in BY_NAME):
                    continue
                made = compress_file(model, frame, prune=prune, quantize=quantize)
                decode_file(frame, again)
                rows.append(
                    {
                        "prune": prune,
                        "quantize": quantize,
                        "bytes": made.bytes,
                        "bits_per_parameter": made.bits_per_parameter,
                        "sparsity": made.sparsity,
                        "nmse": made.nmse,
                        "test": task.evaluate(dict(load_file(again)), "test")[task.metric.name],
                    }
                )
    return rows


def one_seed(dense: Recipe, sparse: Recipe, label: str) -> dict[str, Any]:
    """All rows of one task and seed."""
    whole, all_weights = trained(dense, f"{label}, all weights")
    thin, pruned = trained(sparse, f"{label}, pruned while learning")
    started = time.perf_counter()
    sparsity = sparse.prune.sparsity if sparse.prune else 0.0
    answer = {
        "seed": dense.seed,
        "parameters": whole.summary["parameters"],
        "all_weights": all_weights,
        "pruned_while_learning": {**pruned, "compressed": compressed(sparse, thin.state, [sparsity])},
        "one_shot": compressed(dense, whole.state, PRUNES),
        "fewer_bytes_on_the_wire": all_weights["total_bytes"] / pruned["total_bytes"],
    }
    say(f"{label}, one-shot rows", started)
    return answer


def digits(seeds: int) -> dict[str, Any]:
    """The digits CNN, with the example recipe and without its [prune]."""
    rows = []
    for seed in range(seeds):
        sparse = load_recipe(EXAMPLES / "digits-pruned.toml", [f"seed={seed}", *_QUICK])
        dense = load_recipe({**sparse.to_json(), "prune": None})
        rows.append(one_seed(dense, sparse, f"digits seed {seed}"))
    return {"recipe": "examples/digits-pruned.toml", "metric": "accuracy", **medians(rows)}


def code_lm(seeds: int) -> dict[str, Any]:
    """The byte-level GPT, with [prune] and without."""
    rows = []
    for seed in range(seeds):
        dense = load_recipe(EXAMPLES / "code-lm.toml", [f"seed={seed}", *_LM, *_QUICK])
        sparse = load_recipe(EXAMPLES / "code-lm.toml", [f"seed={seed}", *_LM, *_QUICK, _LM_PRUNE])
        rows.append(one_seed(dense, sparse, f"code-lm seed {seed}"))
    changes = [*_LM, _LM_PRUNE]
    return {"recipe": "examples/code-lm.toml", "changes": changes, "metric": "loss", **medians(rows)}


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of all seeds, and medians with spread over them."""

    def over(find: Any) -> dict[str, float]:
        return spread([find(row) for row in rows])

    def table(find: Any) -> list[dict[str, Any]]:
        return [
            {
                "prune": first["prune"],
                "quantize": first["quantize"],
                "bytes": over(lambda row, at=at: find(row)[at]["bytes"]),
                "test": over(lambda row, at=at: find(row)[at]["test"]),
            }
            for at, first in enumerate(find(rows[0]))
        ]

    return {
        "float32_bytes": 4 * rows[0]["parameters"],
        "all_weights": over(lambda row: row["all_weights"]["test"]),
        "pruned_while_learning": over(lambda row: row["pruned_while_learning"]["test"]),
        "fewer_bytes_on_the_wire": over(lambda row: row["fewer_bytes_on_the_wire"]),
        "one_shot_rows": table(lambda row: row["one_shot"]),
        "pruned_while_learning_rows": table(lambda row: row["pruned_while_learning"]["compressed"]),
        "seeds": rows,
    }


def plot() -> None:
    """`docs/pruning.png`: test metric against size, a panel per task."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    found = json.loads((RESULTS / "pruning.json").read_text("utf-8"))
    tasks = [name for name in ("digits", "code_lm") if name in found]
    figure, panels = pyplot.subplots(1, len(tasks), figsize=(5.5 * len(tasks), 4.8), squeeze=False)
    markers = {None: "o", "int8": "s", "int4": "P", "ecsq:4": "^", "ecsq:3": "v", "ecsq:2": "D"}
    colours = {
        None: "#1b4965",
        0.5: "#5fa8d3",
        0.8: "#e09f3e",
        0.9: "#9e2a2b",
        0.95: "#7b2cbf",
        0.98: "#3c096c",
        "2:4": "#6a994e",
    }
    for name, panel in zip(tasks, panels[0], strict=True):
        task = found[name]
        panel.axhline(task["all_weights"]["median"], color="#999999", linewidth=0.8, linestyle="--")
        for rows, filled in ((task["one_shot_rows"], True), (task["pruned_while_learning_rows"], False)):
            for row in rows:
                colour = colours[row["prune"]]
                panel.plot(
                    row["bytes"]["median"] / 1000,
                    row["test"]["median"],
                    markers[row["quantize"]],
                    color=colour,
                    markerfacecolor=colour if filled else "white",
                    markersize=7,
                    alpha=0.85,
                )
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.set_xlabel("size, kB (median over seeds)")
        panel.set_ylabel(f"test {task['metric']}")
        panel.set_title(f"{name.replace('_', '-')}, {task['float32_bytes'] / 1e6:.2g} MB as float32")
        if task["metric"] == "loss":
            panel.invert_yaxis()
    signs = [
        *((colours[prune], "o", f"pruned {prune}" if prune else "all weights", True) for prune in PRUNES),
        *(("#555555", markers[one], one or "exact", True) for one in QUANTIZERS),
        (colours[0.8], "o", "pruned while learning", False),
    ]
    handles = [
        pyplot.Line2D(
            [], [], color=colour, marker=marker, linestyle="", label=label,
            markerfacecolor=colour if filled else "white",
        )
        for colour, marker, label, filled in signs
    ]  # fmt: skip
    figure.legend(handles=handles, loc="lower center", ncols=5, frameon=False, fontsize=7)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    target = Path(__file__).parent.parent / "docs" / "pruning.png"
    figure.savefig(target, dpi=130, metadata={"Software": None})
    print(f"written: {target}", file=sys.stderr)


def main() -> None:
    """Runs it all and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="of digits")
    parser.add_argument("--lm", type=int, default=3, help="seeds of code-lm")
    parser.add_argument("--plot", action="store_true", help="only draw docs/pruning.png")
    options = parser.parse_args()
    if options.plot:
        plot()
        return
    quiet()
    result: dict[str, Any] = {}
    if options.seeds:
        result["digits"] = digits(options.seeds)
    if options.lm:
        result["code_lm"] = code_lm(options.lm)
    write("pruning", f"python benchmarks/pruning.py --seeds {options.seeds} --lm {options.lm}", result)


if __name__ == "__main__":
    main()
