"""Small models in files, of every type, and what they should come back as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from phloem.files.dtypes import FROM_FILE, ITEM_BYTES, rounded
from phloem.files.tensorfile import TensorFileWriter
from phloem.seeds import generator
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents

Arrays = dict[str, tuple[str, Any]]


def write(path: Path, tensors: Arrays, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of arrays by name, each with the type that it gets."""
    specs = tuple(TensorSpec(name, np.shape(a), dtype) for name, (dtype, a) in sorted(tensors.items()))
    with path.open("w+b") as file:
        writer = TensorFileWriter(file, Contents(specs, metadata or {}))
        for spec in specs:
            writer.write(spec, raw(*tensors[spec.name]))
    return path


def raw(dtype: str, array: Any) -> Any:
    """The bytes of an array in that type."""
    if dtype in ("float16", "bfloat16", "float64") and np.asarray(array).dtype == np.float32:
        return rounded(np.ascontiguousarray(array).reshape(-1), dtype)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def read(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What the library finds in a file: type, shape and bytes by name."""
    data = path.read_bytes()
    found, at = {}, 8 + int.from_bytes(data[:8], "little")
    with safe_open(path, "np") as file:
        for name in file.offset_keys():
            part = file.get_slice(name)
            shape, dtype = tuple(part.get_shape()), FROM_FILE[part.get_dtype()]
            size = int(np.prod(shape, dtype=np.int64)) * ITEM_BYTES[dtype]
            found[name], at = (dtype, shape, data[at : at + size]), at + size
    assert at == len(data)
    return found


def values(path: Path) -> dict[str, Any]:
    """The values of the float tensors in a file, in float64."""
    found = {}
    for name, (dtype, shape, data) in read(path).items():
        if dtype == "bfloat16":
            halves = np.frombuffer(data, "<u2").astype(np.uint32) << 16
            found[name] = halves.view(np.float32).astype(np.float64).reshape(shape)
        elif dtype in ("float16", "float32", "float64"):
            found[name] = np.frombuffer(data, dtype).astype(np.float64).reshape(shape)
    return found


def error(new: Path, restored: Path, base: Path | None) -> float:
    """Σ(restored − new)² ÷ Σ(new − base)² over the float tensors, from the files alone."""
    wanted, found = values(new), values(restored)
    before = values(base) if base else {name: np.zeros_like(a) for name, a in wanted.items()}
    lost = sum(float(((found[name] - wanted[name]) ** 2).sum()) for name in wanted)
    return lost / sum(float(((wanted[name] - before[name]) ** 2).sum()) for name in wanted)


def network(label: str = "base", scale: float = 0.05, width: int = 48) -> Arrays:
    """A small network of float32 matrices whose rows differ in size."""
    draw = generator(0, "files", label)

    def matrix(rows: int, columns: int) -> Any:
        sizes = np.exp(draw.normal(size=(rows, 1)))
        return (draw.standard_t(5, size=(rows, columns)) * sizes * scale).astype(np.float32)

    tensors: Arrays = {"embed.weight": ("float32", matrix(4 * width, width))}
    for layer in range(3):
        tensors[f"layers.{layer}.attend.weight"] = "float32", matrix(3 * width, width)
        tensors[f"layers.{layer}.norm.weight"] = "float32", matrix(1, width)[0]
    return tensors


def mixed(label: str = "base", scale: float = 0.05) -> Arrays:
    """Every type, and every odd shape."""
    draw = generator(0, "files", "mixed", label)

    def normal(*shape: int) -> Any:
        return (draw.normal(size=shape) * scale).astype(np.float32)

    whole = {
        name: (name, draw.integers(0, 100, size=7).astype(name))
        for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    }
    return whole | {
        "bf16": ("bfloat16", normal(40, 30)),
        "fp16": ("float16", normal(20, 30)),
        "fp32": ("float32", normal(8, 3, 5, 5)),
        "fp64": ("float64", normal(33).astype(np.float64)),
        "fp8": ("float8_e4m3fn", draw.integers(0, 255, size=(6, 5)).astype(np.uint8)),
        "fp8 of another kind": ("float8_e5m2", draw.integers(0, 255, size=11).astype(np.uint8)),
        "complex": ("complex64", (normal(4, 5) + 1j * normal(4, 5)).astype(np.complex64)),
        "mask": ("bool", draw.integers(0, 2, size=50).astype(bool)),
        "counter": ("int64", np.array(123_456_789_012)),
        "temperature": ("float32", np.array(0.5, np.float32)),
        "nothing": ("float32", np.zeros((0, 4), np.float32)),
        "no indices": ("int32", np.zeros((0,), np.int32)),
    }


def moved(tensors: Arrays, by: Arrays) -> Arrays:
    """The tensors with others added, where they are of a float type; whole numbers are replaced."""
    return {
        name: (dtype, (array + by[name][1]).astype(array.dtype))
        if dtype in ("float16", "bfloat16", "float32", "float64")
        else (dtype, by[name][1])
        for name, (dtype, array) in tensors.items()
    }
