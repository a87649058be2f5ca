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


def array_of(gradient: torch.Tensor) -> Array:
    """The gradient as a float32 array: its own memory if it lies as one, otherwise a copy."""
    return np.asarray(gradient.detach().to("cpu", torch.float32).contiguous().numpy())


def shares_memory(gradient: torch.Tensor, array: Array) -> bool:
    """Whether the array is the gradient's own memory."""
    return gradient.device.type == "cpu" and gradient.data_ptr() == array.ctypes.data


def values_of(tensor: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A copy of a tensor's or an array's values."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu().numpy()
    return np.array(tensor, dtype)


def in_order(array: Array, parameter: torch.Tensor) -> Array:
    """A gradient's array as its parameter's shape has it: DDP's buckets have values in the order of memory."""
    order = _order(parameter)
    if order == tuple(range(len(order))):
        return array
    shape = [parameter.shape[dimension] for dimension in order]
    return np.ascontiguousarray(array.reshape(shape).transpose(np.argsort(order)))


def in_memory(array: Array, parameter: torch.Tensor) -> Array:
    """Takes `in_order` back."""
    order = _order(parameter)
    if order == tuple(range(len(order))):
        return array
    return np.ascontiguousarray(array.transpose(order)).reshape(array.shape)


def _order(parameter: torch.Tensor) -> tuple[int, ...]:
    """The dimensions from the one that changes slowest in memory to the fastest."""
    strides = parameter.stride()
    return tuple(sorted(range(len(strides)), key=lambda dimension: (-strides[dimension], dimension)))
