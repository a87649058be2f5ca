"""For a user's own torch model: modules and optimisers to arrays and back.

    module = built(lambda: nn.Linear(64, 10), seed)
    state = state_of(module)                       # what everyone trains: float32 arrays by name
    load_state(module, state)
    loss = sgd_epochs(module, functional.cross_entropy, inputs, labels, seed=seed)
    memory = {**counters_of(module), **pack_optimiser(optimiser, names)}    # what stays at the site

Floating-point parameters and buffers are the state. Integer buffers (BatchNorm counts its batches in one)
mean nothing when averaged, so they belong to the site's memory, as do an optimiser's moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from phloem.errors import ConfigError
from phloem.seeds import generator
from phloem.tasks.base import Memory
from phloem.tensors import State

_COUNTER, _OPTIMISER = "counter:", "optimiser:"
_BFLOAT16 = (
    "bfloat16/"  # before the key of a tensor whose bits lie in an int16 array, for NumPy has no such type
)


def built(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The module that `factory` makes with torch's generator at `seed`; the generator is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


def state_of(module: nn.Module) -> State:
    """The module's floating-point parameters and buffers as float32 arrays of their own, by name."""
    return {
        name: tensor.detach().cpu().to(torch.float32, copy=True).contiguous().numpy()
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


def counters_of(module: nn.Module) -> Memory:
    """The module's integer and boolean buffers, for the memory."""
    return {
        _COUNTER + name: tensor.detach().cpu().numpy().copy()
        for name, tensor in module.state_dict().items()
        if not tensor.is_floating_point()
    }


def load_state(module: nn.Module, state: State, memory: Memory | None = None) -> None:
    """Copies `state`, and the counters in `memory` if there are any, into `module`.

    Raises:
        ConfigError: a floating-point tensor of the module is missing, or has another shape.
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            array = state.get(name) if tensor.is_floating_point() else (memory or {}).get(_COUNTER + name)
            if array is None and not tensor.is_floating_point():
                continue  # a first round: the counter as it was built
            if array is None or array.shape != tuple(tensor.shape):
                found = "nothing" if array is None else str(array.shape)
                raise ConfigError(
                    f"tensor '{name}' of the module: expected {tuple(tensor.shape)}, found {found}"
                )
            tensor.copy_(torch.tensor(array))


def pack_optimiser(optimiser: torch.optim.Optimizer, names: Iterable[str]) -> Memory:
    """What the optimiser remembers of each parameter, as arrays; `names` in the order of its parameters.

    Raises:
        ConfigError: it remembers something other than tensors.
    """
    memory: Memory = {}
    for name, parameter in zip(names, _parameters(optimiser), strict=True):
        for key, value in optimiser.state[parameter].items():
            if value is None:
                continue
            if not isinstance(value, torch.Tensor):
                raise ConfigError(
                    f"the optimiser keeps '{key}' as {type(value).__name__}; only tensors can be saved"
                )
            value = value.detach().cpu()
            if value.dtype == torch.bfloat16:
                key, value = _BFLOAT16 + key, value.view(torch.int16)
            memory[f"{_OPTIMISER}{key}:{name}"] = value.numpy().copy()
    return memory


def unpack_optimiser(optimiser: torch.optim.Optimizer, names: Iterable[str], memory: Memory) -> None:
    """Gives a fresh optimiser what `pack_optimiser` took from another; an empty memory leaves it fresh.

    The next step is then bit for bit the step that the other would have made.
    """
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for label, array in memory.items():
        if label.startswith(_OPTIMISER):
            key, _, name = label.removeprefix(_OPTIMISER).partition(":")
            value = torch.tensor(array)
            if key.startswith(_BFLOAT16):
                key, value = key.removeprefix(_BFLOAT16), value.view(torch.bfloat16)
            kept.setdefault(name, {})[key] = value
    for name, parameter in zip(names, _parameters(optimiser), strict=True):
        if name in kept:
            optimiser.state[parameter] = kept[name]


def sgd_epochs(
    module: nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    inputs: np.typing.NDArray[np.float32],
    labels: np.typing.NDArray[np.generic],
    *,
    seed: int,
    epochs: int = 1,
    batch_size: int = 16,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
) -> float:
    """Trains `module` in place by SGD with momentum from zero; the mean training loss.

    `seed` fixes the order of samples; `loss` takes scores and labels and gives the batch's mean.
    """
    optimiser = torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=momentum)
    rows, wanted = torch.tensor(inputs), torch.tensor(labels)
    total = 0.0
    module.train()
    for epoch in range(epochs):
        order = torch.tensor(generator(seed, "order", epoch).permutation(len(rows)))
        for batch in order.split(batch_size):
            optimiser.zero_grad()
            value = loss(module(rows[batch]), wanted[batch])
            value.backward()
            optimiser.step()
            total += float(value.detach()) * len(batch)
    return total / max(1, epochs * len(rows))


def tensors(
    state: Mapping[str, np.typing.NDArray[np.float32]], *, learn: bool = False
) -> dict[str, torch.Tensor]:
    """Copies of the arrays as tensors, with `learn` as parameters to differentiate by."""
    return {name: torch.tensor(array, requires_grad=learn) for name, array in state.items()}


def _parameters(optimiser: torch.optim.Optimizer) -> Sequence[torch.Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
