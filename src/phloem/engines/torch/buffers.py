"""DDP's buffers as arrays, and the futures that DDP waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from phloem.tensors import Array


def done(tensor: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    """A future that is there already."""
    future = future_on(tensor.device)
    future.set_result(tensor)
    return future


def future_on(device: torch.device) -> torch.futures.Future[torch.Tensor]:
    """A future for a tensor of this device, which its streams will wait for."""
    return torch.futures.Future(devices=None if device.type == "cpu" else [device])


def wide(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient as a contiguous float32 tensor where it lies: its own memory if it is one, otherwise a copy."""
    return gradient.detach().to(torch.float32).contiguous()


def on_host(tensor: torch.Tensor) -> bool:
    """Whether the processor can use the tensor's memory."""
    return tensor.device.type == "cpu"


def host(tensor: torch.Tensor) -> Array:
    """A float32 tensor without a gradient as an array: its own memory where that is the processor's, else a copy."""
    array: Array = tensor.numpy() if on_host(tensor) else tensor.cpu().numpy()
    return array


def values_of(tensor: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A copy of a tensor's or an array's values."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu().numpy()
    return np.array(tensor, dtype)


def in_order(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A gradient's values as its parameter's shape has them: DDP's buckets have them in the order of memory."""
    order = _order(parameter)
    if order == tuple(range(len(order))):
        return values
    shape = [parameter.shape[dimension] for dimension in order]
    back = sorted(range(len(order)), key=order.__getitem__)
    return values.reshape(shape).permute(back).contiguous()


def in_memory(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Takes `in_order` back."""
    order = _order(parameter)
    if order == tuple(range(len(order))):
        return values
    return values.permute(order).contiguous().reshape(values.shape)


def _order(parameter: torch.Tensor) -> tuple[int, ...]:
    """The dimensions from the one that changes slowest in memory to the fastest."""
    strides = parameter.stride()
    return tuple(sorted(range(len(strides)), key=lambda dimension: (-strides[dimension], dimension)))
