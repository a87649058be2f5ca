"""What bits cost in rounds under Flower's own FedAvg: rounds and bytes to 97 % on the digits, by bits per parameter.

    python benchmarks/flower_learning.py --seeds 5

Ten sites, their skewed shares and their training are the recipe's; the merge is Flower's, which has no `division`: a
value that one of ten sites sent moves the model by a tenth. Messages stay in this process (`flower_grid`); bytes are
payloads, the first model, which every node is sent once, not among them.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

import phloem.flower
from flower_grid import Sites
from measuring import EXAMPLES, spread, write
from phloem.engines.host import initial_state_of, load_task_of
from phloem.recipe import load_recipe
from phloem.seeds import seed_for

TARGET = 0.97
WAYS: dict[str, tuple[float, float] | None] = {
    "plain": None,
    "0.03 up, 0.05 down": (0.03, 0.05),
    "0.1": (0.1, 0.1),
    "0.3": (0.3, 0.3),
    "1": (1.0, 1.0),
}


class ReachedError(Exception):
    """The model is good enough: Flower has no other way to stop."""


def learned(bits: tuple[float, float] | None, seed: int, most: int) -> dict[str, Any]:
    """Rounds and bytes until the stopping images are read."""
    recipe = load_recipe(EXAMPLES / "digits.toml", (f"seed={seed}",))
    task, sites = load_task_of(recipe), recipe.sites.all
    initial = dict(initial_state_of(task, recipe))
    found: list[float] = []
    sent = {"down": 0, "up": 0}

    def train(message: Message, context: Context) -> Message:
        state = {name: np.array(array.numpy()) for name, array in message.content["arrays"].items()}
        number = int(message.content["config"]["server-round"])
        site = sites[context.node_id - 1]
        trained, _, examples, _ = task.train(state, task.shard(site), {}, seed_for(recipe.seed, site, number))
        arrays = ArrayRecord({name: Array(np.asarray(array)) for name, array in trained.items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": examples})})
        return Message(content, reply_to=message)

    def measure(number: int, arrays: ArrayRecord) -> None:
        state = {name: array.numpy() for name, array in arrays.items()}
        found.append(task.evaluate(state, "stop")["accuracy"])
        if found[-1] >= TARGET:
            raise ReachedError

    with tempfile.TemporaryDirectory() as scratch:
        mod = phloem.flower.mod(initial=initial)

        def answer(message: Message) -> RecordDict:
            context = Context(1, message.metadata.dst_node_id, {"phloem-state": scratch}, RecordDict(), {})
            reply = mod(message, context, train) if bits else train(message, context)
            for way, content in (("down", message.content), ("up", reply.content)):
                records = content.array_records.values()
                sent[way] += sum(len(array.data) for record in records for array in record.values())
            return reply.content

        strategy: Any = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=len(sites), min_available_nodes=len(sites)
        )
        if bits:
            strategy = phloem.flower.Compressed(strategy, bits=bits[0], down_bits=bits[1], seed=seed)
        first = ArrayRecord({name: Array(np.asarray(array)) for name, array in initial.items()})
        with contextlib.suppress(ReachedError):
            strategy.start(Sites(len(sites), answer), first, num_rounds=most, evaluate_fn=measure)
    return {
        "seed": seed,
        "rounds": len(found) - 1,
        "reached": found[-1] >= TARGET,
        "bytes": sum(sent.values()),
    }


def main() -> None:
    """Measures every way with every seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most-rounds", type=int, default=60, help="after which a seed is given up")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for seed in range(options.seeds):
        for name, bits in WAYS.items():
            runs[name].append(learned(bits, seed, options.most_rounds))
            print(f"{name:20s} {runs[name][-1]}", file=sys.stderr, flush=True)
    ways = {}
    for name, rows in runs.items():
        pairs = [(r, p) for r, p in zip(rows, runs["plain"], strict=True) if r["reached"] and p["reached"]]
        ways[name] = {
            "reached": sum(row["reached"] for row in rows),
            "reached by it and by plain": len(pairs),
            "rounds": spread([row["rounds"] for row, _ in pairs]),
            "rounds ÷ plain": spread([row["rounds"] / plain["rounds"] for row, plain in pairs]),
            "plain bytes ÷ bytes": spread([plain["bytes"] / row["bytes"] for row, plain in pairs]),
            "runs": rows,
        }
    write("flower-learning", f"python benchmarks/flower_learning.py --seeds {options.seeds}", {"ways": ways})


if __name__ == "__main__":
    main()
