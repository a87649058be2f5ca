from __future__ import annotations

import numpy as np
import pytest

from phloem import varint
from phloem.codecs.base import Hints
from phloem.codecs.classical import Linear
from phloem.errors import ConfigError, FormatError
from phloem.kernels import packing
from phloem.seeds import generator
from phloem.tensors import Array, Layout

LAYOUT = Layout.of({"x": np.zeros((70, 31))})


def update(number: int) -> list[Array]:
    return [generator(0, "linear", number).normal(size=(70, 31)).astype(np.float32)]


def bodies(codec: Linear, count: int) -> list[bytes]:
    return [codec.encode(update(n), LAYOUT, Hints(seed=n)) for n in range(count)]


def test_the_sum_of_all_senders_decodes_to_the_sum_of_their_decodes_to_the_bit() -> None:
    codec = Linear(2.0**-5, bits=16, senders=20, seed=5, block=256)
    sent = bodies(codec, 20)
    after = np.sum([Linear.decode(body, LAYOUT)[0] for body in sent], axis=0, dtype=np.float32)
    for order in (sent, sent[::-1]):
        assert Linear.decode(Linear.sum_bodies(order, LAYOUT), LAYOUT)[0].tobytes() == after.tobytes()
    nested = Linear.sum_bodies([Linear.sum_bodies(sent[:7], LAYOUT), *sent[7:]], LAYOUT)
    assert nested == Linear.sum_bodies(sent, LAYOUT)
    wanted = np.sum([update(n)[0] for n in range(20)], axis=0)
    assert np.abs(after - wanted).max() < 2.0**-5 * 20


def test_masks_that_cancel_modulo_two_to_the_bits_leave_the_sum_as_it_is() -> None:
    codec = Linear(0.01, bits=12, senders=2)
    left, right = bodies(codec, 2)
    start = len(left) - packing.packed_size(LAYOUT.size, 12)
    mask = generator(0, "mask").integers(0, 1 << 12, LAYOUT.size)

    def masked(body: bytes, numbers: np.ndarray) -> bytes:
        integers = packing.unpack(body, start, LAYOUT.size, 12) + numbers
        return body[:start] + packing.pack(integers & 0xFFF, 12)

    hidden = [masked(left, mask), masked(right, (1 << 12) - mask)]
    assert hidden[0] != left
    assert Linear.sum_bodies(hidden, LAYOUT) == Linear.sum_bodies([left, right], LAYOUT)


def test_the_largest_values_of_all_senders_together_do_not_wrap() -> None:
    layout = Layout.of({"x": np.zeros(64)})
    codec = Linear(1.0, bits=8, senders=5)
    for sign in (1.0, -1.0):
        body = codec.encode([np.full(64, sign * 1e30, np.float32)], layout)
        one = Linear.decode(body, layout)[0]
        five = Linear.decode(Linear.sum_bodies([body] * 5, layout), layout)[0]
        assert np.array_equal(five, 5 * one)


def test_more_senders_than_fit_other_grids_and_other_seeds_are_refused() -> None:
    codec = Linear(0.01, bits=12, senders=2)
    sent = bodies(codec, 3)
    with pytest.raises(FormatError, match="a sum of 3 senders, expected at most 2"):
        Linear.sum_bodies(sent, LAYOUT)
    for other in (Linear(0.02, 12, 2), Linear(0.01, 13, 2), Linear(0.01, 12, 2, seed=1), Linear(0.01, 12, 3)):
        with pytest.raises(FormatError, match="different grids"):
            Linear.sum_bodies([sent[0], other.encode(update(0), LAYOUT)], LAYOUT)


def test_a_configuration_that_cannot_hold_its_senders_is_refused() -> None:
    with pytest.raises(ConfigError, match="128 senders do not fit 8 bits"):
        Linear(0.01, bits=8, senders=128)
    assert Linear(0.01, bits=8, senders=127).senders == 127


def test_a_body_for_more_senders_than_the_format_has_is_refused() -> None:
    head, rest = bytes([128, 24, 12]), bytes(8) + bytes(packing.packed_size(LAYOUT.size, 24))
    most = 1 << 22
    assert not Linear.decode(head + varint.pack(most) + varint.pack(1) + rest, LAYOUT)[0].any()
    for senders in ((most + 1, 1), (most, most + 1), (2, 3)):
        with pytest.raises(FormatError, match="senders"):
            Linear.decode(head + b"".join(map(varint.pack, senders)) + rest, LAYOUT)
