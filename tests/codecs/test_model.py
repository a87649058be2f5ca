"""What the codec of whole models refuses in its mask; the rest is the contract's."""

from __future__ import annotations

import numpy as np
import pytest

from phloem import varint
from phloem.codecs.lossless import encode_bytes
from phloem.codecs.model import Model
from phloem.errors import FormatError
from phloem.tensors import Layout

LAYOUT = Layout.of({"w": np.zeros((2, 3), np.float32)})


def body(mask: int) -> bytes:
    """Six weights of 1.0, of which this mask keeps the last two."""
    packed = encode_bytes(np.array([mask], np.uint8), "U8")
    return bytes([1, 0, 0]) + varint.pack(len(packed)) + packed + np.ones(2, "<f4").tobytes()


def test_a_mask_says_which_weights_there_are() -> None:
    assert Model.decode(body(0b110000), LAYOUT)[0].tolist() == [[0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("mask", [0b01110000, 0b10110000], ids=bin)
def test_a_mask_says_nothing_beyond_the_last_weight(mask: int) -> None:
    with pytest.raises(FormatError, match="padding must be zero"):
        Model.decode(body(mask), LAYOUT)


@pytest.mark.parametrize("mask", [0b111000, 0b100000], ids=bin)
def test_a_mask_keeps_as_many_weights_as_follow(mask: int) -> None:
    with pytest.raises(FormatError, match="bytes"):
        Model.decode(body(mask), LAYOUT)
