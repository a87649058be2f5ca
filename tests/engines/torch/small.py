"""A small model and its batches, the same wherever they are made: so that a rank knows every other's gradients."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

INPUTS, CLASSES, ROWS = 40, 10, 8


def built(kind: str = "plain", seed: int = 7) -> nn.Module:
    """The model of that kind."""
    torch.manual_seed(seed)
    if kind == "plain":
        return nn.Sequential(
            nn.Linear(INPUTS, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, CLASSES)
        )
    if kind == "wide":  # its first matrix is cut among ranks
        return nn.Sequential(nn.Linear(INPUTS, 1700), nn.ReLU(), nn.Linear(1700, CLASSES))
    if kind == "square":  # two matrices that can be thin ones, of which the first cannot have many columns
        layers = [nn.Linear(INPUTS, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, CLASSES)]
        return nn.Sequential(*layers)
    if kind == "one":
        return nn.Sequential(nn.Linear(INPUTS, 200, bias=False))
    if kind == "bf16":
        return built("plain", seed).to(torch.bfloat16)
    if kind == "norm":
        return nn.Sequential(nn.Linear(INPUTS, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES))
    if kind == "conv":
        layers = [nn.Unflatten(1, (10, 2, 2)), nn.Conv2d(10, 24, 3, padding=1), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(96, CLASSES)).to(memory_format=torch.channels_last)
    assert kind == "branches", kind
    return Branches()


class Branches(nn.Module):
    """Which of its matrices are used is up to the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList([nn.Linear(INPUTS, 60) for _ in range(4)])
        self.head = nn.Linear(60, CLASSES)

    def forward(self, inputs: torch.Tensor, *ways: int) -> torch.Tensor:
        found: torch.Tensor = self.head(sum(self.ways[way](inputs) for way in ways))
        return found


def batch(rank: int, step: int) -> torch.Tensor:
    """The inputs of that rank in that step."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(ROWS, INPUTS, generator=generator)


def loss_of(model: nn.Module, rank: int, step: int, *ways: int) -> torch.Tensor:
    """The loss of that rank's batch of that step."""
    inputs = batch(rank, step)
    inputs = inputs.to(next(model.parameters()).dtype)
    wanted = torch.sin(torch.arange(CLASSES) + inputs[:, :1]).to(inputs.dtype)
    scores = model(inputs, *ways)
    return (scores[:, :CLASSES] - wanted).square().mean()


def gradients(model: nn.Module, rank: int, step: int, *ways: int) -> dict[str, np.typing.NDArray[np.float64]]:
    """That rank's gradients in that step, computed here."""
    twin = copy.deepcopy(model)
    twin.zero_grad()
    loss_of(twin, rank, step, *ways).backward()
    return {name: _array(p.grad, p.shape) for name, p in twin.named_parameters()}


def applied(model: nn.Module) -> dict[str, np.typing.NDArray[np.float64]]:
    """The gradients that the optimizer will see."""
    return {name: _array(p.grad, p.shape) for name, p in model.named_parameters()}


def _array(gradient: torch.Tensor | None, shape: torch.Size) -> np.typing.NDArray[np.float64]:
    return np.zeros(tuple(shape)) if gradient is None else gradient.detach().double().numpy().copy()


class Sum(dict[str, Any]):
    """Arrays added up by name."""

    def add(self, arrays: Mapping[str, Any], times: float = 1.0) -> None:
        for name, array in arrays.items():
            self[name] = self.get(name, 0.0) + times * np.asarray(array, np.float64)

    def off(self, others: Mapping[str, Any]) -> float:
        """The largest difference of any two values, as a share of the largest value."""
        largest = max(float(np.abs(other).max(initial=0.0)) for other in others.values())
        differences = [np.abs(self.get(name, 0.0) - other).max(initial=0.0) for name, other in others.items()]
        return float(max(differences)) / largest


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Of their values, to the bit."""
    sums = hashlib.sha256()
    for tensor in tensors:
        sums.update(tensor.detach().float().contiguous().numpy().tobytes())
    return sums.hexdigest()[:16]
