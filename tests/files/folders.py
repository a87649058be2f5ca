"""Directories of models, as Hugging Face's libraries write them, made without the code that is tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.files.models import Arrays, read, write

from phloem.seeds import generator

FORMAT = {"format": "pt"}


def sharded(folder: Path, tensors: Arrays, count: int) -> Path:
    """A directory of shards and their index; neighbours by name lie in different shards."""
    folder.mkdir()
    names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    where = {}
    for number, shard in enumerate(names):
        part = {name: tensors[name] for name in sorted(tensors)[number::count]}
        where |= dict.fromkeys(part, shard)
        write(folder / shard, part, FORMAT)
    return index(folder, {"metadata": {"total_size": 1}, "weight_map": where})


def index(folder: Path, said: Any) -> Path:
    """The directory, with this index."""
    (folder / "model.safetensors.index.json").write_text(json.dumps(said))
    return folder


def where(folder: Path) -> dict[str, str]:
    """Which shard each tensor lies in, as the index says."""
    found: dict[str, str] = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return found


def lora(label: str = "lora", rank: int = 2) -> Arrays:
    """The tensors of a LoRA adapter by their names in PEFT."""
    draw = generator(0, "files", label)
    found: Arrays = {}
    for layer in range(2):
        at = f"base_model.model.layers.{layer}.attend"
        found[f"{at}.lora_A.weight"] = "float32", draw.normal(size=(rank, 48)).astype(np.float32)
        found[f"{at}.lora_B.weight"] = "bfloat16", draw.normal(size=(144, rank)).astype(np.float32)
    return found


def adapter(folder: Path, tensors: Arrays | None = None) -> Path:
    """An adapter's directory."""
    folder.mkdir()
    write(folder / "adapter_model.safetensors", tensors or lora(), FORMAT)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    return folder


def all_in(folder: Path) -> dict[str, bytes]:
    """Every file in a directory and in those in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tensors_in(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What the library finds in all safetensors files of a directory, by the index where there is one."""
    found = {name: file for path in sorted(folder.glob("*.safetensors")) for name, file in read(path).items()}
    if (folder / "model.safetensors.index.json").exists():
        assert {name: name in read(folder / shard) for name, shard in where(folder).items()} == dict.fromkeys(
            found, True
        )
    return found
