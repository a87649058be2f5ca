"""Thirty-two interleaved rANS coders for many tokens under many fixed tables.

The tokens of one table are a run; token `i` of a run belongs to lane `i % 32`. States stay in [2**15, 2**31) and
give up sixteen bits at a time; every lane starts (at the encoder) and must end (at the decoder) with 2**15.

Bytes: 32 states, little-endian 32-bit, then 16-bit little-endian words in the order in which the decoder
asks for them: step by step, within a step from lane 0 up.

Source: J. Duda, "Asymmetric numeral systems" (2013); interleaving after F. Giesen (2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phloem.errors import FormatError
from phloem.kernels.tables import FREQUENCY_BITS, LANES

_LOW = 1 << 15
#: No frequency is above 4,095, so each token takes at least x >> 12 from a state x: from 2**31 it is below 2**15
#: after 51,104 tokens at the latest.
_MOST_PER_WORD = 1 << 16


def rans_encode(runs: Sequence[tuple[npt.NDArray[np.uint8], Sequence[int]]]) -> bytes:
    """The bytes of the runs (tokens, frequencies out of 4,096)."""
    states = np.full(LANES, _LOW, dtype=np.int64)
    words: list[npt.NDArray[np.int64]] = []
    for tokens, table in reversed(runs):
        frequencies = np.array(table, dtype=np.int64)
        starts = np.cumsum(frequencies) - frequencies
        for at in reversed(range(0, tokens.size, LANES)):
            token = tokens[at : at + LANES]
            frequency = frequencies[token]
            state = states[: token.size]
            full = state >= frequency << (31 - FREQUENCY_BITS)
            words.append(state[full] & 0xFFFF)
            state = np.where(full, state >> 16, state)
            states[: token.size] = (
                ((state // frequency) << FREQUENCY_BITS) + state % frequency + starts[token]
            )
    words.reverse()
    stream = np.concatenate(words) if words else np.zeros(0, dtype=np.int64)
    return states.astype("<u4").tobytes() + stream.astype("<u2").tobytes()


def rans_decode(
    data: bytes,
    start: int,
    runs: Sequence[tuple[int, Sequence[int]]],
) -> tuple[list[npt.NDArray[np.uint8]], int]:
    """The tokens of each run (count, frequencies), and the position after the coder's bytes.

    Raises:
        FormatError: the data ends too early or a lane does not end where it must.
    """
    if len(data) < start + 4 * LANES:
        raise FormatError("The frame ends inside the coder states.", hint="The frame is cut short.")
    states = np.frombuffer(data, dtype="<u4", count=LANES, offset=start).astype(np.int64)
    if states.min() < _LOW or states.max() >= 1 << 31:
        raise FormatError("A coder state is out of range.", hint="The frame is damaged.")
    start += 4 * LANES
    if sum(count for count, _ in runs) > (LANES + (len(data) - start) // 2) * _MOST_PER_WORD:
        raise FormatError("The frame ends inside the tokens.", hint="The frame is cut short.")
    words = np.frombuffer(data, dtype="<u2", count=(len(data) - start) // 2, offset=start).astype(np.int64)

    found = []
    next_word = 0
    for count, table in runs:
        frequencies = np.array(table, dtype=np.int64)
        starts = np.cumsum(frequencies) - frequencies
        slot_token = np.repeat(np.arange(frequencies.size, dtype=np.uint8), frequencies)  # (4096,)
        tokens = np.zeros(count, dtype=np.uint8)
        for at in range(0, count, LANES):
            state = states[: min(LANES, count - at)]
            slot = state & 4095
            token = slot_token[slot]
            tokens[at : at + LANES] = token
            state = frequencies[token] * (state >> FREQUENCY_BITS) + slot - starts[token]
            hungry = np.flatnonzero(state < _LOW)
            if next_word + hungry.size > words.size:
                raise FormatError("The frame ends inside the tokens.", hint="The frame is cut short.")
            state[hungry] = (state[hungry] << 16) | words[next_word : next_word + hungry.size]
            next_word += hungry.size
            states[: state.size] = state
        found.append(tokens)
    if (states != _LOW).any():
        raise FormatError("A coder does not end where it must.", hint="The frame is damaged.")
    return found, start + 2 * next_word
