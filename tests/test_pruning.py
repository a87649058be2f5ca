"""When weights go, which ones, and how a mask survives everything that is done with a trunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phloem.errors import ConfigError
from phloem.masks import Kept, everything, largest
from phloem.pruning import Pruning, marked, pruned
from phloem.seeds import generator, seed_for
from phloem.tensors import Layout, State

SCHEDULE = Pruning(0.75, 2, 10, 4)


def state_of(**shapes: tuple[int, ...]) -> State:
    draw = generator(0, "pruning")
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


STATE = state_of(a=(20, 10), b=(7,), c=(5, 2, 4), scale=(), void=(3, 0))
LAYOUT = Layout.of(STATE)


def zeros_of(state: State, *names: str) -> int:
    return sum(int((state[name] == 0).sum()) for name in names)


def test_the_mask_changes_in_the_rounds_of_the_schedule_and_at_its_end() -> None:
    assert [n for n in range(14) if SCHEDULE.changes_at(n)] == [2, 6, 10]
    assert [n for n in range(14) if Pruning(0.5, 3, 9, 4).changes_at(n)] == [3, 7, 9]
    assert [n for n in range(14) if Pruning(0.5, 3, 3).changes_at(n)] == [3]


def test_sparsity_follows_the_cubic_schedule_from_zero_to_its_target() -> None:
    assert SCHEDULE.sparsity_at(2) == 0.0
    assert SCHEDULE.sparsity_at(6) == 0.75 * (1 - 0.5**3)
    assert SCHEDULE.sparsity_at(10) == 0.75
    assert Pruning(0.9, 4, 4).sparsity_at(4) == 0.9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sparsity": 1.0}, "'sparsity' must lie between 0 and 0.9999"),
        ({"sparsity": float("nan")}, "'sparsity' must lie between"),
        ({"sparsity": -0.1}, "'sparsity' must lie between"),
        ({"begin": 0}, "'begin' must lie between 1"),
        ({"end": 1}, "'end' must not lie before 'begin', 2; found 1"),
        ({"end": 10**9}, "'end' must lie between"),
        ({"every": 0}, "'every' must lie between 1"),
        ({"begin": 1.5}, "'begin' must be a whole number"),
        ({"begin": True}, "'begin' must be a whole number"),
        ({"method": "movement"}, "'method' is one of magnitude"),
        ({"scope": "layer"}, "'scope' is one of global, tensor"),
        ({"regrow": 1.0}, "'regrow' must lie between"),
        ({"tensors": []}, "'tensors' must be a list of 1 to 256 patterns"),
        ({"tensors": ["x"] * 257}, "'tensors' must be a list of 1 to 256 patterns"),
    ],
    ids=str,
)
def test_an_absurd_schedule_is_refused(change: dict[str, Any], said: str) -> None:
    table: dict[str, Any] = {"sparsity": 0.5, "begin": 2, "end": 10, **change}
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Pruning(**table)


@given(hnp.arrays(np.uint32, st.integers(0, 30), elements=st.integers(0, 4)), st.integers(0, 40))
def test_the_largest_are_those_that_a_stable_sort_puts_first(keys: Any, count: int) -> None:
    count = min(count, keys.size)
    wanted = np.zeros(keys.size, bool)
    wanted[np.argsort(-keys.astype(np.int64), kind="stable")[:count]] = True
    assert (largest(keys, count) == wanted).all()


def test_the_smallest_weights_of_all_matrices_go_and_vectors_stay() -> None:
    state, kept = pruned(SCHEDULE, STATE, LAYOUT, 10, 0, everything(LAYOUT))
    assert zeros_of(state, "a", "c") == 180  # three quarters of 240
    assert kept.size == 60 + 7 + 1
    gone = np.concatenate([STATE[n][state[n] == 0] for n in ("a", "c")])
    left = np.concatenate([STATE[n][state[n] != 0] for n in ("a", "c")])
    assert np.abs(gone).max() <= np.abs(left).min()
    assert all(np.array_equal(state[n], STATE[n]) for n in ("b", "scale"))
    assert all((state[n][state[n] != 0] == STATE[n][state[n] != 0]).all() for n in ("a", "c"))


def test_scope_tensor_gives_every_matrix_the_same_sparsity() -> None:
    state, _ = pruned(Pruning(0.75, 2, 2, scope="tensor"), STATE, LAYOUT, 2, 0, everything(LAYOUT))
    assert zeros_of(state, "a") == 150
    assert zeros_of(state, "c") == 30


def test_only_tensors_of_the_patterns_are_pruned() -> None:
    state, kept = pruned(Pruning(0.5, 2, 2, tensors=["c*"]), STATE, LAYOUT, 2, 0, everything(LAYOUT))
    assert zeros_of(state, "a") == 0
    assert zeros_of(state, "c") == 20
    assert kept.masks[LAYOUT.names.index("a")] is None


def test_of_equal_magnitudes_those_with_the_lower_index_stay() -> None:
    state = {"w": np.array([[1, -1, 1], [-1, 1, -1]], np.float32)}
    after, _ = pruned(Pruning(0.5, 1, 1), state, Layout.of(state), 1, 0, everything(Layout.of(state)))
    assert after["w"].tolist() == [[1, -1, 1], [0, 0, 0]]


def test_pruning_everything_that_a_schedule_may_still_leaves_a_layout() -> None:
    state = {"w": np.ones((2, 2), np.float32), "z": np.ones((2, 2), np.float32) * 9}
    layout = Layout.of(state)
    after, kept = pruned(Pruning(0.5, 1, 1), state, layout, 1, 0, everything(layout))
    assert kept.layout.specs[0].shape == (0,)
    assert kept.size == 4
    assert kept.scatter(kept.gather(layout.arrays(after)))[0].tolist() == [[0, 0], [0, 0]]


def test_a_pruned_weight_is_minus_zero_and_a_kept_zero_plus_zero() -> None:
    state = {"w": np.array([[3, 0.0], [-0.0, -2]], np.float32)}
    layout = Layout.of(state)
    after, kept = pruned(Pruning(0.25, 1, 1), state, layout, 1, 0, everything(layout))
    assert np.signbit(after["w"]).tolist() == [[False, False], [True, True]]
    assert kept.masks[0] is not None
    assert kept.masks[0].tolist() == [True, True, False, True]
    moved = after["w"] + kept.scatter(kept.gather([-after["w"]]))[0]  # every kept weight becomes zero
    assert (moved == 0).all()
    again = marked(Pruning(0.25, 1, 1), {"w": moved}, layout, 5)
    assert again.masks[0] is not None
    assert np.array_equal(again.masks[0], kept.masks[0])


def test_before_the_schedule_begins_minus_zeros_of_the_task_are_weights_like_others() -> None:
    state = {"w": np.full((2, 2), -0.0, np.float32)}
    assert not marked(SCHEDULE, state, Layout.of(state), 1).any_masked
    assert not marked(None, state, Layout.of(state), 9).any_masked


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_what_is_gathered_is_scattered_back(rows: int, columns: int, share: float, seed: int) -> None:
    array = generator(seed, "values").normal(size=(rows, columns)).astype(np.float32)
    mask = generator(seed, "mask").random(rows * columns) < share
    kept = Kept(Layout.of({"w": array}), (mask,))
    (gathered,) = kept.gather([array])
    assert gathered.shape == kept.layout.specs[0].shape
    assert gathered.size - int(mask.sum()) < (gathered.shape[1] if gathered.ndim == 2 else 1)
    (whole,) = kept.scatter([gathered])
    wanted = np.where(mask.reshape(rows, columns), array, np.float32(-0.0))
    assert whole.tobytes() == wanted.tobytes()


def regrown(seed: int, number: int = 6) -> tuple[State, Kept]:
    before, kept = pruned(Pruning(0.75, 2, 2), STATE, LAYOUT, 2, 0, everything(LAYOUT))
    return pruned(Pruning(0.75, 2, 10, 4, regrow=0.5), before, LAYOUT, number, seed, kept)


def test_regrowth_gives_places_to_pruned_weights_that_start_from_zero() -> None:
    state, kept = regrown(seed=1)
    stay = 240 - round(240 * 0.75 * (1 - 0.5**3))
    assert kept.size - 8 == stay
    fresh = sum(
        int(((state[spec.name].reshape(-1) == 0) & mask).sum())
        for spec, mask in zip(LAYOUT.specs, kept.masks, strict=True)
        if mask is not None
    )
    assert fresh > 0.25 * stay - 10
    assert np.array_equal(regrown(seed=1)[0]["a"], state["a"])
    assert not np.array_equal(np.signbit(regrown(seed=2)[0]["a"]), np.signbit(state["a"]))


def test_at_the_end_of_the_schedule_nothing_regrows() -> None:
    state, kept = regrown(seed=1, number=10)
    assert kept.size - 8 == 60
    assert zeros_of(state, "a", "c") == 180


def test_regrowth_is_the_specified_draw() -> None:
    raw = np.random.PCG64(seed_for(9, "prune", 6)).random_raw(240)
    before, kept = pruned(Pruning(0.75, 2, 2), STATE, LAYOUT, 2, 0, everything(LAYOUT))
    _, after = pruned(Pruning(0.75, 2, 10, 4, regrow=0.5), before, LAYOUT, 6, 9, kept)
    magnitudes = np.abs(np.concatenate([before["a"].reshape(-1), before["c"].reshape(-1)]))
    stay = 240 - int(np.floor(0.75 * (1.0 - 0.125) * 240 + 0.5))
    others = int(np.floor(0.25 * stay + 0.5))
    chosen = set(np.argsort(-magnitudes, kind="stable")[: stay - others].tolist())
    for index in np.argsort(-(raw | np.uint64(1)).astype(object), kind="stable").tolist():
        if len(chosen) < stay:
            chosen.add(index)
    masks = [mask for mask in after.masks if mask is not None]
    assert set(np.flatnonzero(np.concatenate(masks)).tolist()) == chosen


def test_what_is_owed_to_weights_that_went_is_dropped_and_to_new_ones_nothing_is() -> None:
    layout = Layout.of({"w": np.zeros((2, 3))})
    before = Kept(layout, (np.array([1, 1, 1, 1, 0, 0], bool),))
    after = Kept(layout, (np.array([0, 1, 0, 1, 1, 1], bool),))
    owed = before.gather([np.arange(1, 7, dtype=np.float32).reshape(2, 3)])
    carried = after.carry(owed, before)
    assert carried[0].tolist() == [[2, 4], [0, 0]]
    assert not np.signbit(carried[0]).any()
    assert after.carry(carried, after)[0] is carried[0]


@pytest.mark.parametrize("change", [lambda s: s, lambda s: {**s, "a": s["a"].copy()}])
def test_the_same_trunk_gives_the_same_mask(change: Callable[[State], State]) -> None:
    first = pruned(SCHEDULE, STATE, LAYOUT, 6, 3, everything(LAYOUT))[0]
    second = pruned(SCHEDULE, change(STATE), LAYOUT, 6, 3, everything(LAYOUT))[0]
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
