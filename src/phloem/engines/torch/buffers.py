"""DDP's buffers as arrays, and the futures that DDP waits for."""

from __future__ import annotations

import numpy as np
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
