"""Writes tests/golden: the bytes that this version of the format stands for.

Run it by hand when the format changes on purpose (and its version with it), and read the difference: a test
run never writes these files.

    python tools/write_golden.py            every golden file
    python tools/write_golden.py ecsq       the frames of one codec
    python tools/write_golden.py files      the stand-alone frames of files
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phloem.codecs.casts import to_bf16
from phloem.codecs.registry import BY_NAME, codec_from
from phloem.files import decode_file, encode_file
from phloem.files.tensorfile import TensorFileWriter
from phloem.seeds import generator
from phloem.tensors import Array, Layout, TensorSpec
from phloem.wire import frame as frames
from phloem.wire.contents import Contents
from phloem.wire.messages import Item, Order, Reply, Status

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
NAME = "x"  # every golden frame carries one tensor of this name

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {"default": {}},
    "bf16": {"default": {}},
    "int8": {"block-128": {"block": 128}, "block-7": {"block": 7}},
    "topk": {
        "tenth": {"fraction": 0.1},
        "plain": {"fraction": 0.1, "indices": "raw32"},
        "chunks": {"fraction": 0.125, "scope": "chunk", "chunk": 64},
    },
    "sign": {"default": {}},
    "lossless": {"default": {}},
    "fp16": {"default": {}},
    "fp8": {"e4m3": {}, "e5m2": {"format": "e5m2", "block": 50}},
    "int4": {"block-32": {}},
    "nf4": {"block-64": {}},
    "bins": {"2": {"bits": 2}},
    "qsgd": {"default": {}, "max": {"levels": 1, "bucket": 100, "norm": "max"}},
    "ternary": {"default": {}},
    "randomk": {"tenth": {"fraction": 0.1}},
    "threshold": {"half": {"threshold": 0.5}},
    "hadamard": {"default": {}, "rounds": {"block": 32, "rounds": 2}},
    "eden": {"bits-1": {"bits": 1}, "bits-3": {"bits": 3, "block": 256}, "bits-0.3": {"bits": 0.3}},
    "lowrank": {"rank-2": {"rank": 2}},
    "linear": {"default": {"step": 0.01}},
    "zstd": {"default": {}},
    "chain": {
        "topk-int8-zstd": {
            "stages": [{"codec": "topk", "fraction": 0.1}, {"codec": "int8", "block": 64}, {"codec": "zstd"}]
        },
        "hadamard-qsgd": {"stages": [{"codec": "hadamard"}, {"codec": "qsgd", "levels": 2}]},
        "lowrank-bf16": {"stages": [{"codec": "lowrank", "rank": 1}, {"codec": "bf16"}]},
    },
    "ecsq": {
        "bits-0.02": {"bits": 0.02},
        "bits-0.5": {"bits": 0.5},
        "bits-4": {"bits": 4.0},
        "step": {"step": 0.01},
        "nmse": {"nmse": 0.2},
        "balanced-bits-0.5": {"bits": 0.5, "effort": "balanced"},
        "balanced-step": {"step": 0.01, "effort": "balanced"},
        "best-bits-0.5": {"bits": 0.5, "effort": "best"},
        "best-step": {"step": 0.01, "effort": "best"},
    },
    "model": {
        "exact": {},
        "int8": {"weights": {"codec": "int8"}, "vectors": {"codec": "none"}},
        "ecsq": {"weights": {"codec": "ecsq", "bits": 4.0}, "mask": False},
    },
}


def inputs() -> dict[str, Array]:
    """The tensors that every configuration encodes; they are stored beside the frames."""
    raw = generator(0, "golden")

    def bell(*shape: int) -> Array:
        sums = raw.integers(-(1 << 20), 1 << 20, size=(*shape, 6)).sum(
            axis=-1
        )  # of six even draws: nearly normal
        return (sums / np.float64(1 << 22)).astype(np.float32)

    rows = np.exp2(-np.arange(40.0) // 8).astype(np.float32)[:, None]  # (rows, 1)
    return {
        "matrix": bell(40, 30) * rows,
        "conv": bell(4, 3, 3, 3) ** 3,
        "spikes": np.where(np.arange(3000) % 500 == 7, np.float32(1.5), np.float32(0)),
        "zeros": np.zeros((8, 8), np.float32),
        "scalar": np.array(-0.75, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "extremes": np.array([1e-45, -1e-38, 1.0, -65504.0, 1e20, 0.0, -0.0, 3e30], np.float32),
    }


def messages() -> dict[str, dict[str, Any]]:
    """One message of each kind as plain JSON; bytes in hexadecimal."""
    chain, state = bytes(range(8)).hex(), bytes(range(100, 108)).hex()
    return {
        "order-with-deltas": {
            "kind": "order", "round": 300, "train": True, "chain": chain, "state": state, "start": 298,
            "items": [["05", "b000aabb"], ["07", "b001cc"]], "key_chain": None,
            "choice": "", "attachment": "",
        },
        "order-with-key-frame": {
            "kind": "order", "round": 9, "train": False, "chain": chain, "state": None, "start": 2,
            "items": [["01", "b040ff"]], "key_chain": bytes(range(32)).hex(),
            "choice": b'{"codec":"sign"}'.hex(), "attachment": "a77ac4ed",
        },
        "reply-with-update": {
            "kind": "reply", "round": 300, "site": 129, "status": "UPDATE", "chain": chain, "state": state,
            "examples": 1797, "frame": "b000aabb", "reason": "", "attachment": "",
        },
        "reply-refused": {
            "kind": "reply", "round": 0, "site": 0, "status": "REFUSED", "chain": chain, "state": None,
            "examples": 0, "frame": "", "reason": "tensor 'ü' holds NaN", "attachment": "00",
        },
        "reply-silent": {
            "kind": "reply", "round": 1, "site": 2, "status": "SILENT", "chain": chain, "state": state,
            "examples": 0, "frame": "", "reason": "", "attachment": "",
        },
    }  # fmt: skip


def message_of(fields: dict[str, Any]) -> Order | Reply:
    """The message that such JSON describes."""
    plain = dict(fields)
    kind = plain.pop("kind")
    for key in ("chain", "state", "key_chain", "choice", "attachment", "frame"):
        if plain.get(key) is not None:
            plain[key] = bytes.fromhex(plain[key])
    if kind == "order":
        pairs = plain.pop("items")
        items = tuple(Item(bytes.fromhex(accepted), bytes.fromhex(frame)) for accepted, frame in pairs)
        return Order(**plain, items=items)
    return Reply(**{**plain, "status": Status[plain["status"]]})


def update() -> dict[str, Array]:
    """The update of the stand-alone frame: names beyond ASCII, a 0-d tensor, an empty one."""
    return {
        "b/ü": np.array([1.0, -2.5], np.float32),
        "empty": np.zeros((0, 2), np.float32),
        "s": np.array(3.0, np.float32),
        "w": np.arange(-3, 3, dtype=np.float32).reshape(2, 3),
    }


def write_frames(codec: str) -> None:
    """Every case of one codec."""
    shutil.rmtree(GOLDEN / codec, ignore_errors=True)
    for case, options in CONFIGS[codec].items():
        for what, array in inputs().items():
            chosen, layout = codec_from({"codec": codec, **options}), Layout.of({NAME: array})
            frame = frames.pack(chosen, [np.ascontiguousarray(array).reshape(array.shape)], layout)
            folder = GOLDEN / codec / f"{case}-{what}"
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(
                json.dumps({"codec": codec, **options}) + "\n", encoding="utf-8"
            )
            np.save(folder / "input.npy", array, allow_pickle=False)
            (folder / "frame.bin").write_bytes(frame)
            np.save(folder / "decoded.npy", frames.unpack(frame, layout).decode()[0], allow_pickle=False)


def write_messages() -> None:
    """The messages, and one stand-alone frame."""
    folder = GOLDEN / "messages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, fields in messages().items():
        text = json.dumps(fields, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
        (folder / f"{name}.bin").write_bytes(message_of(fields).pack())
    layout = Layout.of(update())
    frame = frames.pack(codec_from({"codec": "none"}), layout.arrays(update()), layout)
    (folder / "update.bin").write_bytes(frame)
    (folder / "update.layout.json").write_bytes(layout.to_json())


FILES: dict[str, dict[str, Any]] = {
    "step": {"step": 0.02},
    "bf16": {"codec": "bf16"},
    "lossless": {"lossless": True},
}


def write_files() -> None:
    """A model in a file, a later one, and their frames; `NAME.safetensors` is what `NAME.phl` decodes to."""
    folder = GOLDEN / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    raw = generator(0, "golden files")
    for name in ("base", "new"):
        with (folder / f"{name}.safetensors").open("w+b") as file:
            _write_model(file, raw)
    for name, options in FILES.items():
        frame, out = folder / f"{name}.phl", folder / f"{name}.safetensors"
        encode_file(folder / "new.safetensors", frame, base=folder / "base.safetensors", **options)
        decode_file(frame, out, base=folder / "base.safetensors")


def _write_model(file: BinaryIO, raw: np.random.Generator) -> None:
    def bell(*shape: int) -> Array:
        return (raw.integers(-(1 << 20), 1 << 20, size=(*shape, 6)).sum(axis=-1) / (1 << 22)).astype(
            np.float32
        )

    tensors: dict[str, tuple[str, Any]] = {
        "layers.0.weight": ("float32", bell(20, 15)),
        "layers.1.weight": ("float32", bell(20, 15)),
        "half": ("float16", bell(8, 9).astype("<f2")),
        "brain": ("bfloat16", to_bf16(bell(12, 7).reshape(-1)).astype("<u2").reshape(12, 7)),
        "double": ("float64", bell(5, 3).astype("<f8")),
        "scalar": ("float32", np.array(raw.integers(100), "<f4")),
        "empty": ("float32", np.zeros((0, 3), "<f4")),
        "mask": ("bool", raw.integers(0, 2, 9).astype(bool)),
        "ids": ("int64", raw.integers(0, 1000, 70)),
        "steps": ("int64", np.array(raw.integers(1 << 40))),
    }
    specs = tuple(TensorSpec(name, tensors[name][1].shape, tensors[name][0]) for name in sorted(tensors))
    writer = TensorFileWriter(file, Contents(specs, {"format": "pt"}))
    for spec in specs:
        writer.write(spec, np.ascontiguousarray(tensors[spec.name][1]).reshape(-1).view(np.uint8))


def main() -> None:
    """What the arguments name, or all of it."""
    missing = sorted(set(BY_NAME) - set(CONFIGS))
    if missing:
        raise SystemExit(f"add cases for {', '.join(missing)} to CONFIGS")
    for name in sys.argv[1:] or (*CONFIGS, "files"):
        write_files() if name == "files" else write_frames(name)
    if not sys.argv[1:]:
        write_messages()


if __name__ == "__main__":
    main()
