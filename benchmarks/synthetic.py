"""How far `ecsq` is from the ideal quantiser on values whose distribution is known."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import ideal
from phloem import feedback as ef
from phloem.codecs.ecsq import Ecsq
from phloem.seeds import generator
from phloem.tensors import Layout
from phloem.wire import frame as frames

SIDE = 2048
OURS = [2 ** (k / 2) for k in range(-14, 7)]  # steps ÷ rms, from about 8 bits to 0.01
# Steps of the ideal curve, an eighth of an octave apart: on both ends beyond ours.
GRID = [2 ** (k / 8) for k in range(-64, 40)]
# research/codecs.md, table 1.3: NMSE of ideal ECSQ at 0.05, 0.1, 0.25, 0.5, 1, 2, 4 and 8 bits.
PUBLISHED_BITS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8)
PUBLISHED = {
    "gaussian": (0.952, 0.909, 0.789, 0.617, 0.348, 0.0889, 5.56e-3, 2.17e-5),
    "laplace": (0.901, 0.831, 0.671, 0.486, 0.262, 0.0729, 4.79e-3, 1.88e-5),
    "student-t3": (0.729, 0.649, 0.507, 0.368, 0.207, 0.0597, 3.92e-3, 1.47e-5),
    "ggd-half": (0.764, 0.653, 0.457, 0.288, 0.133, 0.0338, 2.29e-3, 9.26e-6),
}


def distances(efforts: list[str]) -> dict[str, Any]:
    """Per source and shape, our bits minus the ideal's at the same NMSE; and the ideal curve beside the published."""
    answer: dict[str, Any] = {"values": SIDE * SIDE, "sources": {}}
    for name, source in ideal.SOURCES.items():
        values = source.draw(generator(0, "synthetic", name), SIDE * SIDE).astype(np.float32)
        sample = ideal.Sample(values)
        found = ideal.curves(sample.at, GRID)
        rows = {}
        for effort in efforts:
            for shape in ((SIDE, SIDE), (SIDE * SIDE,)):
                label = f"{effort} {'matrix' if len(shape) == 2 else 'vector'}"
                rows[label] = _rows(values.reshape(shape), sample.rms, effort, found)
                worst = max(rows[label], key=lambda row: row[2])
                line = f"{name:11s} {label:16s} worst {worst[2]:+.4f} bit at {worst[0]:.3f} bits"
                print(line, file=sys.stderr, flush=True)
        analytic = ideal.curves(lambda step, zone, s=source: ideal.of_source(s, step, zone), GRID)  # type: ignore[misc]
        check = [
            {"bits": bits, "nmse": nmse, "ours": ideal.ideal_bits(nmse, analytic)}
            for bits, nmse in zip(PUBLISHED_BITS, PUBLISHED[name], strict=True)
        ]
        answer["sources"][name] = {"bits_nmse_above": rows, "published": check}
    return answer


def _rows(
    values: np.ndarray, rms: float, effort: str, found: list[list[tuple[float, float]]]
) -> list[tuple[float, float, float]]:
    layout = Layout.of({"values": values})
    rows = []
    for step in OURS:
        frame = frames.pack(Ecsq(step=rms * step, effort=effort), [values], layout)  # type: ignore[arg-type]
        nmse = ef.nmse([values], frames.unpack(frame, layout).decode())
        bits = 8 * len(frame) / layout.size
        limit = ideal.ideal_bits(nmse, found) if 0 < nmse < 1 else None
        if limit is not None and bits <= 8:
            rows.append((round(bits, 5), float(f"{nmse:.6g}"), round(bits - limit, 5)))
    return rows


def table(answer: dict[str, Any]) -> list[str]:
    """The worst distance and where it is, by source and coder."""
    text = [f"{'source':11s} {'coder':16s} {'worst, bit':>10s} {'at bits':>8s}  distance by rate"]
    for name, source in answer["sources"].items():
        for label, rows in source["bits_nmse_above"].items():
            bits, _, above = max(rows, key=lambda row: row[2])
            some = "  ".join(f"{b:.3g}: {d:+.3f}" for b, _, d in rows[::2])
            text.append(f"{name:11s} {label:16s} {above:10.4f} {bits:8.3f}  {some}")
    return text
