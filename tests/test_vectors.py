"""Frames of frozen formats decode to the same values for ever. No test and no tool ever rewrites their archives."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phloem import kernels
from phloem.canonical import dumps
from phloem.files import decode_file
from phloem.files.tensorfile import TensorFile
from phloem.tensors import Array, Layout
from phloem.wire import frame as frames

ARCHIVES = Path(__file__).resolve().parent / "vectors"
SHA256 = {"v1.zip": "90d100c583e97c6684a6e41c58fa72211cb4cd0e0bec1296691b798709ecdc15"}
V1 = ARCHIVES / "v1.zip"
NAMES = sorted(n.removesuffix(".json") for n in zipfile.ZipFile(V1).namelist() if n.endswith(".json"))
SLOW_ON_REFERENCE = ("parts-", "network-balanced", "network-best")


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    kernels.use(request.param)
    yield request.param
    kernels.use("auto")


def vector(name: str) -> tuple[dict[str, Any], list[Array]]:
    """What the archive says of a vector, and what its frame decodes to now."""
    with zipfile.ZipFile(V1) as archive:
        about = json.loads(archive.read(f"{name}.json"))
        frame = archive.read(f"{name}.frame")
    held = None if about["held"] is None else vector(about["held"])[1]
    layout = Layout.from_json(dumps(about["layout"]))
    return about, frames.unpack(frame, layout).decode(held)


def test_the_archives_are_the_frozen_ones() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in ARCHIVES.glob("*.zip")}
    assert found == SHA256


def test_every_codec_is_among_the_vectors() -> None:
    with zipfile.ZipFile(V1) as archive:
        codes = {archive.read(f"{name}.frame")[1] & frames.CODEC_CODE for name in NAMES}
    assert len(NAMES) == 368
    assert codes == set(range(23))


@pytest.mark.parametrize("kernel", kernels.available(), indirect=True)
def test_every_vector_decodes_to_its_values(kernel: str) -> None:
    _check([name for name in NAMES if kernel == "native" or not name.startswith(SLOW_ON_REFERENCE)])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["reference"], indirect=True)
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith(SLOW_ON_REFERENCE) and name != "parts-best"]
)
def test_the_reference_decodes_the_long_vectors_too(kernel: str, name: str) -> None:
    """All but the longest, whose parts are like those of `parts-balanced` and coded like `network-best`."""
    _check([name])


def _check(names: list[str]) -> None:
    wrong = []
    for name in names:
        about, decoded = vector(name)
        content = b"".join(array.astype("<f4").tobytes() for array in decoded)
        if hashlib.sha256(content).hexdigest() != about["decoded"]:
            wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("name", ["step", "bf16", "lossless"])
def test_files_decode_to_their_tensors(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(V1) as archive:
        archive.extractall(tmp_path, [n for n in archive.namelist() if n.startswith("files/")])
    folder = tmp_path / "files"
    decode_file(folder / f"{name}.phl", tmp_path / "out.safetensors", base=folder / "base.safetensors")
    assert _tensors(tmp_path / "out.safetensors") == _tensors(folder / f"{name}.safetensors")


def _tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    with TensorFile.open(path) as file:
        return {s.name: (s.dtype, s.shape, file.read(s).tobytes()) for s in file.contents.specs}
