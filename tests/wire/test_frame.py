from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.codecs.registry import CODECS, codec_from
from phloem.errors import ConfigError, FormatError
from phloem.seeds import generator
from phloem.tensors import Layout
from phloem.testing.strategies import tampered, updates
from phloem.wire import frame as frames
from phloem.wire.contents import Head

CONFIGS = [
    {"codec": "none"},
    {"codec": "lossless"},
    {"codec": "bf16"},
    {"codec": "int8", "block": 8},
    {"codec": "topk", "fraction": 0.3},
    {"codec": "sign"},
    {"codec": "fp16"},
    {"codec": "fp8"},
    {"codec": "int4"},
    {"codec": "nf4"},
    {"codec": "bins"},
    {"codec": "qsgd"},
    {"codec": "ternary"},
    {"codec": "randomk", "fraction": 0.4},
    {"codec": "threshold", "threshold": 0.5},
    {"codec": "hadamard"},
    {"codec": "eden"},
    {"codec": "lowrank", "rank": 2},
    {"codec": "linear", "step": 0.01},
    {"codec": "zstd"},
    {"codec": "chain", "stages": [{"codec": "topk", "fraction": 0.5}, {"codec": "qsgd"}, {"codec": "zstd"}]},
    {"codec": "model", "weights": {"codec": "bf16"}},
    {"codec": "ecsq", "bits": 2.0},
]
UPDATE = {"b": np.linspace(-1, 1, 9).astype(np.float32), "w": generator(0, "frame").normal(size=(6, 5))}
LAYOUT = Layout.of(UPDATE)
every_codec = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["codec"])


def packed(config: dict[str, Any], **options: Any) -> bytes:
    return frames.pack(codec_from(config), LAYOUT.arrays(UPDATE), LAYOUT, **options)


def sealed(head: bytes, layout: Layout = LAYOUT) -> bytes:
    """`head` with the checksum that the format asks for, computed here from its description."""
    return head + zlib.crc32(bytes.fromhex(layout.digest) + head).to_bytes(4, "little")


def test_every_codec_is_tried() -> None:
    assert {config["codec"] for config in CONFIGS} == {codec.name for codec in CODECS}


@every_codec
def test_a_frame_is_the_body_and_six_bytes(config: dict[str, Any]) -> None:
    codec = codec_from(config)
    body = codec.encode(LAYOUT.arrays(UPDATE), LAYOUT)
    assert packed(config) == sealed(bytes([0xB1, codec.code]) + body)
    assert packed(config, key_frame=True) == sealed(bytes([0xB1, codec.code | 0x40]) + body)


@every_codec
def test_a_stand_alone_frame_needs_no_layout_and_gives_it_back(config: dict[str, Any]) -> None:
    parts = frames.unpack(packed(config, with_layout=True))
    assert parts.layout == LAYOUT
    on_the_wire = frames.unpack(packed(config), LAYOUT)
    assert (parts.codec, parts.body) == (on_the_wire.codec, on_the_wire.body)


@every_codec
@pytest.mark.parametrize("with_layout", [False, True])
def test_every_truncation_and_every_extension_is_refused(config: dict[str, Any], with_layout: bool) -> None:
    frame = packed(config, with_layout=with_layout)
    for size in range(len(frame)):
        with pytest.raises(FormatError):
            frames.unpack(frame[:size], LAYOUT)
    for byte in range(256):
        with pytest.raises(FormatError):
            frames.unpack(frame + bytes([byte]), LAYOUT)


@every_codec
@pytest.mark.parametrize("with_layout", [False, True])
def test_every_flipped_bit_is_refused(config: dict[str, Any], with_layout: bool) -> None:
    frame = packed(config, with_layout=with_layout)
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            frames.unpack(bytes(flipped), LAYOUT)


@given(st.sampled_from(CONFIGS).flatmap(lambda config: tampered(packed(config, with_layout=True))))
def test_an_altered_stand_alone_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(
        (FormatError, ConfigError)
    ):  # ConfigError: its layout flag is gone, and nobody has one
        frames.unpack(frame)


@given(st.binary(max_size=60), st.booleans())
def test_random_bytes_behind_a_good_head_and_checksum_raise_nothing_but_format_errors(
    body: bytes, with_layout: bool
) -> None:
    for code in range(64):
        frame = sealed(bytes([0xB1, code | 0x80 * with_layout]) + body)
        try:
            arrays = frames.unpack(frame, LAYOUT).decode()
        except FormatError:
            continue
        assert all(np.isfinite(array).all() for array in arrays)


@given(updates(largest=3e38), st.sampled_from(CONFIGS))
def test_any_finite_update_comes_back_finite_and_in_shape(
    update: dict[str, Any], config: dict[str, Any]
) -> None:
    layout = Layout.of(update)
    frame = frames.pack(codec_from(config), layout.arrays(update), layout, with_layout=True)
    for array, spec in zip(frames.unpack(frame).decode(), layout.specs, strict=True):
        assert array.shape == spec.shape
        assert np.isfinite(array).all()


def test_a_frame_made_for_another_layout_is_refused() -> None:
    other = Layout.of({"b": np.zeros(9), "v": np.zeros((6, 5))})
    with pytest.raises(FormatError, match="checksum"):
        frames.unpack(packed({"codec": "none"}), other)
    with pytest.raises(FormatError, match="another layout"):
        frames.unpack(packed({"codec": "none"}, with_layout=True), other)


def test_a_frame_without_its_layout_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="carries no layout"):
        frames.unpack(packed({"codec": "none"}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every_codec
def test_an_update_that_is_not_finite_is_named_and_not_encoded(config: dict[str, Any], bad: float) -> None:
    arrays = LAYOUT.arrays(UPDATE | {"b": np.array([0.0] * 8 + [bad])})
    with pytest.raises(ConfigError, match="tensor 'b' holds NaN or infinity"):
        frames.pack(codec_from(config), arrays, LAYOUT)


def test_another_version_and_an_unknown_codec_are_refused() -> None:
    frame = packed({"codec": "none"})
    with pytest.raises(FormatError, match="version 1"):
        frames.unpack(b"\xb2" + frame[1:], LAYOUT)
    with pytest.raises(FormatError, match="code 63"):
        frames.unpack(sealed(b"\xb1\x3f" + frame[2:-4]), LAYOUT)


def test_the_checksum_is_looked_at_before_the_head_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = packed({"codec": "none"}, with_layout=True)

    def parse(data: bytes) -> Head:
        raise AssertionError("parsed before it was checked")

    monkeypatch.setattr(Head, "unpack", parse)
    with pytest.raises(FormatError, match="checksum"):
        frames.unpack(frame[:-1] + bytes([frame[-1] ^ 1]))


def test_a_frame_of_more_parameters_than_allowed_is_refused() -> None:
    frame = packed({"codec": "none"}, with_layout=True)
    assert frames.unpack(frame, max_parameters=LAYOUT.size).layout == LAYOUT
    with pytest.raises(FormatError, match="39 parameters, more than 38"):
        frames.unpack(frame, max_parameters=LAYOUT.size - 1)


@pytest.mark.parametrize(("code", "body"), [(4, b"\x00\x00"), (1, None)], ids=["topk", "ecsq"])
def test_a_few_bytes_that_claim_more_than_fits_in_memory_are_refused(code: int, body: bytes | None) -> None:
    layout = Layout.from_json(b'[["w",[140737488355328]]]')
    zeros = codec_from({"codec": "ecsq", "bits": 1.0}).encode(
        [np.zeros(600, np.float32)], Layout.of({"w": np.zeros(600)})
    )
    frame = sealed(bytes([0xB1, code]) + (zeros if body is None else body), layout)
    with pytest.raises(FormatError, match="more than fit"):
        frames.unpack(frame, layout).decode()


def test_the_step_of_a_frame_is_known_for_the_codec_that_has_one() -> None:
    step = frames.step_of(packed({"codec": "ecsq", "step": 0.25}), LAYOUT)
    assert step == pytest.approx(0.25)
    assert frames.step_of(packed({"codec": "sign"}), LAYOUT) is None


def test_a_frame_that_stands_alone_is_no_key_frame() -> None:
    with pytest.raises(ConfigError, match="not marked as a key-frame"):
        packed({"codec": "none"}, key_frame=True, with_layout=True)
    alone = packed({"codec": "none"}, with_layout=True)
    marked = bytes([alone[0], alone[1] | 0x40]) + alone[2:-4]
    with pytest.raises(FormatError, match="marked as a key-frame"):
        frames.unpack(marked + zlib.crc32(marked).to_bytes(4, "little"))
