from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.cli.calls import Call, files_under, finish, start
from tests.tiny import ROOT

from phloem.seeds import generator


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and a later one."""
    draw = generator(0, "checkpoints")
    base = {f"block{i}.weight": draw.normal(size=(60, 40)).astype(np.float32) for i in range(3)}
    base["steps"] = np.array(100)
    new = {
        n: a + draw.laplace(size=a.shape).astype(np.float32) / 100 if a.ndim else np.array(a + 7)
        for n, a in base.items()
    }
    save_file(base, tmp_path / "base.safetensors")
    save_file(new, tmp_path / "new.safetensors")
    return tmp_path / "base.safetensors", tmp_path / "new.safetensors"


def test_a_frame_may_take_its_sources_place(phloem: Call, pair: tuple[Path, Path]) -> None:
    new = pair[1]
    said = phloem("encode", new, "-o", new, "--bits", "4")
    assert said.code == 0
    assert re.search(r"[78]\.\d× smaller than new", said.err)


KEYS = ["parameters", "bytes", "bits_per_parameter", "codec", "effort", "nmse", "base_digest", "tensors"]


def test_two_checkpoints_there_and_back(phloem: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, new = pair
    frame, out = tmp_path / "update.phl", tmp_path / "out.safetensors"
    said = phloem("encode", new, "--base", base, "-o", frame, "--bits", "1.5")
    assert (said.code, said.out) == (0, "")
    assert re.match(r".*update\.phl: 1\.3\d kB, 1\.\d+ bits per parameter, 22× smaller than new", said.err)
    assert "NMSE" in said.err
    said = phloem("decode", frame, "--base", base, "-o", out)
    assert (said.code, said.out) == (0, "")
    assert re.search(r"7,201 parameters, state [0-9a-f]{16}…", said.err)
    assert int(load_file(out)["steps"]) == 107
    assert np.abs(load_file(out)["block0.weight"] - load_file(new)["block0.weight"]).max() < 0.02


@pytest.mark.parametrize(
    "words",
    [("--bits", "2"), ("--bytes", "2000"), ("--nmse", "0.1"), ("--step", "0.01"), ("--lossless",)],
    ids=str,
)
def test_inspect_says_in_json_what_encode_said(
    phloem: Call, pair: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    base, new = pair
    made = phloem("encode", new, "--base", base, "-o", tmp_path / "f", "--json", *words)
    assert (made.code, made.err) == (0, "")
    told = json.loads(phloem("inspect", tmp_path / "f", "--json").out)
    assert told == json.loads(made.out)
    assert list(told) == KEYS
    assert told["bytes"] == (tmp_path / "f").stat().st_size
    assert told["parameters"] == 7201
    rows = {row["name"]: row for row in told["tensors"]}
    assert rows["steps"]["codec"] == "lossless"
    assert rows["block1.weight"]["shape"] == [60, 40]
    check: dict[str, Any] = {
        "--bits": lambda: told["bits_per_parameter"] == pytest.approx(2.0, rel=0.02),
        "--bytes": lambda: 1950 < told["bytes"] <= 2000,
        "--nmse": lambda: told["nmse"] == pytest.approx(0.1, rel=0.02),
        "--step": lambda: told["codec"] == "ecsq" and told["effort"] == "fast",
        "--lossless": lambda: (told["codec"], told["nmse"]) == ("lossless", 0.0),
    }
    assert check[words[0]]()


def test_inspect_prints_a_table_for_people(phloem: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    phloem("encode", pair[1], "-o", tmp_path / "f", "--nmse", "0.01")
    said = phloem("inspect", tmp_path / "f")
    assert (said.code, said.err) == (0, "")
    for words in (
        "7,201 in 4 tensors",
        "ecsq, effort fast",
        "NMSE 0.0",
        "none: the tensors",
        "60 × 40",
        "int64",
    ):
        assert words in said.out


def test_codecs_are_called_by_name_with_their_fields(
    phloem: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("encode", pair[1], "--base", pair[0], "-o", tmp_path / "f", "--json", "--codec")
    assert json.loads(phloem(*words, "topk:fraction=0.1").out)["codec"] == "topk"
    assert json.loads(phloem(*words, "int8").out)["codec"] == "int8"
    assert json.loads(phloem(*words, "ecsq:step=0.1").out)["effort"] == "fast"
    for wrong, said in (
        ("topk:fraction", "expected key=value"),
        ("topk:fracton=0.1", "did you mean 'fraction'"),
        ("gzip", "no codec 'gzip'"),
    ):
        told = phloem(*words, wrong)
        assert told.code == 2
        assert said in told.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["encode", "NEW", "-o", "F"], 2, "--bits, --bytes, --nmse, --step and --lossless"),
        (["encode", "NEW", "-o", "F", "--bits", "1", "--nmse", "0.1"], 2, "exactly one of"),
        (["encode", "NEW", "-o", "F", "--bits", "1", "--lossless"], 2, "has no 'bits'"),
        (["encode", "NEW", "-o", "F", "--bits", "much"], 2, "'much' is not a valid float"),
        (["encode", "NEW", "-o", "F", "--bytes", "20"], 2, "20 bytes are not enough"),
        (["encode", "NEW", "-o", "F", "--bits", "1", "--effort", "heroic"], 2, "'heroic' is not one of"),
        (["encode", "NEW", "--bits", "1"], 2, "Missing option"),
        (["encode", "NO", "-o", "F", "--bits", "1"], 2, "cannot be read"),
        (["encode", "JUNK", "-o", "F", "--bits", "1"], 1, "not a whole safetensors file"),
        (["decode", "JUNK", "-o", "F"], 1, "expected a frame"),
        (["decode", "NO", "-o", "F"], 2, "cannot be read"),
        (["inspect", "JUNK"], 1, "expected a frame"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_error_and_leaves_nothing(
    phloem: Call, pair: tuple[Path, Path], tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "junk").write_bytes(b"junk that is no file of ours")
    before = files_under(tmp_path)
    places = {"NEW": pair[1], "F": tmp_path / "f", "NO": tmp_path / "no", "JUNK": tmp_path / "junk"}
    told = phloem(*(places.get(word, word) for word in words))
    assert (told.code, told.out) == (code, "")
    assert said in told.err
    assert len(told.errors) == 1
    assert "Traceback" not in told.err
    assert files_under(tmp_path) == before


def test_the_wrong_base_is_one_error(phloem: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, new = pair
    phloem("encode", new, "--base", base, "-o", tmp_path / "f", "--bits", "1")
    for words in ((), ("--base", new)):
        told = phloem("decode", tmp_path / "f", "-o", tmp_path / "out", *words)
        assert (told.code, told.out, len(told.errors)) == (2, "", 1)
        assert "base" in told.err
    assert not (tmp_path / "out").exists()


def test_the_lines_of_the_readme_work(
    phloem: Call, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair[0].parent)
    pair[1].rename("tuned.safetensors")
    block = (ROOT / "README.md").read_text("utf-8").partition("## Try it on two checkpoints")[2]
    lines = re.findall(r"^\$ phloem ((?:encode|inspect|decode) .*)$", block, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        said = phloem(*line.split())
        assert said.code == 0, said.err
    assert load_file("restored.safetensors")["block0.weight"].shape == (60, 40)


def test_both_kernels_write_the_same_frame(phloem: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    frames = []
    for kernels in ("reference", "native"):
        words = ("encode", pair[1], "--base", pair[0], "-o", tmp_path / kernels, "--bits", "0.5")
        done = finish(start(*words, "--kernels", kernels))
        if kernels == "native" and done.code == 2:
            pytest.skip("the native kernels are not built here")
        assert done.code == 0, done.err
        frames.append((tmp_path / kernels).read_bytes())
    assert frames[0] == frames[1]


def test_help_teaches_by_example(phloem: Call) -> None:
    for command in ("encode", "decode", "inspect"):
        said = phloem(command, "--help")
        assert said.code == 0
        assert f"  phloem {command} " in said.out
        assert "Examples:" in said.out
