"""Adaptive probabilities and their mixture: see `adaptive` for the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from phloem.kernels.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from phloem.kernels.logistic import (
    SHARE_BITS,
    SHARE_LEAST,
    SHARE_ONE,
    STRETCH_MOST,
    USES_MOST,
    log16,
    logistic_tables,
)

Coder = ArithmeticEncoder | ArithmeticDecoder


class Chance:
    """An adaptive probability of a one."""

    __slots__ = ("share", "uses")

    def __init__(self, share: int = SHARE_ONE >> 1, uses: int = 0) -> None:
        self.share = share
        self.uses = uses

    @property
    def safe(self) -> int:
        """The probability that is coded with."""
        return min(max(self.share, SHARE_LEAST), SHARE_ONE - SHARE_LEAST)

    def learn(self, bit: int) -> None:
        """Move towards the bit."""
        target = SHARE_ONE if bit else 0
        self.share += ((target - self.share) * (131072 // (2 * self.uses + 3))) >> 16
        if self.uses < USES_MOST:
            self.uses += 1


class Single:
    """A flag predicted by one chance."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def share(self) -> int:
        """The probability of a one in 22 bits."""
        return self._chance.safe

    def code(self, coder: Coder, bit: int) -> int:
        """Code the flag and learn."""
        bit = coder.bit(self._chance.safe, bit)
        self._chance.learn(bit)
        return bit


class Mixer:
    """Predictions of several contexts, mixed."""

    def __init__(self, sizes: Sequence[int], extras: int, weight: int, rate: int) -> None:
        self._chances: list[dict[int, Chance]] = [{} for _ in sizes]
        self.weights = [weight] * len(sizes) + [0] * extras
        self.rate = rate

    def predict(self, contexts: Sequence[int], extras: Sequence[int]) -> Mixed:
        """The prediction in these contexts."""
        chances = [
            known.setdefault(context, Chance())
            for known, context in zip(self._chances, contexts, strict=True)
        ]
        return Mixed(self, chances, [*(_stretch(chance.share) for chance in chances), *extras])


class Mixed:
    """A flag predicted by a mixer."""

    def __init__(self, mixer: Mixer, chances: list[Chance], inputs: list[int]) -> None:
        self._mixer, self._chances, self._inputs = mixer, chances, inputs
        total = sum(w * i for w, i in zip(mixer.weights, inputs, strict=True))
        mixed = min(max((total + 32768) >> 16, -STRETCH_MOST), STRETCH_MOST)
        self._one = int(logistic_tables().squash[mixed + STRETCH_MOST])

    def share(self) -> int:
        """The probability of a one in 22 bits."""
        return self._one << 6

    def code(self, coder: Coder, bit: int) -> int:
        """Code the flag and learn."""
        bit = coder.bit(self.share(), bit)
        error = ((65536 * bit - self._one) * self._mixer.rate) >> 4
        weights = self._mixer.weights
        for i, value in enumerate(self._inputs):
            weights[i] = min(max(weights[i] + ((value * error + 8192) >> 14), -(1 << 19)), 1 << 19)
        for chance in self._chances:
            chance.learn(bit)
        return bit


Flag = Single | Mixed


def cost_of(flag: Flag, bit: int) -> int:
    """Sixteenths of a bit."""
    share = flag.share()
    return 16 * SHARE_BITS - log16(share if bit else SHARE_ONE - share)


def _stretch(share: int) -> int:
    known = logistic_tables()
    tail = SHARE_ONE // 64
    if share < tail:
        return int(known.stretch_tail[share >> 4])
    if share >= SHARE_ONE - tail:
        return -int(known.stretch_tail[(SHARE_ONE - 1 - share) >> 4])
    return int(known.stretch_middle[share >> 10])
