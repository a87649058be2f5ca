"""An exact version of a fine-tuned model: what it takes against the one before it, beside zstd and XOR.

Pairs of real models (`branches_tunes.py`): digits, and a GPT tuned on other packages for longer and shorter, with
larger and smaller steps, as float32 and rounded to bfloat16, which is how fine-tunes are published. `one step at
1e-6` is like a step of reinforcement learning: AdamW moves every weight by about a millionth, and of the bfloat16
values most stay. Ours is what the repository's files grew by with `repo.commit(lossless=True)`; records and
checksums included. The others are single zstd frames of the file's tensors, and carry no names. `XOR + planes +
zstd-3` is in the manner of BitX (ZipLLM): XOR with the model before, bytes of equal significance together, zstd.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from branches_models import say
from branches_tuned import stored
from branches_tunes import SITES, TUNE, code_model, packages, transfer, tuned
from phloem.branches.repository import Repository
from phloem.codecs.casts import to_bf16
from phloem.files.tensorfile import TensorFileWriter
from phloem.tensors import State, TensorSpec
from phloem.wire.contents import Contents

#: Steps and learning rates of the GPT on the packages of the fourth site.
TUNES = (
    TUNE,
    (150, 2e-5),
    (20, 2e-4),
    (20, 2e-5),
    (32, 1e-6),
    (1, 1e-6),
)
DTYPES = {"float32": 4, "bfloat16": 2}


def measure(scratch: Path, *, small: bool) -> dict[str, Any]:
    """All pairs in both types."""
    started, rows = time.perf_counter(), []
    for name, base, new in pairs(small=small):
        for dtype in DTYPES:
            rows.append({"pair": name, "dtype": dtype, **one(scratch, base, new, dtype)})
            row = rows[-1]
            say(f"bytes: exact, {name}, {dtype}: {100 * row['saved']:.1f} % saved", started)
    return {"pairs": rows}


def pairs(*, small: bool) -> Iterator[tuple[str, State, State]]:
    """What each is called, the model, and what it became."""
    pair = transfer(0)
    yield "digits, 15 epochs", pair.base, pair.tuned
    base, (text, _) = code_model(0)[0], packages(0, SITES[-1:])
    for steps, rate in TUNES[-2:] if small else TUNES:
        what = f"GPT, {steps} steps" if steps > 1 else "GPT, one step"
        yield f"{what} at {rate:g}", base, tuned(base, text, 0, steps, rate)


def one(scratch: Path, base: State, tuned: State, dtype: str) -> dict[str, Any]:
    """One pair in one type."""
    folder = scratch / "exact"
    folder.mkdir()
    old, new = (write(state, folder / f"{n}.safetensors", dtype) for n, state in enumerate((base, tuned)))
    size = (folder / "1.safetensors").stat().st_size
    with Repository.create(folder / ".phloem") as repo:
        first = repo.commit(folder / "0.safetensors")
        before = stored(repo)
        made = repo.commit(folder / "1.safetensors", lossless=True)
        took = stored(repo) - before
        repo.checkout("trunk", folder / "out.safetensors")
        if (folder / "out.safetensors").read_bytes() != (folder / "1.safetensors").read_bytes():
            raise SystemExit("what was checked out is not what was committed")
        frame = next(e.frame_bytes for e in repo.objects.encodings(made.state) if e.base is not None)
    shutil.rmtree(folder)
    others = {
        "zstd-19": zstd(new, 19),
        "XOR + zstd-3": zstd(xored(new, old), 3),
        "XOR + planes + zstd-3": zstd(planes(xored(new, old), DTYPES[dtype]), 3),
    }
    width = DTYPES[dtype]
    same = np.frombuffer(xored(new, old), f"u{width}") == 0
    return {
        "file_bytes": size,
        "unchanged": float(same.mean()),
        "first_share": first.bytes / size,
        "bytes": took,
        "share": took / size,
        "saved": 1 - took / size,
        "frame_share": frame / size,
        "key_frame": made.bytes > frame,
        "others": {name: len(data) / size for name, data in others.items()},
    }


def write(state: State, path: Path, dtype: str) -> bytes:
    """Writes a model in this type; gives the bytes of its tensors, one after another."""
    specs = [TensorSpec(name, state[name].shape, dtype) for name in sorted(state)]
    arrays = [np.ascontiguousarray(state[spec.name], "<f4").reshape(-1) for spec in specs]
    raws = [(to_bf16(one) if dtype == "bfloat16" else one).view(np.uint8) for one in arrays]
    with path.open("w+b") as file:
        writer = TensorFileWriter(file, Contents(tuple(specs)))
        for spec, raw in zip(specs, raws, strict=True):
            writer.write(spec, raw)
    return b"".join(raw.tobytes() for raw in raws)


def zstd(data: bytes, level: int) -> bytes:
    """One zstd frame."""
    return zstandard.ZstdCompressor(level=level).compress(data)


def xored(new: bytes, old: bytes) -> bytes:
    """Bit for bit what differs."""
    return (np.frombuffer(new, np.uint8) ^ np.frombuffer(old, np.uint8)).tobytes()


def planes(data: bytes, width: int) -> bytes:
    """Bytes of equal significance together."""
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(-1, width).T).tobytes()


def whole(data: bytes, width: int) -> bytes:
    """The opposite of `planes`."""
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(width, -1).T).tobytes()
