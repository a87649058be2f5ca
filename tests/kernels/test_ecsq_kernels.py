"""Both kernels on updates of every kind: bounds, equality to the bit, and damaged bodies."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phloem.errors import FormatError
from phloem.kernels import reference
from phloem.kernels.rangecoder import RangeDecoder, RangeEncoder
from phloem.kernels.side import CONTEXTS, TablePredictor
from phloem.kernels.steps import Step

FloatArray = npt.NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]
MakeUpdate = Callable[[str, Shapes, int], list[FloatArray]]

KINDS = [
    "gaussian", "laplace", "student", "cauchy", "sparse", "constant",
    "zero", "wide", "subnormal", "largest", "rows",
]  # fmt: skip
SHAPES: list[Shapes] = [
    [(7,)],
    [()],
    [(0,)],
    [(0, 4), (3,), (4, 0)],
    [(300, 70)],
    [(16, 8, 3, 3), (16,), (40, 144), (10,)],
    [(1, 2000)],
    [(2000, 1)],
]
#: Steps as shares of the largest magnitude: from "nothing survives" to more than 24 bits.
SHARES = [2.0, 0.7, 0.2, 0.05, 1e-2, 1e-3, 1e-5, 1e-9]


def _step(arrays: Sequence[FloatArray], share: float) -> Step:
    extent, broken = reference.ecsq_extent(arrays)
    assert broken == -1
    return Step.near((extent or 1.0) * share).fitted(extent)


def _bits(arrays: Sequence[FloatArray]) -> list[bytes]:
    return [array.tobytes() for array in arrays]


def _outcome(kernels: ModuleType, body: bytes, shapes: Shapes) -> list[bytes] | None:
    try:
        return _bits(kernels.ecsq_decode(body, shapes))
    except FormatError:
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_errors_stay_within_the_declared_bounds(
    kind: str, kernels: ModuleType, make_update: MakeUpdate
) -> None:
    for seed, shapes in enumerate(SHAPES):
        arrays = make_update(kind, shapes, seed)
        for share in SHARES:
            step = _step(arrays, share)
            decoded = kernels.ecsq_decode(kernels.ecsq_encode(arrays, step), shapes)
            for array, result in zip(arrays, decoded, strict=True):
                assert result.shape == array.shape
                assert result.dtype == np.float32
                error = np.abs(array.astype(np.float64) - result) / step.value
                assert error[result == 0].max(initial=0.0) <= 1.6
                assert error[np.abs(result) > 2.5 * step.value].max(initial=0.0) <= 1.5
                assert error.max(initial=0.0) <= 1.6
                assert (np.sign(result) * np.sign(array) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_native_and_reference_agree_to_the_bit_at_every_simd_level(
    kind: str, restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    native = restored_simd
    for seed, shapes in enumerate(SHAPES):
        arrays = make_update(kind, shapes, seed)
        for share in SHARES:
            step = _step(arrays, share)
            body = reference.ecsq_encode(arrays, step)
            decoded = reference.ecsq_decode(body, shapes)
            for level in native.simd_levels():
                native.set_simd(level)
                assert native.ecsq_encode(arrays, step) == body
                assert _bits(native.ecsq_decode(body, shapes)) == _bits(decoded)
                assert native.ecsq_extent(arrays) == reference.ecsq_extent(arrays)
                assert native.ecsq_energy(arrays) == reference.ecsq_energy(arrays)
                assert native.ecsq_energy(arrays, decoded) == reference.ecsq_energy(arrays, decoded)


def test_native_and_reference_agree_where_tokens_take_lanes(
    restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    shapes = [(256, 300), (300,)]
    arrays = make_update("rows", shapes, 5)
    for share in (0.1, 1e-2, 1e-3, 1e-6):
        step = _step(arrays, share)
        body = reference.ecsq_encode(arrays, step)
        for level in restored_simd.simd_levels():
            restored_simd.set_simd(level)
            assert restored_simd.ecsq_encode(arrays, step) == body
        assert _bits(restored_simd.ecsq_decode(body, shapes)) == _bits(reference.ecsq_decode(body, shapes))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    shapes=st.lists(st.lists(st.integers(0, 12), max_size=4).map(tuple), min_size=1, max_size=4),
    share=st.floats(1e-9, 2.0),
)
def test_any_update_of_any_shape_survives_alike_in_both_kernels(
    native: ModuleType, make_update: MakeUpdate, seed: int, kind: str, shapes: Shapes, share: float
) -> None:
    arrays = make_update(kind, shapes, seed)
    step = _step(arrays, share)
    body = reference.ecsq_encode(arrays, step)
    decoded = reference.ecsq_decode(body, shapes)
    assert native.ecsq_encode(arrays, step) == body
    assert _bits(native.ecsq_decode(body, shapes)) == _bits(decoded)
    for array, result in zip(arrays, decoded, strict=True):
        assert np.abs(array.astype(np.float64) - result).max(initial=0.0) <= 1.6 * step.value


def test_what_was_decoded_encodes_without_further_loss_above_the_dead_zone(kernels: ModuleType) -> None:
    arrays = [np.arange(-40, 41, dtype=np.float32)]
    step = Step.near(1.0)
    decoded = kernels.ecsq_decode(kernels.ecsq_encode(arrays, step), [(81,)])[0]
    assert decoded[np.abs(arrays[0]) > 2].tolist() == arrays[0][np.abs(arrays[0]) > 2].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_broken_tensor_is_named(kernels: ModuleType, value: float) -> None:
    arrays = [np.ones(5, np.float32), np.ones((3, 3), np.float32), np.full(2, value, np.float32)]
    assert kernels.ecsq_extent(arrays)[1] == 2
    assert kernels.ecsq_extent(arrays[:2]) == (1.0, -1)


def test_inputs_are_not_changed_and_may_be_read_only(kernels: ModuleType, make_update: MakeUpdate) -> None:
    arrays = make_update("student", [(30, 30)], 0)
    arrays[0].setflags(write=False)
    before = arrays[0].copy()
    kernels.ecsq_decode(kernels.ecsq_encode(arrays, Step.near(0.1)), [(30, 30)])
    assert (arrays[0] == before).all()


SMALL: list[tuple[str, Shapes, float]] = [
    ("student", [(40, 30), (9,)], 0.3),
    ("rows", [(40, 30), (9,)], 0.02),
    ("sparse", [(60, 50)], 0.1),
    ("gaussian", [(30, 20)], 1e-7),
]


@pytest.mark.parametrize(("kind", "shapes", "share"), SMALL)
def test_every_truncation_is_refused_by_both_kernels(
    kind: str, shapes: Shapes, share: float, kernels: ModuleType, make_update: MakeUpdate
) -> None:
    arrays = make_update(kind, shapes, 3)
    body = kernels.ecsq_encode(arrays, _step(arrays, share))
    for size in range(len(body)) if len(body) < 1500 else range(0, len(body), 17):
        with pytest.raises(FormatError):
            kernels.ecsq_decode(body[:size], shapes)
    for tail in (b"\x00", b"\x01", b"\xff", b"\x00" * 8):
        with pytest.raises(FormatError):
            kernels.ecsq_decode(body + tail, shapes)


@pytest.mark.parametrize(("kind", "shapes", "share"), [*SMALL, ("rows", [(256, 100), (3,)], 1e-3)])
def test_altered_bodies_have_the_same_outcome_in_both_kernels(
    kind: str, shapes: Shapes, share: float, native: ModuleType, make_update: MakeUpdate
) -> None:
    arrays = make_update(kind, shapes, 4)
    body = reference.ecsq_encode(arrays, _step(arrays, share))
    rng = np.random.default_rng(11)
    head = min(len(body), 80) * 8
    places = [*rng.integers(0, head, 80).tolist(), *rng.integers(0, 8 * len(body), 40).tolist()]
    for place in places:
        changed = bytearray(body)
        changed[place // 8] ^= 1 << place % 8
        assert _outcome(native, bytes(changed), shapes) == _outcome(reference, bytes(changed), shapes)


@settings(max_examples=60)
@given(data=st.binary(max_size=200), shapes=st.sampled_from(SHAPES))
def test_arbitrary_bytes_are_decoded_or_refused_alike(
    native: ModuleType, data: bytes, shapes: Shapes
) -> None:
    for body in (data, Step.near(0.5).pack(0) + data):
        assert _outcome(native, body, shapes) == _outcome(reference, body, shapes)


def _claims(columns: int) -> dict[str, bytes]:
    """Bodies of a few bytes that go on as long as the layout lets them."""
    levels = RangeEncoder(CONTEXTS)  # one tensor, rows with levels, of which few are there
    levels.bit(0, 0)
    levels.signed(2, 8, 0)
    levels.bit(12, 1)
    levels.bit(13, 1)
    tokens = RangeEncoder(CONTEXTS)  # one dense class of everything, and no more
    tokens.bit(0, 0)
    tokens.signed(2, 8, 10)
    if columns > 1:
        tokens.bit(12, 0)
        tokens.bit(14, 0)
    TablePredictor(dense=True).code(tokens, [5])
    return {
        "zeros": bytes(42),
        "levels": levels.finish() + bytes(30),
        "tokens": tokens.finish() + bytes(30),
        "lanes": tokens.finish() + b"\0\0" + (1 << 15).to_bytes(4, "little") * 32,
    }


@pytest.mark.parametrize("shape", [(1 << 30, 2), (2, 1 << 30), (1 << 31,)], ids=str)
@pytest.mark.parametrize("claim", ["zeros", "levels", "tokens", "lanes"])
def test_a_tiny_body_that_claims_a_huge_layout_is_refused_at_once(
    claim: str, shape: tuple[int, ...], kernels: ModuleType
) -> None:
    body = Step.near(0.5).pack(0) + _claims(len(shape))[claim]
    before, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError):
        kernels.ecsq_decode(body, [shape])
    assert time.process_time() - before < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10  # KiB


def test_the_side_information_may_be_two_bytes_ahead_of_its_end_and_no_more() -> None:
    for count in range(1, 60):
        coder = RangeEncoder(1)
        for place in range(count):
            coder.bit(0, int(place % 3 == 0))
        data = coder.finish()
        bits = [int(place % 3 == 0) for place in range(count)]
        reader = RangeDecoder(1, data, 0)
        assert [reader.bit(0) for _ in range(count)] == bits
        assert reader.position == len(data)
    for size in range(2, 20):
        reader = RangeDecoder(1, bytes(size), 0)
        assert reader.raw(8 * (size - 2)) == 0
        assert reader.position == size
        with pytest.raises(FormatError, match="ends inside"):
            reader.raw(8)
    with pytest.raises(FormatError, match="ends inside"):
        RangeDecoder(1, b"\0", 0)


@pytest.mark.parametrize("shapes", [[(30, 41), (9,)], [(41, 30)], [(40, 30)], [(40, 30), (9,), (1,)], []])
def test_a_body_for_other_shapes_is_refused_or_decoded_alike(
    shapes: Shapes, native: ModuleType, make_update: MakeUpdate
) -> None:
    arrays = make_update("rows", [(40, 30), (9,)], 6)
    body = reference.ecsq_encode(arrays, _step(arrays, 0.02))
    assert _outcome(native, body, shapes) == _outcome(reference, body, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 1e-4, 1e-7])
def test_tens_of_millions_of_heavy_tailed_symbols_come_back(native: ModuleType, share: float) -> None:
    """Rare states and wide tokens show only here: a reciprocal or a width may be wrong once in a million."""
    rng = np.random.default_rng(7)
    array = rng.standard_t(2, size=(5000, 4000)).astype(np.float32)
    array *= np.exp(rng.standard_normal((5000, 1))).astype(np.float32)
    step = Step.near(float(np.abs(array).max()) * share * 0.01).fitted(float(np.abs(array).max()))
    body = native.ecsq_encode([array], step)
    decoded = native.ecsq_decode(body, [array.shape])[0]
    assert np.abs(array - decoded).max() <= 1.6 * step.value


@pytest.mark.slow
def test_millions_of_symbols_are_equal_in_both_kernels(native: ModuleType) -> None:
    rng = np.random.default_rng(8)
    array = rng.standard_t(2, size=(1500, 1000)).astype(np.float32)
    array *= np.exp(rng.standard_normal((1500, 1))).astype(np.float32)
    for share in (1e-2, 1e-4, 1e-6):
        step = Step.near(float(np.abs(array).max()) * share).fitted(float(np.abs(array).max()))
        body = reference.ecsq_encode([array], step)
        assert native.ecsq_encode([array], step) == body
        assert _bits(native.ecsq_decode(body, [array.shape])) == _bits(
            reference.ecsq_decode(body, [array.shape])
        )
