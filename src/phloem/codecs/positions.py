"""Rising positions as bytes: 32 bits each, or Rice-coded gaps, some 1.5 bits above log2(size ÷ count).

Specification. A list of `count` positions below `size`, strictly rising:

    varint count · kind (0 plain, 1 Rice), and unless count is zero
    plain   count × 32-bit little-endian positions
    Rice    varint u · one byte r per group · the low bits · u bytes of the high bits

For Rice the gaps g (the first position, then each position minus the one before minus one) are taken in groups of
512. A group's r ≤ 40 splits its gaps: r low bits, and g >> r. The low bits of all gaps follow each other, least
significant first; the high parts follow each other in unary, g >> r zeros and a one. Both end with zero bits up to
a whole byte; u is the least that holds the unary bits. Source: Rice and Plaunt, Adaptive variable-length coding,
1971; with high and low bits apart as in Elias-Fano, so that neither needs a loop.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phloem import varint
from phloem.codecs.split import take
from phloem.errors import ConfigError, FormatError
from phloem.kernels import bits

Positions = npt.NDArray[np.int64]

KINDS = ("raw32", "rice")

_GROUP = 512
_LARGEST_PARAMETER = 40


def pack(positions: Positions, size: int, kind: str) -> bytes:
    """The bytes of strictly rising `positions` below `size`.

    >>> pack(np.array([1, 2, 9]), 10, "rice").hex()
    '030101010123'
    """
    count = positions.size
    head = varint.pack(count) + bytes([KINDS.index(kind)])
    if count == 0:
        return head
    if kind == "raw32":
        if size > 1 << 32:
            raise ConfigError("32-bit positions reach 2^32 parameters", hint='use indices = "rice"')
        return head + positions.astype("<u4").tobytes()
    gaps = np.diff(positions, prepend=-1) - 1
    parameters = _parameters(gaps)
    each: Positions = np.repeat(parameters, _GROUP)[:count]
    low = bits.pack(bits.spread(gaps & (1 << each) - 1, each))
    ends = np.cumsum((gaps >> each) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, np.uint8)
    unary[ends] = 1
    high = bits.pack(unary)
    return head + varint.pack(len(high)) + parameters.astype(np.uint8).tobytes() + low + high


def unpack(body: bytes, start: int, size: int, codec: str) -> tuple[Positions, int]:
    """The positions that begin at `start`, and the place after them.

    Raises:
        FormatError: the bytes end early, or positions do not rise or leave the layout.
    """
    count, start = varint.unpack(body, start)
    if count > size:
        raise FormatError(f"{codec}: the frame claims {count} values of {size}")
    kind, start = varint.unpack(body, start)
    if kind > 1:
        raise FormatError(f"{codec}: there is no kind {kind} of positions")
    if count == 0:
        return np.zeros(0, np.int64), start
    if kind == 0:
        end = take(body, start, 4 * count, codec)
        positions = np.frombuffer(body, "<u4", count, start).astype(np.int64)
    else:
        positions, end = _unpack_rice(body, start, count, size, codec)
    if positions[-1] >= size or (np.diff(positions) <= 0).any():
        raise FormatError(f"{codec}: positions must rise and stay inside the layout")
    return positions, end


def _unpack_rice(body: bytes, start: int, count: int, size: int, codec: str) -> tuple[Positions, int]:
    length, start = varint.unpack(body, start)
    groups = -(-count // _GROUP)
    after = take(body, start, groups, codec)
    parameters = np.frombuffer(body, np.uint8, groups, start).astype(np.int64)
    if (parameters > _LARGEST_PARAMETER).any():
        raise FormatError(f"{codec}: a Rice parameter is above {_LARGEST_PARAMETER}")
    each = np.repeat(parameters, _GROUP)[:count]
    total = int(each.sum())
    middle = take(body, after, -(-total // 8), codec)
    low = bits.unpack(body[after:middle])
    end = take(body, middle, length, codec)
    if length > (size + count + 7) // 8:
        raise FormatError(f"{codec}: positions leave the layout")
    high = bits.unpack(body[middle:end])
    ends = np.flatnonzero(high)
    if ends.size != count or int(ends[-1]) // 8 + 1 != length or low[total:].any():
        raise FormatError(f"{codec}: the positions are not {count} Rice codes")
    quotients = np.diff(ends, prepend=-1) - 1
    if (quotients > size >> each).any():
        raise FormatError(f"{codec}: positions leave the layout")
    gaps = (quotients << each) + bits.gather(low[:total], each)
    if int(gaps.max()) >= size:  # so that the sum below cannot overflow: count · size < 2^63 in any memory
        raise FormatError(f"{codec}: positions leave the layout")
    positions: Positions = np.cumsum(gaps + 1) - 1
    return positions, end


def _parameters(gaps: Positions) -> Positions:
    """The cheapest parameter of every group, the smaller of two that are equal."""
    starts = np.arange(0, gaps.size, _GROUP)
    sums = np.add.reduceat(gaps, starts)
    counts = np.diff(starts, append=gaps.size)
    means = sums // counts
    around = np.frexp(np.maximum(means, 1).astype(np.float64))[1].astype(np.int64) - 1  # ⌊log2⌋
    best, cost = np.zeros_like(around), np.full(around.size, np.iinfo(np.int64).max)
    for shift in (-1, 0, 1):
        tried = np.clip(around + shift, 0, _LARGEST_PARAMETER)
        each = np.repeat(tried, _GROUP)[: gaps.size]
        taken = np.add.reduceat(gaps >> each, starts) + counts * (tried + 1)
        better = taken < cost
        best, cost = np.where(better, tried, best), np.where(better, taken, cost)
    chosen: Positions = best
    return chosen
