"""`phloem compress`, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.cli.calls import Call

from phloem.seeds import generator


@pytest.fixture
def model(tmp_path: Path) -> Path:
    draw = generator(0, "model")
    tensors = {"w": draw.normal(size=(60, 50)).astype(np.float32), "b": np.ones(60, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_model_is_pruned_quantised_and_comes_back(phloem: Call, model: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "small.phl", tmp_path / "small.safetensors"
    said = phloem("compress", model, "-o", out, "--prune", "0.8", "--quantize", "int8")
    assert said.code == 0
    assert f"{out.stat().st_size / 1000:.2f}"[:3] in said.out
    for words in ("80.0% of the weights in matrices", "NMSE", "60 × 50", "smaller than"):
        assert words in said.out
    assert phloem("decode", out, "-o", again).code == 0
    found = load_file(again)
    assert int((found["w"] == 0).sum()) == 2400
    assert (found["b"] == 1).all()


def test_json_is_all_that_stands_on_standard_output(phloem: Call, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.phl"
    said = phloem("compress", model, "-o", out, "--prune", "2:4", "--quantize", "ecsq:3", "--json")
    found = json.loads(said.out)
    assert list(found) == [
        "parameters", "bytes_before", "bytes", "bits_per_parameter", "sparsity", "nmse", "tensors",
    ]  # fmt: skip
    assert found["bytes"] == out.stat().st_size
    assert [row["name"] for row in found["tensors"]] == ["b", "w"]
    assert said.err == ""


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ((), "there is nothing to do", "give prune, quantize or both"),
        (("--prune", "80%"), "prune: expected the share of weights that goes", "for example 0.8, or 2:4"),
        (("--quantize", "ecsq"), "quantize: expected int8, int4 or ecsq:BITS", "for example ecsq:3"),
    ],
)
def test_a_call_that_means_nothing_leaves_with_2_and_makes_no_file(
    phloem: Call, model: Path, tmp_path: Path, words: tuple[str, ...], error: str, hint: str
) -> None:
    said = phloem("compress", model, "-o", tmp_path / "small.phl", *words)
    assert said.code == 2
    assert error in said.err
    assert hint in said.err
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_help_shows_every_way(phloem: Call) -> None:
    said = phloem("compress", "--help")
    for words in ("--prune 2:4", "ecsq:4", "phloem decode small.phl", "[prune]"):
        assert words in said.out
