"""NNCodec, the reference software of ISO/IEC 15938-17, as two functions of bytes; needs an environment of its own.

PYTHON bench_nnc.py MODEL SEED NMSE      the cheapest settings for an update at that error, as JSON
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = {"use_dq": True, "param_opt": True, "row_skipping": True, "qp_density": 2}  # as nncodec_points.py
_PART = "layer3.1.conv2"  # of a ResNet's update: enough to choose settings by
_SCALES = (0.0, 1.0, 2.0, 4.0)


def encode(state: dict[str, Any], qp: int, lambda_scale: float) -> bytes:
    """The bitstream of float32 arrays."""
    from nncodec import nnc

    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        path = Path(scratch, "stream.nnc")
        nnc.compress(
            state, bitstream_path=str(path), qp=qp, nonweight_qp=qp, lambda_scale=lambda_scale, **SETTINGS
        )
        return path.read_bytes()


def decode(stream: bytes) -> dict[str, Any]:
    """The arrays in a bitstream."""
    from nncodec import nnc

    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        path = Path(scratch, "stream.nnc")
        path.write_bytes(stream)
        return dict(nnc.decompress(str(path)))


def nmse(wanted: dict[str, Any], found: dict[str, Any]) -> float:
    """Σ(wanted − found)² ÷ Σ wanted²."""
    lost = sum(
        float(np.square(a - found[n].reshape(a.shape), dtype=np.float64).sum()) for n, a in wanted.items()
    )
    return lost / sum(float(np.square(a, dtype=np.float64).sum()) for a in wanted.values())


def chosen(wanted: dict[str, Any], most: float) -> dict[str, float]:
    """The settings with the fewest bytes among those with an NMSE of at most `most`."""
    deviation = float(np.sqrt(np.mean([np.square(a).mean() for a in wanted.values()])))
    middle = int(4 * np.log2(deviation))  # QP 4k is a step of 2^k
    found = []
    for scale in _SCALES:
        low, high = middle - 24, middle + 40  # the error grows with the step: halve the range
        best = None
        while low <= high:
            qp = (low + high) // 2
            stream = encode(wanted, qp, scale)
            error = nmse(wanted, decode(stream))
            if error <= most:
                size = sum(a.size for a in wanted.values())
                best = {"qp": qp, "lambda_scale": scale, "nmse": error, "bits": 8 * len(stream) / size}
                low = qp + 1
            else:
                high = qp - 1
        found += [best] if best else []
    return min(found, key=lambda one: one["bits"])


if __name__ == "__main__":
    from bench_model import update

    told = sys.argv[1:]
    print(json.dumps(chosen(update(told[0], int(told[1]), 0, 1, _PART), float(told[2]))))
