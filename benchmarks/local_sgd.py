"""LocalSGD to a loss over real lines: what `bits="auto"` is worth beside levels that somebody has chosen.

python benchmarks/local_sgd.py --seeds 3

Four ranks in network namespaces of their own (`links.py`) train the code language model with AdamW, 20 steps a merge,
until the merged model's held-out loss is 2.3 nats per byte. Seconds are those of a clock on the wall, with everything
in them but the process's start: training, coding, the line, and measuring the loss after each merge, which takes every
way equally long. Nobody tells `auto` the line. All four ranks share this machine's cores.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from typing import Any

from links import Link
from measuring import geometric_mean, spread, write
from ranks import run_ranks

RANKS, STEPS, TARGET, MOST_ROUNDS, HELD_OUT = 4, 20, 2.3, 40, 32
WAYS: dict[str, dict[str, Any]] = {
    "auto": {"bits": "auto"},
    "0.05 bits": {"bits": 0.05},
    "0.5 bits": {"bits": 0.5},
    "bf16": {"codec": "bf16"},
}
SLOW = "2 Mbit/s, 40 ms"
LINES = {
    SLOW: Link(2e6, 2e6, 0.02),  # 40 ms from rank to rank and back
    "50 Mbit/s, 20 ms": Link(50e6, 50e6, 0.01),
    "1 Gbit/s": Link(1e9, 1e9, 0.0, burst_seconds=0.002),
}
#: A merge in bfloat16 takes 20 s on the slow line: longer than a whole run in the other ways.
LEFT_OUT = {(SLOW, "bf16")}


def rank(seed: int, ways: list[str]) -> None:
    """Trains in each way to the target, one after another, and tells what each took."""
    import torch
    import torch.distributed as dist

    import phloem.torch
    from ddp_rank import LEARNING_RATE, WARMUP, CodeLM, batches

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=30))
    told = []
    for way in ways:
        model = CodeLM(seed)
        optimizer = torch.optim.AdamW(
            model.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=0.1, fused=True
        )
        batch, held = batches("code-lm", seed, dist.get_rank())
        held = held[:: len(held) // HELD_OUT]
        dist.barrier()
        started = time.perf_counter()
        local = phloem.torch.LocalSGD(model, optimizer, every=STEPS, **WAYS[way])
        losses, levels, exchanges = [], [], []
        while not losses or (losses[-1] > TARGET and len(losses) < MOST_ROUNDS):
            for _ in range(STEPS):
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (local.steps + 1) / (WARMUP + 1))
                optimizer.zero_grad()
                model(*batch()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                merged = local.step()
            assert merged is not None
            levels.append(merged.level)
            exchanges.append(merged.seconds)
            with torch.no_grad():
                losses.append(float(model(held)))  # the same bits everywhere, so all ranks end together
        told.append(
            {
                "way": way,
                "seconds": time.perf_counter() - started,
                "rounds": len(losses),
                "reached": losses[-1] <= TARGET,
                "merging_seconds": sum(exchanges),
                "sent_bytes": local.traffic.sent,
                "levels": levels,
                "losses": losses,
            }
        )
    print(json.dumps({"ways": told}))
    dist.destroy_process_group()


def run(seeds: int) -> dict[str, Any]:
    """Every line, seed and way; ways in an order of their own for each seed, since the machine's speed drifts."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    names = list(WAYS)
    for seed in range(1, seeds + 1):
        for line, link in LINES.items():
            started = time.perf_counter()
            turned = names[seed % len(names) :] + names[: seed % len(names)]
            order = [way for way in turned if (line, way) not in LEFT_OUT]
            argv = [sys.executable, __file__, "--rank", json.dumps(order), "--seed", str(seed)]
            told = run_ranks(argv, {f"rank-{n}": link for n in range(RANKS)}, timeout_seconds=1200.0)
            for place, way in enumerate(order):
                every = [one["ways"][place] for one in told]
                slowest = max(every, key=lambda one: one["seconds"])
                cells.setdefault(line, {}).setdefault(way, []).append({"seed": seed, **slowest})
            words = {way: round(cells[line][way][-1]["seconds"], 1) for way in order}
            print(
                f"seed {seed}  {line}: {words}  ({time.perf_counter() - started:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    return {"ways": WAYS, "target": TARGET, "steps": STEPS, "table": table(cells), "cells": cells}


def table(cells: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """By line: seconds and rounds of every way, and auto's seconds over the best other way's, seed by seed."""
    found: dict[str, Any] = {}
    for line, ways in cells.items():
        rows = {
            way: {
                "seconds": spread([one["seconds"] for one in runs]),
                "rounds": spread([float(one["rounds"]) for one in runs]),
                "kilobytes": spread([one["sent_bytes"] / 1e3 for one in runs]),
                "reached": sum(one["reached"] for one in runs),
            }
            for way, runs in ways.items()
        }
        means = {way: geometric_mean([one["seconds"] for one in runs]) for way, runs in ways.items()}
        there = [way for way, runs in ways.items() if way != "auto" and all(one["reached"] for one in runs)]
        best = min(there, key=means.__getitem__)
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(ways["auto"], ways[best], strict=True)]
        found[line] = {"ways": rows, "best_fixed": best, "auto_over_best": spread(ratios)}
    return found


def main() -> None:
    """Runs all, or one rank of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rank", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        rank(options.seed, options.rank)
        return
    started = time.perf_counter()
    result = run(options.seeds)
    result["run_seconds"] = round(time.perf_counter() - started)
    write("local-sgd", f"python benchmarks/local_sgd.py --seeds {options.seeds}", result)


if __name__ == "__main__":
    main()
