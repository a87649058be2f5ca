"""Small models for tests of branches: made by seed, written as users write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from phloem.seeds import generator
from phloem.tensors import State

SHAPES = {"embed.weight": (64, 32), "layer.0.weight": (32, 48), "layer.0.bias": (48,), "norm.weight": (32,)}


def model(seed: int = 0, shapes: Mapping[str, tuple[int, ...]] | None = None) -> State:
    """A model of float32 tensors."""
    draw = generator(seed, "branches", "model")
    return {
        name: (0.1 * draw.normal(size=shape)).astype(np.float32) for name, shape in (shapes or SHAPES).items()
    }


def tuned(state: State, seed: int, size: float = 1e-3) -> State:
    """The same after some training: every value moved a little, some much more than others."""
    draw = generator(seed, "branches", "tuned")
    return {
        name: (array + size * draw.laplace(size=array.shape) * np.exp(draw.normal())).astype(np.float32)
        for name, array in state.items()
    }


def written(path: Path, state: Mapping[str, Any], metadata: dict[str, str] | None = None) -> Path:
    """The model in a safetensors file."""
    save_file(dict(state), path, metadata)
    return path
