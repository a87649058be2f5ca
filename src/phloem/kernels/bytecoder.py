"""One block of bytes: raw, constant, or order-0 entropy-coded. The specification of `lossless` blocks.

A block holds `n` bytes, which both ends know. Its first byte is its kind:

    0  raw          the n bytes
    1  constant     one byte, n times
    2  one lane     table · coder of one lane
    3  lanes        table · coder of 32 lanes
    4  zstd         a varint and so many bytes: one zstd frame with its size declared (`phloem.codecs.lossless`)

*Table*: the lowest and the highest byte value that occur (two bytes, lowest < highest), then bits, low bit of a
byte first: an order k (3 bits), then for every value from the lowest to the highest but one the zigzag of its
frequency less the one before (0 before the first; zigzag: 2d for d ≥ 0, else −2d − 1) as an exponential Golomb
code of order k: with v + 2^k of b bits, b − 1 − k ones (at most 13), a zero, the low b − 1 bits of v + 2^k. The
highest value's frequency is what the others leave of 4,096. Frequencies of the lowest and the highest are
positive, all are below 4,096. Padding bits are zero.

*Coder*: rANS as in `rans`, with L lanes: byte i belongs to lane i % L; states in [2**15, 2**31), each starts (at
the encoder) and ends (at the decoder) with 2**15. L states, little-endian 32-bit, then 16-bit little-endian words
in the order in which the decoder asks for them.

An encoder is free in its frequencies and its choice of kinds. This one sends a block raw unless the coder saves
more than one byte in 128, because raw bytes decode at the speed of memory.

Source: J. Duda, "Asymmetric numeral systems" (2013); interleaving after F. Giesen (2014); exponential Golomb
codes: J. Teuhola (1978).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phloem.errors import FormatError
from phloem.kernels.tables import tables

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

RAW, CONSTANT, ONE_LANE, LANES, ZSTD = range(5)
_MANY = 32  # lanes of the kind LANES
_MANY_FROM = 4096  # estimated bytes from which 32 states are less than 2 % of a block
_TOTAL_BITS = 12
_TOTAL = 1 << _TOTAL_BITS
_LOW = 1 << 15
_LONGEST_PREFIX = 13


def block_encode(data: Bytes) -> bytes:
    """The block of these bytes."""
    counts = np.bincount(data, minlength=256).astype(np.int64)
    present = np.flatnonzero(counts)
    if present.size == 0:
        return bytes([RAW])
    if present.size == 1:
        return bytes([CONSTANT, int(present[0])])
    raw = bytes([RAW]) + data.tobytes()
    frequencies = quantise_counts(counts)
    table = write_table(frequencies)
    coded = (int((counts[present] * _costs()[frequencies[present]]).sum()) >> 19) + 1
    lanes = _MANY if coded >= _MANY_FROM else 1
    if len(table) + 4 * lanes + coded >= data.size - (data.size >> 7):
        return raw
    block = bytes([LANES if lanes == _MANY else ONE_LANE]) + table + _rans_encode(data, frequencies, lanes)
    return block if len(block) < len(raw) else raw


def block_decode(body: Bytes, start: int, out: Bytes) -> int:
    """Fills `out` from the block that starts at `start` (any kind but zstd); the position after it.

    Raises:
        FormatError: the bytes are not a block of so many bytes.
    """
    if start >= body.size:
        raise FormatError("The body ends before a block.")
    kind = int(body[start])
    start += 1
    if kind == RAW:
        if body.size - start < out.size:
            raise FormatError("The body ends inside a raw block.")
        out[:] = body[start : start + out.size]
        return start + out.size
    if kind == CONSTANT:
        if start >= body.size:
            raise FormatError("The body ends inside a constant block.")
        out[:] = body[start]
        return start + 1
    if kind in (ONE_LANE, LANES):
        frequencies, start = read_table(body, start)
        return _rans_decode(body, start, frequencies, _MANY if kind == LANES else 1, out)
    raise FormatError(f"A block has the unknown kind {kind}.")


def quantise_counts(counts: Integers) -> Integers:
    """Frequencies out of 4,096 for counts of which at least two are positive; none of those becomes zero.

    Rounded to nearest, halves up. What is missing then goes one by one to the value with the most occurrences
    per frequency (in 4,096ths, rounded down; the lowest value of several); what is too much is taken one by one
    where after it they would be the fewest.
    """
    total = int(counts.sum())
    frequencies = np.where(counts > 0, np.maximum((2 * counts * _TOTAL + total) // (2 * total), 1), 0)
    frequencies = np.minimum(frequencies, _TOTAL - 1)
    missing = _TOTAL - int(frequencies.sum())
    while missing > 0:
        rates = (counts << _TOTAL_BITS) // np.maximum(frequencies, 1)
        rates[frequencies >= _TOTAL - 1] = -1
        frequencies[int(np.argmax(rates))] += 1
        missing -= 1
    while missing < 0:
        rates = (counts << _TOTAL_BITS) // np.maximum(frequencies - 1, 1)
        rates[frequencies < 2] = np.iinfo(np.int64).max
        frequencies[int(np.argmin(rates))] -= 1
        missing += 1
    return frequencies


def write_table(frequencies: Integers) -> bytes:
    """The table's bytes, at the order (the lowest of several) that takes the fewest bits."""
    present = np.flatnonzero(frequencies)
    low, high = int(present[0]), int(present[-1])
    values = [_zigzag(d) for d in np.diff(frequencies[low:high], prepend=0).tolist()]
    order = min(range(8), key=lambda k: sum(2 * ((v >> k) + 1).bit_length() - 1 + k for v in values))
    bits, size = order, 3
    for value in values:
        shifted = value + (1 << order)
        tail = shifted.bit_length() - 1
        ones = tail - order
        code = ((1 << ones) - 1) | (shifted & ((1 << tail) - 1)) << (ones + 1)
        bits |= code << size
        size += ones + 1 + tail
    return bytes([low, high]) + bits.to_bytes((size + 7) // 8, "little")


def read_table(body: Bytes, start: int) -> tuple[Integers, int]:
    """The frequencies that a table says, and the position after it.

    Raises:
        FormatError: the body ends inside the table, or its frequencies are not 4,096 together.
    """
    if body.size - start < 3 or body[start] >= body[start + 1]:
        raise FormatError("A table's range of values is cut short or empty.")
    low, high = int(body[start]), int(body[start + 1])
    most = (3 + (high - low) * (2 * _LONGEST_PREFIX + 1 + 7) + 7) // 8
    tail = body[start + 2 : start + 2 + most]
    bits, size, at = int.from_bytes(tail.tobytes(), "little"), 8 * tail.size, 3
    order, frequency, left = bits & 7, 0, _TOTAL
    frequencies = np.zeros(256, np.int64)
    for value in range(low, high):
        ones = 0
        while ones <= _LONGEST_PREFIX and bits >> (at + ones) & 1:
            ones += 1
        if ones > _LONGEST_PREFIX:
            raise FormatError("A table's number is too long.")
        width = ones + order
        at += ones + 1
        shifted = (1 << width) | (bits >> at & ((1 << width) - 1))
        at += width
        if at > size:
            raise FormatError("The body ends inside a table.")
        change = shifted - (1 << order)
        frequency += -(change + 1 >> 1) if change & 1 else change >> 1
        if not 0 <= frequency < left or (value == low and frequency == 0):
            raise FormatError("A table's frequencies are out of range.")
        frequencies[value] = frequency
        left -= frequency
    if left == _TOTAL or bits >> at & ((1 << (-at & 7)) - 1):
        raise FormatError("A table does not end where it must.")
    frequencies[high] = left
    return frequencies, start + 2 + (at + 7) // 8


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def _costs() -> Integers:
    """What a byte of frequency f = 0 ... 4095 costs, in Q16 bits."""
    logs = tables().logs
    numbers = np.arange(1, _TOTAL)
    exponents = np.array([number.bit_length() - 1 for number in range(1, _TOTAL)])
    costs = np.zeros(_TOTAL, np.int64)
    costs[1:] = (_TOTAL_BITS << 16) - ((exponents << 16) + logs[((numbers << 12) >> exponents) - 4096])
    return costs


def _rans_encode(data: Bytes, frequencies: Integers, lanes: int) -> bytes:
    starts = np.cumsum(frequencies) - frequencies
    states = np.full(lanes, _LOW, np.int64)
    words: list[Integers] = []
    for at in reversed(range(0, data.size, lanes)):
        values = data[at : at + lanes]
        frequency, state = frequencies[values], states[: values.size]
        full = state >= frequency << (31 - _TOTAL_BITS)
        words.append(state[full] & 0xFFFF)
        state = np.where(full, state >> 16, state)
        states[: values.size] = ((state // frequency) << _TOTAL_BITS) + state % frequency + starts[values]
    words.reverse()
    return states.astype("<u4").tobytes() + np.concatenate(words).astype("<u2").tobytes()


def _rans_decode(body: Bytes, start: int, frequencies: Integers, lanes: int, out: Bytes) -> int:
    if body.size - start < 4 * lanes:
        raise FormatError("The body ends inside the coder states.")
    states = body[start : start + 4 * lanes].copy().view("<u4").astype(np.int64)
    if states.min() < _LOW or states.max() >= 1 << 31:
        raise FormatError("A coder state is out of range.")
    start += 4 * lanes
    tail = body[start : start + 2 * out.size]
    words = tail[: tail.size // 2 * 2].copy().view("<u2").astype(np.int64)
    slots = np.repeat(np.arange(256, dtype=np.uint8), frequencies)
    starts = np.cumsum(frequencies) - frequencies
    used = 0
    for at in range(0, out.size, lanes):
        state = states[: min(lanes, out.size - at)]
        slot = state & (_TOTAL - 1)
        value = slots[slot]
        out[at : at + lanes] = value
        state = frequencies[value] * (state >> _TOTAL_BITS) + slot - starts[value]
        hungry = np.flatnonzero(state < _LOW)
        if used + hungry.size > words.size:
            raise FormatError("The body ends inside a coded block.")
        state[hungry] = (state[hungry] << 16) | words[used : used + hungry.size]
        used += hungry.size
        states[: state.size] = state
    if (states != _LOW).any():
        raise FormatError("A coder does not end where it must.")
    return start + 2 * used
