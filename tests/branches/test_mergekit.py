"""Our merges are mergekit's: its own outputs (tests/branches/mergekit/ORIGIN.md), on the same models and masks.

Tolerance: 4 units in the last place (float32) of the largest value that a coordinate has in base, a branch or the
merge. Mergekit adds in float32, we in float64 with one rounding at the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from phloem.branches import sparsify
from phloem.branches.methods import Held, Method, from_json
from phloem.tensors import Array

FOLDER = Path(__file__).parent / "mergekit"
CASES: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text())
BRANCHES = ("a", "b", "c", "d")
NAMES = {
    "linear": {"name": "mean"},
    "task_arithmetic": {"name": "task-arithmetic"},
    "ties": {"name": "ties"},
    "dare_linear": {"name": "dare"},
    "dare_ties": {"name": "dare", "signs": True},
}
RESCALE = {True: "l1", False: "none"}

Tensors = dict[str, Array]


@pytest.fixture(scope="module")
def inputs() -> Tensors:
    return load_file(FOLDER / "inputs.safetensors")


@pytest.fixture(scope="module")
def outputs() -> Tensors:
    return load_file(FOLDER / "outputs.safetensors")


@pytest.fixture(scope="module")
def masks() -> Tensors:
    return load_file(FOLDER / "masks.safetensors")


def ours(settings: dict[str, Any]) -> Method:
    """The method for mergekit's configuration; what it does not say is at our defaults, which must be its own."""
    table = dict(NAMES[settings["merge_method"]])
    for key, value in settings["parameters"].items():
        name = {"lambda": "scale"}.get(key, key)
        table[name] = RESCALE[value] if name == "rescale" else value
    return from_json(table)


def held(inputs: Tensors, name: str) -> Held:
    return Held([inputs[f"{branch}/{name}"] for branch in BRANCHES], BRANCHES, length=101)


def names(inputs: Tensors) -> list[str]:
    return sorted(name.removeprefix("base/") for name in inputs if name.startswith("base/"))


@pytest.mark.parametrize("label", CASES)
def test_a_merge_is_mergekits(
    label: str, inputs: Tensors, outputs: Tensors, masks: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(seed: Any, start: int, stop: int, density: float) -> Any:
        drawn = masks.get(f"{label}/{seed}")
        return np.ones(stop - start, bool) if drawn is None else drawn.reshape(-1)[start:stop].astype(bool)

    monkeypatch.setattr(sparsify, "seed_of", lambda key, branch, name: f"{branch}/{name}")
    monkeypatch.setattr(sparsify, "mask", seen)
    method, weights = ours(CASES[label]), CASES[label]["weights"]
    for name in names(inputs):
        base, wanted = inputs[f"base/{name}"], outputs[f"{label}/{name}"]
        merged = method.tensor(name, base, held(inputs, name), weights, method.resolve(None, weights))
        assert merged.shape == wanted.shape
        sizes = [np.abs(array) for array in (wanted, base, *held(inputs, name).each())]
        assert np.all(np.abs(merged - wanted) <= 4 * np.spacing(np.max(sizes, axis=0)))


def test_the_vectors_would_show_a_wrong_merge(inputs: Tensors, outputs: Tensors) -> None:
    """Every case differs from base, and from every other case, by far more than the tolerance."""
    name = "layers.0.weight"
    found = {"base": inputs[f"base/{name}"], **{label: outputs[f"{label}/{name}"] for label in CASES}}
    for one in found:
        for other in found:
            apart = np.abs(found[one] - found[other]).max()
            assert one == other or apart > 1e-3 or {one, other} == {"task-weights", "dare-one"}, (one, other)


def test_every_mask_that_mergekit_drew_is_used(masks: Tensors) -> None:
    drawing = {label for label, settings in CASES.items() if "density" in settings["parameters"]}
    drawing &= {label for label, settings in CASES.items() if settings["merge_method"].startswith("dare")}
    assert {name.partition("/")[0] for name in masks} == drawing
    assert len(masks) == len(drawing) * len(BRANCHES) * 4


def test_no_elected_sign_of_the_vectors_hangs_on_rounding(inputs: Tensors) -> None:
    for name in names(inputs):
        base = inputs[f"base/{name}"]
        deltas = np.stack([inputs[f"{branch}/{name}"] - base for branch in BRANCHES]).astype(np.float64)
        for settings in CASES.values():
            if settings["merge_method"] == "ties":
                weighted = deltas * np.reshape(settings["weights"], (-1,) + (1,) * base.ndim)
                total, size = weighted.sum(axis=0), np.abs(weighted).sum(axis=0)
                assert np.all((np.abs(total) > 1e-6 * size) | (size == 0))
