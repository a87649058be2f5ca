"""The usual peers of a codec, called through their own packages: seconds of compressing and of restoring.

memcpy, torch's top-k with 32-bit indices, torch's PowerSGD hook and zstd run in this environment; hivemind's 8-bit
codecs and NNCodec in ones of their own (`environment` below, `nncodec_points.py --make-env`).

python3.11 benchmarks/peers.py --make-env /tmp/peers     # hivemind and bitsandbytes
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 5
NEEDED = ("torch==2.13.0", "numpy<2", "hivemind==1.1.12", "bitsandbytes==0.50.2")


def seconds(work: Callable[[], object], runs: int = RUNS) -> dict[str, Any]:
    """Median, smallest and largest of the runs, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return spread(times)


def spread(times: list[float]) -> dict[str, Any]:
    """Median, smallest and largest, in seconds."""
    found = {"median": statistics.median(times), "min": min(times), "max": max(times)}
    return {key: round(value, 6) for key, value in found.items()} | {"runs": len(times)}


def memcpy(values: np.ndarray) -> dict[str, Any]:
    """Copying the update."""
    target = np.empty_like(values)
    time_of = seconds(lambda: np.copyto(target, values))
    return {
        "peer": "memcpy",
        "bits": 32.0,
        "parameters": values.size,
        "encode_s": time_of,
        "decode_s": time_of,
    }


def top_k(values: np.ndarray, fraction: float) -> dict[str, Any]:
    """torch.topk of the magnitudes; float32 values with 32-bit indices."""
    import torch

    flat = torch.from_numpy(values).reshape(-1)
    count = round(fraction * flat.numel())

    def encode() -> bytes:
        places = flat.abs().topk(count, sorted=False).indices
        return places.to(torch.int32).numpy().tobytes() + flat[places].numpy().tobytes()

    data = bytearray(encode())

    def decode() -> torch.Tensor:
        places = torch.frombuffer(data, dtype=torch.int32, count=count)
        restored = torch.zeros_like(flat)
        restored[places.long()] = torch.frombuffer(data, dtype=torch.float32, count=count, offset=4 * count)
        return restored

    lost = float((flat - decode()).double().square().sum() / flat.double().square().sum())
    return {
        "peer": f"torch top-k {fraction:g} + 32-bit indices",
        "bits": 8 * len(data) / flat.numel(),
        "nmse": lost,
        "parameters": flat.numel(),
        "encode_s": seconds(encode),
        "decode_s": seconds(decode),
    }


def zstd(values: np.ndarray, level: int = 3) -> dict[str, Any]:
    """zstd over the update's float32 bytes; nothing is lost."""
    import zstandard

    raw = values.tobytes()
    packed = zstandard.ZstdCompressor(level=level).compress(raw)
    return {
        "peer": f"zstd-{level}",
        "bits": 8 * len(packed) / values.size,
        "nmse": 0.0,
        "parameters": values.size,
        "encode_s": seconds(lambda: zstandard.ZstdCompressor(level=level).compress(raw), 3),
        "decode_s": seconds(lambda: zstandard.ZstdDecompressor().decompress(packed), 3),
    }


def power_sgd(values: np.ndarray, rank: int = 4) -> dict[str, Any]:
    """torch's PowerSGD hook in a group of one process: compressing, exchanging with nobody, restoring, in one."""
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        columns = values.shape[1]
        layer = torch.nn.Linear(columns, values.shape[0], bias=False)
        model = DistributedDataParallel(layer, bucket_cap_mb=1024)
        state = PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
        times: list[float] = []

        def timed(state, bucket):  # type: ignore[no-untyped-def]  # torch compares annotations, ours are texts
            bucket.buffer().copy_(torch.from_numpy(values).reshape(-1))
            started = time.perf_counter()
            future = powerSGD_hook(state, bucket)
            future.wait()
            times.append(time.perf_counter() - started)
            return future

        model.register_comm_hook(state, timed)
        for _ in range(3 + RUNS):  # two plain ones, one that makes the low-rank tensors
            model(torch.ones(1, columns)).sum().backward()
    finally:
        dist.destroy_process_group()
    sent = rank * (values.shape[0] + columns)
    both = spread(times[3:])
    return {
        "peer": f"torch PowerSGD hook, rank {rank} (encode and decode in one)",
        "bits": 32 * sent / values.size,
        "parameters": values.size,
        "encode_s": both,
        "decode_s": None,
    }


def hivemind_here(values: np.ndarray) -> list[dict[str, Any]]:
    """hivemind's two 8-bit codecs, when this is the environment that has them."""
    import torch
    from hivemind.compression import BlockwiseQuantization, CompressionInfo, Uniform8BitQuantization

    tensor = torch.from_numpy(values)
    info = CompressionInfo.from_tensor(tensor)
    rows = []
    for codec in (BlockwiseQuantization(), Uniform8BitQuantization()):
        packed = codec.compress(tensor, info)
        lost = float(
            (codec.extract(packed) - tensor).double().square().sum() / tensor.double().square().sum()
        )
        rows.append(
            {
                "peer": f"hivemind {type(codec).__name__}",
                "bits": 8 * len(packed.buffer) / values.size,
                "nmse": lost,
                "parameters": values.size,
                "encode_s": seconds(lambda c=codec: c.compress(tensor, info)),  # type: ignore[misc]
                "decode_s": seconds(lambda c=codec, p=packed: c.extract(p)),  # type: ignore[misc]
            }
        )
    return rows


def hivemind(python: Path | None, values: np.ndarray, scratch: Path) -> list[dict[str, Any]]:
    """hivemind's rows from its own environment, or one that says why there are none."""
    if python is None:
        return [{"peer": "hivemind block 8-bit", "missing": "no --peers-python given"}]
    np.save(scratch / "values.npy", values)
    return _elsewhere(
        [str(python), "-W", "ignore", __file__, "--hivemind", str(scratch / "values.npy")], "hivemind"
    )


def nncodec(python: Path | None, values: np.ndarray, scratch: Path) -> list[dict[str, Any]]:
    """NNCodec's rows from its own environment, or one that says why there are none."""
    if python is None:
        return [{"peer": "NNCodec", "missing": "no --nncodec-python given"}]
    from safetensors.numpy import save_file

    save_file({"weight": values}, scratch / "values.safetensors")
    script = Path(__file__).parent / "nncodec_points.py"
    rows = _elsewhere(
        [str(python), "-W", "ignore", str(script), "--speed", str(scratch / "values.safetensors")], "NNCodec"
    )
    for row in rows:
        if "missing" not in row:
            row["peer"] = f"NNCodec, lambda_scale {row['lambda_scale']:g}, {row['target_bits']:g} bits"
            row["encode_s"], row["decode_s"] = spread(row["encode_s"]), spread(row["decode_s"])
    return rows


def _elsewhere(command: list[str], name: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        return [{"peer": name, "missing": reason[-1] if reason else f"exit code {done.returncode}"}]
    rows: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return rows


def main() -> None:
    """Makes hivemind's environment, or measures in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make-env", type=Path, metavar="DIR")
    parser.add_argument("--hivemind", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.make_env:
        subprocess.run([sys.executable, "-m", "venv", str(options.make_env)], check=True)
        pip = [str(options.make_env / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *NEEDED], check=True)
    elif options.hivemind:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(hivemind_here(np.load(options.hivemind))))


if __name__ == "__main__":
    main()
