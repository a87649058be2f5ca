"""A decoder of Zstandard frames (RFC 8878), without dictionaries; the content size must be declared."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.reader import Reader, Refused, require
from tests.conformance.xxhash64 import xxhash64

LITERAL_LENGTHS = [*((i, 0) for i in range(16))]
LITERAL_LENGTHS += zip(
    (16, 18, 20, 22, 24, 28, 32, 40, 48, *(1 << i for i in range(6, 17))),
    (1, 1, 1, 1, 2, 2, 3, 3, 4, *range(6, 17)),
    strict=True,
)
MATCH_LENGTHS = [*((i + 3, 0) for i in range(32))]
MATCH_LENGTHS += zip(
    (35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99, *((1 << i) + 3 for i in range(7, 17))),
    (1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, *range(7, 17)),
    strict=True,
)
OFFSETS = [(1 << i, i) for i in range(32)]
#: Default distributions and their accuracies.
DEFAULTS = (
    ([4, 3, *[2] * 11, 1, 1, 1, *[2] * 9, 3, 2, *[1] * 5, *[-1] * 4], 6),
    ([*[1] * 6, 2, 2, 2, *[1] * 15, *[-1] * 5], 5),
    ([1, 4, 3, *[2] * 6, *[1] * 37, *[-1] * 7], 6),
)
ACCURACIES, BASES = (9, 8, 9), (LITERAL_LENGTHS, OFFSETS, MATCH_LENGTHS)

Table = list[tuple[int, int, int]]  # symbol, bits, next state less those bits


class Backward:
    """Bits of a byte string from its end, after the marker in its last byte."""

    def __init__(self, data: bytes) -> None:
        require(bool(data) and data[-1] != 0, "a bit stream without its end")
        self.number = int.from_bytes(data, "little")
        self.left = self.number.bit_length() - 1

    def take(self, width: int) -> int:
        """The next bits; zeros beyond the beginning, which `left` then shows."""
        self.left -= width
        wanted = self.number >> self.left if self.left >= 0 else self.number << -self.left
        return wanted & ((1 << width) - 1)


class Fse:
    """A state over a table."""

    def __init__(self, table: Table, accuracy: int, bits: Backward) -> None:
        self.table, self.bits = table, bits
        self.state = bits.take(accuracy)

    @property
    def symbol(self) -> int:
        """The symbol of this state."""
        return self.table[self.state][0]

    def advance(self) -> None:
        """Go to the next state."""
        _, width, base = self.table[self.state]
        self.state = base + self.bits.take(width)


def fse_table(shares: Sequence[int], accuracy: int) -> Table:
    """The table of a distribution."""
    size = 1 << accuracy
    symbols: list[int] = [-1] * size
    top = size - 1
    for symbol, share in enumerate(shares):
        if share < 0:
            symbols[top] = symbol
            top -= 1
    place = 0
    for symbol, share in enumerate(shares):
        for _ in range(max(share, 0)):
            symbols[place] = symbol
            place = (place + (size >> 1) + (size >> 3) + 3) & (size - 1)
            while place > top:
                place = (place + (size >> 1) + (size >> 3) + 3) & (size - 1)
    following = [abs(share) for share in shares]
    table = []
    for symbol in symbols:
        state = following[symbol]
        following[symbol] += 1
        width = accuracy - (state.bit_length() - 1)
        table.append((symbol, width, (state << width) - size))
    return table


def read_shares(reader: Reader, most: int, symbols: int) -> tuple[Table, int]:
    """A table from its description."""
    number, at = int.from_bytes(reader.data[reader.at :], "little"), 4
    accuracy = (number & 15) + 5
    require(accuracy <= most, "no such accuracy")
    left, shares = 1 << accuracy, []
    while left > 0:
        width = (left + 1).bit_length()
        value = number >> at & ((1 << width) - 1)
        low, spare = value & ((1 << (width - 1)) - 1), (1 << width) - 2 - left
        if low < spare:
            value, at = low, at + width - 1
        else:
            value, at = value - (spare if value >= 1 << (width - 1) else 0), at + width
        shares.append(value - 1)
        left -= abs(value - 1)
        while value == 1:
            run = number >> at & 3
            at += 2
            shares += [0] * run
            if run < 3:
                break
    require(left == 0 and len(shares) <= symbols, "a distribution is damaged")
    reader.take((at + 7) // 8)
    return fse_table(shares, accuracy), accuracy


def read_huffman(reader: Reader) -> tuple[dict[tuple[int, int], int], int]:
    """Symbols by (bits, code), and the longest code."""
    head = reader.byte()
    if head >= 128:
        packed = reader.take((head - 126) // 2)
        weights = [packed[i // 2] >> (4 * (1 - i % 2)) & 15 for i in range(head - 127)]
    else:
        weights = read_weights(Reader(reader.take(head)))
    used = sum(1 << weight >> 1 for weight in weights)
    longest = used.bit_length()
    rest = (1 << longest) - used
    require(used > 0 and rest & (rest - 1) == 0 and longest <= 11, "a Huffman tree is damaged")
    weights.append(rest.bit_length())
    codes, code = {}, 0
    for weight in range(1, longest + 1):
        for symbol, own in enumerate(weights):
            if own == weight:
                width = longest + 1 - weight
                codes[width, code >> (weight - 1)] = symbol
                code += 1 << (weight - 1)
    return codes, longest


def read_weights(reader: Reader) -> list[int]:
    """Huffman weights by two states over one table."""
    table, accuracy = read_shares(reader, 6, 13)
    bits = Backward(reader.rest())
    states = [Fse(table, accuracy, bits), Fse(table, accuracy, bits)]
    require(bits.left >= 0, "ends inside weights")
    weights: list[int] = []
    while len(weights) < 255:
        now, other = states
        weights.append(now.symbol)
        now.advance()
        if bits.left < 0:
            return [*weights, other.symbol]
        states = [other, now]
    raise Refused("too many weights")


def huffman(data: bytes, count: int, codes: dict[tuple[int, int], int], longest: int) -> bytes:
    """One stream of literals."""
    bits, found = Backward(data), bytearray()
    while len(found) < count:
        code = 0
        for width in range(1, longest + 1):
            code = code << 1 | bits.take(1)
            if (width, code) in codes:
                found.append(codes[width, code])
                break
        require(bits.left >= 0, "ends inside literals")
    require(bits.left == 0, "bits follow the literals")
    return bytes(found)


class Frame:
    """What blocks of one frame share."""

    def __init__(self, most: int) -> None:
        self.out = bytearray()
        self.most = most
        self.codes: tuple[dict[tuple[int, int], int], int] | None = None
        self.tables: list[tuple[Table, int] | None] = [None, None, None]
        self.recent = [1, 4, 8]

    def block(self, reader: Reader) -> None:
        """A compressed block."""
        literals = self._literals(reader)
        self._sequences(reader, literals)

    def _literals(self, reader: Reader) -> bytes:
        first = reader.data[reader.at] if reader.at < len(reader.data) else 0
        kind, form = first & 3, first >> 2 & 3
        if kind < 2:
            size = (1, 2, 1, 3)[form]
            count = reader.unsigned(size) >> (3 if size == 1 else 4)
            return reader.take(count) if kind == 0 else reader.take(1) * count
        size, width = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
        head = reader.unsigned(size) >> 4
        count, packed = head & ((1 << width) - 1), head >> width
        own = Reader(reader.take(packed))
        if kind == 2:
            self.codes = read_huffman(own)
        if self.codes is None:
            raise Refused("no Huffman tree")
        if form == 0:
            return huffman(own.rest(), count, *self.codes)
        sizes = [own.unsigned(2) for _ in range(3)]
        streams = [*(own.take(one) for one in sizes), own.rest()]
        each = (count + 3) // 4
        counts = [each, each, each, count - 3 * each]
        return b"".join(huffman(data, n, *self.codes) for data, n in zip(streams, counts, strict=True))

    def _sequences(self, reader: Reader, literals: bytes) -> None:
        count = reader.byte()
        if count >= 255:
            count = reader.unsigned(2) + 0x7F00
        elif count >= 128:
            count = (count - 128 << 8) + reader.byte()
        at = 0
        if count:
            modes = reader.byte()
            for kind in range(3):
                self.tables[kind] = self._table(reader, kind, modes >> (6 - 2 * kind) & 3)
            bits = Backward(reader.rest())
            lengths, offsets, matches = (Fse(*table, bits) for table in self.tables if table)
            for number in range(count):
                base, width = OFFSETS[offsets.symbol]
                offset = base + bits.take(width)
                base, width = MATCH_LENGTHS[matches.symbol]
                match = base + bits.take(width)
                base, width = LITERAL_LENGTHS[lengths.symbol]
                run = base + bits.take(width)
                require(at + run <= len(literals), "more literals than there are")
                self.out += literals[at : at + run]
                at += run
                self._copy(self._offset(offset, run), match)
                if number + 1 < count:
                    for state in (lengths, matches, offsets):
                        state.advance()
            require(bits.left == 0, "sequences do not end where they must")
        reader.end()
        self.out += literals[at:]

    def _table(self, reader: Reader, kind: int, mode: int) -> tuple[Table, int]:
        if mode == 0:
            shares, accuracy = DEFAULTS[kind]
            return fse_table(shares, accuracy), accuracy
        if mode == 1:
            symbol = reader.byte()
            require(symbol < len(BASES[kind]), "no such code")
            return [(symbol, 0, 0)], 0
        known = self.tables[kind]
        if mode == 3:
            if known is None:
                raise Refused("no table to repeat")
            return known
        return read_shares(reader, ACCURACIES[kind], len(BASES[kind]))

    def _offset(self, value: int, run: int) -> int:
        recent = self.recent
        if value > 3:
            self.recent = [value - 3, *recent[:2]]
            return value - 3
        place = value - 1 + (run == 0)
        offset = recent[0] - 1 if place == 3 else recent[place]
        if place:
            self.recent = [offset, recent[0], recent[2] if place == 1 else recent[1]]
        return offset

    def _copy(self, offset: int, length: int) -> None:
        require(0 < offset <= len(self.out), "a match before the beginning")
        require(len(self.out) + length <= self.most, "more content than declared")
        for _ in range(length):
            self.out.append(self.out[-offset])


def unzstd(data: bytes, size: int) -> bytes:
    """The content, of a size that both ends know, of a single frame that is all of `data`."""
    reader = Reader(data)
    require(reader.take(4) == b"\x28\xb5\x2f\xfd", "not a Zstandard frame")
    head = reader.byte()
    single, check = head >> 5 & 1, head >> 2 & 1
    require(head & 8 == 0, "a reserved bit")
    if not single:
        reader.byte()
    require(head & 3 == 0, "a dictionary")
    field = (single, 2, 4, 8)[head >> 6]
    require(field > 0, "the content size is not declared")
    require(reader.unsigned(field) + (256 if field == 2 else 0) == size, "another content size")
    frame = Frame(size)
    last = 0
    while not last:
        block = reader.unsigned(3)
        last, kind, length = block & 1, block >> 1 & 3, block >> 3
        require(length <= 1 << 17 and kind < 3, "no such block")
        if kind == 0:
            frame.out += reader.take(length)
        elif kind == 1:
            frame.out += reader.take(1) * length
        else:
            frame.block(Reader(reader.take(length)))
        require(len(frame.out) <= size, "more content than declared")
    require(len(frame.out) == size, "less content than declared")
    if check:
        require(
            reader.unsigned(4) == xxhash64(bytes(frame.out)) & 0xFFFFFFFF, "the content's checksum differs"
        )
    reader.end()
    return bytes(frame.out)
