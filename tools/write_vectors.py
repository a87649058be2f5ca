"""Writes tests/vectors/vN.zip: frames that every later version must decode to the same values, for ever.

    python tools/write_vectors.py

Run once per version of the format, when it is frozen; an archive that is there is never replaced. Encoders may change
afterwards, and with them tests/golden; these frames stay. In the archive, per vector: NAME.frame, and NAME.json with
its layout, the vector whose values both ends hold (or null) and the SHA-256 of the decoded values, float32,
little-endian, one tensor after another. `files/` has the files of tests/golden/files.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from write_golden import CONFIGS as GOLDEN_CONFIGS

from phloem.codecs.base import Hints
from phloem.codecs.registry import codec_from
from phloem.seeds import generator
from phloem.tensors import Array, Layout
from phloem.wire import frame as frames

TESTS = Path(__file__).resolve().parent.parent / "tests"
ARCHIVE = TESTS / "vectors" / f"v{frames.VERSION}.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever it is written


@dataclass(frozen=True)
class Vector:
    """A frame, what it is a frame of, and what it decodes to."""

    name: str
    layout: Layout
    frame: bytes
    held: str | None = None

    def decoded(self, held: list[Array] | None) -> list[Array]:
        """The values, by this version."""
        return frames.unpack(self.frame, self.layout).decode(held)


def small() -> Iterator[Vector]:
    """The frames of tests/golden: every codec on small, empty, extreme inputs."""
    for case in sorted(path.parent for path in (TESTS / "golden").glob("*/*/frame.bin")):
        layout = Layout.of({"x": np.load(case / "decoded.npy", allow_pickle=False)})
        yield Vector(f"{case.parent.name}-{case.name}", layout, (case / "frame.bin").read_bytes())


def update(seed: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Heavy tails times scales of rows and columns."""
    draw = generator(1, "vectors", seed)
    made = {}
    for name, shape in shapes.items():
        scale = np.exp(0.7 * draw.normal(size=shape[:1] + (1,) * (len(shape) - 1)))
        scale = scale * np.exp(0.7 * draw.normal(size=shape[-1:]))
        made[name] = (draw.standard_t(4, size=shape) * scale).astype(np.float32)
    return made


NETWORK = {"a.weight": (160, 300), "a.bias": (160,), "b.weight": (16, 8, 3, 3), "norm": (), "unused": (0, 4)}
SMALL = {"a.weight": (32, 60), "a.bias": (32,), "b.weight": (4, 4, 3, 3), "norm": (), "unused": (0, 4)}
CONFIGS: list[dict[str, Any]] = [
    {"codec": "ecsq", "effort": effort} | quality
    for effort in ("fast", "balanced", "best")
    for quality in (
        *({"bits": bits} for bits in (0.01, 0.05, 0.3, 1.0, 4.0)),
        {"step": 1e-4},
        {"bits": 0.5, "importance": {"b*": 16.0, "*bias": 0.1}},
    )
]


def large() -> Iterator[Vector]:
    """Every part of `ecsq`'s format: levels, lanes, importances, several parts, an update that both ends hold."""
    first, second = update("first", NETWORK), update("second", NETWORK)
    layout = Layout.of(first)
    close = {name: np.float32(0.9) * first[name] + np.float32(0.3) * second[name] for name in first}
    for config in CONFIGS:
        quality = "-".join(f"{key}-{value}" for key, value in config.items() if key in ("bits", "step"))
        name = f"network-{config['effort']}-{quality}{'-importance' * ('importance' in config)}"
        codec = codec_from(config)
        yield Vector(name, layout, frames.pack(codec, layout.arrays(first), layout))
        if config["effort"] == "best" and "bits" in config:
            held = frames.unpack(frames.pack(codec, layout.arrays(first), layout), layout).decode()
            frame = frames.pack(codec, layout.arrays(close), layout, hints=Hints(held=held))
            yield Vector(f"{name}-held", layout, frame, held=name)
    sparse = np.zeros((2100, 2100), np.float32)  # two parts
    rows, columns = generator(1, "vectors", "parts").integers(0, 2100, size=(2, 3000))
    sparse[rows, columns] = update("parts", {"x": (3000,)})["x"]
    parts = Layout.of({"big": sparse, "small": first["a.bias"]})
    arrays = [sparse, first["a.bias"]]
    for effort in ("fast", "balanced", "best"):
        codec = codec_from({"codec": "ecsq", "step": 0.5, "effort": effort})
        yield Vector(f"parts-{effort}", parts, frames.pack(codec, arrays, parts))
    small = update("small", SMALL)
    layout = Layout.of(small)
    arrays = layout.arrays(small)
    for name in ("lossless", "model", "none"):
        frame = frames.pack(codec_from({"codec": name}), arrays, layout, key_frame=True)
        yield Vector(f"small-key-{name}", layout, frame)
    for codec_name in sorted(GOLDEN_CONFIGS.keys() - {"ecsq"}):
        for case, options in GOLDEN_CONFIGS[codec_name].items():
            codec = codec_from({"codec": codec_name} | options)
            yield Vector(f"small-{codec_name}-{case}", layout, frames.pack(codec, arrays, layout))


def main() -> None:
    """Writes the archive of this version, unless it is there."""
    if ARCHIVE.exists():
        raise SystemExit(f"{ARCHIVE} is there and is not replaced: format {frames.VERSION} is frozen")
    ARCHIVE.parent.mkdir(exist_ok=True)
    values: dict[str, list[Array]] = {}
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for vector in (*small(), *large()):
            held = None if vector.held is None else values[vector.held]
            values[vector.name] = vector.decoded(held)
            content = b"".join(array.astype("<f4").tobytes() for array in values[vector.name])
            about = {
                "layout": json.loads(vector.layout.to_json()),
                "held": vector.held,
                "decoded": hashlib.sha256(content).hexdigest(),
            }
            for name, data in (
                (f"{vector.name}.frame", vector.frame),
                (f"{vector.name}.json", json.dumps(about)),
            ):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
        for path in sorted((TESTS / "golden" / "files").iterdir()):
            archive.writestr(
                zipfile.ZipInfo(f"files/{path.name}", EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED
            )
    digest = hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()
    sys.stderr.write(f"{len(values)} vectors, {ARCHIVE.stat().st_size} bytes, SHA-256 {digest}\n")


if __name__ == "__main__":
    main()
