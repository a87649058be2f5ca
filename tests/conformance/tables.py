"""The token tables of effort `fast`: docs/ecsq.md, "Side information"."""

from __future__ import annotations

from collections.abc import Sequence

LADDER = (
    162, 219, 295, 397, 535, 720, 968, 1300, 1743, 2331, 3108, 4127, 5451, 7150, 9296, 11955, 15170,
    18943, 23222, 27889, 32768, 37647, 42314, 46593, 50366, 53581, 56240, 58386, 60085, 61409,
    62428, 63205, 63793, 64236, 64568, 64816, 65001, 65139, 65241, 65317, 65374,
)  # fmt: skip


def gap_table(others: int, ones: int) -> tuple[int, list[int]]:
    """How many low bits of gaps are raw, and the table of the rest."""
    shift = 0
    while 2 * (others >> (shift + 1)) >= 5 * ones:
        shift += 1
    survival = (others << 32) // (others + ones)
    for _ in range(shift):
        survival = survival * survival >> 32
    reach, table = 1 << 32, []
    for _ in range(15):
        further = reach * survival >> 32
        table.append(max(1, (4096 * (reach - further) + (1 << 31)) >> 32))
        reach = further
    table.append(max(1, (4096 * reach + (1 << 31)) >> 32))
    table[0] += 4096 - sum(table)
    return shift, table


def magnitude_table(hazards: Sequence[int]) -> list[int]:
    """The table of tokens from 0 to the highest."""
    rest, table = 4096, []
    for token, hazard in enumerate(hazards):
        share = (rest * LADDER[hazard] + 32768) >> 16
        table.append(max(1, min(share, rest - (len(hazards) - token))))
        rest -= table[-1]
    return [*table, rest]
