"""The second decoder shares no code with the library: it reads golden frames to the bit and refuses damaged ones."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conformance.bodies import decode_body
from tests.conformance.contents import read_metadata
from tests.conformance.frame import decode_frame, digest
from tests.conformance.reader import VERSION, Refused
from tests.conformance.standalone import decode_file, read_safetensors, record
from tests.conformance.standalone import digest as state_digest
from tests.tiny import ROOT

from phloem.codecs.base import Hints
from phloem.codecs.registry import codec_from
from phloem.errors import FormatError
from phloem.files.tensorfile import StateDigest, TensorFile
from phloem.tensors import Array, Layout, TensorSpec
from phloem.wire import frame as frames

GOLDEN = ROOT / "tests" / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("*/*/frame.bin"))
FILES = sorted((GOLDEN / "files").glob("*.phl"))
VECTORS = ROOT / "tests" / "vectors" / f"v{VERSION}.zip"
NAMES = sorted(n.removesuffix(".json") for n in zipfile.ZipFile(VECTORS).namelist() if n.endswith(".json"))
#: Vectors of many values, which take seconds here.
LONG = ("network-", "parts-")
#: Frames that are damaged in every place, one of each kind of body.
SMALL = [
    case
    for case in CASES
    if case.name.endswith("-conv") and (case.parent.name != "model" or case.name == "int8-conv")
]


def shown(path: Path) -> str:
    return path.relative_to(GOLDEN).as_posix()


def layout_of(case: Path) -> list[tuple[str, tuple[int, ...]]]:
    return [("x", np.load(case / "decoded.npy", allow_pickle=False).shape)]


def as_bytes(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def sealed(frame: bytes, layout: list[tuple[str, tuple[int, ...]]]) -> bytes:
    """The frame with the checksum that its other bytes ask for."""
    return frame[:-4] + zlib.crc32(frame[:-4], zlib.crc32(digest(layout))).to_bytes(4, "little")


def refused(frame: bytes, layout: list[tuple[str, tuple[int, ...]]]) -> bool:
    try:
        decode_frame(frame, layout)
    except Refused:
        return True
    return False


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_a_golden_frame_decodes_to_the_same_bits(case: Path) -> None:
    wanted = np.load(case / "decoded.npy", allow_pickle=False)
    assert as_bytes(decode_frame((case / "frame.bin").read_bytes(), layout_of(case))) == wanted.tobytes()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_the_same_tensors(path: Path) -> None:
    _, base = read_safetensors((GOLDEN / "files" / "base.safetensors").read_bytes())
    metadata, wanted = read_safetensors(path.with_suffix(".safetensors").read_bytes())
    head, found = decode_file(path.read_bytes(), base)
    assert {tensor.name: (tensor, found[tensor.name]) for tensor in head.tensors} == wanted
    assert head.metadata == metadata


@pytest.mark.parametrize("path", sorted((GOLDEN / "files").glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_golden_files_record_is_the_librarys(path: Path) -> None:
    _, tensors = read_safetensors(path.read_bytes())
    with TensorFile.open(path) as file:
        state = StateDigest(file.contents.specs)
        for spec in file.contents.specs:
            state.add(file.read(spec))
    assert record(tensors) == state.record()
    assert state_digest(tensors).hex() == state.hexadecimal()


def wrong_vectors(names: list[str]) -> list[str]:
    """The frozen vectors that decode to something else."""
    wrong = []
    with zipfile.ZipFile(VECTORS) as archive:

        def read(name: str) -> tuple[dict[str, Any], list[float]]:
            about = json.loads(archive.read(f"{name}.json"))
            held = () if about["held"] is None else read(about["held"])[1]
            layout = [(row[0], tuple(row[1])) for row in about["layout"]]
            return about, decode_frame(archive.read(f"{name}.frame"), layout, held)

        for name in names:
            about, values = read(name)
            if hashlib.sha256(as_bytes(values)).hexdigest() != about["decoded"]:
                wrong.append(name)
    return wrong


def test_the_short_vectors_of_this_version_decode_to_the_same_bits() -> None:
    assert not wrong_vectors([name for name in NAMES if not name.startswith(LONG)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(LONG)])
def test_a_long_vector_of_this_version_decodes_to_the_same_bits(name: str) -> None:
    assert not wrong_vectors([name])


@pytest.mark.parametrize("case", SMALL, ids=shown)
def test_a_damaged_frame_is_refused(case: Path) -> None:
    frame, layout = (case / "frame.bin").read_bytes(), layout_of(case)
    [(name, shape)] = layout
    assert not refused(frame, layout)
    assert refused(frame, [(name, (*shape, 1))])
    assert refused(b"\xbf" + frame[1:], layout)
    for place in range(0, len(frame), max(1, len(frame) // 16)):
        assert refused(frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :], layout)
        assert refused(frame[:place], layout)


@pytest.mark.parametrize("case", SMALL, ids=shown)
def test_a_frame_that_is_cut_or_extended_is_refused_even_with_a_right_checksum(case: Path) -> None:
    frame, layout = (case / "frame.bin").read_bytes(), layout_of(case)
    for changed in (
        frame[:-5] + frame[-4:],
        frame[:-4] + b"\0" + frame[-4:],
        frame[:-4] + b"\1" + frame[-4:],
    ):
        assert refused(sealed(changed, layout), layout)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_damaged_file_is_refused(path: Path) -> None:
    frame = path.read_bytes()
    _, base = read_safetensors((GOLDEN / "files" / "base.safetensors").read_bytes())
    _, other = read_safetensors((GOLDEN / "files" / "new.safetensors").read_bytes())
    longer = frame[:-4] + b"\0"
    longer += zlib.crc32(longer).to_bytes(4, "little")
    for changed, given in ((frame[:-1], base), (longer, base), (frame, other), (frame, None)):
        with pytest.raises(Refused):
            decode_file(changed, given)


@pytest.mark.parametrize("metadata", [b"[" * 100_000, b'{"a":1}', b'{"a": "b"}', b'{"a":"\\ud800"}'])
def test_metadata_that_is_no_canonical_table_of_texts_is_refused(metadata: bytes) -> None:
    assert read_metadata(b'{"a":"b"}') == {"a": "b"}
    with pytest.raises(Refused):
        read_metadata(metadata)


def bell(shape: tuple[int, ...], seed: int) -> Array:
    draw = np.random.Generator(np.random.PCG64(seed))
    rows = np.exp2(draw.integers(-3, 3, (shape[0] if shape else 1, *[1] * (max(len(shape), 1) - 1))))
    return (draw.laplace(0, 0.01, shape) * (rows if shape else 1)).astype(np.float32)


#: Ways through the format that no golden frame takes: a codec, shapes, and whether both ends hold an update.
WAYS: dict[str, tuple[dict[str, Any], list[tuple[int, ...]], bool]] = {
    "lanes": ({"codec": "ecsq", "bits": 3.0}, [(160, 150)], False),
    "rows-and-columns": ({"codec": "ecsq", "bits": 0.3}, [(40, 30), (7,), (0, 3), (64, 3, 3), ()], False),
    "large-magnitudes": ({"codec": "ecsq", "step": 1e-7}, [(40, 30), (70,)], False),
    "importances": ({"codec": "ecsq", "bits": 1.0, "importance": {"*0": 4.0}}, [(20, 30), (9,)], False),
    "balanced-folded": ({"codec": "ecsq", "bits": 0.5, "effort": "balanced"}, [(5000,), (30, 20)], False),
    "balanced-fine": ({"codec": "ecsq", "step": 1e-6, "effort": "balanced"}, [(40, 30), (0,)], False),
    "best": ({"codec": "ecsq", "bits": 0.3, "effort": "best"}, [(300, 20), (3,), (20, 40)], False),
    "best-held": ({"codec": "ecsq", "bits": 0.4, "effort": "best"}, [(60, 20), (3,)], True),
    "best-importances": (
        {"codec": "ecsq", "bits": 1.0, "effort": "best", "importance": {"*0": 4.0}}, [(20, 30), (9,)], True,
    ),
    "lossless": ({"codec": "lossless"}, [(130, 70), (3,)], False),
    "lossless-held": ({"codec": "lossless"}, [(130, 170), (3,)], True),
    "zstd": ({"codec": "zstd", "level": 19}, [(130, 70)], False),
    "eden": ({"codec": "eden", "bits": 8, "block": 128}, [(30, 20), (7,)], False),
}  # fmt: skip


def encoded(way: str) -> tuple[int, bytes, Layout, list[Array] | None, list[Array]]:
    """A codec's code, a body, its layout, what is held, and what the library decodes."""
    config, shapes, holds = WAYS[way]
    layout = Layout(tuple(TensorSpec(f"t{i}", shape) for i, shape in enumerate(shapes)))
    arrays = [bell(shape, seed) for seed, shape in enumerate(shapes)]
    held = [np.float32(0.9) * a + np.float32(0.3) * bell(a.shape, 99) for a in arrays] if holds else None
    codec = codec_from(config)
    body = codec.encode(arrays, layout, Hints(seed=3, held=held))
    return codec.code, body, layout, held, type(codec).decode(body, layout, held)


@pytest.mark.parametrize("way", WAYS)
def test_both_decoders_read_what_no_golden_frame_holds(way: str) -> None:
    code, body, layout, held, wanted = encoded(way)
    near = np.concatenate([a.reshape(-1) for a in held]).tolist() if held else []
    found = decode_body(code, body, [spec.shape for spec in layout.specs], near)
    assert as_bytes(found) == b"".join(array.tobytes() for array in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0.02, 1.0])
def test_both_decoders_read_an_update_in_several_parts(bits: float) -> None:
    shapes = [(3000, 1500), (500,), (900, 1000), (0,)]
    layout = Layout(tuple(TensorSpec(f"t{i}", shape) for i, shape in enumerate(shapes)))
    arrays = [bell(shape, seed) for seed, shape in enumerate(shapes)]
    codec = codec_from({"codec": "ecsq", "bits": bits})
    body = codec.encode(arrays, layout)
    wanted = codec.decode(body, layout)
    assert as_bytes(decode_body(1, body, shapes)) == b"".join(array.tobytes() for array in wanted)


def judged(frame: bytes, layout: list[tuple[str, tuple[int, ...]]]) -> tuple[bytes | None, bytes | None]:
    """What each decoder makes of a frame: its bytes, or nothing where it refuses."""
    try:
        ours = as_bytes(decode_frame(frame, layout))
    except Refused:
        ours = None
    known = Layout(tuple(TensorSpec(*row) for row in layout))
    try:
        theirs = b"".join(array.tobytes() for array in frames.unpack(frame, known).decode())
    except FormatError:
        theirs = None
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=shown)
def test_both_decoders_judge_damaged_bodies_alike(case: Path) -> None:
    frame, layout = (case / "frame.bin").read_bytes(), layout_of(case)
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(shown(case).encode())))
    for _ in range(40):
        changed = bytearray(frame)
        place = int(draw.integers(2, max(3, min(len(frame) - 4, 60))))
        changed[place] ^= 1 << int(draw.integers(8))
        ours, theirs = judged(sealed(bytes(changed), layout), layout)
        assert ours == theirs, bytes(changed).hex()
