"""A small network for yes-or-no questions about a row of numbers: linear layers, ReLU between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from phloem.seeds import generator
from phloem.tasks.datasets import Examples
from phloem.tensors import State


def initial(widths: Sequence[int], rng: np.random.Generator) -> State:
    """A fresh network from `widths[0]` inputs to `widths[-1]` scores.

    Weights are normal with standard deviation √(2/fan-in) (He et al. 2015), biases zero, and the last layer
    is a tenth of that, so the first scores are near even odds.
    """
    state: State = {}
    for depth, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        scale = math.sqrt(2 / fan_in) * (0.1 if depth == len(widths) - 1 else 1.0)
        state[f"layer{depth}.weight"] = (rng.standard_normal((fan_out, fan_in)) * scale).astype(np.float32)
        state[f"layer{depth}.bias"] = np.zeros(fan_out, np.float32)
    return state


def scores(state: State, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The log-odds of yes for each row, (n,)."""
    with torch.no_grad():
        result: npt.NDArray[np.float32] = _forward(_tensors(state), torch.tensor(inputs)).numpy()
    return result


def cross_entropy(labels: npt.NDArray[np.int64], log_odds: npt.NDArray[np.float32]) -> float:
    """The mean loss in nats that `log_odds` has on `labels`."""
    odds = log_odds.astype(np.float64)
    return float(np.mean(np.logaddexp(0, odds) - labels * odds))


def sgd(
    state: State,
    examples: Examples,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    seed: int,
) -> tuple[State, float]:
    """The state after `epochs` of SGD with momentum from zero, and the mean training loss."""
    weights = _tensors(state)
    parameters = list(weights.values())
    velocities = [torch.zeros_like(weight) for weight in parameters]
    inputs, labels = torch.tensor(examples.inputs), torch.tensor(examples.labels, dtype=torch.float32)
    total = 0.0
    for epoch in range(epochs):
        order = torch.tensor(generator(seed, "order", epoch).permutation(len(examples)))
        for batch in order.split(batch_size):
            for weight in parameters:
                weight.requires_grad_(True)
            loss = functional.binary_cross_entropy_with_logits(
                _forward(weights, inputs[batch]), labels[batch]
            )
            slopes = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_mul_(velocities, momentum)
                torch._foreach_add_(velocities, slopes)
                torch._foreach_add_(velocities, parameters, alpha=weight_decay)
                torch._foreach_add_(parameters, velocities, alpha=-learning_rate)
            total += float(loss.detach()) * len(batch)
    trained = {name: weight.detach().numpy() for name, weight in weights.items()}
    return trained, total / (epochs * len(examples))


def _tensors(state: State) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in state.items()}


def _forward(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    depth = len(weights) // 2
    hidden = inputs
    for layer in range(1, depth + 1):
        hidden = functional.linear(hidden, weights[f"layer{layer}.weight"], weights[f"layer{layer}.bias"])
        if layer < depth:
            hidden = hidden.relu()
    return hidden.squeeze(1)
