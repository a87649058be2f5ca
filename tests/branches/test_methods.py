"""What every merge method promises: its bits, its refusals, its JSON, its invariances.

Formulas: test_sparsify.py, test_robust.py, test_distances.py. Against mergekit: test_mergekit.py. Memory:
test_arithmetic.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.branches.one_tensor import LABELS, drawn, every, merged, named

from phloem import canonical
from phloem.branches.distances import GeometricMedian, Krum
from phloem.branches.linear import Mean, TaskArithmetic
from phloem.branches.methods import METHODS, Held, Method, from_json, to_json
from phloem.branches.robust import Median, TrimmedMean
from phloem.branches.sparsify import Dare, Ties
from phloem.errors import ConfigError

# ---- Bits ----------------------------------------------------------------------------------------------------

SEVENTHS = (np.arange(-4, 5) / 7).astype(np.float32)
FIVE = [
    SEVENTHS + (((np.arange(9) + 2) * (place + 3) * 5 % 11 - 5) / 13).astype(np.float32) for place in range(5)
]
#: Instead of what is decided from a Gram matrix, whose last bits depend on the machine.
DECIDED = {"coefficients": [0.1, 0.2, 0.3, 0.25, 0.15], "chosen": [1, 3]}
#: For each method, the merge of `FIVE` with equal weights, and with the weights 1 to 5: little-endian float32.
GOLDEN = {
    "mean": (
        "d42ffdbeb32eebbe298882bef30c4fbdc20f7cbc198c413e976cc93eb76ddb3e210a223f",
        "bcb80bbf8dcdd8be0ecc40bec9091cbc720e67bdaa8ffa3d710bb73e5caff53e8a9a283f",
    ),
    "task-arithmetic": (
        "231cc2be176801bf5ecd55be3f0bb43dd9891dbd4438843ee1100e3fb86ddb3e9cab393f",
        "231cc2be7dbcc7be3ddee33eb76d5b3f8a9dd8be380b34bc30fd523f042d503fced59c3f",
    ),
    "ties": (
        "254912bf788ff7bda88cca3d032d503e4fecc43e6caee63e1cc2213fb76ddb3e120e613f",
        "254912bf788ff7bda88cca3da76e6a3ed9899dbeea8eee3ebed91b3fb76ddb3e120e613f",
    ),
    "dare": (
        "254912bfe31f7ebf254992bed48f7cbd1e0dd2bd633196bfe0019e3f748ff73dcdd59c3f",
        "254912bfbed62bc0254992be3f1ff43e287622c060f5b5c050fbb43f748ff73dd32f1d40",
    ),
    "dare-signs": (
        "254912bf3ede63bf254992be8dca283e9ed8093f332aa3bef54b3f3f748ff73d4cbf743f",
        "254912bf3ede63bf254992be8dca283e70f916bfa7699abe510a253f748ff73dea977e3f",
    ),
    "trimmed-mean": (
        "d42ffdbe5baff5be532885be050f70bc210d52bd6dcc463e3fedd33eb76ddb3e60fa253f",
        "30f802bfd47df4be854338be6cae66bdd8891dbc987ee93db8bbd23e432ee43e9bab193f",
    ),
    "median": (
        "d42ffdbeb76ddbbe254992be400b343cd9899dbd120e613e9babb93eb76ddb3e9bab393f",
        "254912bf410bb4be140e61bd400b343cd9899dbd400b34bc2549923e1768013fd65c4d3f",
    ),
    "geometric-median": (
        "198c01bf398dd3bee6588ebee0eccdbdddc80d3d942d593e1dcbb13e1656e13ee2191e3f",
        "198c01bf398dd3bee6588ebee0eccdbdddc80d3d942d593e1dcbb13e1656e13ee2191e3f",
    ),
    "krum": (
        "d42ffdbeb4400bbfe86a2ebe120e61bed9891d3e5dcdd53d4cbff43eb86ddb3e231cc23e",
        "532805bf521915bf530aa5bd254912bed9899d3d000f703c4438043f8a8ee83e8cacc83e",
    ),
}


@every
def test_every_method_gives_the_golden_bits(method: Method) -> None:
    for weights, wanted in zip(([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]), GOLDEN[named(method)], strict=True):
        found = method.tensor("w", SEVENTHS, Held(FIVE, LABELS[:5]), weights, DECIDED, 2026)
        assert found.astype("<f4").tobytes().hex() == wanted


@every
@pytest.mark.parametrize(
    "weights", [[1.0] * 7, [3.0, 1.0, 0.0, 2.0, 2.5, 1.0, 9.0]], ids=["equal", "weights"]
)
def test_the_length_of_a_stretch_changes_no_bit(method: Method, weights: list[float]) -> None:
    base, arrays = drawn("stretch", shape=(301,))
    wanted = merged(method, base, arrays, weights)
    for length in (1, 7, 64, 300):
        held = Held(arrays, LABELS[:7], length)
        survey = method.survey("w", base, Held(arrays)) if method.needs_survey else None
        found = method.tensor("w", base, held, weights, method.resolve(survey, weights))
        assert found.tobytes() == wanted.tobytes()


@every
def test_inputs_are_not_written_to(method: Method) -> None:
    base, arrays = drawn("untouched")
    before = [array.tobytes() for array in (base, *arrays)]
    for array in (base, *arrays):
        array.flags.writeable = False
    merged(method, base, arrays)
    assert [array.tobytes() for array in (base, *arrays)] == before


@every
def test_what_no_branch_changed_keeps_its_bits_and_other_zeros_are_plus(method: Method) -> None:
    base = np.array([-0.0, 0.0, 1.5, -1e-42, 1.0], np.float32)
    changed = np.array([-0.0, 0.0, 1.5, -1e-42, -0.0], np.float32)
    assert merged(method, base, [base] * 5).tobytes() == base.tobytes()
    found = merged(method, base, [changed] * 5)
    assert found[:4].tobytes() == base[:4].tobytes()
    assert found[4] != 0 or not np.signbit(found[4])


# ---- Shapes and refusals -------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4)])
def test_every_shape_is_kept(method: Method, shape: tuple[int, ...]) -> None:
    base, arrays = drawn("shape", len(shape), count=5, shape=shape)
    found = merged(method, np.asarray(base), [np.asarray(array) for array in arrays])
    assert (type(found), found.shape, found.dtype) == (np.ndarray, shape, np.float32)


@pytest.mark.parametrize(
    "method", [Mean(), TaskArithmetic(), Ties(), Dare(), TrimmedMean(0.0), Median(), GeometricMedian()]
)
def test_one_branch_merges_to_itself(method: Method) -> None:
    base, arrays = drawn("one", count=1)
    assert np.array_equal(
        merged(
            method,
            base,
            arrays,
            [7.0] if method.name != "task-arithmetic" and method.name != "dare" else [1.0],
        ),
        arrays[0],
    )


@every
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["base", "branch 'c'"])
def test_a_value_that_is_no_number_is_refused_by_name(method: Method, wrong: float, where: str) -> None:
    base, arrays = drawn("NaN")
    (base if where == "base" else arrays[2])[1, 1] = wrong
    with pytest.raises(ConfigError, match=f"tensor 'w' of {where} holds a NaN or an infinity"):
        merged(method, base, arrays)


@every
def test_a_tensor_of_another_shape_or_type_is_refused(method: Method) -> None:
    base, arrays = drawn("shapes")
    for strange in (arrays[1][:, :4], arrays[1].astype(np.float64)):
        held = dataclasses.replace(Held(arrays), arrays=[arrays[0], strange, *arrays[2:]])
        with pytest.raises((ConfigError, ValueError)):
            method.tensor("w", base, held, [1.0] * 7, {"coefficients": [1 / 7] * 7, "chosen": [0, 1]})


@pytest.mark.parametrize("scale", [10.0, -10.0])
def test_a_merge_beyond_float32_is_refused(scale: float) -> None:
    largest = np.full(3, np.finfo(np.float32).max)
    for method in (
        TaskArithmetic(scale),
        Ties(scale=scale),
        Dare(scale=scale),
        Median(scale),
        GeometricMedian(scale),
    ):
        with pytest.raises(ConfigError, match="tensor 'w' is beyond float32"):
            merged(method, -largest, [largest] * 3)
    assert np.array_equal(merged(Median(), -largest, [largest, -largest]), [0, 0, 0])


@every
@pytest.mark.parametrize(
    "weights",
    [
        [],
        [0.0] * 7,
        [1, 1, -1, 1, 1, 1, 1],
        [math.nan] + [1] * 6,
        [math.inf] + [1] * 6,
        [True] * 7,
        ["1"] * 7,
    ],
)
def test_weights_that_cannot_be_are_refused_before_anything_is_read(method: Method, weights: Any) -> None:
    with pytest.raises(ConfigError):
        method.check(weights)
    with pytest.raises(ConfigError):
        method.resolve(np.eye(7), weights)


@every
def test_a_branch_of_weight_0_is_as_if_it_were_not_there(method: Method) -> None:
    base, arrays = drawn("weight 0")
    strange = [*arrays[:3], arrays[3] + 100, *arrays[3:]]
    found = merged(method, base, strange, [1, 1, 1, 0, 1, 1, 1, 1], labels=tuple("abcXdefg"))
    if method.name == "geometric-median":
        assert np.allclose(found, merged(method, base, arrays), rtol=1e-6)
    else:
        assert found.tobytes() == merged(method, base, arrays).tobytes()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Krum(2).check([1.0] * 6), "needs at least 7 branches, found 6"),
        (lambda: Krum(1).check([1.0] * 4 + [0.0]), "needs at least 5 branches, found 4"),
        (lambda: Krum(1, keep=5).check([1.0] * 5), "can keep at most 4 of 5"),
        (lambda: TrimmedMean(0.1).check([1.0] * 8), "a share of 0.1 of 8 branches is none"),
        (lambda: TrimmedMean(0.5), "'trim' must lie between 0 and 0.49"),
        (lambda: Ties(0.0), "'density' must lie between"),
        (lambda: Dare(1.5), "'density' must lie between"),
        (lambda: Dare(rescale="l2"), "'rescale' must be one of l1, density, none"),
        (lambda: TaskArithmetic(math.nan), "'scale' must lie between"),
        (lambda: Krum(1.5), "'bad' must be a whole number"),  # type: ignore[arg-type]
        (lambda: Krum(1).resolve(None, [1.0] * 5), "expected the sum of surveys"),
        (lambda: merged(Mean(), 0.0, [1.0, 2.0], [1.0]), "a weight for each of 2 branches, found 1"),
        (lambda: merged(Mean(), 0.0, [1.0, 2.0], labels=("a", "a")), "a label of its own"),
        (lambda: Held([np.zeros(1, np.float32)], ("a", "b")), "a label for each of 1 branches, found 2"),
    ],
)
def test_a_refusal_says_what_was_expected(call: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call()


@pytest.mark.parametrize(
    ("method", "resolved"),
    [
        (GeometricMedian(), {}),
        (GeometricMedian(), {"coefficients": [0.5] * 6}),
        (GeometricMedian(), {"coefficients": [0.5] * 7}),
        (GeometricMedian(), {"coefficients": [-1.0, 2.0, 0, 0, 0, 0, 0]}),
        (GeometricMedian(), {"coefficients": "0000000"}),
        (Krum(1, 2), {}),
        (Krum(1, 2), {"chosen": [1]}),
        (Krum(1, 2), {"chosen": [2, 1]}),
        (Krum(1, 2), {"chosen": [1, 7]}),
        (Krum(1, 2), {"chosen": [True, 2]}),
        (Krum(1, 2), {"chosen": [[1], 2]}),
    ],
)
def test_resolved_numbers_that_do_not_fit_are_refused(method: Method, resolved: Any) -> None:
    base, arrays = drawn("resolved")
    with pytest.raises(ConfigError):
        method.tensor("w", base, Held(arrays), [1.0] * 7, resolved)


# ---- JSON ----------------------------------------------------------------------------------------------------


@every
def test_a_method_is_its_json(method: Method) -> None:
    again = from_json(canonical.loads(canonical.dumps(to_json(method))))
    assert again == method
    assert canonical.dumps(to_json(again)) == canonical.dumps(to_json(method))
    assert METHODS[method.name] is type(method)


def test_a_whole_number_is_the_same_json_as_its_float() -> None:
    assert canonical.dumps(to_json(Ties(1, 2))) == canonical.dumps(to_json(Ties(1.0, 2.0)))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "tise"}, "did you mean 'ties'"),
        ({}, "there is no merge method None"),
        ({"name": ["ties"]}, "there is no merge method"),
        ({"name": "ties", "densty": 0.5}, "did you mean 'density'"),
        ({"name": "ties", "density": "0.5"}, "'density' must be a number"),
        ({"name": "dare", "signs": 1}, "'signs' must be true or false"),
        ({"name": "krum"}, "lacks 'bad'"),
        ({"name": "krum", "bad": 1.0}, "'bad' must be a whole number"),
        ("ties", "must be a table"),
    ],
)
def test_json_that_is_no_method_is_refused(table: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_json(table)


def test_task_arithmetic_is_the_formula() -> None:
    base, arrays = drawn("task")
    weights = [0.5, 1.0, 2.0, 0.0, 3.0, 1.0, 1.0]
    total = sum(w * (array.astype(np.float64) - base) for w, array in zip(weights, arrays, strict=True))
    assert np.allclose(merged(TaskArithmetic(0.3), base, arrays, weights), base + 0.3 * total, rtol=1e-6)
    mean = base + 0.3 * total / sum(weights)
    assert np.allclose(merged(TaskArithmetic(0.3, normalize=True), base, arrays, weights), mean, rtol=1e-6)


# ---- Promises ------------------------------------------------------------------------------------------------


@every
@given(st.data())
def test_the_order_of_the_branches_does_not_matter(method: Method, data: st.DataObject) -> None:
    """Values are eighths: sums are exact, so that no election hangs on rounding. Masks go with the labels."""
    count = data.draw(st.integers(5, 7))
    rows = data.draw(
        st.lists(st.lists(st.integers(-40, 40), min_size=6, max_size=6), min_size=count, max_size=count)
    )
    weights = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    order = data.draw(st.permutations(range(count)))
    if isinstance(method, Dare):
        method = dataclasses.replace(method, rescale="density")
    arrays, base = [np.array(row) / 8 for row in rows], np.arange(6) / 8
    if isinstance(method, Krum):
        survey = method.survey("w", base.astype(np.float32), Held([a.astype(np.float32) for a in arrays]))
        assume(len(set(method.resolve(survey, weights)["scores"])) == count)
    if isinstance(method, TrimmedMean):  # of equal values at the cut the place decides which weight goes
        weights = [weights[0]] * count
    one = merged(method, base, arrays, weights, key=5)
    turned = [[row[place] for place in order] for row in (arrays, weights, LABELS)]
    other = merged(method, base, turned[0], turned[1], labels=tuple(turned[2]), key=5)
    assert np.allclose(one, other, rtol=1e-5, atol=1e-5)


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@pytest.mark.parametrize(
    "method", [Mean(), TrimmedMean(0.2), Median(), GeometricMedian(), Krum(1, 2)], ids=lambda m: m.name
)
@given(
    st.lists(FLOATS, min_size=1, max_size=6), st.lists(st.floats(0.01, 1e6), min_size=5, max_size=8), FLOATS
)
def test_copies_of_one_model_merge_to_it_exactly(
    method: Method, model: list[float], weights: list[float], start: float
) -> None:
    found = merged(method, np.full(len(model), start), [model] * len(weights), weights)
    assert np.array_equal(found, np.array(model, np.float32))


@pytest.mark.parametrize("method", [TaskArithmetic(normalize=True), Ties()], ids=lambda m: m.name)
@given(
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6),
    st.lists(st.floats(0.01, 1e6), min_size=1, max_size=8),
)
def test_copies_of_one_model_merge_to_it_within_rounding(
    method: Method, model: list[float], weights: list[float]
) -> None:
    found = merged(method, np.ones(len(model)), [model] * len(weights), weights)
    assert np.all(np.abs(found - np.array(model, np.float32)) <= 2.0**-50)
    assert np.array_equal(
        merged(method, np.zeros(len(model)), [model] * len(weights), weights), np.array(model, np.float32)
    )
