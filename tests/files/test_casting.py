from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.files.models import raw

from phloem.errors import ConfigError
from phloem.files.casting import WORDS, cast, type_of
from phloem.files.dtypes import CODED
from phloem.seeds import generator


def narrowed(values: Any, to: str) -> tuple[Any, int]:
    """What `cast` makes of values, as float64."""
    dtype = str(np.asarray(values).dtype)
    out, beyond = cast(np.ascontiguousarray(values).view(np.uint8), dtype, to)
    if to == "bfloat16":
        return (out.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64), beyond
    with np.errstate(invalid="ignore"):  # NumPy warns of NaN of some kinds
        return out.view(to).astype(np.float64), beyond


@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_values_are_rounded_as_numpy_rounds_them(wide: str) -> None:
    values = (generator(0, "cast").normal(size=5000) * np.exp2(np.arange(5000) % 50 - 40)).astype(wide)
    for to in ("float16", "float32"):
        found, beyond = narrowed(values, to)
        assert np.array_equal(found, values.astype(to).astype(np.float64))
        assert beyond == 0
    found, _ = narrowed(values, "bfloat16")
    assert np.abs(found / values - 1).max() <= 2.0**-8


def test_torch_rounds_to_bfloat16_in_the_same_way() -> None:
    torch = pytest.importorskip("torch")
    draw = generator(0, "bf16")
    bits = draw.integers(0, 1 << 32, size=20_000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.isnan(values) | (np.abs(values) < 3.38e38) | np.isinf(values)]
    wanted = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(narrowed(values, "bfloat16")[0].astype(np.float32), wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("to", "largest", "threshold"),
    [
        ("float16", 65504.0, 65520.0),
        ("bfloat16", 2.0**128 - 2.0**120, 2.0**128 - 2.0**119),
        ("float32", 2.0**128 - 2.0**104, 2.0**128 - 2.0**103),
    ],
)
def test_what_does_not_fit_is_counted_and_nothing_else(to: str, largest: float, threshold: float) -> None:
    below = np.nextafter(threshold, 0.0)
    if to == "bfloat16":  # by way of float32
        below = float(np.nextafter(np.float32(threshold), np.float32(0.0)))
    values = np.array(
        [largest, -largest, below, -below, threshold, -threshold, 1e300, 0.0, np.inf, -np.inf, np.nan]
    )
    found, beyond = narrowed(values, to)
    assert beyond == 3
    wanted = [largest, -largest, largest, -largest, largest, -largest, largest, 0.0, np.inf, -np.inf, np.nan]
    assert np.array_equal(found, wanted, equal_nan=True)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.sampled_from(sorted(WORDS.values())))
def test_the_count_is_of_finite_values_that_would_become_infinite(values: list[float], to: str) -> None:
    array = np.array(values, np.float32)
    found, beyond = narrowed(array, to)
    finite = np.isfinite(array)
    assert np.isfinite(found[finite]).all()
    assert np.array_equal(np.isnan(found), np.isnan(array))
    assert np.array_equal(found[np.isinf(array)], array[np.isinf(array)])
    if to == "float16":
        with np.errstate(over="ignore"):
            assert beyond == np.count_nonzero(np.isinf(array.astype(np.float16)) & finite)


@pytest.mark.parametrize("dtype", CODED)
def test_wider_and_equal_types_keep_every_value(dtype: str) -> None:
    values = generator(0, "wide").normal(size=300).astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    data = raw(dtype, values if dtype != "float64" else values.astype(np.float64))
    for to in {dtype, "float32"} - {"float64"}:
        out, beyond = cast(data, dtype, to)
        assert beyond == 0
        if to == dtype:
            assert out.tobytes() == data.tobytes()
        else:
            assert np.array_equal(out.view(np.float32), values)


def test_a_large_tensor_is_cast_in_pieces_like_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (generator(0, "pieces").standard_cauchy(size=1000) * 1e4).astype(np.float32)
    values[[3, 500, 999]] = np.nan, np.inf, -np.inf
    whole, beyond = cast(values.view(np.uint8), "float32", "float16")
    monkeypatch.setattr("phloem.files.casting._PIECE", 7)
    again, also = cast(values.view(np.uint8), "float32", "float16")
    assert (again.tobytes(), also) == (whole.tobytes(), beyond)
    assert beyond > 10


def test_a_nan_stays_one_whatever_its_payload() -> None:
    bits = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    for to in WORDS.values():
        found, beyond = narrowed(bits.view(np.float32), to)
        assert np.isnan(found).all()
        assert np.signbit(found).tolist() == [False, True, False, True]
        assert beyond == 0


def test_other_words_are_refused() -> None:
    assert [type_of(word) for word in ("bf16", "fp16", "fp32")] == ["bfloat16", "float16", "float32"]
    for word in ("int8", "float16", "", "fp64"):
        with pytest.raises(ConfigError, match="dtype: expected one of bf16, fp16, fp32, found"):
            type_of(word)
