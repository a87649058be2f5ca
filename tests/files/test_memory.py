from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.files.models import write

from phloem.seeds import generator

MEASURE = """
import re, sys
import phloem.kernels
from phloem.files import decode_file, encode_file

def highest():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

new, base, frame, out = sys.argv[1:5]
encode_file(new + ".small", frame, base=base + ".small", **eval(sys.argv[5]))  # what is loaded once is loaded
decode_file(frame, out, base=base + ".small")
before = highest()
encode_file(new, frame, base=base, **eval(sys.argv[5]))
decode_file(frame, out, base=base)
print(highest() - before)
"""
LARGEST = 4 << 20  # bytes of the largest tensor
TENSORS = 24


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    draw = generator(0, "large")
    arrays = {f"layers.{i}.weight": draw.normal(size=(1024, 1024)).astype("f4") for i in range(3)}
    for name, scale in (("base", 0.0), ("new", 0.01)):
        moved = {key: ("float32", a + a[::-1] * a[:, ::-1] * scale) for key, a in arrays.items()}
        write(folder / f"{name}.small", {"layers.0.weight": ("float32", moved["layers.0.weight"][1][:9])})
        write(folder / name, {f"layers.{i}.weight": moved[f"layers.{i % 3}.weight"] for i in range(TENSORS)})
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to read the peak from")
@pytest.mark.parametrize("asked", [{"bits": 0.3}, {"step": 0.01}, {"lossless": True}], ids=str)
def test_memory_is_bounded_by_the_largest_tensors_and_not_by_the_file(
    large: Path, tmp_path: Path, asked: dict[str, object]
) -> None:
    """Sections of four tensors are the largest unit here; both files together are twelve times that."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURE,
            large / "new",
            large / "base",
            tmp_path / "f",
            tmp_path / "o",
            repr(asked),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    section = 4 * LARGEST
    assert (large / "new").stat().st_size + (large / "base").stat().st_size > 12 * section - 1000
    assert int(done.stdout) < 6 * section, f"{int(done.stdout) / section:.1f} sections"
