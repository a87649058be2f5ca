"""What fuzzers found interesting, through both kernels: the same arrays to the bit, or refused by both.

The inputs are taken apart as native/fuzz/*.cpp do it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from phloem.errors import FormatError
from phloem.kernels import decoder, reference
from phloem.kernels.parts import Piece
from phloem.kernels.steps import Step
from phloem.kernels.tables import MAGNITUDE_HIGHEST

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
STORE, ADD, SUBTRACT = "store", "add", "subtract"
Shapes = list[tuple[int, int]]
#: What a decoder made of an input; None if it refused.
Outcome = list[bytes] | None


def inputs(name: str) -> list[bytes]:
    """The kept inputs of one fuzzer."""
    with zipfile.ZipFile(CORPUS / f"{name}.zip") as archive:
        return [archive.read(entry) for entry in archive.namelist()]


def taken_apart(data: bytes) -> tuple[int, Shapes, bytes] | None:
    """Flags, shapes and body (native/fuzz/input.hpp)."""
    end = 1 + 3 * (data[0] % 4 + 1) if data else 1
    if len(data) < end:
        return None
    shapes = [(data[i], (data[i + 1] | data[i + 2] << 8) % 1024) for i in range(1, end, 3)]
    return data[0], shapes, data[end:]


def size_of(shapes: Shapes) -> int:
    return sum(rows * columns for rows, columns in shapes)


def outcome(decode: Callable[[], list[npt.NDArray[np.generic]]]) -> Outcome:
    try:
        return [array.tobytes() for array in decode()]
    except FormatError:
        return None


def in_two_parts(shapes: tuple[tuple[int, int], ...]) -> tuple[Piece, ...]:
    """The tensor in the middle is cut."""
    pieces = []
    part = 0
    for tensor, (rows, columns) in enumerate(shapes):
        middle = rows // 2 * columns if tensor == len(shapes) // 2 else 0
        if rows * columns == 0:
            continue
        if middle:
            pieces.append(Piece(part, tensor, 0, middle))
            part += 1
        pieces.append(Piece(part, tensor, middle, rows * columns))
    return tuple(pieces)


def ecsq_outcome(kernels: ModuleType, data: bytes) -> Outcome | str:
    """What `kernels` make of an input; a word where the fuzzer does not use it either."""
    parts = taken_apart(data)
    if parts is None:
        return "too short"
    flags, shapes, body = parts
    if size_of(shapes) > (40_000 if flags & 0x10 else 1024) or not size_of(shapes):
        return "too large"
    if flags >> 5 & 3 == 3:
        return "an encoder's own"
    put = (STORE, ADD, SUBTRACT)[flags >> 5 & 3]
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    if put != STORE:
        arrays = [
            np.where(np.arange(a.size) % 3, 1.5, -0.0).astype(np.float32).reshape(a.shape) for a in arrays
        ]
    before = [array.tobytes() for array in arrays]

    def decode() -> list[npt.NDArray[np.generic]]:
        kernels.ecsq_decode_into(body, arrays, put)
        return list(arrays)

    found = outcome(decode)
    if found is None:
        assert [array.tobytes() for array in arrays] == before
    return found


def adaptive_outcome(kernels: ModuleType, data: bytes) -> Outcome | str:
    parts = taken_apart(data)
    if parts is None:
        return "too short"
    flags, shapes, body = parts
    mixing, states, in_rows = bool(flags & 4), 8 if flags & 8 else 0, bool(flags & 0x40)
    if size_of(shapes) > (128 if mixing else 5000 if in_rows else 384):
        return "too large"
    if in_rows:
        shapes = [(1, rows * columns) for rows, columns in shapes]
    near = []
    if flags & 0x10:
        places = [np.arange(rows * columns) for rows, columns in shapes]
        near = [np.where(i * 37 % 11 == 0, i % 255 - 127, 0).astype(np.int8) for i in places]
    highest = [3 if flags & 0x20 else MAGNITUDE_HIGHEST] * len(shapes)
    values = np.array([1.0, 2.0, 0.5, 1.5], np.float32)

    def decode() -> list[npt.NDArray[np.generic]]:
        found: list[npt.NDArray[np.generic]] = []
        for indices in kernels.adaptive_unpack(body, near, shapes, mixing, states, highest):
            out = np.zeros(indices.size, np.float32)
            kernels.adaptive_values(indices, states, values, Step.near(0.75), STORE, out)
            kernels.adaptive_values(
                indices, states, values, Step.near(0.75), ADD if flags & 0x80 else SUBTRACT, out
            )
            found += [indices, out]
        return found

    return outcome(decode)


def bytecoder_outcome(kernels: ModuleType, data: bytes) -> Outcome | str:
    if len(data) < 2:
        return "too short"
    out = np.zeros((data[0] | data[1] << 8) & 4095, np.uint8)
    body = np.frombuffer(data[2:], np.uint8)

    def decode() -> list[npt.NDArray[np.generic]]:
        end = kernels.block_decode(body, data[1] >> 4, out)
        return [out, np.array(end)]

    return outcome(decode)


def planes_outcome(kernels: ModuleType, data: bytes) -> Outcome | str:
    if not data:
        return "too short"
    size = 1 << (data[0] & 3)
    exponent_bits = (data[0] >> 2) % ({1: 7, 2: 8, 4: 8, 8: 11}[size] + 1)
    n = (len(data) - 1) // (2 * size)
    planes = np.frombuffer(data, np.uint8, n * size, 1).reshape(size, n)
    base = np.frombuffer(data[1 + n * size : 1 + 2 * n * size], f"<u{size}")
    plain, differing = np.zeros(n, f"<u{size}"), np.zeros(n, f"<u{size}")
    kernels.planes_merge(planes, plain, exponent_bits)
    kernels.differences_merge(planes, base, differing, exponent_bits)
    return [plain.tobytes(), differing.tobytes(), str(kernels.differences_ends(base, exponent_bits)).encode()]


def rotation_outcome(kernels: ModuleType, data: bytes) -> Outcome | str:
    if len(data) < 9:
        return "too short"
    size = 1 << data[0] % 11
    values = np.frombuffer(data[9 : 9 + (len(data) - 9) // 4 * 4], np.float32).copy()
    kernels.flip(values, int.from_bytes(data[1:9], "little"))
    flipped = values.tobytes()
    whole = values.size // size * size
    transformed = values[:whole].copy()
    with np.errstate(all="ignore"):
        kernels.hadamard(transformed, size, 0.5)
    # which NaN comes out of two is the processor's affair
    return [flipped, np.where(np.isnan(transformed), np.float32(np.nan), transformed).tobytes()]


OUTCOMES = {
    "adaptive": adaptive_outcome,
    "bytecoder": bytecoder_outcome,
    "planes": planes_outcome,
    "rotation": rotation_outcome,
}
#: Of the decoders that never refuse anything.
ALWAYS = ("planes", "rotation")


def agree(
    name: str, native: ModuleType, kept: list[bytes], look: Callable[[ModuleType, bytes], Outcome | str]
) -> None:
    """Both kernels say the same of all inputs, some of which they decode, and some not."""
    refused = taken = 0
    for data in kept:
        mine, theirs = look(reference, data), look(native, data)
        assert (mine is None) == (theirs is None), f"{name}: one kernel refuses {data.hex()}"
        assert mine == theirs, f"{name}: the kernels differ on {data.hex()}"
        refused += mine is None
        taken += isinstance(mine, list)
    assert taken, f"{name}: none of {len(kept)} inputs was decoded"
    assert refused or name in ALWAYS, f"{name}: none of {len(kept)} inputs was refused"


@pytest.mark.parametrize("name", OUTCOMES)
def test_both_kernels_say_the_same_of_the_corpus(name: str, native: ModuleType) -> None:
    agree(name, native, inputs(name), OUTCOMES[name])


@pytest.mark.parametrize("two", [False, True], ids=["one part", "two parts"])
def test_both_kernels_say_the_same_of_bodies_of_effort_fast(
    two: bool, native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if two:
        monkeypatch.setattr(native, "partition", in_two_parts)
        monkeypatch.setattr(decoder, "partition", in_two_parts)
    kept = [data for data in inputs("ecsq") if data and bool(data[0] & 0x80) == two]
    agree("ecsq", native, kept, ecsq_outcome)


@pytest.mark.parametrize(
    ("name", "finding", "look"),
    [("planes", "nothing-to-merge", planes_outcome), ("ecsq", "small-escape", ecsq_outcome)],
)
def test_both_kernels_say_the_same_of_what_was_a_finding(
    name: str, finding: str, look: Callable[[ModuleType, bytes], Outcome | str], native: ModuleType
) -> None:
    with zipfile.ZipFile(CORPUS / f"{name}.zip") as archive:
        data = archive.read(f"finding-{finding}")
    mine = look(reference, data)
    assert isinstance(mine, list)
    assert mine == look(native, data)
