"""Writes tests/branches/mergekit: small models, and what mergekit makes of them, to compare our merges with.

    python -m venv elsewhere
    elsewhere/bin/pip install -c <(grep '^torch==' constraints.txt) mergekit==0.1.5
    python tools/write_merge_vectors.py --python elsewhere/bin/python

Mergekit runs in an environment of its own, by its command `mergekit-pytorch`; the constraint keeps its torch ours.
The masks that it draws for DARE are noted down as it draws them. Nothing else of it is touched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "branches" / "mergekit"
#: Every tensor has a shape of its own: by it, masks are told apart.
SHAPES = {"layers.0.weight": (24, 33), "layers.0.bias": (33,), "embed": (7, 5, 3), "scale": ()}
BRANCHES = ("a", "b", "c", "d")

ORIGIN = """\
# Origin of these files

Outputs of [mergekit](https://github.com/arcee-ai/mergekit) {mergekit} (LGPL-3.0-only), run with torch {torch} by
`mergekit-pytorch` on models that we made. None of its code is kept here.

* `inputs.safetensors`: NAME/TENSOR for the model `base` and the branches {branches}, float32.
* `cases.json`: each case's configuration for mergekit, without the models.
* `outputs.safetensors`: CASE/TENSOR, what mergekit wrote.
* `masks.safetensors`: CASE/BRANCH/TENSOR, uint8, the masks that it drew for DARE (1: kept).

Written by

    python tools/write_merge_vectors.py --python PYTHON_WITH_MERGEKIT
"""


def case(method: str, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0), **options: Any) -> dict[str, Any]:
    """A configuration: mergekit's method, a weight per branch, and its options (`lambda_` is its `lambda`)."""
    return {
        "merge_method": method,
        "weights": list(weights),
        "parameters": {key.rstrip("_"): value for key, value in options.items()},
    }


UNEVEN = (0.5, 1.0, 2.0, 0.25)
CASES = {
    "linear": case("linear"),
    "linear-weights": case("linear", UNEVEN),
    "linear-zero": case("linear", (0.0, 1.0, 3.0, 0.0)),
    "task": case("task_arithmetic"),
    "task-lambda": case("task_arithmetic", UNEVEN, lambda_=0.3),
    "task-normalize": case("task_arithmetic", UNEVEN, normalize=True, lambda_=1.5),
    "ties": case("ties"),
    "ties-density": case("ties", density=0.2),
    "ties-tiny": case("ties", density=0.001),
    "ties-weights": case("ties", UNEVEN, density=0.37, lambda_=0.7),
    "ties-zero": case("ties", (0.0, 1.0, 3.0, 0.0), density=0.5),
    "ties-sum": case("ties", UNEVEN, density=0.5, normalize=False),
    "dare": case("dare_linear", density=0.5),
    "dare-one": case("dare_linear", UNEVEN),
    "dare-weights": case("dare_linear", UNEVEN, density=0.1, lambda_=0.7, normalize=True),
    "dare-none": case("dare_linear", density=0.3, rescale=False),
    "dare-ties": case("dare_ties", density=0.5),
    "dare-ties-weights": case("dare_ties", UNEVEN, density=0.3, lambda_=0.7, normalize=True),
    "dare-ties-none": case("dare_ties", UNEVEN, density=0.6, rescale=False),
}


def models() -> dict[str, np.ndarray[Any, Any]]:
    """Base and branches: changes of several sizes, three in ten of them exactly 0."""
    from phloem.seeds import generator

    found = {}
    for name, shape in SHAPES.items():
        base = generator(0, "mergekit", "base", name).normal(size=shape).astype(np.float32)
        found[f"base/{name}"] = np.asarray(base, np.float32)
        for place, branch in enumerate(BRANCHES):
            draw = generator(0, "mergekit", branch, name)
            change = draw.normal(size=shape) * 0.02 * (place + 1) * (draw.random(shape) >= 0.3)
            found[f"{branch}/{name}"] = np.asarray(base + change.astype(np.float32), np.float32)
    return found


def inside(folder: Path) -> None:
    """In mergekit's environment: every case of `folder`/cases.json by mergekit's command."""
    import torch
    from mergekit.scripts.merge_raw_pytorch import main as mergekit
    from safetensors.numpy import load_file, save_file

    drawn: list[Any] = []
    bernoulli = torch.bernoulli

    def noted(*args: Any, **kwargs: Any) -> Any:
        drawn.append(bernoulli(*args, **kwargs))
        return drawn[-1]

    torch.bernoulli = noted
    outputs, masks = {}, {}
    names = {shape: name for name, shape in SHAPES.items()}
    for number, (label, settings) in enumerate(json.loads((folder / "cases.json").read_text()).items()):
        config = {
            "merge_method": settings["merge_method"],
            "models": [
                {"model": str(folder / f"{branch}.safetensors"), "parameters": {"weight": weight}}
                for branch, weight in zip(BRANCHES, settings["weights"], strict=True)
            ],
            "parameters": settings["parameters"],
            "dtype": "float32",
        }
        if settings["merge_method"] != "linear":
            config["base_model"] = str(folder / "base.safetensors")
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        drawn.clear()
        arguments = [str(folder / "config.yaml"), str(folder / label), "--random-seed", str(number)]
        mergekit(arguments, standalone_mode=False)
        for path in sorted((folder / label).glob("*.safetensors")):
            outputs |= {f"{label}/{name}": array for name, array in load_file(path).items()}
        seen = dict.fromkeys(names, 0)
        for mask in drawn:
            shape = tuple(mask.shape)
            masks[f"{label}/{BRANCHES[seen[shape]]}/{names[shape]}"] = mask.numpy().astype(np.uint8)
            seen[shape] += 1
    save_file(outputs, folder / "outputs.safetensors")
    save_file(masks, folder / "masks.safetensors")
    versions = {name: metadata.version(name) for name in ("mergekit", "torch")}
    (folder / "versions.json").write_text(json.dumps(versions))


def write(python: Path) -> None:
    """Replaces the files in tests/branches/mergekit by what the mergekit of `python` gives."""
    from safetensors.numpy import load_file, save_file

    FOLDER.mkdir(parents=True, exist_ok=True)
    inputs = models()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps(CASES))
        for model in ("base", *BRANCHES):
            save_file(_below(inputs, f"{model}/"), folder / f"{model}.safetensors")
        # Mergekit goes through a set of tensor names: which random numbers a tensor gets hangs on Python's hashes.
        settled = {"PYTHONHASHSEED": "0", "HOME": name}
        subprocess.run([python, __file__, "--inside", name], check=True, env=settled)
        outputs, masks = (load_file(folder / f"{kind}.safetensors") for kind in ("outputs", "masks"))
        versions = json.loads((folder / "versions.json").read_text())
    missing = {f"{label}/{name}" for label in CASES for name in SHAPES} ^ set(outputs)
    if missing:
        raise SystemExit(f"mergekit left out, or added: {sorted(missing)}")
    save_file(inputs, FOLDER / "inputs.safetensors")
    save_file(outputs, FOLDER / "outputs.safetensors")
    save_file(masks, FOLDER / "masks.safetensors")
    lines = ",\n".join(f"  {json.dumps(label)}: {json.dumps(settings)}" for label, settings in CASES.items())
    (FOLDER / "cases.json").write_text(f"{{\n{lines}\n}}\n")
    (FOLDER / "ORIGIN.md").write_text(ORIGIN.format(**versions, branches=", ".join(BRANCHES)))


def _below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, help="the Python of an environment with mergekit")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside)
    elif given.python:
        write(given.python)
    else:
        parser.print_usage(sys.stderr)


if __name__ == "__main__":
    main()
