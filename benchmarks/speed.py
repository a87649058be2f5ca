"""How fast `ecsq` is on one core with error feedback, how much memory it takes, and how that compares."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import peers
from phloem import feedback as ef
from phloem.bench.updates import heavy_tailed
from phloem.codecs.ecsq import Ecsq
from phloem.tensors import Layout
from phloem.wire import frame as frames

SIDE, NNCODEC_SIDE = 5000, 1000
BITS = {
    "fast": (0.02, 0.05, 0.1, 0.5, 1.0, 2.0, 4.0, 4.5),
    "balanced": (0.02, 0.1, 0.6, 2.0),
    "best": (0.05, 0.6),
}


def ours(effort: str, bits: float, values: np.ndarray) -> dict[str, Any]:
    """One setting through `phloem.feedback`, in its second round, with a residual to add.

    search: update + residual to frame where the first round's step is the guess, and misses. send: the same where the
    guess is as good as it is once a run is under way, so that one encode does. settle: what the frame lost becomes the
    residual. decode: the receiver's work.
    """
    codec = Ecsq(bits=bits, effort=effort)  # type: ignore[arg-type]
    layout = Layout.of({"weight": values})
    _, flying = ef.send(ef.Residual(), [values], codec, layout)
    state, _ = ef.settle(flying, layout, accepted=True)
    times: dict[str, list[float]] = {"search": [], "send": [], "settle": [], "decode": []}
    for _ in range(2):
        started = time.perf_counter()
        _, flying = ef.send(state, [values], codec, layout)
        times["search"].append(time.perf_counter() - started)
    state = dataclasses.replace(state, step=flying.step)
    for _ in range(peers.RUNS + 1):
        moments = [time.perf_counter()]
        frame, flying = ef.send(state, [values], codec, layout)
        moments.append(time.perf_counter())
        ef.resolve(flying, layout, accepted=True)
        moments.append(time.perf_counter())
        frames.unpack(frame, layout).decode()
        moments.append(time.perf_counter())
        for name, i in (("send", 0), ("settle", 1), ("decode", 2)):
            times[name].append(moments[i + 1] - moments[i])
    row = {f"{name}_s": peers.spread(found[1:]) for name, found in times.items()}
    return {
        "effort": effort,
        "target_bits": bits,
        "bits": 8 * len(frame) / layout.size,
        "parameters": layout.size,
        **row,
    }


def memory(effort: str, bits: float) -> dict[str, Any]:
    """Peak memory of a round's parts beyond what was held before ÷ the update, from a process of its own."""
    command = [sys.executable, __file__, "--memory", effort, str(bits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _memory_here(effort: str, bits: float) -> dict[str, Any]:
    values = heavy_tailed(SIDE, SIDE)["weight"]
    layout = Layout.of({"weight": values})
    codec = Ecsq(bits=bits, effort=effort)  # type: ignore[arg-type]
    small = Layout.of({"weight": values[:64]})
    frames.unpack(
        frames.pack(codec, [values[:64]], small), small
    ).decode()  # what is loaded once is not counted
    owed = [np.array(values) for _ in range(1)]
    state = ef.Residual(tuple(owed))
    row: dict[str, Any] = {"effort": effort, "target_bits": bits}
    before = _reset()
    frame, flying = ef.send(state, [values], codec, layout)
    row["send"] = (_peak() - before) / values.nbytes
    before = _reset()
    ef.resolve(flying, layout, accepted=True, reuse=True)
    row["settle"] = (_peak() - before) / values.nbytes
    before = _reset()
    decoded = frames.unpack(frame, layout).decode()
    row["decode"] = (_peak() - before) / values.nbytes
    del decoded, owed
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


def _reset() -> int:
    """Bytes held now, with the kernel's high-water mark set to them."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text("ascii")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(key))


def run(efforts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the peers in one run, each as a multiple of memcpy's time per parameter."""
    torch.set_num_threads(1)
    values = heavy_tailed(SIDE, SIDE)["weight"]
    copy = peers.memcpy(values)
    rows = []
    for effort in efforts:
        for bits in options.bits or BITS[effort]:
            rows.append({**ours(effort, bits, values), "memory": memory(effort, bits)})
            _say(f"ecsq {effort} {bits:g} bits", rows[-1]["send_s"], values.size)
    found = [copy]
    with tempfile.TemporaryDirectory() as scratch:
        for made in (
            lambda: [peers.top_k(values, 0.001), peers.top_k(values, 0.01)],
            lambda: [peers.power_sgd(values)],
            lambda: [peers.zstd(values)],
            lambda: peers.hivemind(options.peers_python, values, Path(scratch)),
            lambda: peers.nncodec(
                options.nncodec_python, heavy_tailed(NNCODEC_SIDE, NNCODEC_SIDE)["weight"], Path(scratch)
            ),
        ):
            found += made()
            _say(found[-1]["peer"], found[-1].get("encode_s"), found[-1].get("parameters", 1))
    per = copy["encode_s"]["median"] / values.size
    for row in (*rows, *found):
        for key in ("search_s", "send_s", "settle_s", "encode_s", "decode_s"):
            if row.get(key):
                time_of = row[key]["median"] / row["parameters"]
                row[key[:-1] + "rate"] = round(1 / time_of / 1e6, 2)
                row[key[:-1] + "memcpys"] = round(time_of / per, 3)
    return {"values": f"{SIDE}×{SIDE}, {heavy_tailed.__doc__}".split("\n")[0], "ecsq": rows, "peers": found}


def _say(label: str, times: dict[str, Any] | None, size: int) -> None:
    rate = f"{size / times['median'] / 1e6:10.1f} M/s" if times else "missing"
    print(f"{label:55s} {rate}", file=sys.stderr, flush=True)


def table(answer: dict[str, Any]) -> list[str]:
    """Rates in millions of parameters per second, in brackets the time as a multiple of memcpy's."""
    heads = " ".join(f"{head:>17s}" for head in ("encode", "settle", "decode", "with a search"))
    text = [f"{'':52s} {'bits':>7s} {heads}  peak memory ÷ update"]
    for row in answer["ecsq"]:
        held = row["memory"]
        cells = " ".join(
            f"{row[k + '_rate']:9.1f} ({row[k + '_memcpys']:5.1f})"
            for k in ("send", "settle", "decode", "search")
        )
        text.append(
            f"{'ecsq ' + row['effort'] + ', error feedback':52s} {row['bits']:7.4f} {cells}  "
            f"{held['send']:.2f} {held['settle']:.2f} {held['decode']:.2f}"
        )
    for row in answer["peers"]:
        if "missing" in row:
            text.append(f"{row['peer']:52s} {row['missing']}")
            continue
        decode = f"{row['decode_rate']:9.1f} ({row['decode_memcpys']:5.1f})" if row["decode_s"] else ""
        text.append(
            f"{row['peer']:52s} {row['bits']:7.4f} {row['encode_rate']:9.1f} ({row['encode_memcpys']:5.1f}) "
            f"{'':17s} {decode}"
        )
    return text


if __name__ == "__main__":
    if sys.argv[1:2] != ["--memory"]:
        raise SystemExit("run benchmarks/codecs.py speed")
    print(json.dumps(_memory_here(sys.argv[2], float(sys.argv[3]))))
