"""How a state lies in Flower's records: as it is (`plain`, `phloem`), in float16 (`fp16`), as NNCodec's bitstream."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

State = dict[str, Any]
STREAM = "nncodec bitstream"  # the array that has one


class Plain:
    """Every array as it is."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.seconds = 0.0  # of coding and decoding so far

    def model_in(self, record: ArrayRecord) -> State:
        """The model that came down, in types to train in."""
        started = time.perf_counter()
        state = {name: _trainable(name, values) for name, values in self.values(record).items()}
        self.seconds += time.perf_counter() - started
        return state

    def values(self, record: ArrayRecord) -> State:
        """The arrays of a record."""
        return {name: array.numpy() for name, array in record.items()}

    def model_out(self, state: State) -> ArrayRecord:
        """The record of a model that goes down."""
        return _record(state)

    def trained_out(self, state: State, base: State) -> ArrayRecord:
        """The record of a model that was trained from `base`."""
        started = time.perf_counter()
        record = self.model_out(state)
        self.seconds += time.perf_counter() - started
        return record


class Half(Plain):
    """Floats as float16; the counters as they are."""

    def model_out(self, state: State) -> ArrayRecord:
        """As `Plain`."""
        return _record({n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in state.items()})


class Stream(Plain):
    """NNCodec's bitstream of the floats, in one array: of the weights down, of the update up."""

    def values(self, record: ArrayRecord) -> State:
        """As `Plain`."""
        from bench_nnc import decode

        plain = {name: array for name, array in record.items() if name != STREAM}
        return {**super().values(ArrayRecord(plain)), **decode(record[STREAM].numpy().tobytes())}

    def model_out(self, state: State) -> ArrayRecord:
        """As `Plain`."""
        return self._coded(state, {}, int(self.config["down-qp"]))

    def trained_out(self, state: State, base: State) -> ArrayRecord:
        """As `Plain`."""
        started = time.perf_counter()
        record = self._coded(state, base, int(self.config["up-qp"]))
        self.seconds += time.perf_counter() - started
        return record

    def _coded(self, state: State, base: State, qp: int) -> ArrayRecord:
        from bench_nnc import encode

        floats = {n: a - base[n] if n in base else a for n, a in state.items() if a.dtype == np.float32}
        stream = encode(floats, qp, float(self.config["lambda-scale"]))
        others = {name: array for name, array in state.items() if name not in floats}
        return _record({**others, STREAM: np.frombuffer(stream, np.uint8)})


def codec_of(config: Any) -> Plain:
    """The codec of a run's mode."""
    return {"fp16": Half, "nncodec": Stream}.get(str(config["mode"]), Plain)(config)


def _record(state: State) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in state.items()})


def _trainable(name: str, values: Any) -> Any:
    """Floats in float32; counters as integers, of which Flower's mean makes floats."""
    if name.endswith("num_batches_tracked"):
        return np.rint(values).astype(np.int64)
    return np.asarray(values, np.float32)
