"""Sizes and speeds of `lossless` beside zstd and ZipNN, on real weights alone and against a base.

    python benchmarks/lossless.py [MODEL.safetensors ...] [--zipnn PYTHON] [--out FILE]

Without a model: the repository's own code-lm GPT, trained here, and two of its checkpoints. A model given is measured
as float32 and as bfloat16. ZipNN needs torch, so it runs in the interpreter PYTHON of an environment of its own
(`pip install zipnn`); without one its cells are empty. Every speed is the median of five in one thread, in MB/s of
uncompressed bytes; the kernel's level and memcpy's speed are written beside it. zstd-19 is timed once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from safetensors.numpy import load_file

from measuring import RESULTS
from phloem import kernels
from phloem.codecs.casts import to_bf16
from phloem.codecs.lossless import decode_bytes, encode_bytes
from phloem.job.record import versions
from phloem.tasks.code_lm import CodeLM

TIMES = 5
_ZIPNN = """
import json, statistics, sys, time, zipnn
data, kind = open(sys.argv[1], "rb").read(), sys.argv[2]
coder = zipnn.ZipNN(input_format="byte", bytearray_dtype=kind, threads=1)
there, back = [], []
for _ in range(5):
    copy = bytearray(data)  # it works in place
    start = time.perf_counter(); packed = coder.compress(copy); there.append(time.perf_counter() - start)
    start = time.perf_counter(); plain = coder.decompress(packed); back.append(time.perf_counter() - start)
assert bytes(plain) == data
print(json.dumps([len(packed), statistics.median(there), statistics.median(back)]))
"""


def timed(call: Callable[[], Any], times: int = TIMES) -> tuple[Any, float]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


def row(size: int, packed: int, encode: float, decode: float) -> dict[str, float]:
    return {
        "bytes": packed,
        "share": packed / size,
        "encode_mb_per_second": size / encode / 1e6,
        "decode_mb_per_second": size / decode / 1e6,
    }


def measure(values: np.ndarray, dtype: str, base: np.ndarray | None, zipnn: str | None) -> dict[str, Any]:
    data = values.tobytes()
    size = len(data)
    body, encode = timed(lambda: encode_bytes(values, dtype, base))
    plain, decode = timed(lambda: decode_bytes(body, dtype, size, base))
    if bytes(plain) != data:
        raise SystemExit("lossless lost something")
    found: dict[str, Any] = {"bytes": size, "dtype": dtype, "lossless": row(size, len(body), encode, decode)}
    against = data if base is None else (values.reshape(-1) ^ base.reshape(-1)).tobytes()
    for level, times in ((3, TIMES), (19, 1)):
        packed, encode = timed(
            lambda level=level: zstandard.ZstdCompressor(level=level).compress(against), times
        )
        _, decode = timed(lambda packed=packed: zstandard.ZstdDecompressor().decompress(packed))
        found[f"zstd-{level}" + ("" if base is None else " of the XOR")] = row(
            size, len(packed), encode, decode
        )
    if base is None:
        found["zipnn"] = None if zipnn is None else with_zipnn(data, dtype, zipnn)
    _, copy = timed(lambda: bytearray(data))
    found["memcpy_mb_per_second"] = size / copy / 1e6
    return found


def with_zipnn(data: bytes, dtype: str, python: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "data"
        path.write_bytes(data)
        kind = {"F32": "float32", "BF16": "bfloat16"}[dtype]
        done = subprocess.run(
            [python, "-W", "ignore", "-c", _ZIPNN, str(path), kind],
            check=True,
            capture_output=True,
            text=True,
        )
    packed, encode, decode = json.loads(done.stdout.splitlines()[-1])
    return row(len(data), packed, encode, decode)


def checkpoints() -> Iterator[tuple[str, np.ndarray]]:
    """A code-lm GPT after 100 and 120 steps, and one small step of fine-tuning later."""
    task = CodeLM(["one"], 0, steps=20)
    state, memory, shard = task.initial_state(0), {}, task.shard("one")
    for number in range(6):
        state, memory, _, _ = task.train(state, shard, memory, number)
        if number >= 4:
            yield f"code-lm, {20 * number + 20} steps", vector(state)
    tuned = CodeLM(["one"], 0, steps=1, learning_rate=1e-5, warmup=0).train(state, shard, {}, 77)[0]
    yield "code-lm, one step of fine-tuning at 1e-5", vector(tuned)


def vector(state: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(
        [state[name].reshape(-1) for name in sorted(state) if state[name].dtype == np.float32]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="*", type=Path)
    parser.add_argument("--zipnn", metavar="PYTHON", help="an interpreter that has zipnn")
    parser.add_argument("--out", type=Path, default=RESULTS / "lossless.json")
    given = parser.parse_args()
    cases: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    last = None
    for name, values in checkpoints():
        cases.append((name, values, None))
        if last is not None:
            cases.append((f"{name}, from the one before", values, last))
        last = values
    cases += [(path.name, vector(load_file(path)), None) for path in given.model]
    results = {}
    for name, values, base in cases:
        wide = values.view(np.uint32), None if base is None else base.view(np.uint32)
        narrow = to_bf16(values), None if base is None else to_bf16(base)
        for dtype, (here, near) in (("F32", wide), ("BF16", narrow)):
            found = results[f"{name}, {dtype}"] = measure(here, dtype, near, given.zipnn)
            shares = {key: f"{cell['share']:.4f}" for key, cell in found.items() if isinstance(cell, dict)}
            ours = found["lossless"]
            speeds = f"{ours['encode_mb_per_second']:.0f} / {ours['decode_mb_per_second']:.0f} MB/s"
            print(f"{name}, {dtype}: {shares}  {speeds}", file=sys.stderr, flush=True)
    level = "reference" if kernels.backend_name() == "reference" else kernels.backend().simd_levels()[-1]
    report = {"versions": versions(), "kernels": level, "results": results}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
