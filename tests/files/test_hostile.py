"""Frames that somebody damaged or made up: one error in words, nothing written, and no more memory than they are."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.files.conftest import Files
from tests.files.models import mixed, moved, write

import phloem
from phloem import varint
from phloem.codecs.ecsq import Ecsq
from phloem.errors import ConfigError, FormatError, PhloemError
from phloem.files import decode_file, encode_file, inspect_file
from phloem.files.container import FrameReader
from phloem.files.dtypes import restored
from phloem.files.tensorfile import TensorFile, state_digest_of
from phloem.seeds import generator
from phloem.tensors import TensorSpec
from phloem.testing.strategies import tampered
from phloem.wire.contents import Contents, Head

ECSQ = 1


def sealed(data: bytes) -> bytes:
    """What an enemy sends: a checksum that fits."""
    return data + struct.pack("<I", zlib.crc32(data))


def frame_of(head: bytes, rest: bytes, code: int = ECSQ) -> bytes:
    return sealed(bytes([0xB1, 0x80 | code]) + varint.pack(len(head)) + head + rest)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    """A base, its frame with loss and its lossless frame; both in several sections."""
    folder = tmp_path_factory.mktemp("made")
    base = write(folder / "base", mixed())
    new = write(folder / "new", moved(mixed(), mixed("update", 0.01)))
    encode_file(new, folder / "lossy", base=base, bits=6.0)
    encode_file(new, folder / "lossless", base=base, lossless=True)
    return base, (folder / "lossy").read_bytes(), (folder / "lossless").read_bytes()


def refused(frame: bytes, folder: Path, base: Path | None = None) -> None:
    (folder / "frame").write_bytes(frame)
    for call in (
        lambda: decode_file(folder / "frame", folder / "out", base=base),
        lambda: inspect_file(folder / "frame"),
    ):
        with pytest.raises(PhloemError):
            call()
    assert [path.name for path in folder.iterdir()] == ["frame"]


@pytest.mark.parametrize("which", [1, 2], ids=["lossy", "lossless"])
def test_damage_is_found(made: tuple[Path, bytes, bytes], tmp_path: Path, which: int) -> None:
    base, frame = made[0], made[which]
    assert isinstance(frame, bytes)
    draw = generator(0, "damage")
    sizes = [*range(40), *draw.integers(40, len(frame), size=40).tolist(), len(frame) - 1]
    for size in sizes:
        refused(frame[:size], tmp_path, base)
    for more in (b"\0", b"\1\2\3", frame):
        refused(frame + more, tmp_path, base)
    for bit in [*range(24), *draw.integers(24, 8 * len(frame), size=150).tolist()]:
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(bytes(flipped), tmp_path, base)


@pytest.mark.parametrize("which", [1, 2], ids=["lossy", "lossless"])
def test_damage_below_the_checksum_is_found_or_gives_a_file_of_the_same_kind(
    made: tuple[Path, bytes, bytes], tmp_path: Path, which: int
) -> None:
    base, frame = made[0], made[which]
    assert isinstance(frame, bytes)
    draw = generator(0, "sealed damage")
    decoded = 0
    for _ in range(300):
        data = bytearray(frame[:-4])
        at = int(draw.integers(len(data)) if draw.random() < 0.5 else draw.integers(min(300, len(data))))
        data[at] = int(draw.choice([data[at] ^ 1 << int(draw.integers(8)), 0, 0x7F, 0x80, 0xFF]))
        if draw.random() < 0.3:
            del data[int(draw.integers(len(data))) :]
        (tmp_path / "frame").write_bytes(sealed(bytes(data)))
        try:
            result = decode_file(tmp_path / "frame", tmp_path / "out", base=base)
        except (FormatError, ConfigError):
            continue
        decoded += 1
        assert result.parameters == sum(np.size(array) for _, array in mixed().values())
    assert decoded > 5  # values were altered, and nothing else can be known


@given(st.data())
def test_random_heads_raise_nothing_but_errors_in_words(data: st.DataObject) -> None:
    specs = (TensorSpec("a.0", (3, 2)), TensorSpec("a.1", (3, 2)), TensorSpec("b", (), "int64"))
    for flags in ({}, {"has_error": True}, {"has_sections": True}, {"base": "ab" * 32}):
        head = data.draw(tampered(Head(Contents(specs), **flags).pack()))
        frame = frame_of(head, data.draw(st.binary(max_size=30)), data.draw(st.integers(0, 63)))
        try:
            phloem.decode(frame)
        except (FormatError, ConfigError):
            continue


@given(st.binary(max_size=60))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    for frame in (data, b"\xb1\x81" + data, sealed(b"\xb0\x81" + data)):
        with pytest.raises((FormatError, ConfigError)):
            FrameReader.open(io.BytesIO(frame), len(frame))


def test_forty_bytes_that_claim_2_to_the_60_parameters_are_refused(tmp_path: Path) -> None:
    table = b"\x01w\xfe\x01" + varint.pack(1 << 60)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    frame = frame_of(b"\x00" + packer.compress(table) + packer.flush(), b"\x7f\x00\x01")
    assert len(frame) < 40
    with pytest.raises(FormatError, match="more than any memory holds"):
        phloem.decode(frame)
    refused(frame, tmp_path)


def test_many_tensors_that_claim_2_to_the_60_parameters_are_refused(tmp_path: Path) -> None:
    names = sorted(f"{i}.{'w' * j}" for i in range(128) for j in range(64))
    specs = tuple(TensorSpec(name, (1 << 24, 1 << 23)) for name in names)
    assert sum(spec.size for spec in specs) == 1 << 60
    frame = frame_of(Head(Contents(specs)).pack(), b"\x7f\x00\x01")
    assert len(frame) < 1000
    with pytest.raises(FormatError, match="claims 1152921504606846976 parameters"):
        phloem.decode(frame)
    (tmp_path / "frame").write_bytes(frame)
    with pytest.raises(FormatError, match="claims 1152921504606846976 parameters"):
        decode_file(tmp_path / "frame", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["frame"]


def test_a_frame_without_a_base_may_claim_as_much_as_its_bytes_make_likely(tmp_path: Path) -> None:
    few = frame_of(Head(Contents((TensorSpec("w", (17_000_000,)),))).pack(), b"\x7f\x00\x01")
    (tmp_path / "frame").write_bytes(few)
    with pytest.raises(FormatError, match="claims 17000000 parameters, more than 16777216"):
        decode_file(tmp_path / "frame", tmp_path / "out")
    some = frame_of(Head(Contents((TensorSpec("w", (1000,)),))).pack(), b"\x7f\x00\x01")
    (tmp_path / "frame").write_bytes(some)
    with pytest.raises(FormatError, match="more than 999"):
        decode_file(tmp_path / "frame", tmp_path / "out", max_parameters=999)
    assert decode_file(tmp_path / "frame", tmp_path / "out", max_parameters=1000).parameters == 1000


def test_a_frame_whose_tensors_are_not_those_of_its_base_is_refused(net: Files) -> None:
    encode_file(net.new, net.frame, base=net.base, bits=1.0)
    digest = inspect_file(net.frame).base_digest
    head = Head(Contents((TensorSpec("w", (1 << 40,)),)), base=digest)
    net.frame.write_bytes(frame_of(head.pack(), b"\x7f\x00\x01"))
    with pytest.raises(FormatError, match="not those of its base"):
        decode_file(net.frame, net.out, base=net.base)


@pytest.mark.parametrize("theirs", ["int8", "bool", "uint64", "complex64"])
@pytest.mark.parametrize("claimed", ["float32", "bfloat16", "float64", "uint8"])
def test_a_frame_whose_types_do_not_fit_its_base_is_refused(
    tmp_path: Path, theirs: str, claimed: str
) -> None:
    base = write(tmp_path / "base", {"w": (theirs, np.zeros(4, np.dtype(theirs)))})
    with TensorFile.open(base) as file:
        digest = state_digest_of(file)
    head = Head(Contents((TensorSpec("w", (4,), claimed),)), base=digest)
    (tmp_path / "frame").write_bytes(frame_of(head.pack(), b"\x7f\x00\x01"))
    with pytest.raises(FormatError, match=f"'w' has type {claimed} in the frame, and {theirs} in its base"):
        decode_file(tmp_path / "frame", tmp_path / "out", base=base)
    assert not (tmp_path / "out").exists()


def test_sections_that_lie_about_their_length_are_refused(tmp_path: Path) -> None:
    specs = (TensorSpec("a", (3,)), TensorSpec("b", (3,), "int64"))
    head = Head(Contents(specs), has_sections=True).pack()
    zeros = b"\x03\x7f\x00\x01"
    for rest in (
        b"",
        zeros,
        zeros + b"\x80",
        zeros + varint.pack(1 << 62),
        varint.pack(1 << 40) + zeros,
        b"\xff" * 12,
        zeros + b"\x02\x00\x00" + b"left over",
    ):
        refused(frame_of(head, rest), tmp_path)


def test_a_section_that_no_codec_would_write_is_refused_before_it_is_read() -> None:
    frame = frame_of(Head(Contents((TensorSpec("w", (3,)),))).pack(), bytes(200_000))
    with pytest.raises(FormatError, match="longer than it can be"):
        phloem.decode(frame)


def test_what_memory_cannot_hold_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = frame_of(Head(Contents((TensorSpec("w", (3,)),))).pack(), b"\x7f\x00\x01")
    (tmp_path / "frame").write_bytes(frame)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Ecsq, "decode", full)
    with pytest.raises(FormatError, match="claims 3 parameters, more than fit in memory"):
        decode_file(tmp_path / "frame", tmp_path / "out")
    with pytest.raises(FormatError, match="claims 3 parameters, more than fit in memory"):
        phloem.decode(frame)
    assert not (tmp_path / "out").exists()


def test_a_head_that_denies_its_sections_is_refused(tmp_path: Path) -> None:
    two = (TensorSpec("a", (3,)), TensorSpec("b", (3,), "int64"))
    one = (TensorSpec("a", (3,)),)
    zeros = b"\x7f\x00\x01"
    refused(frame_of(Head(Contents(two)).pack(), zeros), tmp_path)
    refused(frame_of(Head(Contents(one), has_sections=True).pack(), b"\x03" + zeros), tmp_path)


@pytest.mark.parametrize("error", [b"\x80\x7f", b"\xc0\x7f", b"\x80\xbf"])
def test_a_measured_error_that_is_no_number_is_refused(tmp_path: Path, error: bytes) -> None:
    head = Head(Contents((TensorSpec("a", (3,)),)), has_error=True).pack()
    good = frame_of(head, b"\x7f\x00\x01\x80\x3f")
    (tmp_path / "frame").write_bytes(good)
    assert inspect_file(tmp_path / "frame").nmse == 1.0
    refused(frame_of(head, b"\x7f\x00\x01" + error), tmp_path)


def test_another_version_and_frames_from_the_wire_say_what_they_are(net: Files) -> None:
    encode_file(net.new, net.frame, bits=1.0)
    frame = net.frame.read_bytes()
    net.frame.write_bytes(b"\xbf" + frame[1:])
    with pytest.raises(FormatError, match="expected a frame of version 1, found the first byte 0xbf"):
        inspect_file(net.frame)
    net.frame.write_bytes(frame[:1] + b"\x01" + frame[2:])
    with pytest.raises(ConfigError, match="carries no layout"):
        inspect_file(net.frame)
    net.frame.write_bytes(net.new.read_bytes())
    with pytest.raises(FormatError, match="do not begin like one"):
        inspect_file(net.frame)


def test_a_frame_marked_as_a_key_frame_is_refused(made: tuple[Path, bytes, bytes], tmp_path: Path) -> None:
    base, frame, _ = made
    refused(sealed(bytes([frame[0], frame[1] | 0x40]) + frame[2:-4]), tmp_path, base)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_coded_tensor_is_not_added_to_a_base_that_is_not_finite(value: float) -> None:
    """No encoder makes such a frame; what comes out would depend on where the values lie."""
    base = np.array([1.0, value, 2.0], np.float32).view(np.uint8)
    with pytest.raises(FormatError, match="base holds NaN or infinity"):
        restored(np.zeros(3, np.float32), "float32", base, "float32")
