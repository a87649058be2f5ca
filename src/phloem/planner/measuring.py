"""A device's profile, measured: every option encodes and decodes updates of two sizes; a line goes through both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from phloem import feedback as ef
from phloem.codecs.registry import codec_from
from phloem.feedback import Residual
from phloem.planner.device import DECODE, ENCODE, Device
from phloem.planner.levels import LADDER
from phloem.seeds import generator
from phloem.tensors import Array, Layout
from phloem.wire import frame as frames

Progress = Callable[[int, int, str], None]
SMALL, LARGE = 16_384, 2_097_152
"""Parameters: of a small layer, and of an update that no cache holds (8 MiB)."""

_ROWS = 1024
_SMALL_RUNS, _RUNS, _SECONDS = 9, 5, 0.35
_COPY_BYTES = 1 << 26


def measure(made_by: Mapping[str, str], memory_bytes: float, progress: Progress) -> Device:
    """The profile of this device with the kernels in use, on one thread; about ten seconds.

    `progress` is told (done, of all, what comes next). `made_by` and `memory_bytes` become the profile's own.
    """
    keys = [
        (level, option, key)
        for level in LADDER
        for option, key in zip(level.options, level.keys, strict=True)
    ]
    costs: dict[str, dict[str, tuple[float, float]]] = {}
    updates = {size: _update(size) for size in (SMALL, LARGE)}
    for done, (_, option, key) in enumerate(keys):
        progress(done, len(keys), key)
        times = {size: _times(option.up, *updates[size]) for size in updates}
        costs[key] = {way: _line(times[SMALL][way], times[LARGE][way]) for way in (ENCODE, DECODE)}
    progress(len(keys), len(keys), "")
    return Device(costs, memory_bytes, _copying(), dict(made_by))


def _update(size: int) -> tuple[list[Array], Layout]:
    """A matrix like an update's: heavy tails, rows and columns of different scales."""
    rng = generator(0, "planner", "update", size)
    columns = size // _ROWS
    matrix = rng.standard_t(4, (_ROWS, columns)).astype(np.float32)
    matrix *= rng.lognormal(0, 0.5, (_ROWS, 1)).astype(np.float32)
    matrix *= rng.lognormal(0, 0.5, (1, columns)).astype(np.float32)
    return [matrix], Layout.of({"weight": matrix})


def _times(config: Mapping[str, Any], update: list[Array], layout: Layout) -> dict[str, float]:
    """Medians: of sending with error feedback, the frame's fate included, and of decoding."""
    codec = codec_from(config)
    spent: dict[str, list[float]] = {ENCODE: [], DECODE: []}
    residual = Residual()
    into = [np.empty_like(array) for array in update]
    most = _SMALL_RUNS if layout.size <= SMALL else _RUNS
    for turn in range(most + 1):
        started = time.perf_counter()
        frame, flying = ef.send(residual, update, codec, layout, into=into, seed=turn)
        into = (
            list(residual.owed) if residual.owed is not None else [np.empty_like(array) for array in update]
        )
        residual = ef.resolve(flying, layout, accepted=True, reuse=True)
        encoded = time.perf_counter()
        frames.unpack(frame, layout).decode()
        if turn:  # the first searches its step from nowhere, and its pages are new
            spent[ENCODE].append(encoded - started)
            spent[DECODE].append(time.perf_counter() - encoded)
        if turn >= 2 and sum(map(sum, spent.values())) > _SECONDS:
            break
    return {way: statistics.median(values) for way, values in spent.items()}


def _line(small: float, large: float) -> tuple[float, float]:
    """Fixed seconds, and seconds per parameter."""
    each = max(large - small, 0.0) / (LARGE - SMALL)
    return max(small - each * SMALL, 1e-7), max(each, 1e-13)


def _copying() -> float:
    """Bytes per second of a plain copy."""
    source = np.ones(_COPY_BYTES // 8)
    target = np.empty_like(source)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return _COPY_BYTES / statistics.median(times[1:])
