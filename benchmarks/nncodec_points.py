"""Measures NNCodec 2.1.3, the reference software of ISO/IEC 15938-17, on the updates: real files, decoded again.

It needs an environment of its own (NumPy 1, its torch), which the first command makes anywhere outside the repository:

python3.11 benchmarks/nncodec_points.py --make-env /tmp/nncodec
python benchmarks/updates.py
/tmp/nncodec/bin/python benchmarks/nncodec_points.py        # benchmarks/results/nncodec.json, about half an hour

Settings, all of NNCodec's coding tools that apply to one update: dependent (trellis) quantisation, adaptation of the
arithmetic coder's parameters, row skipping, one step for every tensor (its default codes vectors at a step of 2e-6,
which costs bits and buys no NMSE). `lambda_scale` weighs rate in the trellis. `nncodec.nn.encode` does not offer
it and leaves it at 0, so that the trellis looks at the distortion alone; `nncodec.nnc.compress` does, and with it the
same NMSE takes about half the bits below 0.1 bit. `rates.py` compares with both: `default` is lambda_scale 0, `best`
the front over every lambda_scale and QP tried, which is what a patient user gets.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VERSION = "2.1.3"
LAMBDA_SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)
MOST_BITS = 5.0  # a parameter
SETTINGS = {"use_dq": True, "param_opt": True, "row_skipping": True, "qp_density": 2}

# NNCodec imports its examples' data sets and models, which need these two; coding tensors touches neither.
STAND_INS = {
    "torchvision/__init__.py": "from . import datasets, models, transforms\n",
    **dict.fromkeys(
        ("torchvision/datasets.py", "torchvision/models.py", "torchvision/transforms.py", "cv2/__init__.py"),
        "def __getattr__(name):\n"
        "    if name.startswith('__'):\n"
        "        raise AttributeError(name)\n"
        "    return type(name, (), {'__init__': lambda self, *args, **options: None})\n",
    ),
}
NEEDED = (
    "numpy<2",
    "torch==2.13.0",
    "pandas",
    "scikit-learn",
    "torchmetrics",
    "click",
    "h5py",
    "tqdm",
    "ptflops",
)


def make_environment(directory: Path) -> None:
    """A virtual environment with NNCodec, its kernels compiled with -O3, and stand-ins for what it only imports."""
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *NEEDED, "pybind11", "safetensors"], check=True)
    flags = {**os.environ, "CFLAGS": "-O3"}
    subprocess.run([*pip, "--no-deps", f"nncodec=={VERSION}"], check=True, env=flags)
    found = subprocess.run(
        [str(directory / "bin" / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name, text in STAND_INS.items():
        path = Path(found.stdout.strip()) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


def measure(update: dict[str, Any], qp: int, lambda_scale: float, directory: Path) -> dict[str, Any]:
    """One file: its bytes, the NMSE of what comes out of it, and seconds of `compress` and `decompress`."""
    import numpy as np
    from nncodec import nnc

    path = directory / "update.nnc"
    with contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        nnc.compress(
            update, bitstream_path=str(path), qp=qp, nonweight_qp=qp, lambda_scale=lambda_scale, **SETTINGS
        )
        encoded = time.perf_counter()
        decoded = nnc.decompress(str(path))
        finished = time.perf_counter()
    if set(decoded) != set(update):
        raise SystemExit(f"NNCodec returned other tensors at QP {qp}")
    lost = sum(
        float(
            np.square(
                np.subtract(update[name], decoded[name].reshape(update[name].shape), dtype=np.float64)
            ).sum()
        )
        for name in update
    )
    size, energy = _size_and_energy(update)
    length = path.stat().st_size
    return {
        "lambda_scale": lambda_scale,
        "qp": qp,
        "bytes": length,
        "nmse": lost / energy,
        "bits": 8 * length / size,
        "encode_s": round(encoded - started, 4),
        "decode_s": round(finished - encoded, 4),
    }


def _size_and_energy(update: dict[str, Any]) -> tuple[int, float]:
    import numpy as np

    arrays = update.values()
    return sum(a.size for a in arrays), sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays)


def points(update: dict[str, Any], scales: Sequence[float], label: str) -> list[dict[str, Any]]:
    """Files for every lambda_scale from about 5 bits down to where the file is all headers."""
    size, energy = _size_and_energy(update)
    middle = math.floor(4 * math.log2(math.sqrt(energy / size)))  # QP 4k is a step of 2^k
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for scale in scales:
            for qp in range(middle - 16, middle + 40):
                one = measure(update, qp, scale, Path(scratch))
                if one["bits"] > MOST_BITS:
                    continue
                if one["nmse"] >= 1:
                    break
                found.append(one)
                line = (
                    f"{label:14s} lambda_scale {scale} qp {qp} {one['bits']:.4f} bits, NMSE {one['nmse']:.5f}"
                )
                print(line, file=sys.stderr, flush=True)
    return found


def speeds(update: dict[str, Any], targets: Sequence[float], runs: int = 5) -> list[dict[str, Any]]:
    """At the QP whose file comes nearest to each target in bits: its bits, and the seconds of every run."""
    size, energy = _size_and_energy(update)
    middle = math.floor(4 * math.log2(math.sqrt(energy / size)))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for scale in (0.0, 1.0):
            tried = {
                qp: measure(update, qp, scale, Path(scratch))["bits"]
                for qp in range(middle - 14, middle + 16, 2)
            }
            for target in targets:
                qp = min(tried, key=lambda q: abs(math.log(tried[q] / target)))
                timed = [measure(update, qp, scale, Path(scratch)) for _ in range(runs)]
                seconds = {key: [one[key] for one in timed] for key in ("encode_s", "decode_s")}
                rows.append({**timed[0], "target_bits": target, "parameters": size, **seconds})
    return rows


def content_digest(update: dict[str, Any]) -> str:
    """SHA-256 of an update's names and values: points of another update must not be compared with ours."""
    whole = hashlib.sha256()
    for name in sorted(update):
        whole.update(name.encode() + b"\0" + update[name].astype("<f4").tobytes())
    return whole.hexdigest()


def document(found: dict[str, list[dict[str, Any]]], sizes: dict[str, int], digests: dict[str, str]) -> str:
    """The results as JSON, one point on a line."""
    import importlib.metadata as meta

    head = {
        "command": "python benchmarks/nncodec_points.py",
        "machine": {"cores": os.cpu_count(), "system": platform.system()},
        "versions": {name: meta.version(name) for name in ("nncodec", "numpy", "torch")},
        "settings": {**SETTINGS, "nonweight_qp": "qp", "lambda_scale": list(LAMBDA_SCALES)},
        "parameters": sizes,
        "digests": digests,
    }
    rows = [
        f' "{name}": [\n' + ",\n".join("  " + json.dumps(one) for one in found[name]) + "\n ]"
        for name in found
    ]
    return json.dumps(head, indent=1)[:-2] + ',\n "points": {\n' + ",\n".join(rows) + "\n }\n}\n"


def main() -> None:
    """Makes the environment, or measures in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make-env", type=Path, metavar="DIR")
    parser.add_argument(
        "--speed", type=Path, metavar="FILE", help="time one update, results on standard output"
    )
    parser.add_argument("--updates", type=Path, default=HERE / ".updates")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "nncodec.json")
    options = parser.parse_args()
    if options.make_env:
        make_environment(options.make_env)
        return
    from safetensors.numpy import load_file

    if options.speed:
        print(json.dumps(speeds(load_file(options.speed), (0.05, 0.5, 4.0))))
        return
    files = sorted(options.updates.glob("*.safetensors"))
    chosen = [path for path in files if not options.only or path.stem in options.only]
    if not chosen:
        raise SystemExit(f"no updates in {options.updates}: run benchmarks/updates.py first")
    found, sizes, digests = {}, {}, {}
    if options.only and options.out.exists():  # the others stay as they were measured
        before = json.loads(options.out.read_text("utf-8"))
        found, sizes, digests = before["points"], before["parameters"], before.get("digests", {})
    for path in chosen:
        update = load_file(path)
        sizes[path.stem] = _size_and_energy(update)[0]
        found[path.stem] = points(update, LAMBDA_SCALES, path.stem)
        digests[path.stem] = content_digest(update)
        options.out.write_text(document(found, sizes, digests), "utf-8")


if __name__ == "__main__":
    main()
