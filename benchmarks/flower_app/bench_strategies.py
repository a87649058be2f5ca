"""The strategies of the four modes: Flower's FedAvg, with marks in a file at every phase of a round.

At some marks the harness outside reads the kernel's counters. The server waits for it there: the marks say how long.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from bench_codecs import Plain, codec_of
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

_PAUSE_SECONDS = 0.005
Merged = tuple[ArrayRecord | None, MetricRecord | None]


class Marks:
    """Lines of JSON in FOLDER/marks.jsonl; FOLDER/read says how many of them the harness has dealt with."""

    def __init__(self, folder: Path) -> None:
        self.path, self.read = folder / "marks.jsonl", folder / "read"
        self.paused = 0.0
        self.count = 0

    def say(self, mark: str, number: int, **facts: Any) -> None:
        """Adds a mark."""
        self.count += 1
        times = {
            "at": time.monotonic(),
            "paused": self.paused,
            "cpu": time.process_time(),
            "pid": os.getpid(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"mark": mark, "round": number, **times, **facts}) + "\n")

    def stop(self, mark: str, number: int, **facts: Any) -> None:
        """Adds a mark, and waits until the harness has read the counters there."""
        self.say(mark, number, counters=True, **facts)
        started = time.monotonic()
        while int(self.read.read_text("ascii") or 0) < self.count:
            time.sleep(_PAUSE_SECONDS)
        self.paused += time.monotonic() - started


class Marked(Strategy):
    """What comes before a strategy's class to mark its phases."""

    marks: Marks

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.marks.stop("begin", server_round, codec=self.codec_seconds())
        out = list(super().configure_train(server_round, arrays, config, grid))  # type: ignore[safe-super]
        self.marks.say("train sent", server_round)
        return out

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Merged:
        self.marks.say("train received", server_round, codec=self.codec_seconds())
        out = super().aggregate_train(server_round, replies)  # type: ignore[safe-super]
        self.marks.stop("trained", server_round, codec=self.codec_seconds())
        return out

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        out = list(super().configure_evaluate(server_round, arrays, config, grid))  # type: ignore[safe-super]
        self.marks.say("evaluate sent", server_round)
        return out

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        replies = list(replies)
        self.marks.say("evaluate received", server_round)
        out = super().aggregate_evaluate(server_round, replies)  # type: ignore[safe-super]
        rows = [
            [row.phase, row.node, row.direction, row.bytes, row.compressed]
            for row in getattr(self, "traffic", ())
            if row.round == server_round
        ]
        self.marks.stop("end", server_round, traffic=rows, codec=self.codec_seconds())
        return out

    def codec_seconds(self) -> float:
        """Of coding and decoding at the server so far, where it is known."""
        codec = getattr(self, "codec", None)
        return codec.seconds if codec is not None else 0.0


class Coded(FedAvg):
    """FedAvg of whole models that travel as `codec` has them, and are averaged in float32."""

    codec: Plain
    _sent: tuple[ArrayRecord, ArrayRecord] | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return super().configure_train(server_round, self._coded(arrays), config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return super().configure_evaluate(server_round, self._coded(arrays), config, grid)

    def _coded(self, arrays: ArrayRecord) -> ArrayRecord:
        if self._sent is None or self._sent[0] is not arrays:
            started = time.perf_counter()
            state = {n: _single(a.numpy()) for n, a in arrays.items()}
            self._sent = arrays, self.codec.model_out(state)
            self.codec.seconds += time.perf_counter() - started
        return self._sent[1]


class HalfAvg(Coded):
    """FedAvg of float16 models."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Merged:
        return super().aggregate_train(server_round, [_with(reply, _wide(reply)) for reply in replies])


class StreamAvg(Coded):
    """FedAvg of NNCodec's bitstreams: the model and the mean of the updates, decoded one at a time."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Merged:
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        assert self._sent is not None
        weights = [float(m.content["metrics"][self.weighted_by_key]) for m in valid]  # type: ignore[index]
        state = {name: array.numpy() for name, array in self._sent[0].items()}
        for message, weight in zip(valid, weights, strict=True):
            started = time.perf_counter()
            values = self.codec.values(message.content["arrays"])  # type: ignore[arg-type]
            self.codec.seconds += time.perf_counter() - started
            for name, value in values.items():
                if name.endswith("num_batches_tracked"):
                    state[name] = value
                else:
                    state[name] = state[name] + value.reshape(state[name].shape) * (weight / sum(weights))
        metrics = self.train_metrics_aggr_fn([m.content for m in valid], self.weighted_by_key)
        return ArrayRecord({n: Array(np.asarray(_single(a))) for n, a in state.items()}), metrics


class _Wide(Array):
    """A float16 array that reads as float32, so that means are taken in that."""

    def numpy(self) -> Any:
        return super().numpy().astype(np.float32)


def _wide(reply: Message) -> ArrayRecord:
    record = ArrayRecord()
    for name, a in reply.content["arrays"].items():  # type: ignore[union-attr]
        record[name] = _Wide(a.dtype, a.shape, a.stype, a.data) if a.dtype == "float16" else a
    return record  # built by items: the constructor would make plain arrays of them


def _with(reply: Message, arrays: ArrayRecord) -> Message:
    out = copy.copy(reply)
    out.content = RecordDict({**reply.content, "arrays": arrays})
    return out


def _single(array: Any) -> Any:
    """In float32 whatever is a model's float; FedAvg makes float64 of integers."""
    return array if array.dtype != np.float64 else np.rint(array).astype(np.int64)


def strategy_of(config: Any, folder: Path) -> Any:
    """The strategy of a run, with its marks."""
    sites, mode = int(config["sites"]), str(config["mode"])
    everybody = {"min_train_nodes": sites, "min_evaluate_nodes": sites, "min_available_nodes": sites}
    if config["model"] == "digits":  # measured at the server, as the recipe does
        everybody |= {"fraction_evaluate": 0.0}
    base: Any = {"plain": FedAvg, "fp16": HalfAvg, "nncodec": StreamAvg}.get(mode)
    if mode == "phloem":
        import phloem.flower

        bits = {"bits": float(config["up-bits"]), "down_bits": float(config["down-bits"])}
        base, arguments = phloem.flower.Compressed, {"strategy": FedAvg(**everybody), **bits}
    else:
        arguments = everybody
    strategy = type("Marked", (Marked, base), {})(**arguments)
    strategy.marks = Marks(folder)
    if mode in ("fp16", "nncodec"):
        strategy.codec = codec_of(config)
    return strategy
