from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.cli.calls import Call

from phloem.seeds import generator


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    draw = generator(0, "bench command")
    base = {"w": draw.normal(size=(30, 20)).astype(np.float32), "steps": np.array(3)}
    save_file(base, tmp_path / "base.safetensors")
    save_file(base | {"w": base["w"] + np.float32(0.01)}, tmp_path / "new.safetensors")
    return tmp_path / "base.safetensors", tmp_path / "new.safetensors"


def test_codecs_are_compared_on_an_update_of_ones_own(
    phloem: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    plot = tmp_path / "plot.png"
    words = ("bench", "codecs", "--update", pair[1], "--base", pair[0], "--codec", "none", "--codec", "sign")
    said = phloem(*words, "-o", plot)
    assert said.code == 0
    heading, *rows = said.out.splitlines()
    assert heading.split()[:3] == ["codec", "bits/parameter", "NMSE"]
    assert [row.split()[0] for row in rows] == ["sign", "none"]
    assert "new.safetensors minus base.safetensors, 600 parameters in 1 tensors" in said.err
    if importlib.util.find_spec("matplotlib"):
        assert plot.read_bytes().startswith(b"\x89PNG")
    else:
        assert "was not drawn" in said.err
        assert not plot.exists()
    told = json.loads(phloem(*words, "-o", plot, "--json").out)
    assert {row["config"]["codec"] for row in told} == {"none", "sign"}


def test_wrong_words_are_one_error(phloem: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    plot = ("-o", tmp_path / "plot.png")
    for words, said in (
        (("--base", pair[0]), "--update"),
        (("--update", tmp_path / "no"), "cannot be read"),
        (("--update", pair[0], "--base", pair[0]), "no value but zero"),
        (("--update", pair[0], "--codec", "gzip"), "no codec 'gzip'"),
    ):
        told = phloem("bench", "codecs", *plot, *words)
        assert (told.code, told.out, len(told.errors)) == (2, "", 1)
        assert said in told.err
    assert not plot[1].exists()
