"""The CNN of the digits task: 151,306 parameters, and the tightest one-thread training loop we found.

    conv 1→32 3×3, ReLU · conv 32→64 3×3, ReLU · max-pool 2 · linear 1024→128, ReLU · linear 128→10

`sgd_reference` is the readable specification (autograd); `sgd` is the same arithmetic with its backward pass
written out, parameters in one flat vector and images channels-last. A step of 16 images takes about three
quarters of the time, and benchmarks run thousands of rounds; a test holds the two together.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from phloem.seeds import generator
from phloem.tasks.base import Keep
from phloem.tasks.datasets import Examples
from phloem.tensors import State

SHAPES: dict[str, tuple[int, ...]] = {
    "conv1.weight": (32, 1, 3, 3),
    "conv1.bias": (32,),
    "conv2.weight": (64, 32, 3, 3),
    "conv2.bias": (64,),
    "linear1.weight": (128, 1024),
    "linear1.bias": (128,),
    "linear2.weight": (10, 128),
    "linear2.bias": (10,),
}

_aten = torch.ops.aten
_ONE, _NONE = [1, 1], [0, 0]


def initial(seed: int) -> State:
    """A fresh model: every tensor uniform in ±1/√fan-in, as torch's own layers start."""
    rng = generator(seed, "digits", "initial")
    state: State = {}
    for name, shape in SHAPES.items():
        fan_in = math.prod(SHAPES[name.replace("bias", "weight")][1:])
        state[name] = rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(math.sqrt(fan_in))
    return state


def logits(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The scores of each digit, (n, 10), for images (n, 1, 8, 8)."""
    hidden = functional.conv2d(images, weights["conv1.weight"], weights["conv1.bias"], padding=1).relu()
    hidden = functional.conv2d(hidden, weights["conv2.weight"], weights["conv2.bias"], padding=1).relu()
    hidden = functional.max_pool2d(hidden, 2).flatten(1)  # (n, 1024)
    hidden = functional.linear(hidden, weights["linear1.weight"], weights["linear1.bias"]).relu()
    return functional.linear(hidden, weights["linear2.weight"], weights["linear2.bias"])


def measure(state: State, examples: Examples) -> dict[str, float]:
    """Accuracy and mean cross-entropy of a state."""
    weights = {name: torch.tensor(array) for name, array in state.items()}
    labels = torch.tensor(examples.labels)
    with torch.no_grad():
        scores = logits(weights, torch.tensor(examples.inputs))
        loss = float(functional.cross_entropy(scores, labels))
        correct = int((scores.argmax(1) == labels).sum())
    return {"accuracy": correct / len(examples), "loss": loss}


def sgd_reference(
    state: State,
    examples: Examples,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    seed: int,
    keep: Keep | None = None,
) -> tuple[State, float]:
    """The state after `epochs` of SGD with momentum from zero, and the mean loss: the specification.

    Weights that `keep` says are pruned stay as they are.
    """
    masks = {name: torch.tensor(mask) for name, mask in (keep or {}).items()}
    weights = {name: torch.tensor(state[name], requires_grad=True) for name in SHAPES}
    optimiser = torch.optim.SGD(weights.values(), lr=learning_rate, momentum=momentum)
    total = 0.0
    for epoch in range(epochs):
        images, labels = _shuffled(examples, seed, epoch)
        for start in range(0, len(labels), batch_size):
            batch = labels[start : start + batch_size]
            loss = functional.cross_entropy(logits(weights, images[start : start + batch_size]), batch)
            optimiser.zero_grad()
            loss.backward()
            for name, mask in masks.items():
                slope = weights[name].grad
                assert slope is not None
                slope.mul_(mask)
            optimiser.step()
            total += float(loss.detach()) * len(batch)
    return {name: weight.detach().numpy() for name, weight in weights.items()}, total / (
        epochs * len(examples)
    )


def sgd(
    state: State,
    examples: Examples,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    seed: int,
    keep: Keep | None = None,
) -> tuple[State, float]:
    """What `sgd_reference` gives, sooner; equal up to float32's order of summation."""
    flat = torch.cat([_channels_last(torch.tensor(state[name])).reshape(-1) for name in SHAPES])
    velocity, slope = torch.zeros_like(flat), torch.zeros_like(flat)
    kept = None if keep is None else _flat_mask(keep)
    weights, slopes = _views(flat), _views(slope)
    right = []  # the probability given to the right digit, batch by batch
    with torch.no_grad():
        for epoch in range(epochs):
            images, labels = _shuffled(examples, seed, epoch)
            wanted = functional.one_hot(labels, 10).float()
            for start in range(0, len(labels), batch_size):
                stop = start + batch_size
                right.append(_gradient(weights, slopes, images[start:stop], wanted[start:stop]))
                if kept is not None:
                    slope.mul_(kept)
                velocity.mul_(momentum).add_(slope)
                flat.add_(velocity, alpha=-learning_rate)
        loss = -float(torch.cat(right).clamp_(min=1e-30).log_().mean())
    return {name: np.array(view.numpy(), order="C") for name, view in zip(SHAPES, weights, strict=True)}, loss


def _gradient(
    weights: list[torch.Tensor], slopes: list[torch.Tensor], images: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """The chance given to the right digit, (n,), with the mean loss's gradient left in `slopes`."""
    conv1, bias1, conv2, bias2, linear1, bias3, linear2, bias4 = weights
    count = len(images)
    first = torch.conv2d(images, conv1, bias1, padding=1).relu_()  # (n, 32, 8, 8)
    second = torch.conv2d(first, conv2, bias2, padding=1).relu_()  # (n, 64, 8, 8)
    pooled, places = _aten.max_pool2d_with_indices(second, [2, 2], [2, 2])  # (n, 64, 4, 4)
    third = pooled.reshape(count, 1024)
    fourth = torch.addmm(bias3, third, linear1.t()).relu_()  # (n, 128)
    chances = torch.addmm(bias4, fourth, linear2.t()).softmax(1)  # (n, 10)
    right = (chances * wanted).sum(1)

    error = chances.sub_(wanted).div_(count)
    torch.mm(error.t(), fourth, out=slopes[6])
    torch.sum(error, 0, out=slopes[7])
    error = _aten.threshold_backward(error @ linear2, fourth, 0)  # (n, 128)
    torch.mm(error.t(), third, out=slopes[4])
    torch.sum(error, 0, out=slopes[5])
    error = _channels_last((error @ linear1).view(count, 64, 4, 4), inverse=True)
    error = _aten.max_pool2d_with_indices_backward(error, second, [2, 2], [2, 2], _NONE, _ONE, False, places)
    error = _aten.threshold_backward(error, second, 0)  # (n, 64, 8, 8)
    error, *found = _aten.convolution_backward(
        error, first, conv2, [64], _ONE, _ONE, _ONE, False, _NONE, 1, [True, True, True]
    )
    slopes[2].copy_(found[0])
    slopes[3].copy_(found[1])
    error = _aten.threshold_backward(error, first, 0)  # (n, 32, 8, 8)
    _, *found = _aten.convolution_backward(
        error, images, conv1, [32], _ONE, _ONE, _ONE, False, _NONE, 1, [False, True, True]
    )
    slopes[0].copy_(found[0])
    slopes[1].copy_(found[1])
    return right


def _shuffled(examples: Examples, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels in the epoch's order, in memory that torch aligned (sums depend on that)."""
    order = torch.tensor(generator(seed, "order", epoch).permutation(len(examples)))
    return torch.tensor(examples.inputs)[order], torch.tensor(examples.labels)[order]


def _channels_last(tensor: torch.Tensor, *, inverse: bool = False) -> torch.Tensor:
    """A kernel (o, i, h, w) as (o, h, w, i); with `inverse` the same shape, stored channels-last."""
    if inverse:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _flat_mask(keep: Keep) -> torch.Tensor:
    """1 for every kept weight and 0 for the others, as one vector in the order of `sgd`."""
    masks = [
        torch.tensor(keep[name]) if name in keep else torch.ones(shape) for name, shape in SHAPES.items()
    ]
    return torch.cat([_channels_last(mask.float()).reshape(-1) for mask in masks])


def _views(flat: torch.Tensor) -> list[torch.Tensor]:
    """The tensors of `SHAPES` as views of one vector, kernels stored channels-last."""
    views, offset = [], 0
    for shape in SHAPES.values():
        view = flat[offset : offset + math.prod(shape)]
        offset += math.prod(shape)
        if len(shape) == 4:
            outputs, inputs, height, width = shape
            views.append(view.view(outputs, height, width, inputs).permute(0, 3, 1, 2))
        else:
            views.append(view.view(shape))
    return views
