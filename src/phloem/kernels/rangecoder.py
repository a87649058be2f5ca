"""An adaptive binary range coder with integer state, for everything that is few and irregular.

A `RangeEncoder` and a `RangeDecoder` have the same methods: each codes one value and returns it. The
encoder takes the value as an argument; the decoder ignores that argument and returns what it reads. So one
function describes both directions of the side information (see `side`).

Bytes: big-endian digits of a number in [0, 1); the coder adds nothing but the last two bytes, which make
every continuation decode alike. The decoder therefore needs no length, and knows afterwards how many bytes
there were: it is always two bytes ahead of them.

Source: G. N. N. Martin, "Range encoding" (1979); the carry goes back into bytes already written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from phloem.errors import FormatError

#: A bit's probability moves by 1/(n + 2) of the error on its n-th use (Krichevsky-Trofimov), at last by 1/32.
_SLOWEST = 30
_RATES = tuple(65536 // (n + 2) for n in range(_SLOWEST + 1))
_LEAST, _MOST = 64, 65536 - 64
_TOP = 1 << 24
_HINT = "The frame is damaged."
_WORD = (1 << 32) - 1
#: The decoder holds four bytes, of which the encoder's end writes two.
_AHEAD = 2

#: The longest unary prefix of a number: values stay below 2**41.
_PREFIX_LONGEST = 40


class _Adaptive:
    """Probabilities (of a zero, in 65,536ths) and use counts, by context number."""

    def __init__(self, contexts: int) -> None:
        self._zero = [32768] * contexts
        self._used = [0] * contexts

    def _learn(self, context: int, bit: int) -> None:
        used = self._used[context]
        zero = self._zero[context]
        if bit:
            zero -= (zero * _RATES[used]) >> 16
            if zero < _LEAST:
                zero = _LEAST
        else:
            zero += ((65536 - zero) * _RATES[used]) >> 16
            if zero > _MOST:
                zero = _MOST
        self._zero[context] = zero
        if used < _SLOWEST:
            self._used[context] = used + 1

    def bit(self, context: int, bit: int = 0) -> int:
        """One adaptive bit."""
        raise NotImplementedError

    def raw(self, width: int, value: int = 0) -> int:
        """`width` equally likely bits."""
        raise NotImplementedError

    def unsigned(self, context: int, contexts: int, value: int = 0) -> int:
        """A number from 0 up, as Exp-Golomb with an adaptive prefix in `contexts` contexts."""
        length = (value + 1).bit_length() - 1
        last = contexts - 1
        prefix = 0
        while self.bit(context + min(prefix, last), int(prefix < length)):
            prefix += 1
            if prefix > _PREFIX_LONGEST:
                raise FormatError("A number in the side information is too long.", hint=_HINT)
        rest = self.raw(prefix, value + 1 - (1 << length))
        return (1 << prefix) + rest - 1

    def signed(self, context: int, contexts: int, value: int = 0) -> int:
        """Any integer: zero flag, sign, then the magnitude; needs `contexts` + 2 contexts."""
        if not self.bit(context, int(value != 0)):
            return 0
        negative = self.bit(context + 1, int(value < 0))
        magnitude = self.unsigned(context + 2, contexts, max(abs(value), 1) - 1) + 1
        return -magnitude if negative else magnitude


class RangeEncoder(_Adaptive):
    """Writes."""

    def __init__(self, contexts: int) -> None:
        super().__init__(contexts)
        self._low = 0
        self._range = _WORD
        self._out = bytearray()

    def bit(self, context: int, bit: int = 0) -> int:
        """Write one adaptive bit."""
        bound = (self._range >> 12) * (self._zero[context] >> 4)
        if bit:
            self._low += bound
            self._range -= bound
        else:
            self._range = bound
        if self._range < _TOP or self._low > _WORD:
            self._settle()
        self._learn(context, bit)
        return bit

    def raw(self, width: int, value: int = 0) -> int:
        """Write `width` bits, most significant first."""
        left = width
        while left:
            take = min(left, 8)
            left -= take
            self._range >>= take
            self._low += self._range * ((value >> left) & ((1 << take) - 1))
            self._settle()
        return value

    def symbols(self, tokens: Sequence[int], frequencies: Sequence[int], starts: Sequence[int]) -> None:
        """Write tokens that share one 12-bit table."""
        for token in tokens:
            share = self._range >> 12
            self._low += share * starts[token]
            self._range = share * frequencies[token]
            if self._range < _TOP or self._low > _WORD:
                self._settle()

    def _settle(self) -> None:
        if self._low > _WORD:
            self._low &= _WORD
            at = len(self._out) - 1
            while self._out[at] == 255:
                self._out[at] = 0
                at -= 1
            self._out[at] += 1
        while self._range < _TOP:
            self._out.append(self._low >> 24)
            self._low = (self._low << 8) & _WORD
            self._range <<= 8

    def finish(self) -> bytes:
        """All bytes; two more make every continuation decode alike."""
        self._low += 0xFFFF
        self._settle()
        self._out += (self._low >> 16).to_bytes(2, "big")
        return bytes(self._out)


class RangeDecoder(_Adaptive):
    """Reads; beyond the end of the data it reads two zeros, and then refuses it as cut short."""

    def __init__(self, contexts: int, data: bytes, start: int) -> None:
        super().__init__(contexts)
        self._data = data
        self._range = _WORD
        self._end = len(data) + _AHEAD
        self._code = 0
        self._next = start
        for _ in range(4):
            self._code = self._code << 8 | self._byte()

    @property
    def position(self) -> int:
        """Where the coder's bytes end, never beyond the end of the data."""
        return self._next - _AHEAD

    def bit(self, context: int, bit: int = 0) -> int:
        """Read one adaptive bit."""
        bound = (self._range >> 12) * (self._zero[context] >> 4)
        if self._code >= bound:
            bit = 1
            self._code -= bound
            self._range -= bound
        else:
            bit = 0
            self._range = bound
        if self._range < _TOP:
            self._fill()
        self._learn(context, bit)
        return bit

    def raw(self, width: int, value: int = 0) -> int:
        """Read `width` bits."""
        left = width
        value = 0
        while left:
            take = min(left, 8)
            left -= take
            self._range >>= take
            digit = min(self._code // self._range, (1 << take) - 1)
            self._code -= digit * self._range
            value = (value << take) | digit
            if self._range < _TOP:
                self._fill()
        return value

    def symbols(self, count: int, slots: bytes, frequencies: Sequence[int], starts: Sequence[int]) -> bytes:
        """Read `count` tokens of one 12-bit table, given its token for every slot."""
        tokens = bytearray(count)
        for i in range(count):
            share = self._range >> 12
            token = slots[min(self._code // share, 4095)]
            self._code -= share * starts[token]
            self._range = share * frequencies[token]
            if self._range < _TOP:
                self._fill()
            tokens[i] = token
        return bytes(tokens)

    def _fill(self) -> None:
        while self._range < _TOP:
            self._code = ((self._code << 8) | self._byte()) & _WORD
            self._range <<= 8

    def _byte(self) -> int:
        at = self._next
        if at >= self._end:
            raise FormatError("The body ends inside the side information.", hint=_HINT)
        self._next = at + 1
        return self._data[at] if at < len(self._data) else 0


@cache
def slot_tokens(frequencies: tuple[int, ...]) -> bytes:
    """The token of each of the 4,096 slots."""
    return b"".join(bytes([token]) * frequency for token, frequency in enumerate(frequencies))
