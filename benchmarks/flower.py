"""Rounds of Flower over real lines, its model as it is, in float16, by NNCodec and by Phloem: bytes, seconds, memory.

    python benchmarks/flower.py          writes results/flower.json; `--help` names smaller and larger measurements

With NNCodec, which needs an environment of its own:

    python3.11 benchmarks/nncodec_points.py --make-env /tmp/nncodec
    /tmp/nncodec/bin/python -m pip install flwr==1.41.0 'numpy<2'
    python benchmarks/flower.py --nncodec-python /tmp/nncodec/bin/python

Ten SuperNodes, a SuperLink and its app run as Flower's own processes, each in a network namespace of its own behind a
line of 10 Mbit/s and 40 ms (`links`), with TLS and node authentication. Bytes are the kernel's counts of IP packets on
those lines, everything included: requests, polling, TLS, TCP's own. Strategy: FedAvg with Flower's defaults, all sites
train and evaluate. Three parts:

- `resnet50`: the 320 arrays of a ResNet-50 (25.6 million parameters), drawn, with drawn updates; nothing is learned.
  `phloem held`: the nodes have the first model already, as a checkpoint that everybody starts from; `phloem sent`: it
  is sent. The first round is stated apart; `steady` are the others (all rounds of a mode that has at most two).
- `digits`: the recipe's CNN (151,306 parameters), really trained, measured at the server after every round.
- `memory`: the server's peak while it merges, by number of sites (`flower_memory`).

All processes share the cores of one machine: ten client processes start for every phase and take about two
seconds of a processor each, before any byte is sent. `floor` is the same over lines without a limit: what a round
takes here without communication. `seconds` are raw; `communication` is seconds less the floor's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flower_memory
from flower_deployment import APP, Deployment
from flower_rounds import messages_of, rounds_of
from links import Link, why_not
from measuring import EXAMPLES, spread, write
from phloem.errors import PhloemError
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


def contenders(options: argparse.Namespace, *, floor: bool = False) -> dict[str, dict[str, Any]]:
    """The runs of one deployment, by name; those that leave the least in the SuperLink's memory first."""
    model = {"model": options.model, "seed": options.seed}
    bits = {"up-bits": options.up_bits, "down-bits": options.down_bits}
    ours = {**model, **bits, "mode": "phloem"}
    if floor:
        return {
            "phloem held": {**ours, "held": True, "rounds": 1 + options.rounds_floor + 1},
            "fp16": {**model, "mode": "fp16", "rounds": options.rounds_floor},
            "plain": {**model, "mode": "plain", "rounds": options.rounds_floor},
        }
    return {
        "phloem held": {**ours, "held": True, "rounds": 1 + options.rounds_phloem},
        "phloem sent": {**ours, "rounds": 1 + options.rounds_sent},
        "fp16": {**model, "mode": "fp16", "rounds": options.rounds_fp16},
        "plain": {**model, "mode": "plain", "rounds": options.rounds_plain},
    }


def digits(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The runs of the digits recipe."""
    recipe = load_recipe(RECIPE)
    same = {"model": "digits", "recipe": str(RECIPE), "rounds": options.rounds_digits, "seed": recipe.seed}
    bits = {"up-bits": recipe.up["bits"], "down-bits": recipe.down["bits"]}
    return {
        "phloem": {**same, **bits, "mode": "phloem"},
        "fp16": {**same, "mode": "fp16"},
        "plain": {**same, "mode": "plain"},
    }


def nncodec(options: argparse.Namespace, links: Mapping[str, Link]) -> dict[str, Any]:
    """NNCodec's runs, over lines and over none; or why there are none."""
    python = options.nncodec_python
    if python is None:
        return {"missing": "no environment was named (--nncodec-python)"}
    tried = subprocess.run(
        [python, "-c", "import nncodec, flwr"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return {"missing": tried.stderr.strip().splitlines()[-1]}
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
    for name, link in links.items():
        count = options.rounds_nncodec if name == "lines" else options.rounds_floor
        with Deployment(options.sites, link, python) as deployment:
            found[name] = table_of(deployment, f"nncodec, {name}", {**config, "rounds": count})
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


def ratios(lines: Mapping[str, Any], floor: Mapping[str, Any]) -> dict[str, Any]:
    """Every peer divided by Phloem's steady rounds, in medians; the range is that of all pairs of rounds."""
    found: dict[str, Any] = {}
    ours = lines["phloem held"]["steady"]
    for peer in lines:
        if peer.startswith("phloem"):
            continue
        theirs = lines[peer]["steady"]
        row = {
            "bytes": _ratio(theirs["bytes both"], ours["bytes both"]),
            "seconds": _ratio(theirs["seconds"], ours["seconds"]),
        }
        if peer in floor and "phloem held" in floor:
            rest = [
                one["seconds"]["median"] - low["steady"]["seconds"]["median"]
                for one, low in ((theirs, floor[peer]), (ours, floor["phloem held"]))
            ]
            row["communication seconds"] = {"peer": rest[0], "phloem": rest[1]}
        for way in ("phloem held", "phloem sent"):
            mixed = {"first": lines[way]["first"], "steady": ours}  # rounds after the first are alike
            for what in ("bytes", "seconds"):
                row[f"{what} of 10 rounds, {way}"] = _total(lines[peer], what, 10) / _total(mixed, what, 10)
        found[peer] = row
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
    """Measures what was asked for and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("resnet50", "tiny"), default="resnet50")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rate", type=float, default=10e6, help="of every line, in bits per second")
    parser.add_argument("--rtt", type=float, default=0.04, help="of every line, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--up-bits", type=float, default=0.05)
    parser.add_argument("--down-bits", type=float, default=0.05)
    parser.add_argument("--rounds-plain", type=int, default=2)
    parser.add_argument("--rounds-fp16", type=int, default=2)
    parser.add_argument("--rounds-phloem", type=int, default=5, help="after a first one")
    parser.add_argument("--rounds-sent", type=int, default=1, help="after a first one that sends the model")
    parser.add_argument("--rounds-nncodec", type=int, default=2)
    parser.add_argument("--rounds-digits", type=int, default=4)
    parser.add_argument(
        "--rounds-floor", type=int, default=1, help="of every mode over lines without a limit"
    )
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="a heartbeat comes every 30")
    parser.add_argument("--memory-sites", type=int, nargs="*", default=[2, 5, 10, 20])
    parser.add_argument("--nncodec-python", type=Path, metavar="PYTHON")
    parser.add_argument("--nncodec-qp", type=int, default=-38, help="of weights: NNCodec's own default")
    parser.add_argument("--parts", nargs="+", default=["lines", "digits", "floor", "nncodec", "memory"])
    parser.add_argument("--print", action="store_true", help="on standard output, in place of the file")
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        sys.exit(reason)
    links = {
        "lines": Link(options.rate, options.rate, options.rtt),
        "floor": Link(10e9, 10e9, 0.0),
    }
    result: dict[str, Any] = {"sites": options.sites, "line": vars(links["lines"])}
    if {"lines", "digits"} & set(options.parts):
        with Deployment(options.sites, links["lines"]) as deployment:
            say("all SuperNodes are connected")
            result["idle, bytes per second and site"] = _idle(deployment, options.idle_seconds)
            if "digits" in options.parts:
                runs = digits(options)
                result["digits"] = {n: table_of(deployment, f"digits, {n}", runs[n]) for n in runs}
            if "lines" in options.parts:
                runs = contenders(options)
                result["lines"] = {n: table_of(deployment, n, runs[n]) for n in runs}
    if "floor" in options.parts:
        with Deployment(options.sites, links["floor"]) as deployment:
            runs = contenders(options, floor=True)
            result["floor"] = {n: table_of(deployment, f"{n}, floor", runs[n]) for n in runs}
    if "nncodec" in options.parts:
        try:
            found = nncodec(options, links)
        except (RuntimeError, PhloemError, subprocess.SubprocessError) as error:
            found = {"missing": f"it failed: {error}"}
        for part in ("lines", "floor"):
            if part in found and part in result:
                result[part]["nncodec"] = found.pop(part)
        result["nncodec"] = found
    if "memory" in options.parts:
        result["memory"] = memory(options)
    if "lines" in result:
        result = {"peer ÷ phloem": ratios(result["lines"], result.get("floor", {})), **result}
    command = " ".join(["python benchmarks/flower.py", *_told()])
    if options.print:
        print(json.dumps(result, indent=1))
    else:
        write("flower", command, result)


def _idle(deployment: Deployment, seconds: float) -> dict[str, Any]:
    found = deployment.idle(seconds)
    return {"seconds": found["seconds"], **{w: spread(found[w]) for w in ("up_bytes", "down_bytes")}}


def _told() -> list[str]:
    """The command line's arguments, without where an environment lies."""
    words = sys.argv[1:]
    with contextlib.suppress(ValueError, IndexError):
        words[words.index("--nncodec-python") + 1] = "PYTHON"
    return words


if __name__ == "__main__":
    main()
