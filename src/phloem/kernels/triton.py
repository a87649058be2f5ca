"""Kernels for matrices in a GPU's memory, in Triton: the same bits as on the processor.

A product and a sum are rounded one after the other, never fused, in the order of `matrices.add_products`: what a GPU
adds up from thin matrices, every other machine adds up to the same values. Every matrix is read and written once.

Importing this needs torch, and Triton, which torch's builds for CUDA and ROCm bring along. It runs on the processor,
slowly, where TRITON_INTERPRET=1 is in the environment before the import.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_TALL, _WIDE = 32, 128  # values of the matrix that one program makes
_UNFUSED = {"enable_fp_fusion": False}


@triton.jit
def _sum_of_products(total, left, right, rows, columns, m, n, RANK: tl.constexpr, MINUS: tl.constexpr):
    """`total` plus (or minus) the products of one row of `left` (RANK × m) and the same of `right` (RANK × n)."""
    left += rows
    right += columns
    for _ in range(RANK):
        column = tl.load(left, mask=rows < m, other=0.0)
        row = tl.load(right, mask=columns < n, other=0.0)
        left += m
        right += n
        product = column[:, None] * row[None, :]
        total = total - product if MINUS else total + product
    return total


@triton.jit
def _split(
    whole,
    owed,
    base,
    told,
    mean,
    m,
    n,
    RANK: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    across = tl.cdiv(n, WIDE)
    rows = tl.program_id(0) // across * TALL + tl.arange(0, TALL)
    columns = tl.program_id(0) % across * WIDE + tl.arange(0, WIDE)
    places = rows[:, None].to(tl.int64) * n + columns[None, :]
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    rest = tl.load(whole + places, mask=inside, other=0.0)
    rest = _sum_of_products(rest, base, told, rows, columns, m, n, RANK, True)
    tl.store(owed + places, rest, mask=inside)
    total = _sum_of_products(tl.zeros((TALL, WIDE), tl.float32), base, mean, rows, columns, m, n, RANK, False)
    tl.store(whole + places, total, mask=inside)


def split(
    whole: torch.Tensor, owed: torch.Tensor, base: torch.Tensor, told: torch.Tensor, mean: torch.Tensor
) -> None:
    """Leaves baseᵀ × mean in `whole`, and in `owed` what `whole` was, less baseᵀ × told.

    Args:
        whole: float32, contiguous, in one GPU's memory. Shape: (m, n).
        owed: there, too. Shape: (m, n).
        base: there, too. Shape: (r, m).
        told: what the second product is made of. Shape: (r, n), there, too.
        mean: what the first is made of. Shape: (r, n).
    """
    m, n = whole.shape
    grid = (triton.cdiv(m, _TALL) * triton.cdiv(n, _WIDE),)
    _split[grid](whole, owed, base, told, mean, m, n, base.shape[0], _TALL, _WIDE, **_UNFUSED)
