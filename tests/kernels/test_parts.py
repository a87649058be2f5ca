"""Parts, threads, steps by importance, and decoding into arrays: the same bits in both kernels, at every level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import ConfigError, FormatError
from phloem.kernels import parts as parts_module
from phloem.kernels import reference, set_threads
from phloem.kernels.parts import PART_LARGEST, count_parts, matrix, partition
from phloem.kernels.steps import Step

FloatArray = npt.NDArray[np.float32]
Shapes = Sequence[tuple[int, ...]]
MakeUpdate = Callable[[str, Shapes, int], list[FloatArray]]

shapes_of_any_size = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 3 * PART_LARGEST)),
        st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
        st.tuples(st.integers(1, 3), st.integers(PART_LARGEST - 2, PART_LARGEST + 2)),
        st.just(()),
    ).map(tuple),
    max_size=6,
)


@given(shapes_of_any_size)
def test_pieces_cover_every_tensor_once_and_no_part_is_too_large(shapes: list[tuple[int, ...]]) -> None:
    pieces = partition(tuple(shapes))
    assert count_parts(tuple(shapes)) == (pieces[-1].part + 1 if pieces else 0)
    assert [piece.part for piece in pieces] == sorted(piece.part for piece in pieces)
    done = [0] * len(shapes)
    sizes: dict[int, int] = {}
    for part, tensor, start, stop in pieces:
        rows, columns = matrix(shapes[tensor])
        assert start == done[tensor] < stop
        assert rows == 1 or start % columns == stop % columns == 0
        done[tensor] = stop
        sizes[part] = sizes.get(part, 0) + stop - start
    assert done == [int(np.prod(shape)) for shape in shapes]
    assert sorted(sizes) == list(range(len(sizes)))
    assert max(sizes.values(), default=0) <= PART_LARGEST


def test_large_tensors_are_cut_evenly_and_small_ones_gathered() -> None:
    pieces = partition(((10,), (5000, 5000), (7,), (8,)))
    assert [piece.part for piece in pieces] == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    rows = [(piece.stop - piece.start) // 5000 for piece in pieces[1:7]]
    assert rows == [833, 833, 834, 833, 833, 834]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Parts of at most 2,000 elements, so that small updates have many."""
    partition.cache_clear()
    monkeypatch.setattr(parts_module, "PART_LARGEST", 2000)
    yield
    partition.cache_clear()
    set_threads(1)


CUT: list[Shapes] = [
    [(300, 70), (2001,), (5, 5)],
    [(10,), (4000, 1), (0, 3), (1999,), (30, 150)],
    [(100000,), (400, 900)],  # many tokens in a part
]


def _step(arrays: Sequence[FloatArray], share: float) -> Step:
    extent = reference.ecsq_extent(arrays)[0]
    return Step.near((extent or 1.0) * share).fitted(extent)


def _bits(arrays: Sequence[FloatArray]) -> list[bytes]:
    return [array.tobytes() for array in arrays]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", ["rows", "sparse", "student", "zero"])
def test_parts_are_equal_in_both_kernels_at_every_level_and_thread_count(
    kind: str, restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    native = restored_simd
    for seed, shapes in enumerate(CUT[:2]):
        arrays = make_update(kind, shapes, seed)
        for share in (0.5, 0.1, 1e-2, 1e-4):
            step = _step(arrays, share)
            body = reference.ecsq_encode(arrays, step)
            decoded = reference.ecsq_decode(body, shapes)
            for level, threads in zip(native.simd_levels() * 2, (1, 2, 3, 7, 2, 1), strict=False):
                native.set_simd(level)
                set_threads(threads)
                assert native.ecsq_encode(arrays, step) == body
                assert _bits(native.ecsq_decode(body, shapes)) == _bits(decoded)
            for array, result in zip(arrays, decoded, strict=True):
                assert np.abs(array.astype(np.float64) - result).max(initial=0.0) <= 1.6 * step.value


def test_parts_with_many_tokens_are_equal_in_both_kernels(
    monkeypatch: pytest.MonkeyPatch, restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    partition.cache_clear()
    monkeypatch.setattr(parts_module, "PART_LARGEST", 50_000)
    arrays = make_update("rows", CUT[2], 3)
    for share in (1e-2, 1e-4):
        step = _step(arrays, share)
        body = reference.ecsq_encode(arrays, step)
        decoded = reference.ecsq_decode(body, CUT[2])
        for level in restored_simd.simd_levels():
            restored_simd.set_simd(level)
            assert restored_simd.ecsq_encode(arrays, step) == body
            assert _bits(restored_simd.ecsq_decode(body, CUT[2])) == _bits(decoded)
    partition.cache_clear()


@pytest.mark.usefixtures("small_parts")
def test_damaged_parts_have_the_same_outcome_in_both_kernels(
    native: ModuleType, make_update: MakeUpdate
) -> None:
    shapes = CUT[0]
    arrays = make_update("rows", shapes, 4)
    body = reference.ecsq_encode(arrays, _step(arrays, 0.05))
    rng = np.random.default_rng(5)
    changed = [body[:size] for size in rng.integers(0, len(body), 30)]
    for place in rng.integers(0, 8 * len(body), 60).tolist():
        altered = bytearray(body)
        altered[place // 8] ^= 1 << place % 8
        changed.append(bytes(altered))
    for damaged in changed:
        outcomes = []
        for kernels in (reference, native):
            target = [array.copy() for array in arrays]
            try:
                kernels.ecsq_decode_into(damaged, target, "add")
            except FormatError:
                assert _bits(target) == _bits(arrays)  # nothing half done
                outcomes.append(None)
            else:
                outcomes.append(_bits(target))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("kind", ["rows", "student", "sparse", "zero", "subnormal", "largest"])
def test_decoding_in_place_is_one_float32_operation_per_value(
    kind: str, restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    shapes: Shapes = [(60, 70), (300,), (), (0, 2), (9, 5, 3)]
    arrays = make_update(kind, shapes, 1)
    base = make_update("student", shapes, 2)
    base[0][0, :10] = -0.0
    base[1][:] = -0.0
    for share in (0.3, 1e-2, 1e-5):
        step = _step(arrays, share)
        body = reference.ecsq_encode(arrays, step)
        decoded = reference.ecsq_decode(body, shapes)
        with np.errstate(over="ignore"):
            sums = [np.asarray(a + b) for a, b in zip(base, decoded, strict=True)]
            rests = [np.asarray(a - b) for a, b in zip(base, decoded, strict=True)]
            own = [np.asarray(a - b) for a, b in zip(arrays, decoded, strict=True)]
        native = restored_simd
        for kernels, level in [(reference, None), *((native, level) for level in native.simd_levels())]:
            if level:
                kernels.set_simd(level)
            for put, wanted in (("add", sums), ("subtract", rests)):
                target = [array.copy() for array in base]
                kernels.ecsq_decode_into(body, target, put)
                assert _bits(target) == _bits(wanted)
            target = [array.copy() for array in base]
            for put in (
                "add",
                "accumulate",
            ):  # a sum has no negative zero, so the second need not look for one
                kernels.ecsq_decode_into(body, target, put)
            with np.errstate(over="ignore"):
                assert _bits(target) == _bits([a + b for a, b in zip(sums, decoded, strict=True)])
            target = [array.copy() for array in arrays]
            kernels.ecsq_subtract_encoded(body, target)
            assert _bits(target) == _bits(own)
    with pytest.raises(ConfigError, match="known: store"):
        restored_simd.ecsq_decode_into(body, base, "multiply")


OPEN: Shapes = [(100_000,), (400, 900), (0, 2), (90,), (120_000,)]
WHOLE = [
    (0, 1),
    (1, 1),
    (2, 1),
    (3, 2),
    (0, 5),
]  # first tensor and how many: those of whole parts of at most 150,000


@pytest.fixture
def open_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Parts of at most 150,000 elements: longer than what stays in the cache from one body to the next."""
    partition.cache_clear()
    monkeypatch.setattr(parts_module, "PART_LARGEST", 150_000)
    yield
    partition.cache_clear()
    set_threads(1)


def _bodies(make_update: MakeUpdate) -> list[bytes]:
    """Bodies of one layout: with and without levels of rows, sparse and dense, all zero."""
    kinds = {"rows": 3.0, "student": 1.0, "sparse": 9.0, "zero": 1.0, "subnormal": 1.0, "gaussian": 0.1}
    found = []
    for seed, (kind, steps) in enumerate(kinds.items()):
        arrays = make_update(kind, OPEN, seed)
        middle = float(np.median(np.abs(np.concatenate([array.ravel() for array in arrays]))))
        step = Step.near(steps * middle or 1.0).fitted(reference.ecsq_extent(arrays)[0])
        found.append(reference.ecsq_encode(arrays, step))
    return found


@pytest.mark.usefixtures("open_parts")
def test_parts_of_open_bodies_are_added_as_whole_bodies_are_one_after_another(
    restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    native, bodies = restored_simd, _bodies(make_update)
    base = make_update("student", OPEN, 9)
    base[0][:1000] = base[1][7, :90] = base[3][:] = -0.0
    wanted = [array.copy() for array in base]
    for body in bodies:
        reference.ecsq_decode_into(body, wanted, "add")
    for kernels, level in [(reference, None), *((native, level) for level in native.simd_levels())]:
        if level:
            kernels.set_simd(level)
        opened = [kernels.Opened(body, OPEN) for body in bodies]
        for threads, (first, count) in zip((1, 2, 1, 3, 3), WHOLE, strict=True):
            set_threads(threads)
            target = [array.copy() for array in base[first : first + count]]
            kernels.ecsq_add_all(opened, first, target)
            assert _bits(target) == _bits(wanted[first : first + count])
            again = [array.copy() for array in base[first : first + count]]
            for one in opened:
                one.put(first, again, "add")
            assert _bits(again) == _bits(target)
        with pytest.raises(ConfigError, match="share a part with others"):
            opened[0].put(4, base[4:], "add")
        with pytest.raises((ValueError, IndexError)):
            opened[0].put(0, [np.zeros(99_999, np.float32)], "add")


@pytest.mark.usefixtures("open_parts")
def test_a_damaged_part_of_an_open_body_leaves_the_sums_as_they_were(
    native: ModuleType, make_update: MakeUpdate
) -> None:
    bodies, base = _bodies(make_update)[:3], make_update("student", OPEN, 9)
    refused = 0
    for place in range(len(bodies[1]) // 2, len(bodies[1]), len(bodies[1]) // 40):
        damaged = bytearray(bodies[1])
        damaged[place] ^= 16
        target = [array.copy() for array in base]
        try:
            opened = [native.Opened(bytes(body), OPEN) for body in (bodies[0], damaged, bodies[2])]
            native.ecsq_add_all(opened, 0, target)
        except FormatError:
            assert _bits(target) == _bits(base)
            refused += 1
    assert refused > 10


def test_bodies_of_other_shapes_are_not_added_together(native: ModuleType, make_update: MakeUpdate) -> None:
    opened = []
    for shapes in ([(40, 30), (9,)], [(30, 40), (9,)]):
        arrays = make_update("student", shapes, 0)
        opened.append(native.Opened(native.ecsq_encode(arrays, _step(arrays, 0.1)), shapes))
    with pytest.raises(ValueError, match="the same shapes"):
        native.ecsq_add_all(opened, 0, [np.zeros((40, 30), np.float32), np.zeros(9, np.float32)])


def test_arrays_that_cannot_be_written_in_place_are_refused(native: ModuleType) -> None:
    array = np.ones((20, 30), np.float32)
    body = native.ecsq_encode([array], Step.near(0.5))
    for target in (np.zeros((30, 20), np.float32).T, np.zeros((20, 30))):
        with pytest.raises(TypeError):
            native.ecsq_decode_into(body, [target], "add")


def test_sums_and_their_extent(kernels: ModuleType, make_update: MakeUpdate) -> None:
    shapes: Shapes = [(40, 30), (0,), (77,), ()]
    left, right = make_update("rows", shapes, 0), make_update("wide", shapes, 1)
    sums = [np.asarray(a + b) for a, b in zip(left, right, strict=True)]
    target = [array.copy() for array in left]
    assert kernels.ecsq_extent_of_sum(left, right) == reference.ecsq_extent(sums)
    assert kernels.ecsq_extent_of_sum(target, right, target) == reference.ecsq_extent(sums)
    assert _bits(target) == _bits(sums)
    right[2][5] = np.inf
    assert kernels.ecsq_extent_of_sum(left, right)[1] == 2


def test_steps_by_importance_are_equal_in_both_kernels(
    restored_simd: ModuleType, make_update: MakeUpdate
) -> None:
    native = restored_simd
    shapes: Shapes = [(60, 70), (0,), (300,), (40, 30)]
    importances = [8, 0, -3, 41]
    for kind in ("rows", "student", "wide"):
        arrays = make_update(kind, shapes, 3)
        for share in (0.3, 1e-2, 1e-4):
            step = _step(arrays, share)
            body = reference.ecsq_encode(arrays, step, importances)
            decoded = reference.ecsq_decode(body, shapes)
            for level in native.simd_levels():
                native.set_simd(level)
                assert native.ecsq_encode(arrays, step, importances) == body
                assert _bits(native.ecsq_decode(body, shapes)) == _bits(decoded)
            rest = [array.copy() for array in arrays]
            native.ecsq_subtract_encoded(body, rest)
            assert _bits(rest) == [np.asarray(a - d).tobytes() for a, d in zip(arrays, decoded, strict=True)]
            if kind != "student":
                continue
            for array, result, quarters in zip(arrays, decoded, importances, strict=True):
                bound = 1.6 * step.finer(quarters).value
                assert np.abs(array.astype(np.float64) - result).max(initial=0.0) <= bound


@given(st.integers(2048, 4095), st.integers(-60, 60), st.integers(-128, 128))
def test_a_finer_step_is_within_a_part_in_2700(significand: int, exponent: int, quarters: int) -> None:
    step = Step(significand, exponent)
    assert step.finer(quarters).value * 2 ** (quarters / 4) / step.value == pytest.approx(1.0, abs=3.7e-4)


@pytest.mark.parametrize("count", [0, 257, 1.5, True])
def test_thread_counts_are_checked(count: int) -> None:
    with pytest.raises(ConfigError, match="threads from 1 to 256"):
        set_threads(count)


@pytest.mark.slow
def test_an_update_of_several_real_parts_is_equal_in_both_kernels(native: ModuleType) -> None:
    rng = np.random.default_rng(2)
    array = rng.standard_t(3, size=(3000, 3000)).astype(np.float32)
    array *= np.exp(rng.standard_normal((1, 3000))).astype(np.float32)
    assert count_parts((array.shape,)) == 3
    for share in (0.1, 1e-3):
        step = _step([array], share)
        body = reference.ecsq_encode([array], step)
        set_threads(2)
        assert native.ecsq_encode([array], step) == body
        assert _bits(native.ecsq_decode(body, [array.shape])) == _bits(
            reference.ecsq_decode(body, [array.shape])
        )
        set_threads(1)
