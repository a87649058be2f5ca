from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import FormatError
from phloem.testing.strategies import tampered
from phloem.wire.messages import REPORT_BYTES, Item, Order, Reply, Report, Status

prefixes = st.binary(min_size=8, max_size=8)
strings = st.binary(max_size=20)
numbers = st.integers(0, 2**40)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    by_key = draw(st.booleans())
    start = draw(numbers)
    items = tuple(Item(draw(strings), draw(strings)) for _ in range(1 if by_key else draw(st.integers(0, 3))))
    train = draw(st.booleans())
    return Order(
        round=start + (draw(numbers) if by_key else len(items)),
        train=train,
        chain=draw(prefixes),
        state=draw(st.none() | prefixes),
        start=start,
        items=items,
        key_chain=draw(st.binary(min_size=32, max_size=32)) if by_key else None,
        choice=draw(strings),
        attachment=draw(strings),
        report=draw(st.booleans()),
        owed=train and draw(st.booleans()),
    )


words = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)


reports = st.builds(
    Report,
    st.none() | st.integers(0, 65534).map(lambda n: n / 65534),
    *[st.integers(0, 2**32 - 1).map(lambda n, unit=unit: n / unit) for unit in (1e3, 1e6, 1e6)],  # type: ignore[misc]
    st.integers(0, 65535).map(lambda n: float(n << 20)),
)


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    status = draw(st.sampled_from(Status))
    reply = Reply(draw(numbers), draw(numbers), status, draw(prefixes), draw(st.none() | prefixes))
    reply = dataclasses.replace(reply, attachment=draw(strings), report=draw(st.none() | reports))
    if status is Status.UPDATE:
        return dataclasses.replace(reply, examples=draw(numbers), frame=draw(strings))
    return dataclasses.replace(reply, reason=draw(words)) if status is Status.REFUSED else reply


@given(orders())
def test_an_order_comes_back_and_its_frames_are_counted(order: Order) -> None:
    message = order.pack()
    assert Order.unpack(message) == order
    assert order.frame_bytes == sum(len(item.frame) for item in order.items) < len(message)


@given(replies())
def test_a_reply_comes_back_and_its_frame_is_counted(reply: Reply) -> None:
    message = reply.pack()
    assert Reply.unpack(message) == reply
    assert reply.frame_bytes == len(reply.frame) < len(message)


@given(orders())
def test_every_truncated_or_extended_order_is_refused(order: Order) -> None:
    message = order.pack()
    for wrong in [message[:size] for size in range(len(message))] + [message + b"\0", message + message]:
        with pytest.raises(FormatError):
            Order.unpack(wrong)


@given(replies())
def test_a_truncated_reply_is_refused_where_its_own_lengths_show_it(reply: Reply) -> None:
    # The frame is the rest of the message; its own checksum shows a cut inside it.
    message = reply.pack()
    envelope = len(message) - len(reply.frame) - len(reply.reason.encode())
    for size in range(envelope):
        with pytest.raises(FormatError):
            Reply.unpack(message[:size])
    if reply.status is Status.SILENT:
        with pytest.raises(FormatError, match="after its end"):
            Reply.unpack(message + b"\0")


@given(orders().flatmap(lambda order: tampered(order.pack())))
def test_an_altered_order_is_refused_or_is_another_order_written_properly(message: bytes) -> None:
    try:
        order = Order.unpack(message)
    except FormatError:
        return
    assert order.pack() == message


@given(replies().flatmap(lambda reply: tampered(reply.pack())))
def test_an_altered_reply_raises_nothing_but_format_errors(message: bytes) -> None:
    try:
        reply = Reply.unpack(message)
    except FormatError:
        return
    assert reply.status is Status.REFUSED or reply.pack() == message


@given(st.sampled_from([b"", b"\x10", b"\x11"]), st.binary(max_size=80))
def test_random_bytes_raise_nothing_but_format_errors(kind: bytes, rest: bytes) -> None:
    for message_type in (Order, Reply):
        try:
            message_type.unpack(kind + rest)
        except FormatError:
            continue


def test_neither_kind_is_taken_for_the_other() -> None:
    order = Order(0, True, bytes(8), None, 0).pack()
    reply = Reply(0, 0, Status.SILENT, bytes(8), None).pack()
    with pytest.raises(FormatError, match="expected a reply"):
        Reply.unpack(order)
    with pytest.raises(FormatError, match="expected an order"):
        Order.unpack(reply)


def test_an_order_whose_frames_do_not_lead_to_its_round_is_refused() -> None:
    order = Order(5, True, bytes(8), None, 3, (Item(b"\1", b"frame"),))
    with pytest.raises(FormatError, match="carries frames 3 to 4"):
        Order.unpack(order.pack())


def test_an_order_that_claims_more_frames_than_it_has_bytes_is_refused_at_once() -> None:
    count = 2**62
    message = Order(count, True, bytes(8), None, 0).pack()
    with pytest.raises(FormatError):
        Order.unpack(message[:-1] + b"\x80\x80\x80\x80\x80\x80\x80\x80\x40")


def test_a_reason_cannot_carry_control_characters_to_a_terminal() -> None:
    reply = Reply(
        0, 0, Status.REFUSED, bytes(8), None, reason="NaN\x1b[2J\r\nerror: all is well\u202e" + "x" * 600
    )
    reason = Reply.unpack(reply.pack()).reason
    assert reason.isprintable()
    assert reason.startswith("NaN?[2J??error")
    assert len(reason) == 500


def test_a_report_has_sixteen_bytes_that_say_shares_times_and_mebibytes() -> None:
    packed = Report(0.5, 1.25, 0.002, 0.000003, 300.9 * 2**20).pack()
    assert packed.hex() == "ff7fe2040000d0070000030000002c01"
    assert len(packed) == REPORT_BYTES
    assert Report.unpack(packed) == Report(32767 / 65534, 1.25, 0.002, 0.000003, 300.0 * 2**20)
    assert Report().pack().hex() == "ffff" + "00" * 14
    assert Report.unpack(Report(spare_bytes=1.0).pack()).spare_bytes == 2**20, "little is not unknown"
    assert Report.unpack(Report().pack()) == Report()


@pytest.mark.parametrize("value", [-1.0, math.inf, 1e300, 5e9])
def test_what_a_report_cannot_say_is_said_as_nearly_as_it_can(value: float) -> None:
    said = Report.unpack(Report(value, value, value, value, value).pack())
    assert said.lost in (0.0, 1.0)
    assert 0.0 <= said.encode_seconds <= said.train_seconds < 2**32


def test_a_reply_without_a_report_has_the_bytes_that_it_always_had() -> None:
    reply = Reply(3, 1, Status.UPDATE, b"chainchn", None, 7, b"frame")
    assert reply.pack().hex() == "11030100" + b"chainchn".hex() + "00" + "07" + b"frame".hex()
