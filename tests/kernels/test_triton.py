"""Kernels for GPUs: interpreted on the processor they give its bits, and those compiled for GPUs round as it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.service("triton"), pytest.mark.slow]


def run(part: str, interpreted: bool) -> None:
    beside = {"PYTHONPATH": str(Path(sys.prefix) / "triton")}  # see .ci/run
    environment = {**os.environ, **beside, "TRITON_INTERPRET": str(int(interpreted)), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "tests.kernels.on_triton", part]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("part", ["split", "means"])
def test_bits_are_those_of_the_processor(part: str) -> None:
    run(part, interpreted=True)


def test_compiled_for_three_generations_products_are_rounded_before_they_are_added() -> None:
    run("compiled", interpreted=False)
