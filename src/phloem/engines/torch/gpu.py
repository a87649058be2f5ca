"""Gradients that stay in a GPU's memory: where there is room for what is owed, and what computes there."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator

import torch

from phloem.errors import ConfigError

#: What is owed, and what is owed after the step that is under way; in parts of the memory that is free.
_COPIES, _SHARE = 2, 0.25
_log = logging.getLogger("phloem")
_here = threading.local()

Split = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


def stays(parameters: Iterable[torch.Tensor], wanted: bool | None) -> bool:
    """Whether matrices of these parameters' gradients are coded where they lie, on a GPU.

    Nobody having said what is `wanted`, they are where what is owed of them, 8 bytes per parameter, takes no more
    than a quarter of the memory that is free. Ranks may differ: the bits are the same.

    Raises:
        ConfigError: it is wanted, and there is no GPU.
    """
    listed = list(parameters)
    there = bool(listed) and all(parameter.device.type == "cuda" for parameter in listed)
    if wanted and not there:
        raise ConfigError(
            "'on_gpu' keeps gradients on the GPU, and the model is not there",
            hint="move it with model.cuda() first, or leave the option out",
        )
    if wanted is not None or not there:
        return bool(wanted)
    free, _ = torch.cuda.mem_get_info(listed[0].device)
    needed = _COPIES * 4 * sum(parameter.numel() for parameter in listed)
    fits = needed <= _SHARE * free
    if not fits:
        _log.info(
            "gradients are coded by the processor: what is owed would take %d MB of the GPU", needed // 10**6
        )
    return fits


def _stream(device: torch.device) -> torch.cuda.Stream:
    """This thread's own: memory that was used on a stream is used again there alone."""
    streams: dict[torch.device, torch.cuda.Stream] = _here.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]


@contextlib.contextmanager
def working_on(device: torch.device, ready: torch.cuda.Event | None) -> Iterator[None]:
    """Computes on a stream of this thread's own once `ready` has come; at the end all of it is done.

    On the processor there is nothing to wait for, and no event.
    """
    if ready is None:
        yield
        return
    stream = _stream(device)
    with torch.cuda.device(device), torch.cuda.stream(stream):
        stream.wait_event(ready)
        try:
            yield
        finally:
            stream.synchronize()


def finish(device: torch.device) -> None:
    """Waits until a GPU has done what this thread gave it; on the processor everything is done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@functools.cache
def split(device: torch.device) -> Split:
    """`phloem.kernels.triton.split`, or the same in torch, by many passes, where that does not work on this device.

    It is tried once: Triton may be missing, want a compiler that is not there, or not know the GPU.
    """
    try:
        from phloem.kernels import triton

        tried = [torch.ones(1, 1, device=device) for _ in range(5)]
        triton.split(*tried)
        if float(tried[0]) != 1.0 or float(tried[1]) != 0.0:
            raise RuntimeError("its sums are wrong")
    except Exception as error:
        _log.warning(
            "thin matrices are added up by torch (same results, slower), for Triton fails: %s", error
        )
        return split_by_passes
    return triton.split


def split_by_passes(
    whole: torch.Tensor, owed: torch.Tensor, base: torch.Tensor, told: torch.Tensor, mean: torch.Tensor
) -> None:
    """As `phloem.kernels.triton.split`. A product and a sum are calls of their own, so that nothing fuses them."""
    for column, row in zip(base, told, strict=True):
        whole -= column[:, None] * row
    owed.copy_(whole)
    whole.zero_()
    for column, row in zip(base, mean, strict=True):
        whole += column[:, None] * row
