from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import phloem
from phloem.codecs.registry import BY_NAME
from phloem.errors import ConfigError, FormatError
from phloem.seeds import generator
from phloem.tensors import Layout, state_digest
from phloem.wire import frame as frames

CALLS: dict[str, dict[str, Any]] = {
    "none": {"codec": "none"},
    "lossless": {"codec": "lossless"},
    "bf16": {"codec": "bf16"},
    "int8": {"codec": "int8", "block": 32},
    "topk": {"codec": "topk", "fraction": 0.1},
    "sign": {"codec": "sign"},
    "fp16": {"codec": "fp16"},
    "fp8": {"codec": "fp8", "format": "e5m2"},
    "int4": {"codec": "int4"},
    "nf4": {"codec": "nf4"},
    "bins": {"codec": "bins", "bits": 3},
    "qsgd": {"codec": "qsgd", "seed": 4},
    "ternary": {"codec": "ternary"},
    "randomk": {"codec": "randomk", "fraction": 0.2},
    "threshold": {"codec": "threshold", "threshold": 0.5},
    "hadamard": {"codec": "hadamard"},
    "eden": {"codec": "eden", "bits": 2},
    "lowrank": {"codec": "lowrank", "rank": 2},
    "linear": {"codec": "linear", "step": 0.01},
    "zstd": {"codec": "zstd"},
    "chain": {"codec": "chain", "stages": [{"codec": "topk", "fraction": 0.1}, {"codec": "int4"}]},
    "model": {"codec": "model", "weights": {"codec": "int8"}},
    "ecsq": {"bits": 2.0},
    "ecsq by step": {"step": 0.05},
    "ecsq by error": {"nmse": 0.1},
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def update() -> dict[str, Any]:
    draw = generator(0, "api")
    return {
        "layer.weight": draw.normal(size=(30, 20)).astype(np.float32),
        "layer.bias": draw.normal(size=20).astype(np.float32),
        "scale": np.array(0.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }


def test_every_codec_can_be_called() -> None:
    assert {call.get("codec", "ecsq") for call in CALLS.values()} == set(BY_NAME)


@every_call
def test_an_update_comes_back_under_its_names_from_bytes_alone(call: dict[str, Any]) -> None:
    frame = phloem.encode(update(), **call)
    assert type(frame) is bytes
    decoded = phloem.decode(frame)
    assert {name: array.shape for name, array in decoded.items()} == {n: a.shape for n, a in update().items()}
    assert all(array.dtype == np.float32 for array in decoded.values())
    for as_buffer in (bytearray(frame), memoryview(frame)):
        assert state_digest(phloem.decode(as_buffer)) == state_digest(decoded)


@every_call
def test_numpy_and_torch_give_the_same_bytes_whatever_the_order_and_memory_layout(
    call: dict[str, Any],
) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in reversed(update().items())}
    tensors["layer.weight"] = tensors["layer.weight"].t().contiguous().t().requires_grad_()
    assert not tensors["layer.weight"].is_contiguous()
    assert phloem.encode(tensors, **call) == phloem.encode(update(), **call)


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_other_floats_are_coded_as_the_float32_that_they_are(kind: str) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array).to(getattr(torch, kind)) for name, array in update().items()}
    decoded = phloem.decode(phloem.encode(tensors, codec="none"))
    for name, tensor in tensors.items():
        assert np.array_equal(decoded[name], tensor.float().numpy())
    if kind != "bfloat16":
        arrays = {name: array.astype(kind) for name, array in update().items()}
        assert phloem.encode(arrays, codec="none") == phloem.encode(tensors, codec="none")


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool"])
def test_integers_are_refused_by_name(kind: str) -> None:
    counter = np.ones(3, kind)
    with pytest.raises(ConfigError, match="tensor 'batches_tracked' has type"):
        phloem.encode(update() | {"batches_tracked": counter}, bits=1.0)
    torch = pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="tensor 'batches_tracked' has type"):
        phloem.encode(update() | {"batches_tracked": torch.from_numpy(counter)}, bits=1.0)


@every_call
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_in_float32_is_refused_by_name(call: dict[str, Any], bad: float) -> None:
    with pytest.raises(ConfigError, match=r"tensor 'layer\.bias' holds NaN or infinity"):
        phloem.encode(update() | {"layer.bias": np.array([0.0, bad])}, **call)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({}, "exactly one of 'bits', 'bytes', 'step' and 'nmse'"),
        ({"bits": 1.0, "nmse": 0.1}, "exactly one of"),
        ({"bits": -1.0}, "'bits' must lie between"),
        ({"bits": "1"}, "'bits' must be a number"),
        ({"bits": 1.0, "effort": "heroic"}, "no effort 'heroic'"),
        ({"bits": 1.0, "codec": "topk"}, "codec 'topk' has no 'bits'"),
        ({"codec": "gzip"}, "there is no codec 'gzip'"),
        ({"codec": "topk", "fracton": 0.1}, "did you mean 'fraction'"),
        ({"bits": 1.0, "stp": 0.1}, "did you mean 'step'"),
    ],
)
def test_a_wrong_call_says_what_was_expected(call: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        phloem.encode(update(), **call)


def test_an_empty_update_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one tensor"):
        phloem.encode({}, bits=1.0)


def test_a_frame_from_the_wire_needs_the_layout() -> None:
    layout = Layout.of(update())
    frame = frames.pack(BY_NAME["sign"].from_config({}), layout.arrays(update()), layout)
    with pytest.raises(ConfigError, match="carries no layout"):
        phloem.decode(frame)
    assert set(phloem.decode(frame, layout)) == set(update())


def test_a_frame_that_claims_more_parameters_than_allowed_is_refused_before_they_exist() -> None:
    frame = phloem.encode({"x": np.zeros(3000, np.float32)}, bits=0.5)
    assert len(frame) < 100
    with pytest.raises(FormatError, match="claims 3000 parameters, more than 2999"):
        phloem.decode(frame, max_parameters=2999)
    assert phloem.decode(frame, max_parameters=3000)["x"].size == 3000


def test_feedback_owes_what_was_lost_and_loses_nothing_in_the_long_run() -> None:
    feedback, arrived = (
        phloem.Feedback(),
        {name: np.zeros_like(a, np.float64) for name, a in update().items()},
    )
    for _ in range(15):
        frame = feedback.encode(update(), codec="sign")
        arrived = {name: arrived[name] + array for name, array in phloem.decode(frame).items()}
    owed = feedback.state_dict()
    for name, array in update().items():
        assert np.allclose(arrived[name] + owed[name], 15 * array.astype(np.float64), atol=1e-4)


def test_a_refused_frame_is_owed_again() -> None:
    feedback = phloem.Feedback()
    feedback.encode(update(), codec="sign")
    feedback.refused()
    feedback.refused()
    assert state_digest(feedback.state_dict()) == state_digest(update())


def test_feedback_does_not_keep_the_callers_arrays() -> None:
    feedback, reused = phloem.Feedback(), update()
    decoded = phloem.decode(feedback.encode(reused, codec="sign"))
    reused["layer.weight"][...] = 1e6
    owed = feedback.state_dict()
    assert np.allclose(owed["layer.weight"] + decoded["layer.weight"], update()["layer.weight"], atol=1e-6)
    owed["layer.weight"][...] = 1e6
    assert np.abs(feedback.state_dict()["layer.weight"]).max() < 10


def test_a_saved_residual_continues_in_another_object() -> None:
    one, other = phloem.Feedback(), phloem.Feedback()
    assert one.state_dict() == {}
    other.load_state_dict(one.state_dict())
    one.encode(update(), codec="topk", fraction=0.1)
    other.load_state_dict(one.state_dict())
    assert state_digest(other.state_dict()) == state_digest(one.state_dict())
    assert one.encode(update(), codec="sign") == other.encode(update(), codec="sign")
    assert state_digest(other.state_dict()) == state_digest(one.state_dict())


def test_a_residual_may_be_saved_as_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    one, other = phloem.Feedback(), phloem.Feedback()
    one.encode(update(), codec="sign")
    other.load_state_dict({name: torch.from_numpy(array) for name, array in one.state_dict().items()})
    assert state_digest(other.state_dict()) == state_digest(one.state_dict())


@pytest.mark.parametrize("broken", [{"layer.bias": np.full(20, np.nan)}, {"layer.bias": np.ones(20, int)}])
def test_a_refused_call_leaves_the_residual_as_it_was(broken: dict[str, Any]) -> None:
    feedback = phloem.Feedback()
    feedback.encode(update(), codec="sign")
    before = state_digest(feedback.state_dict())
    with pytest.raises(ConfigError):
        feedback.encode(update() | broken, codec="sign")
    with pytest.raises(ConfigError):
        feedback.encode(update(), codec="no such codec")
    with pytest.raises(ConfigError, match="other tensors"):
        feedback.encode({"other": np.ones(3)}, codec="sign")
    assert state_digest(feedback.state_dict()) == before


@pytest.mark.parametrize("what", [5, 1 << 60, None, "frame"])
def test_what_is_no_bytes_is_no_frame(what: Any) -> None:
    with pytest.raises(TypeError):
        phloem.decode(what)


def test_tensors_without_values_in_plain_memory_are_refused_by_name() -> None:
    torch = pytest.importorskip("torch")
    for tensor, said in (
        (torch.eye(3).to_sparse(), "'w' is sparse"),
        (torch.zeros(3, device="meta"), "no values"),
    ):
        with pytest.raises(ConfigError, match=said):
            phloem.encode({"w": tensor}, bits=1.0)
    with pytest.raises(ConfigError, match="found a list"):
        phloem.encode([np.zeros(3, np.float32)], bits=1.0)  # type: ignore[arg-type]


def test_a_call_that_is_refused_leaves_the_frame_before_it_in_flight() -> None:
    feedback, again = phloem.Feedback(), phloem.Feedback()
    for one in (feedback, again):
        one.encode(update(), bits=0.1)
    with pytest.raises(ConfigError):
        feedback.encode(update(), bits=1.0, step=1.0)
    for one in (feedback, again):
        one.refused()
    assert feedback.encode(update(), bits=0.5) == again.encode(update(), bits=0.5)
