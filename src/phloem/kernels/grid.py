"""Indices to values: grids of the scalar and the dependent quantiser, and what their first levels stand for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phloem.kernels.steps import Step

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int32]

#: The next state by state and parity of the index; the upper half of the states is on the odd grid. Without a
#: dependent quantiser there is one state, on the even grid.
NEXT_STATE: dict[int, tuple[tuple[int, int], ...]] = {
    0: ((0, 0),),
    4: ((0, 2), (2, 0), (1, 3), (3, 1)),
    8: ((0, 1), (4, 5), (1, 0), (5, 4), (6, 7), (3, 2), (2, 3), (7, 6)),
}


def odd_grids(indices: IndexArray, states: int) -> npt.NDArray[np.bool_]:
    """Whether each index is on the odd grid. Shape: (size,)."""
    if not states:
        return np.zeros(indices.size, dtype=np.bool_)
    following = NEXT_STATE[states]
    state = 0
    found = []
    for parity in (indices & 1).tolist():
        found.append(state >= states // 2)
        state = following[state][parity]
    return np.array(found, dtype=np.bool_)


def adaptive_centres(array: FloatArray, indices: IndexArray, step: Step, states: int) -> list[int]:
    """Sums of |x| / step in 1024ths (|x| / step at most 8), and counts, of magnitudes one and two.

    Eight numbers: the sums of one and two on the even grid, then on the odd one, then their counts.
    """
    inverse = np.float32(1.0) / np.float32(step.value)
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.minimum(np.abs(array) * inverse, np.float32(8.0))
    fine = (scaled * np.float32(1024.0)).astype(np.int64)
    odd = odd_grids(indices, states)
    chosen = [(np.abs(indices) == m) & (odd == grid) for grid in (False, True) for m in (1, 2)]
    return [int(fine[one].sum()) for one in chosen] + [int(one.sum()) for one in chosen]


def decoded(indices: IndexArray, states: int, values: FloatArray, step: Step) -> FloatArray:
    """The values of indices; `values` are those of magnitudes one and two, even and odd. Shape: (size,)."""
    magnitudes = np.abs(indices.astype(np.int64))
    odd = odd_grids(indices, states)
    places = 2 * magnitudes - (odd & (magnitudes > 0)) if states else magnitudes
    result: FloatArray = places.astype(np.float32) * np.float32(step.value)
    for kind, value in enumerate(values):
        result[(magnitudes == kind % 2 + 1) & (odd == bool(kind // 2))] = value
    return np.where(indices < 0, -result, result).astype(np.float32)
