"""The adaptive coder: reference and native equal to the bit, every index back, everything else refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phloem.errors import FormatError
from phloem.kernels import available, efforts, reference
from phloem.kernels.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from phloem.kernels.logistic import SHARE_LEAST, SHARE_ONE, STRETCH_MOST, log16, logistic_tables
from phloem.kernels.steps import Step, read_head

FloatArray = npt.NDArray[np.float32]
MakeUpdate = Callable[[str, Sequence[tuple[int, ...]], int], list[FloatArray]]
SHAPES = [(15, 40), (7,), (6, 5, 3, 3), (90,), (0, 3), (), (270, 3)]
KINDS = ["gaussian", "laplace", "student", "rows", "sparse", "constant", "wide", "largest"]
EFFORTS: list[efforts.Effort] = ["balanced", "best"]


def step_for(arrays: list[FloatArray], ratio: float) -> Step:
    extent = max(float(np.abs(array).max(initial=0)) for array in arrays)
    middle = float(np.sqrt(np.mean([np.mean(np.square(a, dtype=np.float64)) for a in arrays if a.size])))
    return Step.near(ratio * middle).fitted(extent)


def decoded(
    kernels: ModuleType, body: bytes, like: list[FloatArray], held: efforts.Held = None
) -> list[FloatArray]:
    found: list[FloatArray] = kernels.ecsq_decode(body, [array.shape for array in like], held)
    return found


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_kernels_write_the_same_body_and_read_the_same_values(
    native: ModuleType, make_update: MakeUpdate, kind: str, effort: efforts.Effort
) -> None:
    arrays = make_update(kind, SHAPES, 1)
    for ratio in (4.0, 0.3):
        step = step_for(arrays, ratio)
        body = efforts.encode(native, arrays, step, effort)
        assert efforts.encode(reference, arrays, step, effort) == body
        ours, theirs = decoded(reference, body, arrays), decoded(native, body, arrays)
        assert [a.tobytes() for a in ours] == [a.tobytes() for a in theirs]
        for array, values in zip(arrays, ours, strict=True):
            assert (np.abs(array.astype(np.float64) - values) <= 3 * step.value).all()


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", ["student", "sparse", "largest"])
def test_both_kernels_agree_on_dependent_quantisation(
    native: ModuleType, make_update: MakeUpdate, kind: str, effort: efforts.Effort
) -> None:
    arrays = make_update(kind, [(15, 40), (7,), (0, 3), (), (90,)], 1)
    for ratio, quarters in ((1.5, ()), (0.2, (0, 4, 0, -2, 1))):
        grid = step_for([2 * array for array in arrays if kind != "largest"] or arrays, ratio)
        bodies = [
            efforts.encode(kernels, arrays, grid, effort, importances=quarters, weight=192)
            for kernels in (native, reference)
        ]
        assert bodies[0] == bodies[1]
        ours, theirs = (decoded(kernels, bodies[0], arrays) for kernels in (native, reference))
        assert [a.tobytes() for a in ours] == [a.tobytes() for a in theirs]
        for array, values in zip(arrays, ours, strict=True):
            assert np.isfinite(values).all()
            away = np.abs(array.astype(np.float64) - values)
            assert (away <= 6 * grid.value * (2.0**0.5 if quarters else 1.0)).all()


def test_a_long_vector_is_folded_in_both_kernels(native: ModuleType, make_update: MakeUpdate) -> None:
    arrays = make_update("student", [(4096,), (4700,)], 1)
    step = step_for(arrays, 6.0)
    for effort in EFFORTS:
        body = efforts.encode(native, arrays, step, effort)
        assert efforts.encode(reference, arrays, step, effort) == body
        assert [a.tobytes() for a in decoded(reference, body, arrays)] == [
            a.tobytes() for a in decoded(native, body, arrays)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("effort", EFFORTS)
def test_both_kernels_agree_on_a_hundred_thousand_coefficients(
    native: ModuleType, make_update: MakeUpdate, effort: efforts.Effort
) -> None:
    arrays = make_update("rows", [(300, 330), (1000,)], 2)
    for ratio in (3.0, 0.05):
        step = step_for(arrays, ratio)
        body = efforts.encode(native, arrays, step, effort)
        assert efforts.encode(reference, arrays, step, effort) == body
        assert [a.tobytes() for a in decoded(reference, body, arrays)] == [
            a.tobytes() for a in decoded(native, body, arrays)
        ]


@pytest.mark.parametrize("states", [0, 4, 8])
@pytest.mark.parametrize("mixing", [False, True])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_indices_come_back_from_either_kernel(mixing: bool, states: int, data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=4))
    sizes = st.sampled_from([0, 0, 0, 1, -1, 2, 3, -5, 40, 5000, -((1 << 23) - 1)])
    indices = [
        np.array(data.draw(st.lists(sizes, min_size=r * c, max_size=r * c)), dtype=np.int32)
        for r, c in shapes
    ]
    held = []
    if mixing and data.draw(st.booleans()):
        near = st.integers(-127, 127)
        held = [
            np.array(data.draw(st.lists(near, min_size=r * c, max_size=r * c)), dtype=np.int8)
            for r, c in shapes
        ]
    stream = reference.adaptive_pack(indices, held, shapes, mixing, states)
    back = reference.adaptive_unpack(stream, held, shapes, mixing, states, [(1 << 24) - 1] * len(shapes))
    assert [a.tolist() for a in back] == [a.tolist() for a in indices]
    if "native" in available():
        import phloem.kernels.native as native

        assert native.adaptive_pack(indices, held, shapes, mixing, states) == stream
        back = native.adaptive_unpack(stream, held, shapes, mixing, states, [(1 << 24) - 1] * len(shapes))
        assert [a.tolist() for a in back] == [a.tolist() for a in indices]


@pytest.mark.parametrize("effort", EFFORTS)
def test_importances_and_a_held_update_are_the_same_in_both_kernels(
    native: ModuleType, make_update: MakeUpdate, effort: efforts.Effort
) -> None:
    arrays, held = make_update("student", SHAPES, 1), make_update("student", SHAPES, 2)
    step = step_for(arrays, 1.0)
    quarters = (0, 4, -3, 8, 0, 1, -8)
    bodies = [
        efforts.encode(kernels, arrays, step, effort, importances=quarters, held=held)
        for kernels in (native, reference)
    ]
    assert bodies[0] == bodies[1]
    values = [decoded(kernels, bodies[0], arrays, held) for kernels in (native, reference)]
    assert [a.tobytes() for a in values[0]] == [a.tobytes() for a in values[1]]


def test_a_held_update_like_the_new_one_saves_bytes_and_is_needed(
    kernels: ModuleType, make_update: MakeUpdate
) -> None:
    (before,) = make_update("student", [(40, 50)], 1)
    after = [before + 0.3 * make_update("gaussian", [(40, 50)], 2)[0]]
    step = step_for(after, 1.0)
    with_held = efforts.encode(kernels, after, step, "best", held=[before])
    assert len(with_held) < 0.8 * len(efforts.encode(kernels, after, step, "best"))
    decoded(kernels, with_held, after, [before])
    for wrong in (None, [before + 1], [before[:, :-1]], [before, before]):
        with pytest.raises(FormatError, match="needs"):
            decoded(kernels, with_held, after, wrong)


@pytest.mark.parametrize("held_value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_held_update_may_hold_anything(native: ModuleType, held_value: float) -> None:
    arrays = [np.linspace(-3, 3, 60, dtype=np.float32).reshape(6, 10)]
    held = [np.full((6, 10), held_value, dtype=np.float32)]
    bodies = [efforts.encode(k, arrays, Step.near(1.0), "best", held=held) for k in (native, reference)]
    assert bodies[0] == bodies[1]
    assert (
        decoded(native, bodies[0], arrays, held)[0].tobytes()
        == decoded(reference, bodies[0], arrays, held)[0].tobytes()
    )


@pytest.mark.parametrize("effort", EFFORTS)
def test_values_are_added_and_subtracted_in_place(
    kernels: ModuleType, make_update: MakeUpdate, effort: efforts.Effort
) -> None:
    arrays, trunk = make_update("student", SHAPES, 1), make_update("gaussian", SHAPES, 2)
    body = efforts.encode(kernels, arrays, step_for(arrays, 0.5), effort)
    values = decoded(kernels, body, arrays)
    for put, wanted in (
        ("add", [t + v for t, v in zip(trunk, values, strict=True)]),
        ("subtract", [t - v for t, v in zip(trunk, values, strict=True)]),
    ):
        out = [t.copy() for t in trunk]
        kernels.ecsq_decode_into(body, out, put)
        assert [a.tobytes() for a in out] == [np.asarray(w).tobytes() for w in wanted]


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("put", ["store", "add"])
def test_a_damaged_body_is_refused_or_decodes_alike_and_leaves_arrays_as_they_were(
    native: ModuleType, make_update: MakeUpdate, put: efforts.Put, effort: efforts.Effort
) -> None:
    arrays = make_update("student", [(9, 11), (20,)], 3)
    weight = 192 if effort == "best" else 0
    body = efforts.encode(native, arrays, step_for(arrays, 0.7), effort, weight=weight)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        bad = bytearray(body)
        bad[int(rng.integers(3, len(bad)))] ^= 1 << int(rng.integers(8))
        results = []
        for kernels in (native, reference):
            before = 7.0 if put == "add" else 0.0
            out = [np.full(array.shape, before, np.float32) for array in arrays]
            try:
                kernels.ecsq_decode_into(bytes(bad), out, put)
            except FormatError as error:
                assert all((array == before).all() for array in out)
                results.append(str(error).split(".")[0])
            else:
                results.append(b"".join(array.tobytes() for array in out))
        assert results[0] == results[1]
        refused += isinstance(results[0], str)
    assert refused > 100


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_beginning_and_every_extension_of_a_body_is_refused(
    kernels: ModuleType, make_update: MakeUpdate, effort: efforts.Effort
) -> None:
    arrays = make_update("laplace", [(8, 9), (5,)], 4)
    body = efforts.encode(kernels, arrays, step_for(arrays, 1.0), effort)
    for bad in [body[:size] for size in range(len(body))] + [body + bytes([b]) for b in (0, 1, 255)]:
        with pytest.raises(FormatError):
            decoded(kernels, bad, arrays)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_short_body_for_a_huge_layout_is_refused_before_memory_is_taken(
    kernels: ModuleType, effort: efforts.Effort
) -> None:
    body = efforts.encode(kernels, [np.ones(100, np.float32)], Step.near(1.0), effort)
    views = [np.broadcast_to(np.float32(0), (1 << 30, 1 << 20))]
    with pytest.raises(FormatError):
        efforts.decode_into(kernels, body, views, "store")


@pytest.mark.parametrize("effort", EFFORTS)
def test_what_rounds_to_nothing_takes_three_bytes(kernels: ModuleType, effort: efforts.Effort) -> None:
    body = efforts.encode(kernels, [np.full((40, 40), 0.1, np.float32)], Step.near(1.0), effort)
    assert len(body) == 3
    assert read_head(body)[1] == 1


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_large_update_is_coded_in_parts_the_same_with_every_number_of_threads(
    native: ModuleType, make_update: MakeUpdate, effort: efforts.Effort
) -> None:
    from phloem.kernels.threads import set_threads, threads

    arrays = make_update("sparse", [(2100, 2100), (7,), (1000, 30)], 5)
    step = step_for(arrays, 20.0)
    before = threads()
    bodies = []
    for count in (1, 3):
        set_threads(count)
        bodies.append(efforts.encode(native, arrays, step, effort))
        values = decoded(native, bodies[-1], arrays)
    set_threads(before)
    assert bodies[0] == bodies[1]
    assert all((np.abs(a - v) <= 3 * step.value).all() for a, v in zip(arrays, values, strict=True))


def test_signs_and_scales_of_rows_and_columns_are_learnt(native: ModuleType) -> None:
    """An update of rank one: its signs and its scales follow from few rows."""
    rng = np.random.default_rng(0)
    rows, columns = rng.standard_normal(200), rng.standard_normal(300)
    arrays = [(rows[:, None] * columns + 0.05 * rng.standard_normal((200, 300))).astype(np.float32)]
    step = Step.near(1.0)
    sizes = [len(efforts.encode(native, arrays, step, effort)) for effort in EFFORTS]
    fast = len(native.ecsq_encode(arrays, step))
    assert sizes[0] < 0.85 * fast
    assert sizes[1] < 0.7 * fast


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(SHARE_LEAST, SHARE_ONE - SHARE_LEAST), st.booleans()), max_size=200))
def test_the_arithmetic_coder_gives_every_bit_back_and_no_beginning_passes(
    bits: list[tuple[int, bool]],
) -> None:
    coder = ArithmeticEncoder()
    for one, bit in bits:
        coder.bit(one, bit)
        coder.raw(3, 5 * bit)
    data = coder.finish()
    for end in range(len(data) + 1):
        again = ArithmeticDecoder(data[:end])
        try:
            found = [(again.bit(one), again.raw(3)) for one, _ in bits]
            again.finish()
        except FormatError:
            assert end < len(data)
        else:
            assert end == len(data)
            assert found == [(bit, 5 * bit) for _, bit in bits]


def test_the_tables_are_what_their_names_say() -> None:
    known = logistic_tables()
    domain = np.arange(-STRETCH_MOST, STRETCH_MOST + 1)
    wanted = 65536 / (1 + np.exp(-domain / 256))
    assert np.abs(known.squash - np.clip(wanted, 1, 65535)).max() <= 0.5 + 1e-6
    assert (known.squash.astype(int) + known.squash[::-1] == 65536).all()
    middle = (np.arange(4096) + 0.5) / 4096
    exact = np.clip(256 * np.log(middle / (1 - middle)), -STRETCH_MOST, STRETCH_MOST)
    assert np.abs(known.stretch_middle - exact).max() <= 1
    assert all(abs(log16(n) - 16 * np.log2(n)) <= 0.9 for n in range(1, 5000))


def test_a_sender_keeps_what_it_owes_if_its_own_body_is_damaged(
    kernels: ModuleType, make_update: MakeUpdate
) -> None:
    arrays = make_update("laplace", [(8, 9)], 4)
    body = efforts.encode(kernels, arrays, step_for(arrays, 1.0), "balanced")
    owed = [array.copy() for array in arrays]
    with pytest.raises(FormatError):
        kernels.ecsq_subtract_encoded(body[:-1], owed)
    assert [array.tobytes() for array in owed] == [array.tobytes() for array in arrays]
