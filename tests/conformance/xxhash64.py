"""XXH64 with seed 0: the checksum that a Zstandard frame may end with (RFC 8878, section 3.1.1)."""

from __future__ import annotations

MASK = (1 << 64) - 1
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def turn(value: int, bits: int) -> int:
    """Rotated left."""
    return (value << bits | value >> (64 - bits)) & MASK


def round_(sum_: int, word: int) -> int:
    """One step of a lane."""
    return turn((sum_ + word * P2) & MASK, 31) * P1 & MASK


def xxhash64(data: bytes) -> int:
    """The hash."""
    at = 0
    if len(data) >= 32:
        lanes = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
        while len(data) - at >= 32:
            for lane in range(4):
                word = int.from_bytes(data[at + 8 * lane : at + 8 * lane + 8], "little")
                lanes[lane] = round_(lanes[lane], word)
            at += 32
        value = sum(turn(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            value = ((value ^ round_(0, lane)) * P1 + P4) & MASK
    else:
        value = P5
    value = (value + len(data)) & MASK
    while len(data) - at >= 8:
        word = int.from_bytes(data[at : at + 8], "little")
        value = (turn(value ^ round_(0, word), 27) * P1 + P4) & MASK
        at += 8
    if len(data) - at >= 4:
        word = int.from_bytes(data[at : at + 4], "little")
        value = (turn(value ^ word * P1 & MASK, 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        value = turn(value ^ byte * P5 & MASK, 11) * P1 & MASK
    value = (value ^ value >> 33) * P2 & MASK
    value = (value ^ value >> 29) * P3 & MASK
    return value ^ value >> 32
