"""A model in a file, pruned and quantised: what comes back, how large it is, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from phloem.errors import ConfigError, FormatError
from phloem.files import decode_file
from phloem.files.compressing import compress_file
from phloem.files.thinning import Groups, Share, rule_of
from phloem.masks import largest
from phloem.seeds import generator


@pytest.fixture
def model(tmp_path: Path) -> Path:
    draw = generator(0, "model")
    tensors = {
        "bias": draw.normal(size=64).astype(np.float32),
        "conv": draw.normal(0, 0.2, (16, 8, 3, 3)).astype(np.float32),
        "half": draw.normal(0, 0.1, (40, 50)).astype(np.float16),
        "linear": (draw.laplace(size=(64, 200)) * np.exp(draw.normal(size=(64, 1)))).astype(np.float32),
        "steps": np.arange(12, dtype=np.int64).reshape(3, 4),
        "temperature": np.array(0.7, np.float32),
        "void": np.zeros((0, 5), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"made": "here"})
    return tmp_path / "model.safetensors"


MATRICES = ("conv", "half", "linear")
WEIGHTS = 16 * 72 + 2000 + 12800


def back(frame: Path) -> dict[str, Any]:
    decode_file(frame, frame.with_suffix(".again"))
    return dict(load_file(frame.with_suffix(".again")))


def test_pruning_alone_keeps_the_largest_weights_bit_for_bit(model: Path, tmp_path: Path) -> None:
    made = compress_file(model, tmp_path / "out.phl", prune=0.8)
    old, new = load_file(model), back(tmp_path / "out.phl")
    joined = np.concatenate([old[name].astype(np.float32).reshape(-1) for name in MATRICES])
    count = WEIGHTS - int(np.floor(0.8 * WEIGHTS + 0.5))
    mask = largest(joined.view(np.uint32) & np.uint32(0x7FFFFFFF), count)
    got = np.concatenate([new[name].astype(np.float32).reshape(-1) for name in MATRICES])
    assert np.array_equal(got, np.where(mask, joined, np.float32(0)))
    assert all(new[name].dtype == old[name].dtype and new[name].shape == old[name].shape for name in old)
    assert all(new[name].tobytes() == old[name].tobytes() for name in ("bias", "steps", "temperature"))
    assert made.sparsity == pytest.approx(0.8, abs=1e-4)
    assert made.bytes == (tmp_path / "out.phl").stat().st_size
    assert made.bytes_before == model.stat().st_size


def test_sparse_tensors_cost_what_is_kept_and_a_mask(model: Path, tmp_path: Path) -> None:
    made = compress_file(model, tmp_path / "out.phl", prune=0.8)
    kept, places = 0.2 * WEIGHTS * 4, WEIGHTS * 0.73 / 8
    assert made.bytes < kept + places + 4 * 65 + 96 + 400
    dense = compress_file(model, tmp_path / "dense.phl", quantize="int8").bytes
    sparse = compress_file(model, tmp_path / "sparse.phl", quantize="int8", prune=0.8).bytes
    assert sparse < 0.45 * dense


@pytest.mark.parametrize("bits", [2.0, 3.0, 4.5])
@pytest.mark.parametrize("prune", [None, 0.5, 0.8])
def test_ecsq_gives_every_kept_weight_its_bits_and_zeros_their_places(
    model: Path, tmp_path: Path, bits: float, prune: float | None
) -> None:
    made = compress_file(model, tmp_path / "out.phl", prune=prune, quantize=f"ecsq:{bits}")
    share = 1.0 - (prune or 0.0)
    places = 0.0 if prune is None else -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert made.bits_per_parameter == pytest.approx(share * bits + places, rel=0.04)
    assert prune is None or made.sparsity >= prune - 1e-4
    assert np.array_equal(back(tmp_path / "out.phl")["steps"], load_file(model)["steps"])


@pytest.mark.parametrize("words", ["2:4", "1:3", "4:5"])
def test_n_of_m_keeps_the_largest_of_every_group_along_a_row(model: Path, tmp_path: Path, words: str) -> None:
    kept, size = map(int, words.split(":"))
    compress_file(model, tmp_path / "out.phl", prune=words)
    old, new = load_file(model), back(tmp_path / "out.phl")
    for name in MATRICES:
        first = old[name].astype(np.float32).reshape(len(old[name]), -1)
        second = new[name].astype(np.float32).reshape(first.shape)
        for row, after in zip(first, second, strict=True):
            for at in range(0, row.size, size):
                group, left = row[at : at + size], after[at : at + size]
                stay = np.sort(np.argsort(-np.abs(group), kind="stable")[:kept])
                assert np.array_equal(np.flatnonzero(left), stay)
                assert np.array_equal(left[stay], group[stay])


@given(st.integers(0, 40), st.floats(0.01, 0.99), st.integers(0, 50))
def test_ties_and_shares_are_exactly_those_of_one_sort(
    tmp_path_factory: pytest.TempPathFactory, spread: int, share: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("ties")
    draw = generator(seed, "ties")
    tensors = {
        name: draw.integers(-spread, spread + 1, size=(3, 5)).astype(np.float32) for name in ("a", "b")
    }
    save_file(tensors, folder / "m.safetensors")
    compress_file(folder / "m.safetensors", folder / "m.phl", prune=share)
    joined = np.concatenate([tensors["a"].reshape(-1), tensors["b"].reshape(-1)])
    mask = largest(np.abs(joined).view(np.uint32), 30 - int(np.floor(share * 30 + 0.5)))
    new = back(folder / "m.phl")
    got = np.concatenate([new["a"].reshape(-1), new["b"].reshape(-1)])
    assert np.array_equal(got, np.where(mask, joined, np.float32(0)))


def test_the_rows_say_what_became_of_every_tensor(model: Path, tmp_path: Path) -> None:
    made = compress_file(model, tmp_path / "out.phl", prune=0.5, quantize="int8")
    old, new = load_file(model), back(tmp_path / "out.phl")
    lost = power = 0.0
    for row in made.tensors:
        first, second = old[row.name].astype(np.float64), new[row.name].astype(np.float64)
        assert (row.shape, row.parameters) == (first.shape, first.size)
        assert row.zeros == int((second == 0).sum())
        if row.name != "steps":
            lost, power = lost + ((first - second) ** 2).sum(), power + (first**2).sum()
            wanted = ((first - second) ** 2).sum() / (first**2).sum() if first.size else 0.0
            assert row.nmse == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert made.nmse == pytest.approx(lost / power, rel=1e-6)
    assert made.to_json()["tensors"][0]["name"] == "bias"


def test_int8_leaves_tensors_of_one_dimension_as_they_are(model: Path, tmp_path: Path) -> None:
    compress_file(model, tmp_path / "out.phl", quantize="int8")
    old, new = load_file(model), back(tmp_path / "out.phl")
    assert new["bias"].tobytes() == old["bias"].tobytes()
    assert new["temperature"].tobytes() == old["temperature"].tobytes()
    assert new["linear"].tobytes() != old["linear"].tobytes()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({}, "there is nothing to do"),
        ({"prune": 1.0}, "expected the share"),
        ({"prune": "0"}, "expected the share"),
        ({"prune": "nan"}, "expected the share"),
        ({"prune": "3:2"}, "expected the share"),
        ({"prune": "0:4"}, "expected the share"),
        ({"prune": "1:9999"}, "expected the share"),
        ({"prune": "half"}, "expected the share"),
        ({"quantize": "int7"}, "expected int8, int4 or ecsq:BITS"),
        ({"quantize": "ecsq:0"}, "expected int8, int4 or ecsq:BITS"),
        ({"quantize": "ecsq:17"}, "expected int8, int4 or ecsq:BITS"),
        ({"quantize": "ecsq:1e3"}, "expected int8, int4 or ecsq:BITS"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_before_a_file_is_made(
    model: Path, tmp_path: Path, what: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        compress_file(model, tmp_path / "out.phl", **what)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_model_with_nan_or_a_damaged_one_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"w": np.full((2, 2), np.nan, np.float32)}, path)
    for what in ({"prune": 0.5}, {"quantize": "int8"}):
        with pytest.raises(ConfigError, match=r"'w' of .*bad.safetensors holds NaN"):
            compress_file(path, tmp_path / "out.phl", **what)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError, match="not a whole safetensors file"):
        compress_file(path, tmp_path / "out.phl", prune=0.5)
    with pytest.raises(ConfigError, match="cannot be written"):
        compress_file(path, tmp_path / "missing" / "out.phl", prune=0.5)
    assert [found.name for found in tmp_path.iterdir()] == ["bad.safetensors"]


def test_a_model_without_matrices_is_kept(tmp_path: Path) -> None:
    save_file({"b": np.arange(5, dtype=np.float32)}, tmp_path / "m.safetensors")
    made = compress_file(tmp_path / "m.safetensors", tmp_path / "m.phl", prune=0.5)
    assert made.sparsity == made.nmse == 0.0
    assert back(tmp_path / "m.phl")["b"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("tensors", [{"ids": np.arange(9)}, {"e": np.zeros((0, 4), np.float32)}], ids=str)
@pytest.mark.parametrize("quantize", ["int8", "ecsq:2"])
def test_a_model_without_weights_is_kept(tmp_path: Path, tensors: dict[str, Any], quantize: str) -> None:
    save_file(tensors, tmp_path / "m.safetensors")
    made = compress_file(tmp_path / "m.safetensors", tmp_path / "m.phl", prune=0.5, quantize=quantize)
    assert made.nmse == 0.0
    found = back(tmp_path / "m.phl")
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in tensors.items()
    }


def test_bits_are_for_biases_too(tmp_path: Path) -> None:
    draw = generator(0, "biases")
    tensors = {"w": draw.normal(size=(20, 50)), "b": draw.normal(size=3000)}
    path = tmp_path / "m.safetensors"
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, path)
    made = compress_file(path, tmp_path / "m.phl", prune=0.9, quantize="ecsq:4")
    share = 3100 / 4000  # the biases and a tenth of the weights
    places = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert made.bits_per_parameter == pytest.approx(4 * share + places, rel=0.03)


def test_nearly_everything_may_go(tmp_path: Path) -> None:
    save_file({"w": np.ones((4, 4), np.float32)}, tmp_path / "m.safetensors")
    made = compress_file(tmp_path / "m.safetensors", tmp_path / "m.phl", prune=0.99, quantize="ecsq:2")
    assert made.sparsity >= 15 / 16


def test_a_frame_may_take_its_models_place(model: Path) -> None:
    before = model.stat().st_size
    made = compress_file(model, model, quantize="int8")
    assert (made.bytes_before, made.bytes) == (before, model.stat().st_size)
    assert made.bytes < before


def test_the_words_of_a_rule() -> None:
    assert rule_of("0.8") == rule_of(0.8) == Share(0.8)
    assert rule_of(" 2:4 ") == Groups(2, 4)


MEASURE = """
import re, sys
import numpy as np
from phloem.files.compressing import compress_file

def highest():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

compress_file(sys.argv[1] + ".small", sys.argv[2], **eval(sys.argv[3]))  # what is loaded once is loaded
before = highest()
compress_file(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
print(highest() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to read the peak from")
@pytest.mark.parametrize(
    "asked", [{"prune": 0.8}, {"prune": "2:4", "quantize": "int8"}, {"quantize": "ecsq:3"}], ids=str
)
def test_memory_is_bounded_by_the_largest_section_and_not_by_the_file(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    size = 1 << 20  # a section has four of these tensors, 16 MiB; the file has 24
    draw = generator(0, "large")
    arrays = [draw.normal(size=(1024, size // 1024)).astype(np.float32) for _ in range(3)]
    save_file({f"layers.{i}.weight": arrays[i % 3] for i in range(24)}, tmp_path / "m")
    save_file({"layers.0.weight": arrays[0][:40]}, tmp_path / "m.small")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "m", tmp_path / "f", repr(asked)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 6 * 16 * size, f"{int(done.stdout) / (16 * size):.1f} sections"


def test_bits_are_for_weights_and_not_for_what_travels_exactly(tmp_path: Path) -> None:
    draw = generator(0, "mixed")
    weights = draw.normal(size=(40, 40)).astype(np.float32)
    ids = draw.integers(0, 1 << 16, size=50_000).astype(np.int64)
    save_file({"weight": weights}, tmp_path / "alone")
    save_file({"weight": weights, "ids": ids}, tmp_path / "both")
    alone = compress_file(tmp_path / "alone", tmp_path / "a", quantize="ecsq:3")
    both = compress_file(tmp_path / "both", tmp_path / "b", quantize="ecsq:3")
    assert both.bytes - alone.bytes == pytest.approx(100_000, rel=0.05)  # two random bytes of each id
    decode_file(tmp_path / "b", tmp_path / "again")
    assert np.array_equal(load_file(tmp_path / "again")["ids"], ids)
