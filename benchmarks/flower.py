"""Rounds of Flower over real lines, its model as it is, in float16, by NNCodec and by Phloem: bytes, seconds, memory.

    python benchmarks/flower.py plain     writes results/flower-plain.json, and so on; several parts go one by one
    python benchmarks/flower.py fp16 digits floor memory

With NNCodec, which needs an environment of its own:

    python3.11 benchmarks/nncodec_points.py --make-env /tmp/nncodec
    /tmp/nncodec/bin/python -m pip install flwr==1.41.0 'numpy<2'
    python benchmarks/flower.py nncodec --nncodec-python /tmp/nncodec/bin/python

Ten SuperNodes, a SuperLink and its app run as Flower's own processes, each in a network namespace of its own behind a
line of 10 Mbit/s and 40 ms (`links`), with TLS and node authentication. Bytes are the kernel's counts of IP packets on
those lines, everything included: requests, polling, TLS, TCP's own. Strategy: FedAvg with Flower's defaults, all sites
train and evaluate. The model is a ResNet-50's 320 arrays (25.6 million parameters), drawn, with drawn updates; nothing
is learned. Its parts:

- `plain`: Flower as it is beside Phloem on nodes that have the first model already, as a checkpoint that everybody
  starts from (`phloem held`), in one deployment. The first round is stated apart; `steady` are the others (all rounds
  of a mode that has at most two).
- `fp16`: float16 arrays in the same way, and Phloem on nodes that are sent the model (`phloem sent`).
- `digits`: the recipe's CNN (151,306 parameters), really trained, measured at the server after every round.
- `floor`: all three over lines without a limit: what a round takes here without communication.
- `memory`: the server's peak while it merges, by number of sites (`flower_memory`).

All processes share the cores of one machine, which is what a compressed round takes its time from. Nodes start warm
(`phloem.engines.flower.warm`) in every mode, Flower's own too; only NNCodec's environment starts as Flower does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flower_memory
from flower_deployment import APP, Deployment
from flower_rounds import messages_of, rounds_of
from links import Link, why_not
from measuring import EXAMPLES, spread, write
from phloem.recipe import load_recipe

RECIPE = EXAMPLES / "digits.toml"


def say(words: str) -> None:
    """Progress, on standard error."""
    print(words, file=sys.stderr, flush=True)


# ---- One run as a table ----------------------------------------------------------------------------------------


def table_of(deployment: Deployment, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """One run, done and summed up."""
    run = deployment.run(config)
    rows = rounds_of(run)
    for row in rows:
        say(f"{name:24s} round {row['round']}: {row['seconds']:7.1f} s, {row['wire']['both']:>13,} bytes")
    steady = rows[1:] if len(rows) > 2 else rows
    keys = ("seconds", "train seconds", "evaluate seconds")
    found: dict[str, Any] = {
        "config": {key: Path(value).name if key == "recipe" else value for key, value in config.items()},
        "rounds": rows,
        "steady": {
            **{key: spread([row[key] for row in steady]) for key in keys},
            **{
                f"bytes {way}": spread([row["wire"][way] for row in steady]) for way in ("both", "up", "down")
            },
        },
        "first": {"seconds": rows[0]["seconds"], "bytes": rows[0]["wire"]["both"]},
        "all rounds": {
            "rounds": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "bytes": sum(row["wire"]["both"] for row in rows),
        },
        "peak bytes of memory": run.peak_bytes,
        "bytes as Flower counts them": dict(zip(("up", "down"), run.flower_bytes, strict=True)),
    }
    if config["mode"] == "phloem":
        found["messages"] = messages_of(run, deployment.nodes)
    return found


# ---- The parts -------------------------------------------------------------------------------------------------


def contenders(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The configuration of every mode, by name, without its number of rounds."""
    model = {"model": options.model, "seed": options.seed}
    ours = {**model, "up-bits": options.up_bits, "down-bits": options.down_bits, "mode": "phloem"}
    return {
        "phloem held": {**ours, "held": True},
        "phloem sent": ours,
        "fp16": {**model, "mode": "fp16"},
        "plain": {**model, "mode": "plain"},
    }


def compared(options: argparse.Namespace, link: Link, rounds: Mapping[str, int]) -> dict[str, Any]:
    """These modes, one after the other in one deployment; first those that leave the least in the SuperLink."""
    modes = contenders(options)
    with Deployment(options.sites, link) as deployment:
        say("all SuperNodes are connected")
        found: dict[str, Any] = {"idle, bytes per second and site": _idle(deployment, options.idle_seconds)}
        runs = {n: table_of(deployment, n, {**modes[n], "rounds": count}) for n, count in rounds.items()}
    return {"peer ÷ phloem": ratios(runs), **found, "runs": runs}


def digits(options: argparse.Namespace, link: Link) -> dict[str, Any]:
    """The digits recipe, in every mode."""
    recipe = load_recipe(RECIPE)
    same = {"model": "digits", "recipe": str(RECIPE), "rounds": options.rounds_digits, "seed": recipe.seed}
    bits = {"up-bits": recipe.up["bits"], "down-bits": recipe.down["bits"]}
    runs = {
        "phloem": {**same, **bits, "mode": "phloem"},
        "fp16": {**same, "mode": "fp16"},
        "plain": {**same, "mode": "plain"},
    }
    with Deployment(options.sites, link) as deployment:
        found = {name: table_of(deployment, f"digits, {name}", run) for name, run in runs.items()}
    return {"peer ÷ phloem": ratios(found), "runs": found}


def nncodec(options: argparse.Namespace, link: Link) -> dict[str, Any]:
    """NNCodec's run."""
    python = options.nncodec_python
    if python is None:
        sys.exit("NNCodec needs an environment of its own: name its Python with --nncodec-python")
    settings = json.loads(
        subprocess.run(
            [python, str(APP / "bench_nnc.py"), options.model, str(options.seed), str(_our_error(options))],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    say(f"NNCodec's settings for updates: {settings}")
    found: dict[str, Any] = {"settings for updates": settings, "qp of weights": options.nncodec_qp}
    config = {
        "mode": "nncodec",
        "model": options.model,
        "seed": options.seed,
        "up-qp": settings["qp"],
        "down-qp": options.nncodec_qp,
        "lambda-scale": settings["lambda_scale"],
    }
    with Deployment(options.sites, link, python) as deployment:
        found["run"] = table_of(deployment, "nncodec", {**config, "rounds": options.rounds_nncodec})
    return found


def _our_error(options: argparse.Namespace) -> float:
    """What Phloem leaves of a first update at the wanted bits, relative: NNCodec is to leave no more."""
    sys.path.insert(0, str(APP))
    import bench_model
    import bench_nnc

    import phloem

    update = bench_model.update(options.model, options.seed, 0, 1)
    return bench_nnc.nmse(update, phloem.decode(phloem.encode(update, bits=options.up_bits)))


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """The server's peak by number of sites."""
    return {
        mode: {n: flower_memory.measured(mode, options.model, n) for n in options.memory_sites}
        for mode in ("phloem", "plain")
    }


# ---- Ratios ----------------------------------------------------------------------------------------------------


def ratios(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Every peer divided by Phloem's steady rounds, in medians; the range is that of all pairs of rounds."""
    found: dict[str, Any] = {}
    steady = next(run["steady"] for name, run in runs.items() if name.startswith("phloem"))
    for peer, theirs in runs.items():
        if peer.startswith("phloem"):
            continue
        found[peer] = {
            "bytes": _ratio(theirs["steady"]["bytes both"], steady["bytes both"]),
            "seconds": _ratio(theirs["steady"]["seconds"], steady["seconds"]),
        }
        for way in (name for name in runs if name.startswith("phloem")):
            mixed = {"first": runs[way]["first"], "steady": steady}  # rounds after the first are alike
            for what in ("bytes", "seconds"):
                found[peer][f"{what} of 10 rounds, {way}"] = _total(theirs, what, 10) / _total(
                    mixed, what, 10
                )
    return found


def _ratio(theirs: Mapping[str, float], ours: Mapping[str, float]) -> dict[str, float]:
    return {
        "median": theirs["median"] / ours["median"],
        "min": theirs["min"] / ours["max"],
        "max": theirs["max"] / ours["min"],
    }


def _total(table: Mapping[str, Any], what: str, rounds: int) -> float:
    """The first round as it was and the others at the median of the steady ones."""
    key = "bytes both" if what == "bytes" else what
    return float(table["first"][what] + (rounds - 1) * table["steady"][key]["median"])


def main() -> None:
    """Measures what was asked for and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=("plain", "fp16", "digits", "floor", "nncodec", "memory"))
    parser.add_argument("--model", choices=("resnet50", "tiny"), default="resnet50")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rate", type=float, default=10e6, help="of every line, in bits per second")
    parser.add_argument("--rtt", type=float, default=0.04, help="of every line, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--up-bits", type=float, default=0.05)
    parser.add_argument("--down-bits", type=float, default=0.05)
    parser.add_argument("--rounds-peer", type=int, default=2, help="of Flower as it is, and in float16")
    parser.add_argument("--rounds-phloem", type=int, default=5, help="after a first one")
    parser.add_argument("--rounds-nncodec", type=int, default=1)
    parser.add_argument("--rounds-digits", type=int, default=6)
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="a heartbeat comes every 30")
    parser.add_argument("--memory-sites", type=int, nargs="*", default=[2, 5, 10, 20])
    parser.add_argument("--nncodec-python", type=Path, metavar="PYTHON")
    parser.add_argument("--nncodec-qp", type=int, default=-38, help="of weights: NNCodec's own default")
    parser.add_argument("--print", action="store_true", help="on standard output, in place of the files")
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        sys.exit(reason)
    line, none = Link(options.rate, options.rate, options.rtt), Link(10e9, 10e9, 0.0)
    ours, peer = 1 + options.rounds_phloem, options.rounds_peer
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "plain": lambda: compared(options, line, {"phloem held": ours, "plain": peer}),
        "fp16": lambda: compared(options, line, {"phloem held": ours, "phloem sent": 2, "fp16": peer}),
        "digits": lambda: digits(options, line),
        "floor": lambda: compared(options, none, {"phloem held": ours, "fp16": 1, "plain": 1}),
        "nncodec": lambda: nncodec(options, line),
        "memory": lambda: memory(options),
    }
    for part in options.parts:
        started = time.monotonic()
        found = {"sites": options.sites, "line": vars(line), **measures[part]()}
        found["whole measurement, seconds"] = time.monotonic() - started
        if options.print:
            print(json.dumps(found, indent=1))
        else:
            write(f"flower-{part}", f"python benchmarks/flower.py {part} {_told()}".rstrip(), found)


def _idle(deployment: Deployment, seconds: float) -> dict[str, Any]:
    found = deployment.idle(seconds)
    return {"seconds": found["seconds"], **{w: spread(found[w]) for w in ("up_bytes", "down_bytes")}}


def _told() -> str:
    """The command line's options, without where an environment lies."""
    words = sys.argv[1:]
    words = words[next((i for i, word in enumerate(words) if word.startswith("-")), len(words)) :]
    with contextlib.suppress(ValueError, IndexError):
        words[words.index("--nncodec-python") + 1] = "PYTHON"
    return " ".join(words)


if __name__ == "__main__":
    main()
