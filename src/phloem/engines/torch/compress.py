"""`compress_ddp`: one line after `DistributedDataParallel(...)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from phloem.engines.torch.ddp import Compressed
from phloem.engines.torch.peers import TIMEOUT_SECONDS
from phloem.engines.torch.settings import DEFAULT_BITS, DEFAULT_MATRIX_RANK, Settings, codecs_of
from phloem.errors import ConfigError

#: Buckets of fewer values are reduced as they are: their frames would be mostly heads.
DENSE_BELOW = 2048
#: Steps between two comparisons of all ranks' parameters.
CHECK_EVERY = 100


def compress_ddp(
    model: DistributedDataParallel,
    *,
    bits: float | None = None,
    down_bits: float | None = None,
    codec: str | Mapping[str, Any] | None = None,
    effort: str = "fast",
    matrix_rank: int | None = None,
    optimizer: str = "adam",
    warmup: int = 0,
    scaler: torch.amp.GradScaler | None = None,
    dense_below: int = DENSE_BELOW,
    check_every: int = CHECK_EVERY,
    on_gpu: bool | None = None,
    seed: int = 0,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Compressed:
    """Compresses the gradients of a DDP model from now on, with error feedback; one line after `DDP(...)`.

    Every rank calls it alike, before the first backward pass. Keep what it gives: its state belongs into checkpoints.

    Args:
        model: the `DistributedDataParallel` model, on gloo or NCCL; frames travel over a gloo group of their own.
        matrix_rank: matrices travel as products of two thin ones of so many columns (PowerSGD, with compressed
            factors); 0: as they are, which is for gradients without such a structure.
        bits: wire bits per value that is sent, and leg (`ecsq`): of the thin matrices, or with 0 of the gradient.
            Without `matrix_rank`, `bits` and `codec` the choice is free: bfloat16 and thin matrices of 32, 16 and 8
            columns, as far as they could pay, are timed on the first steps, and all ranks take the one with the least
            seconds of a step × steps to the same loss, or a finer one within 2 %. `Compressed.choices` says what was
            chosen, and of what.
        down_bits: those of the frames with the means; as `bits` if not given.
        codec: in place of `bits`, any codec by name or by its table: {"codec": "topk", "fraction": 0.01}.
            As with `matrix_rank=0`.
        effort: of `ecsq`: "fast", "balanced" or "best".
        optimizer: what the gradients are for. "adam" (and its like, which divide by the root of the mean square): an
            error counts by its share of a row's and a column's size. "sgd": by its square.
        warmup: so many first steps travel in bfloat16 (float32 where the group cannot sum that).
        scaler: the GradScaler of the training loop: a step with an infinity then gives NaN at every rank, so that
            all of them skip it, and residuals follow its scale. Without one such a step raises an error.
        dense_below: buckets of fewer values are never compressed.
        check_every: steps between two comparisons of all ranks' parameters; 0 for none.
        on_gpu: whether gradients on a GPU, and what is owed of them, stay there: then only thin matrices, vectors and
            small matrices cross to the processor, which knows the codecs. Where nobody says so, they do if the GPU has
            room for it: 8 bytes per parameter, a quarter of what is free at most. The bits are the same.
        seed: of the codec's random numbers, if it has any.
        timeout_seconds: the longest that a rank waits for another.

    Raises:
        ConfigError: the options do not fit, or the ranks disagree about model or options.
        StateError: a rank did not come in time.
    """
    if not isinstance(model, DistributedDataParallel):
        raise ConfigError(
            f"expected a DistributedDataParallel model, found a {type(model).__name__}",
            hint="wrap it first: DistributedDataParallel(model)",
        )
    free = matrix_rank is None and bits is None and codec is None
    if matrix_rank is None:
        matrix_rank = DEFAULT_MATRIX_RANK if codec is None else 0
    if on_gpu and not matrix_rank:
        raise ConfigError(
            "'on_gpu' goes with thin matrices: the processor codes what travels without them",
            hint="leave it out, or say matrix_rank=32",
        )
    up, down = codecs_of(bits, down_bits, codec, effort, DEFAULT_BITS)
    settings = Settings(up, down, matrix_rank, optimizer, warmup, dense_below, check_every, free)
    compressed = Compressed(
        model, settings, scaler=scaler, seed=seed, timeout_seconds=timeout_seconds, on_gpu=on_gpu
    )
    # a lambda, for DDP compares annotations with types and ours are texts
    model.register_comm_hook(None, lambda _, bucket: compressed.hook(bucket))
    return compressed
