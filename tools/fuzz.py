"""Fuzzes the native decoders with libFuzzer under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tools/fuzz.py                       every decoder for 20 seconds, from the kept corpus
    python tools/fuzz.py ecsq --runs 1000000   one decoder, so many executions
    python tools/fuzz.py ecsq --grow           writes the smallest corpus that covers as much to tests/corpus/ecsq.zip
    python tools/fuzz.py rans --level avx2     with the loops of another SIMD level, which this processor must have
    python tools/fuzz.py --record              notes executions, seconds and findings in benchmarks/results/fuzz.json

Needs clang++ with its sanitiser runtimes (Debian: clang, libclang-rt-14-dev). A finding ends with exit code 1 and
leaves the input in build/fuzz, and so what libFuzzer said. Seeds are made anew in every run: bodies that our own
encoder wrote.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phloem import kernels
from phloem.kernels import _native, bytecoder, native
from phloem.kernels.logistic import logistic_tables
from phloem.kernels.models import gap_frequencies, gap_shift, hazard_frequencies
from phloem.kernels.rans import rans_encode
from phloem.kernels.steps import Step
from phloem.kernels.tables import LADDER, tables
from phloem.seeds import generator

ROOT = Path(__file__).resolve().parent.parent
NATIVE, BUILD, CORPUS = ROOT / "native", ROOT / "build" / "fuzz", ROOT / "tests" / "corpus"
RECORD = ROOT / "benchmarks" / "results" / "fuzz.json"
FLAGS = [
    *("-std=c++20", "-O2", "-g1", "-fno-omit-frame-pointer", "-ffp-contract=off", "-D_GLIBCXX_ASSERTIONS"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
]
#: Bytes of inputs in a kept corpus. What is left out are the largest, and the seeds make up for these.
MOST_KEPT = 200_000
#: As CMakeLists.txt has them.
LEVELS = {
    "portable": [],
    "avx2": ["-DPHLOEM_X86_LEVELS", "-mavx2", "-mbmi", "-mbmi2", "-mpopcnt"],
    "avx512": [
        *("-DPHLOEM_X86_LEVELS", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mbmi", "-mbmi2", "-mpopcnt", "-mprefer-vector-width=512"),
    ],
}

Shapes = Sequence[tuple[int, int]]


def body_input(shapes: Shapes, body: bytes) -> bytes:
    """What native/fuzz/input.hpp takes apart."""
    head = bytes([len(shapes) - 1])
    return head + b"".join(bytes([rows, columns & 255, columns >> 8]) for rows, columns in shapes) + body


def pieces_of(shapes: Shapes, two: bool) -> npt.NDArray[np.int64]:
    """One part, or two: the tensor in the middle is cut, as native/fuzz/ecsq.cpp does it."""
    pieces, part = [], 0
    for tensor, (rows, columns) in enumerate(shapes):
        middle = rows // 2 * columns if two and tensor == len(shapes) // 2 else 0
        if middle:
            pieces.append((part, tensor, 0, middle))
            part += 1
        if rows * columns:
            pieces.append((part, tensor, middle, rows * columns))
    return np.array(pieces, dtype=np.int64)


def ecsq_seeds() -> Iterator[bytes]:
    """Bodies of all kinds: with levels and importances, range coder and lanes, one and two parts, every way to put."""
    draw = generator(0, "fuzz", "ecsq")
    small: list[Shapes] = [[(1, 9)], [(30, 20), (1, 300)], [(10, 64), (1, 64), (0, 7)], [(7, 9), (30, 20)]]
    large: list[Shapes] = [[(100, 210)], [(199, 201)]]
    for shapes in small + large:
        scales = [np.exp(draw.normal(size=(rows, 1))) for rows, _ in shapes]
        arrays = [
            (draw.standard_t(3, size=shape) * scale).astype(np.float32)
            for shape, scale in zip(shapes, scales, strict=True)
        ]
        for two in (False, True):
            for number, size in enumerate((30.0, 8.0, 2.0, 0.3, 0.003)):
                importances = [number] * len(arrays) if number % 2 else []
                step = Step.near(size)
                fields = (step.significand, step.exponent, bool(importances), importances, 1)
                body = _native.encode(arrays, pieces_of(shapes, two), *fields)
                first, *rest = body_input(shapes, body)
                yield bytes([first | 0x10 * (shapes in large) | number % 4 << 5 | 0x80 * two, *rest])


def bytecoder_seeds() -> Iterator[bytes]:
    """Blocks of every kind but zstd's."""
    draw = generator(0, "fuzz", "bytecoder")
    for size in (3, 200, 4000):
        for scale in (0.0, 0.3, 4.0, 60.0, 1e6):
            data = (128 + scale * draw.normal(size=size)).astype(np.int64).astype(np.uint8)
            block = bytecoder.block_encode(data)
            yield size.to_bytes(2, "little") + block
            if block[0] == bytecoder.ONE_LANE:  # encoders use lanes for longer blocks only
                frequencies = bytecoder.quantise_counts(np.bincount(data, minlength=256))
                lanes = bytecoder._rans_encode(data, frequencies, 32)
                table = bytecoder.write_table(frequencies)
                yield size.to_bytes(2, "little") + bytes([bytecoder.LANES]) + table + lanes


def adaptive_seeds() -> Iterator[bytes]:
    """Streams with mixing, states and what is held, and without, of few and of many indices that are not zero."""
    draw = generator(0, "fuzz", "adaptive")
    for shapes in ([(1, 9)], [(8, 12), (1, 30)], [(2, 50), (1, 20)], [(3, 64), (0, 5), (2, 64)]):
        places = [np.arange(rows * columns) for rows, columns in shapes]
        near = [np.where(at * 37 % 11 == 0, at % 255 - 127, 0).astype(np.int8) for at in places]
        for scale in (0.1, 0.6, 3.0, 400.0):
            indices = [(scale * draw.laplace(size=at.size)).astype(np.int32) for at in places]
            for mixing, states, holds in product((False, True), (0, 8), (False, True)):
                if holds and not mixing:
                    continue
                stream = native.adaptive_pack(indices, near if holds else [], shapes, mixing, states)
                first, *rest = body_input(shapes, stream)
                yield bytes([first | 4 * mixing | states | 0x10 * holds, *rest])
    folded = (0.02 * draw.laplace(size=4500)).astype(np.int32)
    stream = native.adaptive_pack([folded], [], [(1, folded.size)], False, 0)
    first, *rest = body_input([(5, 900)], stream)
    yield bytes([first | 0x40, *rest])


def rans_seeds() -> Iterator[bytes]:
    """Lanes of few and of many tokens, under tables of gaps and of hazards (native/fuzz/rans.cpp makes the same)."""
    draw = generator(0, "fuzz", "rans")
    for count in (40, 300, 2000):
        hazards = hazard_frequencies([(20 + 7 * t) % len(LADDER) for t in range(5)])
        gaps = gap_frequencies(3 * 10, 10, gap_shift(3 * 10, 10))
        runs = [
            (draw.choice(len(table), size=count, p=np.array(table) / 4096).astype(np.uint8), table)
            for table in (hazards, gaps)
        ]
        heads = [count.to_bytes(2, "little") + bytes(made) for made in ([9, 20], [6, 9])]
        yield bytes([1]) + b"".join(heads) + rans_encode(runs)


def noise_seeds() -> Iterator[bytes]:
    """Any bytes are right."""
    draw = generator(0, "fuzz", "noise")
    for first in range(0, 48, 3):
        yield bytes([first]) + draw.bytes(8 + 40 * first)


@dataclass(frozen=True)
class Target:
    """A decoder: its sources besides native/fuzz/NAME.cpp, what to begin with, and the longest input in bytes."""

    sources: Sequence[str]
    seeds: Callable[[], Iterator[bytes]]
    longest: int


TARGETS = {
    "ecsq": Target(
        ["decoder", "frame", "residual", "scales", "models", "rans", "lanes", "loops"], ecsq_seeds, 12288
    ),
    "adaptive": Target(["adaptive"], adaptive_seeds, 1024),
    "rans": Target(["rans", "models", "lanes", "loops"], rans_seeds, 2048),
    "bytecoder": Target(["bytecoder", "planes_loops"], bytecoder_seeds, 4224),
    "planes": Target(["planes", "planes_loops"], noise_seeds, 1024),
    "rotation": Target(["lanes", "loops"], noise_seeds, 2048),
}


def write_tables() -> None:
    """The numbers that Python hands to the kernels, as C++."""
    known = tables()
    columns = [
        *("half_octaves", "octaves", "logs", "ladder_costs", "class_costs", "class_means"),
        *("thresholds", "offsets"),
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


def build(name: str, compiler: str, level: str) -> Path:
    """The fuzzer of one decoder."""
    sources = [NATIVE / "fuzz" / f"{name}.cpp", *(NATIVE / f"{part}.cpp" for part in TARGETS[name].sources)]
    program = BUILD / f"{name}-{level}"
    flags = [*FLAGS, *LEVELS[level], f"-DPHLOEM_LEVEL={level}", f"-I{BUILD}"]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], check=True)
    return program


def fuzz(name: str, program: Path, limits: list[str], grow: bool) -> dict[str, int]:
    """Runs one fuzzer; what it did and found."""
    folders = {part: BUILD / f"{name}.{part}" for part in ("found", "kept", "seeds", "smallest")}
    for part, folder in folders.items():
        if part != "found":
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        if len(seed) <= TARGETS[name].longest:
            (folders["seeds"] / f"{number:03d}").write_bytes(seed)
    archive = CORPUS / f"{name}.zip"
    if archive.exists():
        zipfile.ZipFile(archive).extractall(folders["kept"])
    common = [f"-max_len={TARGETS[name].longest}", "-timeout=20", "-rss_limit_mb=2048"]
    common.append(f"-artifact_prefix={BUILD}/{name}-")
    inputs = [str(folders[part]) for part in ("found", "kept", "seeds")]
    log = BUILD / f"{program.name}.log"
    with log.open("w") as out:
        done = subprocess.run(
            [str(program), *common, "-print_final_stats=1", *limits, *inputs], check=False, stderr=out
        )
    said = log.read_text(errors="replace")
    if done.returncode:
        sys.stderr.write(said[-4000:])
    elif grow:
        with (BUILD / f"{name}-merge.log").open("w") as out:
            command = [str(program), *common, "-merge=1", str(folders["smallest"]), *inputs]
            subprocess.run(command, check=True, stderr=out)
        for regression in folders["kept"].glob("finding-*"):  # once found, kept for ever
            shutil.copy(regression, folders["smallest"])
        pack(folders["smallest"], archive)
    seconds = re.search(r"Done \d+ runs in (\d+) second", said)
    executions = re.search(r"stat::number_of_executed_units: (\d+)", said)
    return {
        "executions": int(executions[1]) if executions else 0,
        "seconds": int(seconds[1]) if seconds else 0,
        "findings": int(done.returncode != 0),
    }


def pack(folder: Path, archive: Path) -> None:
    """The files of a folder in one archive, the same bytes for the same files; large ones only while there is room."""
    archive.parent.mkdir(exist_ok=True)
    room = MOST_KEPT
    kept = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        room -= path.stat().st_size
        if room >= 0 or path.name.startswith("finding-"):
            kept.append(path)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(kept):
            out.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)


def record(name: str, level: str, result: dict[str, int], compiler: str) -> None:
    """Notes a run, in the place of an earlier one of the same decoder and SIMD level."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {"decoders": {}}
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
    known["compiler"] = version.stdout.splitlines()[0]
    known["sanitisers"] = "AddressSanitizer, UndefinedBehaviorSanitizer"
    known["decoders"].setdefault(name, {})[level] = result
    RECORD.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


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
    parser.add_argument("--level", choices=LEVELS, default="portable", help="SIMD level of the loops")
    parser.add_argument("--grow", action="store_true", help="keep the smallest corpus that covers as much")
    parser.add_argument("--record", action="store_true", help=f"note the runs in {RECORD.relative_to(ROOT)}")
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
    names = given.decoder or list(TARGETS)
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(lambda name: build(name, compiler, given.level), names))
    findings = 0
    for name, program in zip(names, programs, strict=True):
        result = fuzz(name, program, limits, given.grow)
        found = ", ".join(f"{value} {key}" for key, value in result.items())
        sys.stdout.write(f"{name} ({given.level}): {found}\n")
        sys.stdout.flush()
        findings += result["findings"]
        if given.record:
            record(name, given.level, result, compiler)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
