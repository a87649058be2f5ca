"""Tables, chances and mixers of the adaptive efforts: docs/ecsq.md."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from math import isqrt

from tests.conformance.reader import Reader, require

ONE, LEAST, MOST = 1 << 22, 32, 2815
DECAY = 18374827034086858297  # exp(-1 / 256) in 2**-64
WORD = (1 << 32) - 1


@cache
def logistic() -> list[int]:
    """1 / (1 + exp(-x / 256)) in 2**-64 for x from -MOST to MOST."""
    upper, power = [], 1 << 64
    for _ in range(MOST + 1):
        upper.append((1 << 128) // ((1 << 64) + power))
        power = power * DECAY >> 64
    return [*((1 << 64) - one for one in reversed(upper[1:])), *upper]


@cache
def stretch_of(probability: int) -> int:
    """The smallest x whose logistic reaches a probability in 2**-64."""
    return min(bisect_left(logistic(), probability), 2 * MOST) - MOST


def stretch(share: int) -> int:
    """The logistic domain's number for a 22-bit probability."""
    if share < 1 << 16:
        return stretch_of((2 * (share >> 4) + 1) << 45)
    if share >= ONE - (1 << 16):
        return -stretch_of((2 * ((ONE - 1 - share) >> 4) + 1) << 45)
    return stretch_of((2 * (share >> 10) + 1) << 51)


def squash(mixed: int) -> int:
    """A 16-bit probability."""
    return max(1, min((logistic()[mixed + MOST] + (1 << 47)) >> 48, 65535))


@cache
def sixteenths(lead: int) -> int:
    """round(16 log2(lead / 64)), for a lead of seven bits."""
    return ((lead**32).bit_length() - 192) >> 1


def log16(value: int) -> int:
    """Sixteen times log2 of a positive integer."""
    top = value.bit_length() - 1
    return 16 * top + sixteenths(value >> (top - 6) if top >= 6 else value << (6 - top))


def prior(level: int) -> int:
    """Where the flags of `balanced` begin."""
    return (1 << 54) // ((1 << 32) + isqrt(1 << (86 - level)))


class Chance:
    """An adaptive probability of a one."""

    def __init__(self, share: int = ONE >> 1, uses: int = 0) -> None:
        self.share, self.uses = share, uses

    def learn(self, bit: int) -> None:
        """Move towards the bit."""
        self.share += ((bit << 22) - self.share) * (131072 // (2 * self.uses + 3)) >> 16
        self.uses = min(self.uses + 1, 255)


class Decoder:
    """The binary arithmetic decoder with a 64-bit range."""

    def __init__(self, data: bytes) -> None:
        self.reader, self.size = Reader(data + bytes(16)), len(data)
        self.range = (1 << 64) - 1
        self.code = int.from_bytes(self.reader.take(8), "big")

    def bit(self, one: int) -> int:
        """A bit; the probability of a one is one / 2**22."""
        part = (self.range >> 22) * one
        bit = int(self.code >= self.range - part)
        if bit:
            self.code -= self.range - part
            self.range = part
        else:
            self.range -= part
        self._fill()
        return bit

    def raw(self) -> int:
        """An equally likely bit."""
        self.range >>= 1
        bit = min(self.code // self.range, 1)
        self.code -= bit * self.range
        self._fill()
        return bit

    def _fill(self) -> None:
        if self.range < 1 << 32:
            self.range <<= 32
            self.code = self.code << 32 & (1 << 64) - 1 | int.from_bytes(self.reader.take(4), "big")

    def end(self) -> None:
        """The shortest code word must end here."""
        start = self.reader.at - 8
        window = int.from_bytes(self.reader.data[start : start + 8], "big")
        low = (window - self.code) % (1 << 64)
        for count in range(1, 6):
            unit = 1 << (64 - 8 * count)
            value = -(-low // unit) * unit
            if value + unit - 1 - low < self.range:
                break
        require(self.code < self.range and value % (1 << 64) == window, "another end of a stream")
        require(self.size == start + count, "a stream does not end where it must")

    def chance(self, chance: Chance) -> int:
        """A bit by one chance."""
        bit = self.bit(max(LEAST, min(chance.share, ONE - LEAST)))
        chance.learn(bit)
        return bit


class Mixer:
    """Chances of several contexts, mixed."""

    def __init__(self, contexts: int, extras: int, weight: int, rate: int) -> None:
        self.known: list[dict[int, Chance]] = [{} for _ in range(contexts)]
        self.weights = [weight] * contexts + [0] * extras
        self.rate = rate

    def bit(self, coder: Decoder, contexts: Sequence[int], extras: Sequence[int]) -> int:
        """A bit in these contexts."""
        chances = [
            own.setdefault(context, Chance()) for own, context in zip(self.known, contexts, strict=True)
        ]
        inputs = [*(stretch(chance.share) for chance in chances), *extras]
        mixed = (sum(w * x for w, x in zip(self.weights, inputs, strict=True)) + 32768) >> 16
        one = squash(max(-MOST, min(mixed, MOST)))
        bit = coder.bit(one << 6)
        error = ((bit << 16) - one) * self.rate >> 4
        self.weights = [
            max(-(1 << 19), min(w + ((x * error + 8192) >> 14), 1 << 19))
            for w, x in zip(self.weights, inputs, strict=True)
        ]
        for chance in chances:
            chance.learn(bit)
        return bit
