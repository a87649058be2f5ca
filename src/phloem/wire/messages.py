"""What crosses between the coordinator and a site: an order down, a reply up.

Both are a short binary envelope around frames. Envelope bytes are *control bytes* and are counted apart from
frames; totals include both. Every field is checked, every length is bounded by the message, and nothing follows
the last field. Numbers are LEB128 (`phloem.varint`).

    order   0x10 · round · flags · chain (8) [· state (8)] · choice · attachment · start · items
            item: accepted sites (bitmap) · frame, or a whole chain id (32) · key-frame
    reply   0x11 · round · site · status · chain (8) [· state (8)] [· report (16)] · attachment
            [· examples · frame] [· reason]
            report: lost (2) · milliseconds of training (4) · microseconds of encoding (4) and decoding (4) ·
                    mebibytes to spare (2)

`chain` and `state` are the first 8 bytes of the chain id and of the state digest that the sender holds.
`choice` and `attachment` are byte strings; an empty choice is the plan's own, an attachment is opaque (later a
signature or a receipt).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum

from phloem import varint
from phloem.errors import FormatError

PREFIX_BYTES = 8
MOST_EXAMPLES = (
    1 << 40
)  # counts stay below, so that a sum of weights is exact; the task and the coordinator both check
CHAIN_BYTES = 32
_ORDER, _REPLY = 0x10, 0x11
_TRAIN, _STATE, _KEY, _REPORT, _OWED = 0x01, 0x02, 0x04, 0x08, 0x10
_HAS_STATE, _HAS_REPORT = 0x80, 0x40
_NOT_KNOWN, _SHARES = 0xFFFF, 0xFFFE
REPORT_BYTES = 16
_MEBIBYTE = 1 << 20


class Status(IntEnum):
    """How a site answers an order."""

    UPDATE = 0
    SILENT = 1  # caught up; nothing to send
    REFUSED = 2  # trained, but its own update must not be used


@dataclass(frozen=True, slots=True)
class Report:
    """What a site says of its last round, where the order asked for it; taken at its word.

    Attributes:
        lost: the share of its last update's square that the frame left out, error feedback included; None where
            there was none. It travels as a multiple of 1/65534.
        train_seconds, encode_seconds, decode_seconds: what its part of this round took; 0 where nobody measured.
        spare_bytes: the memory that it has left for coding, in whole mebibytes; 0 where nobody looked.
    """

    lost: float | None = None
    train_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    spare_bytes: float = 0.0

    def pack(self) -> bytes:
        """The report's 16 bytes."""
        known = self.lost is not None and not math.isnan(self.lost)
        lost = round(min(max(self.lost or 0.0, 0.0), 1.0) * _SHARES) if known else _NOT_KNOWN
        return struct.pack(
            "<HIIIH",
            lost,
            _count(1e3 * self.train_seconds),
            _count(1e6 * self.encode_seconds),
            _count(1e6 * self.decode_seconds),
            int(min(max(self.spare_bytes / _MEBIBYTE, 1.0), 65535.0)) if self.spare_bytes > 0 else 0,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Report:
        """The report in these bytes; every value of them is one."""
        lost, train, encode, decode, spare = struct.unpack("<HIIIH", data)
        share = None if lost == _NOT_KNOWN else lost / _SHARES
        return cls(share, train / 1e3, encode / 1e6, decode / 1e6, float(spare * _MEBIBYTE))


def _count(value: float) -> int:
    return round(min(max(value, 0.0), float(2**32 - 1)))


@dataclass(frozen=True, slots=True)
class Item:
    """One step of a site's way to the trunk's head: which updates were merged, and the frame that came of it."""

    accepted: bytes
    frame: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """What the coordinator sends to one site.

    Attributes:
        round: the round that is about to be trained; also the number of merges behind the trunk's head.
        train: whether the site is asked for an update.
        chain: prefix of the chain id that the site must arrive at.
        state: prefix of the state digest that it must arrive at, where the plan has it checked in this round.
        start: the round of the first item.
        items: delta frames of the rounds from `start` on; or one key-frame.
        key_chain: the whole chain id at the head, where the one item is a key-frame.
        report: whether the reply shall say what the round took.
        owed: whether the update is what the site still owes of those before, so that it need not train.
    """

    round: int
    train: bool
    chain: bytes
    state: bytes | None
    start: int
    items: tuple[Item, ...] = ()
    key_chain: bytes | None = None
    choice: bytes = b""
    attachment: bytes = b""
    report: bool = False
    owed: bool = False

    def pack(self) -> bytes:
        """The order's bytes."""
        flags = _TRAIN * self.train | _STATE * (self.state is not None) | _KEY * (self.key_chain is not None)
        flags |= _REPORT * self.report | _OWED * self.owed
        parts = [bytes([_ORDER]), varint.pack(self.round), bytes([flags]), self.chain, self.state or b""]
        parts += [_string(self.choice), _string(self.attachment), varint.pack(self.start)]
        parts += [varint.pack(len(self.items)), self.key_chain or b""]
        for item in self.items:
            parts += [_string(item.accepted), _string(item.frame)]
        return b"".join(parts)

    @classmethod
    def unpack(cls, message: bytes) -> Order:
        """The order that `message` holds.

        Raises:
            FormatError: truncated, extended, or not an order.
        """
        read = _Reader(message, _ORDER, "an order")
        round_number = read.number()
        flags = read.take(1)[0]
        if flags & ~(_TRAIN | _STATE | _KEY | _REPORT | _OWED):
            raise FormatError(f"an order has the unknown flags 0x{flags:02x}")
        chain = read.take(PREFIX_BYTES)
        state = read.take(PREFIX_BYTES) if flags & _STATE else None
        choice, attachment, start, count = read.string(), read.string(), read.number(), read.number()
        key_chain = read.take(CHAIN_BYTES) if flags & _KEY else None
        if count > len(message) or (key_chain is not None and count != 1):
            raise FormatError(f"an order claims {count} frames in {len(message)} bytes")
        items = tuple(Item(read.string(), read.string()) for _ in range(count))
        read.end()
        if key_chain is None and start + count != round_number:
            raise FormatError(f"an order for round {round_number} carries frames {start} to {start + count}")
        train, report, owed = bool(flags & _TRAIN), bool(flags & _REPORT), bool(flags & _OWED)
        if owed and not train:
            raise FormatError("an order asks for what is owed, and for no update")
        return cls(
            round_number, train, chain, state, start, items, key_chain, choice, attachment, report, owed
        )

    @property
    def frame_bytes(self) -> int:
        """The bytes of the frames inside; the rest of the message is control."""
        return sum(len(item.frame) for item in self.items)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one site answers.

    Attributes:
        round: the round of the order that it answers.
        site: the site's place in the plan's sorted list.
        chain, state: prefixes of what the site holds now.
        examples: how many examples the update stands for (its weight).
        frame: the update, where there is one.
        reason: why the site itself refuses its update, in words; shown to people, so only printable characters
            are taken in.
        report: what the round took there, where the order asked.
    """

    round: int
    site: int
    status: Status
    chain: bytes
    state: bytes | None
    examples: int = 0
    frame: bytes = b""
    reason: str = ""
    attachment: bytes = b""
    report: Report | None = None

    def pack(self) -> bytes:
        """The reply's bytes."""
        status = self.status | _HAS_STATE * (self.state is not None) | _HAS_REPORT * (self.report is not None)
        parts = [bytes([_REPLY]), varint.pack(self.round), varint.pack(self.site), bytes([status])]
        report = b"" if self.report is None else self.report.pack()
        parts += [self.chain, self.state or b"", report, _string(self.attachment)]
        if self.status is Status.UPDATE:
            parts += [varint.pack(self.examples), self.frame]
        elif self.status is Status.REFUSED:
            parts += [self.reason.encode()]
        return b"".join(parts)

    @classmethod
    def unpack(cls, message: bytes) -> Reply:
        """The reply that `message` holds.

        Raises:
            FormatError: truncated, or not a reply.
        """
        read = _Reader(message, _REPLY, "a reply")
        round_number, site = read.number(), read.number()
        byte = read.take(1)[0]
        try:
            status = Status(byte & ~(_HAS_STATE | _HAS_REPORT))
        except ValueError as error:
            raise FormatError(f"a reply has the unknown status {byte & 0x3F}") from error
        chain = read.take(PREFIX_BYTES)
        state = read.take(PREFIX_BYTES) if byte & _HAS_STATE else None
        report = Report.unpack(read.take(REPORT_BYTES)) if byte & _HAS_REPORT else None
        attachment = read.string()
        examples, frame, reason = 0, b"", ""
        if status is Status.UPDATE:
            examples, frame = read.number(), read.rest()
        elif status is Status.REFUSED:
            words = read.rest().decode("utf-8", "replace")[:500]
            reason = "".join(letter if letter.isprintable() else "?" for letter in words)
        read.end()
        return cls(round_number, site, status, chain, state, examples, frame, reason, attachment, report)

    @property
    def frame_bytes(self) -> int:
        """The bytes of the frame inside; the rest of the message is control."""
        return len(self.frame)


def _string(data: bytes) -> bytes:
    return varint.pack(len(data)) + data


class _Reader:
    """Takes fields off the front of a message and never looks past its end."""

    def __init__(self, message: bytes, kind: int, what: str) -> None:
        self.message, self.position, self.what = message, 0, what
        if self.take(1)[0] != kind:
            raise FormatError(f"expected {what}, found a message of kind 0x{message[0]:02x}")

    def take(self, size: int) -> bytes:
        if size > len(self.message) - self.position:
            raise FormatError(f"{self.what} ends after {len(self.message)} bytes, inside a field")
        self.position += size
        return self.message[self.position - size : self.position]

    def number(self) -> int:
        value, self.position = varint.unpack(self.message, self.position)
        return value

    def string(self) -> bytes:
        return self.take(self.number())

    def rest(self) -> bytes:
        return self.take(len(self.message) - self.position)

    def end(self) -> None:
        if self.position != len(self.message):
            raise FormatError(
                f"{self.what} goes on for {len(self.message) - self.position} bytes after its end"
            )
