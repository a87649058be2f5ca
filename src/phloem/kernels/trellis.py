"""Dependent quantisation: a trellis of four or eight states chooses indices on two interleaved grids.

A tensor's indices k, row-major, are coded in states that begin at 0 in every tensor. In the lower half of the
states an index stands on the even grid, at 2k grid steps; in the upper half on the odd grid, at 2k - sign(k)
grid steps. The next state follows from the state and the parity of k (`NEXT`). A coefficient is decoded as
position times grid step, one float32 product; positions stay within `Step.magnitude_highest`.

All else is an encoder's freedom. This one minimises squared error plus a weight times the bits, by the Viterbi
algorithm, in integers only: errors in 2**-16 squared grid steps, bits from a table per scale class and grid.
The first sweep takes geometric tables for the classes of `scales`; each further sweep measures the classes
again, from the indices so far, and takes tables from their counts. The native quantiser makes the same choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError
from phloem.kernels.scales import Scales, Shape, measure
from phloem.kernels.steps import Step
from phloem.kernels.tables import (
    CLASS_HIGHEST,
    CLASS_LOWEST,
    CLASSES,
    MAGNITUDE_HIGHEST,
    SCALE_OFFSET,
    TOKEN_BITS,
    TOKENS,
    log2_q16,
    tables,
)
from phloem.kernels.tokens import tokenise

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]

#: The next state by state and parity of the index.
NEXT: Final = {
    4: ((0, 2), (2, 0), (1, 3), (3, 1)),
    8: ((0, 1), (4, 5), (1, 0), (5, 4), (6, 7), (3, 2), (2, 3), (7, 6)),
}
#: Squared grid steps that a bit may cost, in 256ths: measured best up to about 1.5 bits, where the odd grid's
#: ones die out, and from 2 bits on, where they do not. Weights in between are worse than either.
WEIGHT_SPARSE, WEIGHT_DENSE = 192, 64
#: The largest weight a caller may ask for: four squared grid steps.
WEIGHT_HIGHEST = 1024
#: Sweeps of the Viterbi algorithm, all but the first with measured rates: at weights from 128, and below it.
SWEEPS = (3, 2)
#: The best path is decided after this many coefficients, which bounds the memory of the search.
WINDOW = 1 << 16
#: Rate tables have this many indices; larger ones cost as much as the last.
RATES = 64
#: No rate weighs more than this, so that 64 coefficients cannot overflow 32 bits.
COST_HIGHEST = (1 << 22) - 1
#: What the path metrics of all states but the first begin with.
UNREACHED = 1 << 28


def trellis_quantise(
    arrays: Sequence[FloatArray], step: Step, states: int, weight: int = WEIGHT_SPARSE
) -> list[IndexArray]:
    """The indices of every tensor, flat. `step` is the grid step, `weight` what a bit may cost."""
    check_states(states)
    check_weight(weight)
    shapes = [Shape.of(array.shape) for array in arrays]
    flat = [array.reshape(-1) for array in arrays]
    inverse = np.float32(1.0) / np.float32(step.value)
    indices: list[IndexArray] = [np.zeros(x.size, dtype=np.int32) for x in flat]
    scales = [measure(_coarse(x, inverse), shape) for x, shape in zip(flat, shapes, strict=True)]
    rates = _geometric_rates()
    for sweep in range(SWEEPS[weight < 128]):
        if sweep:
            scales = [measure(np.abs(k), shape) for k, shape in zip(indices, shapes, strict=True)]
            rates = _measured_rates(indices, scales, states, rates)
        costs = np.minimum((rates * weight) >> 8, COST_HIGHEST)
        for x, scale, k in zip(flat, scales, indices, strict=True):
            k[:] = 0
            if scale is not None:
                _sweep(x, inverse, step.magnitude_highest, costs, scale.classes(0, x.size), states, k)
    return indices


def trellis_states(indices: IndexArray, states: int) -> npt.NDArray[np.uint8]:
    """The state in which each index of one tensor is coded. Shape: that of `indices`, which is flat."""
    check_states(states)
    following, state = NEXT[states], 0
    found = np.empty(indices.size, dtype=np.uint8)
    for i, odd in enumerate((indices & 1).tolist()):
        found[i] = state
        state = following[state][odd]
    return found


def trellis_reconstruct(indices: IndexArray, step: Step, states: int) -> FloatArray:
    """The values of one tensor's indices. Shape: that of `indices`, which is flat.

    Raises:
        ConfigError: an index beyond what the step may be multiplied by.
    """
    odd_grid = (trellis_states(indices, states) >= states // 2).astype(np.int64)
    positions = 2 * indices.astype(np.int64) - np.sign(indices) * odd_grid
    check_farthest(int(np.abs(positions).max(initial=0)), step)
    return positions.astype(np.float32) * np.float32(step.value)


def check_states(states: int) -> None:
    """Nothing.

    Raises:
        ConfigError: there is no trellis of so many states.
    """
    if states not in NEXT:
        raise ConfigError(f"There is no trellis of {states} states.", hint="use 4 or 8")


def check_weight(weight: int) -> None:
    """Nothing.

    Raises:
        ConfigError: the weight is out of range.
    """
    if not 0 <= weight <= WEIGHT_HIGHEST:
        raise ConfigError(f"A weight of {weight} is out of range.", hint=f"use 0 to {WEIGHT_HIGHEST}")


def check_farthest(position: int, step: Step) -> None:
    """Nothing.

    Raises:
        ConfigError: the position is beyond what the step may be multiplied by.
    """
    if position > step.magnitude_highest:
        raise ConfigError(
            f"An index stands at position {position}, beyond {step.magnitude_highest}.",
            hint="use the step that the indices were made for",
        )


def _coarse(x: FloatArray, inverse: np.float32) -> IndexArray:
    """Magnitudes on the even grid, for the first sweep's classes."""
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.abs(x) * inverse * np.float32(0.5) + np.float32(SCALE_OFFSET)
    coarse: IndexArray = np.minimum(scaled, np.float32(MAGNITUDE_HIGHEST)).astype(np.int32)
    return coarse


def _geometric_rates() -> IntArray:
    """Q16 bits of each index in geometric classes, alike for both grids. Shape: (classes, 2, RATES)."""
    zero = tables().class_costs
    rise = np.minimum(zero - np.arange(CLASS_LOWEST, CLASS_HIGHEST + 1) * 32768, 16 << 16)
    index = np.arange(RATES)
    rates = zero[:, None] + rise[:, None] * index + (np.minimum(index, 1) << 16)
    return np.repeat(rates[:, None, :], 2, axis=1)


def _measured_rates(
    indices: Sequence[IndexArray], scales: Sequence[Scales | None], states: int, before: IntArray
) -> IntArray:
    """Q16 bits of each index from the counts in its class, a little of the next classes, and one 16th.

    A class and grid that nothing was counted in keeps its rates from before: no path may think it free.
    """
    counts = np.zeros((CLASSES, 2, TOKENS), dtype=np.int64)
    for k, scale in zip(indices, scales, strict=True):
        if scale is not None:
            odd_grid = trellis_states(k, states) >= states // 2
            np.add.at(counts, (scale.classes(0, k.size), odd_grid.astype(np.intp), tokenise(np.abs(k))), 1)
    smooth = 16 * counts + 1
    smooth[1:] += 2 * counts[:-1]
    smooth[:-1] += 2 * counts[1:]
    token = tokenise(np.arange(RATES))
    extra = (np.array(TOKEN_BITS, dtype=np.int64) + (np.arange(TOKENS) > 0)) << 16
    rates = before.copy()
    logs = tables().logs
    for index, grid in np.argwhere(counts.any(axis=2)).tolist():
        row = smooth[index, grid]
        whole = log2_q16(int(row.sum()), logs)
        bits = np.array([whole - log2_q16(count, logs) for count in row.tolist()]) + extra
        rates[index, grid] = bits[token]
    return rates


def _sweep(
    x: FloatArray,
    inverse: np.float32,
    highest: int,
    costs: IntArray,
    classes: npt.NDArray[np.uint8],
    states: int,
    indices: IndexArray,
) -> None:
    """Writes one tensor's indices at these costs."""
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.minimum(np.abs(x) * inverse, np.float32(highest))
    below = scaled.astype(np.int32)
    rest = ((scaled - below.astype(np.float32)) * np.float32(256.0) + np.float32(0.5)).astype(np.int64)
    state = 0
    for start in range(0, x.size, WINDOW):
        part = slice(start, start + WINDOW)
        branches, choices = _branches(below[part].astype(np.int64), rest[part], costs, classes[part], highest)
        path, state = _search(branches, state, states)
        chosen = np.take_along_axis(choices, path[:, None], axis=1)[:, 0]
        indices[part] = np.where(x[part] < 0, -chosen, chosen)


def _branches(
    below: IntArray, rest: IntArray, costs: IntArray, classes: npt.NDArray[np.uint8], highest: int
) -> tuple[IntArray, IntArray]:
    """The least cost of each kind of position, its residue modulo 4, and the index that has it.

    Residues 0 and 2 are even and odd indices on the even grid, 1 and 3 odd and even ones on the odd grid, where
    zero takes the place of -1. Of each the positions next below and above compete, where there are such;
    below one grid step, an even index is zero. Shapes: (n, 4).
    """
    best = np.empty((below.size, 4), dtype=np.int64)
    chosen = np.empty((below.size, 4), dtype=np.int64)
    for residue in range(4):
        table = costs[classes, residue & 1]
        down = (below - residue) & 3
        position = below - down
        index = (position + (residue & 1)) >> 1
        at = np.arange(below.size)
        upper = (1024 - 256 * down - rest) ** 2 + table[at, np.minimum(index + 2, RATES - 1)]
        distance = np.where(position < 0, 256 * below, 256 * down) + rest
        lower = distance**2 + table[at, np.clip(index, 0, RATES - 1)]
        take = (upper < lower) & (position + 4 <= highest)
        if residue in (0, 3):
            take &= below > 0
        else:
            take |= position < 0
        best[:, residue] = np.where(take, upper, lower)
        chosen[:, residue] = np.where(take, index + 2, index)
    return best, chosen


def _search(branches: IntArray, state: int, states: int) -> tuple[npt.NDArray[np.intp], int]:
    """The residues on the cheapest path from a state, and where it ends. An even index wins a tie.

    Shape of the residues: (n,).
    """
    half = states // 2
    before = [[(s, parity) for parity in (0, 1) for s in range(states) if NEXT[states][s][parity] == t]
              for t in range(states)]  # fmt: skip
    arrive = [[(s, ((0, 2), (3, 1))[s >= half][parity]) for s, parity in pair] for pair in before]
    metrics = [UNREACHED] * states
    metrics[state] = 0
    decisions = []
    for four in branches.tolist():
        even = [metrics[pair[0][0]] + four[pair[0][1]] for pair in arrive]
        odd = [metrics[pair[1][0]] + four[pair[1][1]] for pair in arrive]
        decisions.append([o < e for e, o in zip(even, odd, strict=True)])
        metrics = [min(e, o) for e, o in zip(even, odd, strict=True)]
    end = state = metrics.index(min(metrics))
    path = np.empty(len(decisions), dtype=np.intp)
    for i in range(len(decisions) - 1, -1, -1):
        state, path[i] = arrive[state][decisions[i][state]]
    return path, end
