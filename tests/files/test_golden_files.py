"""Frames of files that every later version must decode to the same bytes; tools/write_golden.py wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tiny import ROOT

from phloem import kernels
from phloem.files import decode_file, inspect_file

GOLDEN = ROOT / "tests" / "golden" / "files"
FRAMES = sorted(GOLDEN.glob("*.phl"))


@pytest.fixture(params=kernels.available())
def _kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    kernels.use(request.param)
    yield
    kernels.use("auto")


def test_there_are_golden_files() -> None:
    assert [path.stem for path in FRAMES] == ["bf16", "lossless", "step"]


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("frame", FRAMES, ids=lambda path: path.stem)
def test_a_golden_frame_decodes_to_the_same_file(frame: Path, tmp_path: Path) -> None:
    decode_file(frame, tmp_path / "out", base=GOLDEN / "base.safetensors")
    assert (tmp_path / "out").read_bytes() == frame.with_suffix(".safetensors").read_bytes()
    assert inspect_file(frame).bytes == frame.stat().st_size


def test_the_golden_lossless_frame_decodes_to_the_file_that_was_encoded(tmp_path: Path) -> None:
    decode_file(GOLDEN / "lossless.phl", tmp_path / "out", base=GOLDEN / "base.safetensors")
    assert (tmp_path / "out").read_bytes() == (GOLDEN / "new.safetensors").read_bytes()
