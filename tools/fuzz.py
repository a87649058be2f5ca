"""Fuzzes the native decoders with libFuzzer under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tools/fuzz.py                       every decoder for 20 seconds, from the kept corpus
    python tools/fuzz.py ecsq --runs 1000000   one decoder, so many executions
    python tools/fuzz.py ecsq --grow           writes the smallest corpus that covers as much to tests/corpus/ecsq.zip

Needs clang++ with its sanitiser runtimes (Debian: clang, libclang-rt-14-dev). A finding ends with exit code 1 and
leaves the input in build/fuzz. Seeds are made anew in every run: bodies that our own encoder wrote.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from phloem import kernels
from phloem.codecs.ecsq import Ecsq
from phloem.kernels import native
from phloem.kernels.bytecoder import block_encode
from phloem.kernels.logistic import logistic_tables
from phloem.kernels.tables import LADDER, tables
from phloem.seeds import generator
from phloem.tensors import Layout

ROOT = Path(__file__).resolve().parent.parent
NATIVE, BUILD, CORPUS = ROOT / "native", ROOT / "build" / "fuzz", ROOT / "tests" / "corpus"
FLAGS = [
    *("-std=c++20", "-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-D_GLIBCXX_ASSERTIONS"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
]
LEVEL = ["-DPHLOEM_LEVEL=portable"]

Shapes = Sequence[tuple[int, int]]


def body_input(shapes: Shapes, body: bytes) -> bytes:
    """What native/fuzz/input.hpp takes apart."""
    head = bytes([len(shapes) - 1])
    return head + b"".join(bytes([rows, columns & 255, columns >> 8]) for rows, columns in shapes) + body


def ecsq_seeds() -> Iterator[bytes]:
    """Bodies of all kinds: sparse and dense, with and without levels, range coder and lanes."""
    draw = generator(0, "fuzz", "ecsq")
    for shapes in ([(1, 9)], [(1, 300), (30, 40)], [(64, 200), (1, 64), (0, 7)], [(150, 300)]):
        scales = [np.exp(draw.normal(size=(rows, 1))) for rows, _ in shapes]
        arrays = [
            (draw.standard_t(3, size=shape) * scale).astype(np.float32)
            for shape, scale in zip(shapes, scales, strict=True)
        ]
        layout = Layout.of({f"{n:02d}": array for n, array in enumerate(arrays)})
        for bits in (0.05, 0.3, 1.0, 4.0, 12.0):
            yield body_input(shapes, Ecsq(bits=bits).encode(arrays, layout))


def bytecoder_seeds() -> Iterator[bytes]:
    """Blocks of every kind but zstd's."""
    draw = generator(0, "fuzz", "bytecoder")
    for size in (3, 200, 20_000):
        for scale in (0.0, 0.3, 4.0, 60.0, 1e6):
            data = (128 + scale * draw.normal(size=size)).astype(np.int64).astype(np.uint8)
            yield size.to_bytes(2, "little") + block_encode(data)


def adaptive_seeds() -> Iterator[bytes]:
    """Streams with and without mixing and states, of few and of many indices that are not zero."""
    draw = generator(0, "fuzz", "adaptive")
    for shapes in ([(1, 9)], [(30, 40), (1, 300)], [(20, 150), (1, 64)]):
        for scale in (0.1, 0.6, 3.0, 400.0):
            indices = [
                (scale * draw.laplace(size=rows * columns)).astype(np.int32) for rows, columns in shapes
            ]
            for mixing, states in ((False, 0), (True, 0), (True, 8)):
                stream = native.adaptive_pack(indices, [], shapes, mixing, states)
                head, rest = body_input(shapes, stream)[0], body_input(shapes, stream)[1:]
                yield bytes([head | 4 * mixing | states]) + rest


TARGETS: dict[str, tuple[list[str], Callable[[], Iterator[bytes]]]] = {
    "bytecoder": (["bytecoder", "planes_loops"], bytecoder_seeds),
    "adaptive": (["adaptive"], adaptive_seeds),
    "ecsq": (
        ["decoder", "frame", "scales", "models", "rans", "lanes", "loops"],
        ecsq_seeds,
    ),
}


def write_tables() -> None:
    """The numbers that Python hands to the kernels, as C++."""
    known = tables()
    columns = [
        *("half_octaves", "octaves", "logs", "ladder_costs", "class_costs", "class_means"),
        *("class_thresholds", "class_offsets"),
    ]
    parts = [getattr(known, name) for name in columns] + [LADDER]
    lists = ",\n".join(
        "{" + ",".join(_number(value) for value in np.asarray(part).tolist()) + "}" for part in parts
    )
    text = f"namespace phloem::fuzz {{ inline Tables made_tables() {{ return {{{lists}}}; }} }}\n"
    (BUILD / "tables.inc").write_text(text)
    lists = ",\n".join(
        "{" + ",".join(map(str, np.asarray(part).tolist())) + "}" for part in astuple(logistic_tables())
    )
    text = f"namespace phloem::fuzz {{ inline LogisticTables made_logistic_tables() {{ return {{{lists}}}; }} }}\n"
    (BUILD / "logistic.inc").write_text(text)


def _number(value: float) -> str:
    return float.hex(value) if isinstance(value, float) else str(value)


def build(name: str, compiler: str) -> Path:
    """The fuzzer of one decoder."""
    sources = [NATIVE / "fuzz" / f"{name}.cpp", *(NATIVE / f"{part}.cpp" for part in TARGETS[name][0])]
    program = BUILD / name
    command = [compiler, *FLAGS, *LEVEL, f"-I{BUILD}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def fuzz(name: str, compiler: str, limits: list[str], grow: bool) -> bool:
    """Runs one fuzzer; whether it found nothing."""
    program = build(name, compiler)
    folders = {part: BUILD / f"{name}.{part}" for part in ("found", "kept", "seeds", "smallest")}
    for part, folder in folders.items():
        if part != "found":
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
    for number, seed in enumerate(TARGETS[name][1]()):
        (folders["seeds"] / f"{number:03d}").write_bytes(seed)
    archive = CORPUS / f"{name}.zip"
    if archive.exists():
        zipfile.ZipFile(archive).extractall(folders["kept"])
    common = ["-max_len=32768", "-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={BUILD}/{name}-"]
    inputs = [str(folders[part]) for part in ("found", "kept", "seeds")]
    done = subprocess.run([str(program), *common, "-print_final_stats=1", *limits, *inputs], check=False)
    if done.returncode == 0 and grow:
        subprocess.run([str(program), *common, "-merge=1", str(folders["smallest"]), *inputs], check=True)
        pack(folders["smallest"], archive)
    return done.returncode == 0


def pack(folder: Path, archive: Path) -> None:
    """The files of a folder in one archive, the same bytes for the same files."""
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(folder.iterdir()):
            out.writestr(zipfile.ZipInfo(path.name), path.read_bytes())


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decoder", nargs="*", help=f"of {', '.join(TARGETS)}; all of them if none is named")
    parser.add_argument("--runs", type=int, help="executions per decoder")
    parser.add_argument(
        "--seconds", type=int, default=20, help="seconds per decoder, where --runs is not given"
    )
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer's own random numbers")
    parser.add_argument("--grow", action="store_true", help="keep the smallest corpus that covers as much")
    given = parser.parse_args()
    unknown = set(given.decoder) - set(TARGETS)
    if unknown:
        parser.error(f"there is no decoder '{unknown.pop()}'; known: {', '.join(TARGETS)}")
    compiler = next((name for name in ("clang++", "clang++-14") if shutil.which(name)), None)
    if compiler is None:
        parser.error("clang++ is missing: install clang and libclang-rt-14-dev")
    kernels.use("native")
    BUILD.mkdir(parents=True, exist_ok=True)
    write_tables()
    limits = [f"-seed={given.seed}"]
    limits.append(f"-runs={given.runs}" if given.runs else f"-max_total_time={given.seconds}")
    clean = [fuzz(name, compiler, limits, given.grow) for name in given.decoder or TARGETS]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
