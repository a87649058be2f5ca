"""Bytes at equal NMSE: one coder's curve against another's points, and how the ratios are summed up."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from measuring import geometric_mean
from phloem import feedback as ef
from phloem.codecs.ecsq import Ecsq
from phloem.errors import ConfigError
from phloem.tensors import Layout, State
from phloem.wire import frame as frames

EFFORTS = ("fast", "balanced", "best")
STEPS_PER_OCTAVE = 3
WINDOW = (0.03, 0.65)  # of the peer's bits
WORST_UP_TO = (3.0, 4.0)


@dataclass(frozen=True)
class Point:
    """One encoded update: bits per parameter of the stand-alone file and of the wire frame, and what it lost."""

    file_bits: float
    wire_bits: float
    nmse: float


def efforts() -> list[str]:
    """The efforts that this version's `ecsq` has."""
    found = []
    for effort in EFFORTS:
        try:
            Ecsq(step=1.0, effort=effort)  # type: ignore[arg-type]
            found.append(effort)
        except ConfigError:
            continue
    return found


def curve(update: State, effort: str, most_bits: float = 5.5) -> list[Point]:
    """Ours from about 5 bits down to nothing: real frames, decoded again, a third of an octave apart."""
    layout = Layout.of(update)
    arrays = layout.arrays(update)
    rms = ef.norm(arrays) / math.sqrt(layout.size)
    points = []
    for k in range(-5 * STEPS_PER_OCTAVE, 9 * STEPS_PER_OCTAVE):
        codec = Ecsq(step=rms * 2 ** (k / STEPS_PER_OCTAVE), effort=effort)  # type: ignore[arg-type]
        wire = frames.pack(codec, arrays, layout)
        if 8 * len(wire) > most_bits * layout.size:
            continue
        file = frames.pack(codec, arrays, layout, with_layout=True)
        nmse = ef.nmse(arrays, frames.unpack(file).decode())
        if nmse >= 1:
            break
        points.append(Point(8 * len(file) / layout.size, 8 * len(wire) / layout.size, nmse))
    return points


def bits_at(nmse: float, curve_nmse: Sequence[float], curve_bits: Sequence[float]) -> float | None:
    """A curve's bits at this NMSE, log bits straight over logit NMSE; None outside the curve.

    >>> bits_at(0.5, [0.2, 0.8], [4.0, 1.0])
    2.0
    """
    if not min(curve_nmse) <= nmse <= max(curve_nmse):
        return None
    order = np.argsort(curve_nmse)
    at = np.array([_logit(curve_nmse[i]) for i in order])
    return float(round(np.exp(np.interp(_logit(nmse), at, np.log([curve_bits[i] for i in order]))), 12))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def front(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The points that no other beats in bits and NMSE together, in order of bits."""
    kept: list[Mapping[str, Any]] = []
    for one in sorted(points, key=lambda p: (p["bits"], p["nmse"])):
        if not kept or one["nmse"] < kept[-1]["nmse"]:
            kept.append(one)
    return kept


def nncodec(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, list[Mapping[str, Any]]]]]:
    """NNCodec's document without its points, and its points: {settings: {update: points in order of bits}}.

    `best` is the front over all settings tried; `default` is what `nncodec.nn.encode` offers.
    """
    document = json.loads(path.read_text("utf-8"))
    found = document.pop("points")
    default = {name: front([p for p in points if not p["lambda_scale"]]) for name, points in found.items()}
    return document, {"best": {name: front(points) for name, points in found.items()}, "default": default}


def ratios(ours: Sequence[Point], theirs: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Per point of theirs that our curve covers: our bits ÷ theirs, for the file and for the wire frame."""
    nmse = [p.nmse for p in ours]
    found = []
    for point in theirs:
        file = bits_at(point["nmse"], nmse, [p.file_bits for p in ours])
        wire = bits_at(point["nmse"], nmse, [p.wire_bits for p in ours])
        if file is not None and wire is not None:
            bits = point["bits"]
            found.append({"bits": bits, "nmse": point["nmse"], "file": file / bits, "wire": wire / bits})
    return found


def summary(rows: Mapping[str, Sequence[Mapping[str, float]]], kind: str) -> dict[str, Any]:
    """Geometric mean in the window (every update weighs the same), per update, and the worst ratios.

    The mean is None where no update has a point in the window.
    """
    low, high = WINDOW
    per = {}
    for name, points in rows.items():
        inside = [p[kind] for p in points if low <= p["bits"] <= high]
        if inside:
            per[name] = {"mean": geometric_mean(inside), "points": len(inside)}
    worst = {}
    for most in WORST_UP_TO:
        every = [
            (p[kind], p["bits"], name) for name, points in rows.items() for p in points if p["bits"] <= most
        ]
        if every:
            ratio, bits, name = max(every)
            worst[f"{most:g}"] = {"ratio": ratio, "at_bits": bits, "update": name}
    mean = geometric_mean([float(one["mean"]) for one in per.values()]) if per else None
    return {"mean": mean, "updates": per, "worst_up_to": worst}


def by_band(rows: Mapping[str, Sequence[Mapping[str, float]]], kind: str) -> dict[str, float]:
    """Geometric means over all points by bands of the peer's bits."""
    edges = (0.01, 0.03, 0.08, 0.2, 0.35, 0.65, 1.2, 2.2, 3.0, 4.5)
    found = {}
    for low, high in itertools.pairwise(edges):
        inside = [p[kind] for points in rows.values() for p in points if low <= p["bits"] < high]
        if inside:
            found[f"{low:g}-{high:g}"] = round(geometric_mean(inside), 4)
    return found
