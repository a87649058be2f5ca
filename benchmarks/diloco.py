"""DiLoCo of the code language model: what a worker sends until it has the loss of 20 dense rounds, beside SparseLoCo.

python benchmarks/diloco.py search            (seeds 11 and 12: the outer rate that SparseLoCo does best with)
python benchmarks/diloco.py loss --seeds 5

Four workers in one process, 20 inner steps a round. Every frame goes from its worker to the three others, and every
worker merges all four itself: three times the frame and its envelope are counted. Dense fp32 is counted as a ring
all-reduce of the parameters. All three train from the same seeds.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from measuring import EXAMPLES, geometric_mean, quiet, spread, write
from phloem import feedback as ef
from phloem.codecs.registry import codec_from
from phloem.engines.host import initial_state_of, load_task_of
from phloem.feedback import Residual
from phloem.recipe import load_recipe
from phloem.rounds.merge import MergeRule, ServerOptimizer, WeightedMerge
from phloem.rounds.site import add, difference
from phloem.seeds import seed_for
from phloem.tasks.base import Memory
from phloem.tensors import Array, Layout, State
from phloem.wire.messages import PREFIX_BYTES, Reply, Status

RECIPE = EXAMPLES / "code-lm.toml"
DENSE_ROUNDS = 20
MOST_ROUNDS = 45
FIRST_SEED = 1
SEARCH_SEEDS = (11, 12)  # ours and the peer's outer rate were chosen on these

# DiLoCo's own outer step (Douillard et al. 2023)
DENSE = ServerOptimizer("nesterov", learning_rate=0.7, momentum=0.9)

CODEC = {"codec": "ecsq", "bits": 0.03, "effort": "fast"}
DECAY = 0.9
DIVISION = 1.0
OUTER = ServerOptimizer("sgd", learning_rate=2.0)

# SparseLoCo as its reference optimiser has it (Sarfi et al. 2025)
SIDE = 64  # of a block; a vector's chunk is as long
KEPT = 64  # in 4096
SPARSE_DECAY = 0.95
BINS, SIGMAS = 4, 6
SPARSE_RATE = 1.5  # the best of 0.4, 0.65, 1.0 and 1.5 on the search seeds

Merged = tuple[
    list[Array], list[float]
]  # the trunk's step; bytes that each worker sent, or those by another count


class Method(Protocol):
    """How the workers' updates of a round become one step, and what that takes."""

    def exchange(self, updates: Sequence[list[Array]], number: int) -> Merged:
        """The step, and what a worker sends on average, by one count or more."""
        ...


@dataclass
class World:
    """The workers of one seed, with their text."""

    seed: int

    def __post_init__(self) -> None:
        recipe = load_recipe(RECIPE, [f"seed={self.seed}", "run.workers=0"])
        self.names = recipe.sites.all
        self.task = load_task_of(recipe)
        self.start = initial_state_of(self.task, recipe)
        self.layout = Layout.of(self.start)
        self.shards = {name: self.task.shard(name) for name in self.names}

    def updates(self, state: State, memory: dict[str, Memory], number: int) -> list[list[Array]]:
        """What every worker learned in this round from this state; moments go to `memory`."""
        before = self.layout.arrays(state)
        found = []
        for name in self.names:
            seed = seed_for(self.seed, "train", name, number)
            copy = {tensor: array.copy() for tensor, array in state.items()}
            trained, memory[name], _, _ = self.task.train(
                copy, self.shards[name], memory[name], seed, site=name
            )
            found.append(difference(self.layout.arrays(trained), before))
        return found

    def loss(self, state: State, part: str = "stop") -> float:
        """Nats per byte of held-out text."""
        return float(self.task.evaluate(state, part)["loss"])  # type: ignore[arg-type]


class Dense:
    """float32, summed in a ring; Nesterov outside."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.merge = WeightedMerge(MergeRule(0.0, DENSE))

    def exchange(self, updates: Sequence[list[Array]], number: int) -> Merged:
        """The mean through the outer step; a ring all-reduce sends 2 (W - 1) / W of the tensors' bytes."""
        step = self.merge.step(self.layout, ((1.0, update) for update in updates))
        assert step is not None
        return step, [2 * (len(updates) - 1) / len(updates) * 4 * self.layout.size]


class Phloem:
    """Frames with error feedback whose residual decays."""

    def __init__(
        self,
        layout: Layout,
        codec: Mapping[str, Any] = CODEC,
        decay: float = DECAY,
        division: float = DIVISION,
        outer: ServerOptimizer = OUTER,
    ) -> None:
        self.layout, self.codec, self.decay = layout, codec_from(codec), np.float32(decay)
        self.merge = WeightedMerge(MergeRule(division, outer))
        self.residuals: dict[int, Residual] = {}

    def exchange(self, updates: Sequence[list[Array]], number: int) -> Merged:
        """The outer step of the decoded frames' mean; the frames with their envelopes."""
        decoded, sizes = [], []
        for worker, update in enumerate(updates):
            before = self.residuals.get(worker, Residual())
            seed = seed_for(number, "frame", worker)
            frame, flying = ef.send(before, update, self.codec, self.layout, seed=seed)
            after, arrays = ef.settle(flying, self.layout, accepted=True)
            assert arrays is not None
            assert after.owed is not None
            kept = tuple(np.asarray(self.decay * owed) for owed in after.owed)
            self.residuals[worker] = replace(after, owed=kept)
            decoded.append(arrays)
            sizes.append(enveloped(frame, worker, number))
        step = self.merge.step(self.layout, ((1.0, arrays) for arrays in decoded))
        assert step is not None
        return step, [sent_to_others(sizes)]


def enveloped(frame: bytes, worker: int, number: int) -> int:
    """The size of the message that brings a frame to another worker."""
    prefix = bytes(PREFIX_BYTES)
    return len(Reply(number, worker, Status.UPDATE, prefix, prefix, 80, frame).pack())


def sent_to_others(sizes: Sequence[int]) -> float:
    """What a worker sends on average when its message goes to all the others."""
    return (len(sizes) - 1) * sum(sizes) / len(sizes)


class SparseLoco:
    """The largest 64 of every 4096 in two bits, residuals that decay by 0.95, and plain SGD outside."""

    def __init__(self, layout: Layout, rate: float = SPARSE_RATE) -> None:
        self.layout, self.rate = layout, np.float32(rate)
        self.owed: dict[int, list[Array]] = {}

    def exchange(self, updates: Sequence[list[Array]], number: int) -> Merged:
        """The mean over the workers that sent a value; messages with 12-bit places, and with Rice-coded ones."""
        sums = [np.zeros(spec.shape) for spec in self.layout.specs]
        senders = [np.zeros(spec.shape) for spec in self.layout.specs]
        packed, rice = [], []
        for worker, update in enumerate(updates):
            owed = self.owed.setdefault(
                worker, [np.zeros(spec.shape, np.float32) for spec in self.layout.specs]
            )
            message, shorter = b"", b""
            for place, array in enumerate(update):
                compensated = np.float32(SPARSE_DECAY) * owed[place] + array
                body, body_rice = sparse(compensated)
                values, sent = unsparse(body, array.shape)
                owed[place] = compensated - values
                sums[place] += values
                senders[place] += sent
                message, shorter = message + body, shorter + body_rice
            packed.append(enveloped(message, worker, number))
            rice.append(enveloped(shorter, worker, number))
        step = [
            self.rate * (s / np.maximum(n, 1)).astype(np.float32) for s, n in zip(sums, senders, strict=True)
        ]
        return step, [sent_to_others(packed), sent_to_others(rice)]


def blocks(array: Array) -> Array:
    """A matrix as its 64 x 64 blocks, a vector as its stretches of 64: (blocks, values)."""
    if array.ndim == 1:
        return array.reshape(-1, SIDE)
    high, wide = (size // SIDE for size in array.shape)
    return np.ascontiguousarray(array.reshape(high, SIDE, wide, SIDE).swapaxes(1, 2)).reshape(-1, SIDE * SIDE)


def unblocks(values: Array, shape: tuple[int, ...]) -> Array:
    """What `blocks` was given."""
    if len(shape) == 1:
        return values.reshape(shape)
    high, wide = (size // SIDE for size in shape)
    return values.reshape(high, wide, SIDE, SIDE).swapaxes(1, 2).reshape(shape)


def kept_of(length: int) -> int:
    """How many values of a block of this length are sent."""
    return max(1, round(length * KEPT / SIDE**2))


def sparse(array: Array) -> tuple[bytes, bytes]:
    """The largest values of every block as bytes: bin means, places, two-bit values; and with Rice-coded places."""
    rows = blocks(array)  # (blocks, values)
    count = kept_of(rows.shape[1])
    places = np.sort(np.argpartition(-np.abs(rows), count - 1, axis=1)[:, :count], axis=1)  # (blocks, count)
    values = np.take_along_axis(rows, places, axis=1).ravel()
    shift = values.mean()
    centred = values - shift
    sigma = float(np.linalg.norm(centred)) / math.sqrt(max(values.size - 1, 1))
    scale = SIGMAS * sigma / BINS or 1.0
    bins = np.clip(np.rint(centred / scale + BINS // 2), 0, BINS - 1).astype(np.int64)
    counts = np.bincount(bins, minlength=BINS)
    means = np.bincount(bins, centred, minlength=BINS) / np.maximum(counts, 1) + shift
    table, levels = means.astype("<f4").tobytes(), fixed(bins, 2)
    return table + fixed(places.ravel(), 12) + levels, table + rice_coded(places, rows.shape[1]) + levels


def unsparse(body: bytes, shape: tuple[int, ...]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The tensor that `sparse` packed with 12-bit places, and where a value was sent."""
    length = SIDE if len(shape) == 1 else SIDE**2
    number = math.prod(shape) // length
    entries = number * kept_of(length)
    means = np.frombuffer(body, "<f4", BINS)
    table, end = 4 * BINS, 4 * BINS + -(-12 * entries // 8)
    places = unfixed(body[table:end], 12, entries).reshape(number, -1)
    rows, sent = np.zeros((number, length), np.float32), np.zeros((number, length), np.float32)
    np.put_along_axis(rows, places, means[unfixed(body[end:], 2, entries)].reshape(number, -1), axis=1)
    np.put_along_axis(sent, places, np.float32(1), axis=1)
    return unblocks(rows, shape), unblocks(sent, shape) != 0


def fixed(numbers: npt.NDArray[np.int64], width: int) -> bytes:
    """Numbers of `width` bits each, one after another."""
    return np.packbits(numbers[:, None] >> np.arange(width)[::-1] & 1).tobytes()


def unfixed(data: bytes, width: int, count: int) -> npt.NDArray[np.int64]:
    """What `fixed` packed."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=width * count).reshape(count, width)
    return bits.astype(np.int64) @ (1 << np.arange(width)[::-1])


def rice_coded(places: npt.NDArray[np.int64], length: int) -> bytes:
    """Sorted places of every block as the gaps between them, Rice-coded (Golomb with a power of two)."""
    width = max(0, round(math.log2(math.log(2) * length / places.shape[1])))
    gaps = (np.diff(places, axis=1, prepend=-1) - 1).ravel()
    unary, rest = gaps >> width, gaps & (1 << width) - 1
    ends = np.cumsum(unary + 1 + width)
    bits = np.zeros(int(ends[-1]), np.uint8)
    bits[ends - width - 1] = 1
    for place in range(width):
        bits[ends - 1 - place] = rest >> place & 1
    return np.packbits(bits).tobytes()


def train(world: World, method: Method, rounds: int, target: float | None = None) -> dict[str, Any]:
    """The rounds until the loss is no worse than `target`, or all: the curve of (round, loss, bytes by each count)."""
    state = world.start
    memory: dict[str, Memory] = {name: {} for name in world.names}
    curve: list[list[float]] = []
    sent = np.zeros(1)
    started = time.perf_counter()
    for number in range(rounds):
        step, sizes = method.exchange(world.updates(state, memory, number), number)
        state = add(state, step)
        sent = sent + np.array(sizes)
        curve.append([number + 1, world.loss(state), *sent.tolist()])
        if not math.isfinite(curve[-1][1]) or (target is not None and curve[-1][1] <= target):
            break
    loss = curve[-1][1]
    reached = target is not None and loss <= target
    print(
        f"seed {world.seed:3d}  {type(method).__name__:11s} {len(curve):3d} rounds  loss {loss:.4f}  "
        f"kB a worker {' '.join(f'{size / 1e3:.1f}' for size in sent)}  {time.perf_counter() - started:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return {
        "rounds": len(curve),
        "reached": reached,
        "loss": loss,
        "best_loss": min(point[1] for point in curve),
        "test_loss": world.loss(state, "test"),
        "bytes": sent.tolist(),
        "curve": curve,
    }


def one(seed: int, name: str, target: float | None) -> dict[str, Any]:
    """One method on one seed, until it has the target."""
    world = World(seed)
    kind, _, rate = name.partition(" ")
    makers: Mapping[str, Callable[[], Method]] = {
        "dense": lambda: Dense(world.layout),
        "phloem": lambda: Phloem(world.layout),
        "sparseloco": lambda: SparseLoco(world.layout, float(rate or SPARSE_RATE)),
    }
    return train(world, makers[kind](), DENSE_ROUNDS if kind == "dense" else MOST_ROUNDS, target)


def runs(seeds: Sequence[int], names: Sequence[str], processes: int) -> dict[int, dict[str, dict[str, Any]]]:
    """Dense rounds on every seed, and what the other methods need to their loss; by seed and method."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), quiet) as pool:
        dense = {seed: pool.submit(one, seed, "dense", None) for seed in seeds}
        found = {seed: {"dense": dense[seed].result()} for seed in seeds}
        asked = {
            (seed, name): pool.submit(one, seed, name, found[seed]["dense"]["loss"])
            for name in names
            for seed in seeds
        }
        for (seed, name), future in asked.items():
            found[seed][name] = future.result()
    return found


def search(seeds: int, processes: int) -> dict[str, Any]:
    """The outer rates of the peer on the seeds that settings are chosen on: rounds to the dense loss."""
    names = ["phloem", *(f"sparseloco {rate}" for rate in (0.4, 0.65, 1.0, 1.5))]
    return {"seeds": {str(seed): row for seed, row in runs(SEARCH_SEEDS, names, processes).items()}}


def loss(seeds: int, processes: int) -> dict[str, Any]:
    """Every seed, and over them the spread of rounds and of bytes saved."""
    started = time.perf_counter()
    found = runs(range(FIRST_SEED, FIRST_SEED + seeds), ["sparseloco", "phloem"], processes)
    answer: dict[str, Any] = {"seconds": round(time.perf_counter() - started), "processes": processes}
    counts = {"phloem": ("phloem", 0), "sparseloco": ("sparseloco", 0), "sparseloco_rice": ("sparseloco", 1)}
    for label, (name, count) in counts.items():
        done = [row for row in found.values() if row[name]["reached"]]
        ratios = [row["dense"]["bytes"][0] / row[name]["bytes"][count] for row in done]
        if ratios:
            whole = {**spread(ratios), "geometric_mean": geometric_mean(ratios), "of": len(found)}
            answer[f"fewer_bytes_{label}"] = whole
            answer[f"rounds_{label}"] = {**spread([row[name]["rounds"] for row in done]), "of": len(found)}
    return {**answer, "seeds": {str(seed): row for seed, row in found.items()}}


def settings() -> dict[str, Any]:
    """What was run, for the result."""
    return {
        "recipe": "examples/code-lm.toml",
        "dense": {"rounds": DENSE_ROUNDS, "outer": vars(DENSE)},
        "phloem": {"codec": CODEC, "decay": DECAY, "division": DIVISION, "outer": vars(OUTER)},
        "sparseloco": {
            "kept": [KEPT, SIDE**2],
            "decay": SPARSE_DECAY,
            "bins": BINS,
            "sigmas": SIGMAS,
            "rate": SPARSE_RATE,
        },
    }


PARTS: Mapping[str, Callable[[int, int], dict[str, Any]]] = {"search": search, "loss": loss}


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="seeds at a time, each on one core")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    quiet()
    result = PARTS[options.part](options.seeds, options.processes)
    command = f"python benchmarks/diloco.py {options.part} --seeds {options.seeds}"
    write(f"diloco-{options.part}", command, {**settings(), **result})


if __name__ == "__main__":
    main()
