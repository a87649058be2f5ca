from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem import feedback as ef
from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError
from phloem.feedback import Residual
from phloem.seeds import generator
from phloem.tensors import Array, Layout
from phloem.wire import frame as frames

CONFIGS: list[dict[str, Any]] = [
    {"codec": "none"},
    {"codec": "bf16"},
    {"codec": "int8", "block": 8},
    {"codec": "topk", "fraction": 0.1},
    {"codec": "sign"},
    {"codec": "ecsq", "bits": 0.5},
]
every_codec = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["codec"])
LAYOUT = Layout.of({"b": np.zeros(5), "s": np.zeros(()), "w": np.zeros((20, 30)), "z": np.zeros((0, 2))})


def arrays(number: int) -> list[Array]:
    draw = generator(0, "feedback", number)
    return [np.asarray(draw.laplace(size=spec.shape), np.float32) for spec in LAYOUT.specs]


def total(parts: list[list[Array]]) -> list[Any]:
    return [sum(np.asarray(array, np.float64) for array in column) for column in zip(*parts, strict=True)]


@every_codec
def test_what_arrived_and_what_is_owed_is_everything_that_was_learned(config: dict[str, Any]) -> None:
    state, arrived = Residual(), []
    for number in range(20):
        frame, state = ef.send(state, arrays(number), codec_from(config), LAYOUT)
        state, decoded = ef.settle(state, LAYOUT, accepted=True)
        assert decoded is not None
        assert [a.tobytes() for a in decoded] == [a.tobytes() for a in frames.unpack(frame, LAYOUT).decode()]
        arrived.append(decoded)
    assert state.owed is not None
    learned = total([arrays(number) for number in range(20)])
    for got, wanted in zip(total([*arrived, list(state.owed)]), learned, strict=True):
        assert np.abs(got - wanted).max(initial=0) < 1e-4  # twenty float32 roundings of values up to about 30


@every_codec
@given(fates=st.lists(st.booleans(), min_size=1, max_size=8))
def test_refused_and_lost_frames_are_owed_again(config: dict[str, Any], fates: list[bool]) -> None:
    state, arrived = Residual(), []
    for number, accepted in enumerate(fates):
        _, state = ef.send(state, arrays(number), codec_from(config), LAYOUT)
        state, decoded = ef.settle(state, LAYOUT, accepted=accepted)
        assert (decoded is not None) == accepted
        arrived += [decoded] if decoded is not None else []
    assert state.owed is not None
    learned = total([arrays(number) for number in range(len(fates))])
    for got, wanted in zip(total([*arrived, list(state.owed)]), learned, strict=True):
        assert np.abs(got - wanted).max(initial=0) < 1e-4


def test_a_refused_first_frame_leaves_exactly_the_update_owed() -> None:
    _, state = ef.send(Residual(), arrays(0), codec_from({"codec": "sign"}), LAYOUT)
    state, decoded = ef.settle(state, LAYOUT, accepted=False)
    assert decoded is None
    assert state.owed is not None
    assert [a.tobytes() for a in state.owed] == [a.tobytes() for a in arrays(0)]


def test_a_lossless_codec_leaves_nothing_owed() -> None:
    _, state = ef.send(Residual(), arrays(0), codec_from({"codec": "none"}), LAYOUT)
    state, _ = ef.settle(state, LAYOUT, accepted=True)
    assert state.owed is not None
    assert not any(array.any() for array in state.owed)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_or_infinity_is_named_and_leaves_the_residual_as_it_was(bad: float) -> None:
    _, state = ef.send(Residual(), arrays(0), codec_from({"codec": "sign"}), LAYOUT)
    state, _ = ef.settle(state, LAYOUT, accepted=True)
    assert state.owed is not None
    before = [array.tobytes() for array in state.owed]
    broken = arrays(1)
    broken[2][3, 4] = bad
    with pytest.raises(ConfigError, match="tensor 'w' holds NaN or infinity"):
        ef.send(state, broken, codec_from({"codec": "sign"}), LAYOUT)
    assert [array.tobytes() for array in state.owed] == before


def test_a_sum_that_overflows_is_refused_without_a_warning() -> None:
    huge = [np.full(spec.shape, 3e38, np.float32) for spec in LAYOUT.specs]
    with pytest.raises(ConfigError, match="holds NaN or infinity"):
        ef.send(Residual(owed=tuple(huge)), huge, codec_from({"codec": "none"}), LAYOUT)


def test_a_frame_in_flight_must_be_settled_before_the_next() -> None:
    _, state = ef.send(Residual(), arrays(0), codec_from({"codec": "none"}), LAYOUT)
    with pytest.raises(ConfigError, match="still open"):
        ef.send(state, arrays(1), codec_from({"codec": "none"}), LAYOUT)


def test_settling_twice_changes_nothing() -> None:
    _, state = ef.send(Residual(), arrays(0), codec_from({"codec": "sign"}), LAYOUT)
    settled, _ = ef.settle(state, LAYOUT, accepted=True)
    assert ef.settle(settled, LAYOUT, accepted=False) == (settled, None)


def test_the_caller_may_use_its_arrays_again_while_the_frame_is_in_flight() -> None:
    reused = arrays(0)
    _, state = ef.send(Residual(), reused, codec_from({"codec": "sign"}), LAYOUT)
    for array in reused:
        array[...] = 99.0
    state, decoded = ef.settle(state, LAYOUT, accepted=True)
    assert decoded is not None
    assert state.owed is not None
    for owed, got, wanted in zip(state.owed, decoded, arrays(0), strict=True):
        assert np.allclose(owed + got, wanted, atol=1e-6)


def test_the_step_of_the_last_frame_is_kept_for_the_next_guess() -> None:
    _, state = ef.send(Residual(), arrays(0), codec_from({"codec": "ecsq", "bits": 1.0}), LAYOUT)
    assert state.step is not None
    _, other = ef.send(Residual(step=state.step), arrays(1), codec_from({"codec": "sign"}), LAYOUT)
    assert other.step == state.step


def test_the_error_measure_is_the_lost_share_of_the_energy() -> None:
    wanted = [np.array([3.0, 4.0], np.float32), np.array(12.0, np.float32)]
    assert ef.norm(wanted) == pytest.approx(13.0)
    assert ef.nmse(wanted, [np.zeros(2, np.float32), np.array(12.0, np.float32)]) == pytest.approx(25 / 169)
    assert ef.nmse(wanted, wanted) == 0.0
    zeros = [np.zeros(2, np.float32), np.array(0.0, np.float32)]
    assert ef.nmse(zeros, zeros) == 0.0
    assert ef.nmse(zeros, wanted) == np.inf


@pytest.mark.parametrize("config", [{"codec": "randomk", "fraction": 0.05}, {"codec": "ternary"}], ids=str)
def test_an_unbiased_codec_owes_nothing_once_it_arrived_and_everything_if_it_did_not(
    config: dict[str, Any],
) -> None:
    state = Residual()
    for number in range(30):  # fed back, random-k's error would grow nineteenfold in energy with every frame
        _, state = ef.send(state, arrays(0), codec_from(config), LAYOUT, seed=number)
        state, decoded = ef.settle(state, LAYOUT, accepted=True)
        assert decoded is not None
        assert ef.norm(decoded) < 100 * ef.norm(arrays(0))
        assert state.owed is None
    _, state = ef.send(state, arrays(0), codec_from(config), LAYOUT)
    state, _ = ef.settle(state, LAYOUT, accepted=False)
    assert state.owed is not None
    assert [a.tobytes() for a in state.owed] == [a.tobytes() for a in arrays(0)]
