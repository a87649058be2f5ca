"""The binary range decoder of docs/ecsq.md, "Range coder"."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.reader import Refused, require

WORD = (1 << 32) - 1
CONTEXTS = 206


class RangeDecoder:
    """Adaptive bits, raw bits, numbers and tokens from one range coder."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.next = data, at
        self.range, self.code = WORD, 0
        for _ in range(4):
            self.code = self.code << 8 | self._byte()
        self.zero = [32768] * CONTEXTS
        self.uses = [0] * CONTEXTS

    @property
    def end(self) -> int:
        """Where the coder's bytes end: two of the bytes that it looks at are not its own."""
        return self.next - 2

    def _byte(self) -> int:
        require(self.next < len(self.data) + 2, "ends inside the range coder")
        self.next += 1
        return self.data[self.next - 1] if self.next <= len(self.data) else 0

    def _fill(self) -> None:
        while self.range < 1 << 24:
            self.range <<= 8
            self.code = (self.code << 8 | self._byte()) & WORD

    def bit(self, context: int) -> int:
        """An adaptive bit."""
        zero, uses = self.zero[context], self.uses[context]
        part = (self.range >> 12) * (zero >> 4)
        rate = 65536 // (uses + 2)
        bit = int(self.code >= part)
        if bit:
            self.code -= part
            self.range -= part
            self.zero[context] = max(zero - (zero * rate >> 16), 64)
        else:
            self.range = part
            self.zero[context] = min(zero + ((65536 - zero) * rate >> 16), 65472)
        self.uses[context] = min(uses + 1, 30)
        self._fill()
        return bit

    def raw(self, width: int) -> int:
        """Equally likely bits, at most eight at a time."""
        value = 0
        while width:
            take = min(width, 8)
            width -= take
            self.range >>= take
            digit = min(self.code // self.range, (1 << take) - 1)
            self.code -= digit * self.range
            value = value << take | digit
            self._fill()
        return value

    def unsigned(self, context: int, contexts: int) -> int:
        """Exp-Golomb with an adaptive prefix."""
        prefix = 0
        while self.bit(context + min(prefix, contexts - 1)):
            prefix += 1
            if prefix > 40:
                raise Refused("a number is too long")
        return (1 << prefix) + self.raw(prefix) - 1

    def signed(self, context: int, contexts: int) -> int:
        """Zero flag, sign, magnitude less one."""
        if not self.bit(context):
            return 0
        negative = self.bit(context + 1)
        size = self.unsigned(context + 2, contexts) + 1
        return -size if negative else size

    def near(self, context: int, expected: int) -> int:
        """A number by the difference of its bit length to that of an expected one."""
        length = expected.bit_length() + self.signed(context, 6)
        require(0 <= length <= 48, "a count is out of range")
        return (1 << (length - 1)) + self.raw(length - 1) if length else 0

    def tokens(self, count: int, table: Sequence[int]) -> list[int]:
        """Tokens of one 12-bit table."""
        slots = [token for token, frequency in enumerate(table) for _ in range(frequency)]
        starts = [sum(table[:token]) for token in range(len(table))]
        found = []
        for _ in range(count):
            share = self.range >> 12
            token = slots[min(self.code // share, 4095)]
            self.code -= share * starts[token]
            self.range = share * table[token]
            self._fill()
            found.append(token)
        return found
