"""The parts of the bit stream, one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.errors import ConfigError, FormatError
from phloem.kernels import bits
from phloem.kernels.models import choose_hazards, gap_frequencies, gap_shift, hazard_frequencies
from phloem.kernels.rangecoder import RangeDecoder, RangeEncoder, slot_tokens
from phloem.kernels.rans import rans_decode, rans_encode
from phloem.kernels.steps import Step, read_head
from phloem.kernels.tables import CLASS_LOWEST, LADDER, log2_q16, tables
from phloem.kernels.tokens import extra_bits, first_values, tokenise

ITEMS = st.lists(
    st.one_of(
        st.tuples(st.just("bit"), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("raw"), st.integers(0, 30), st.integers(0, 2**30 - 1)),
        st.tuples(st.just("unsigned"), st.just(4), st.integers(0, 2**40)),
        st.tuples(st.just("signed"), st.just(4), st.integers(-(2**30), 2**30)),
    ),
    max_size=200,
)


@given(ITEMS)
def test_the_range_coder_returns_what_was_coded_and_knows_its_length(
    items: list[tuple[str, int, int]],
) -> None:
    def run(coder: RangeEncoder | RangeDecoder) -> list[int]:
        out = []
        for kind, at, value in items:
            if kind == "bit":
                out.append(coder.bit(at, value))
            elif kind == "raw":
                out.append(coder.raw(at, value & ((1 << at) - 1)))
            elif kind == "unsigned":
                out.append(coder.unsigned(at, 6, value))
            else:
                out.append(coder.signed(at, 6, value))
        return out

    encoder = RangeEncoder(16)
    wanted = run(encoder)
    data = encoder.finish()
    for tail in (b"", b"\xff\xff\xff\xff", b"\x00\x01"):
        decoder = RangeDecoder(16, b"head" + data + tail, 4)
        assert run(decoder) == wanted
        assert decoder.position == 4 + len(data)


def test_a_carry_runs_through_many_bytes() -> None:
    encoder = RangeEncoder(1)
    values = [(16, 65535)] * 40 + [(3, 7), (16, 0), (1, 1)] * 40
    for width, value in values:
        encoder.raw(width, value)
    decoder = RangeDecoder(1, encoder.finish(), 0)
    assert [decoder.raw(width) for width, _ in values] == [value for _, value in values]


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 45)), max_size=60))
def test_raw_bits_come_back(fields: list[tuple[int, int]]) -> None:
    widths = np.array([width for _, width in fields], dtype=np.int64)
    values = np.array([value & ((1 << width) - 1) for value, width in fields], dtype=np.int64)
    packed = bits.pack(bits.spread(values, widths))
    assert len(packed) == -(-int(widths.sum()) // 8)
    assert bits.gather(bits.unpack(packed)[: int(widths.sum())], widths).tolist() == values.tolist()


@pytest.mark.parametrize("count", [1, 31, 32, 33, 5000])
def test_lanes_return_the_tokens_and_the_position(count: int) -> None:
    rng = np.random.default_rng(count)
    tables_of = [hazard_frequencies(rng.integers(0, 41, size=size).tolist()) for size in (1, 7, 15)]
    runs = [(count, table) for table in tables_of]
    tokens = [rng.choice(len(t), size=count, p=np.array(t) / 4096) for t in tables_of]
    coded = [(run.astype(np.uint8), table) for run, table in zip(tokens, tables_of, strict=True)]
    data = rans_encode(coded)
    read, position = rans_decode(b"xyz" + data + b"tail", 3, runs)
    assert [run.tolist() for run in read] == [run.tolist() for run in tokens]
    assert position == 3 + len(data)
    with pytest.raises(FormatError):
        rans_decode(data[:-2], 0, runs)


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_gap_tables_are_complete_and_never_empty(others: int, ones: int) -> None:
    shift = gap_shift(others, ones)
    table = gap_frequencies(others, ones, shift)
    assert sum(table) == 4096
    assert min(table) >= 1
    assert len(slot_tokens(table)) == 4096


def test_a_gap_table_is_the_geometric_distribution() -> None:
    others, ones = 99_000, 1_000
    shift = gap_shift(others, ones)
    stay = 0.99 ** (1 << shift)
    wanted = [(1 - stay) * stay**t for t in range(15)] + [stay**15]
    assert np.abs(np.array(gap_frequencies(others, ones, shift)) / 4096 - wanted).max() < 0.001


@given(st.lists(st.integers(0, 40), max_size=15))
def test_hazard_tables_are_complete_and_never_empty(hazards: list[int]) -> None:
    table = hazard_frequencies(hazards)
    assert len(table) == len(hazards) + 1
    assert sum(table) == 4096
    assert min(table) >= 1


def test_chosen_hazards_follow_the_data() -> None:
    counts = np.array([9000, 900, 90, 10] + [0] * 12)
    table = np.array(hazard_frequencies(choose_hazards(counts, [20] * 15)))
    entropy = -(counts[:4] * np.log2(counts[:4] / counts.sum())).sum()
    assert -(counts[:4] * np.log2(table / 4096)).sum() < 1.01 * entropy


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=50))
def test_tokens_and_extra_bits_give_the_value_back(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    tokens = tokenise(array)
    rest = array - first_values(tokens)
    assert (rest >= 0).all()
    assert (rest < (1 << extra_bits(tokens))).all()


def test_the_tables_are_what_their_formulas_say() -> None:
    known = tables()
    levels = np.arange(-99, 100)
    assert np.allclose(known.half_octaves, 2.0 ** ((levels - 0.5) / 2), rtol=1e-15)
    assert np.allclose(known.octaves, 2.0 ** (np.arange(-49, 50) - 0.5), rtol=1e-15)
    assert np.allclose(known.logs / 65536, np.log2(1 + np.arange(4096) / 4096), atol=2**-15)
    classes = np.arange(CLASS_LOWEST, CLASS_LOWEST + known.class_costs.size)
    means = 2.0 ** (classes / 2)
    assert np.allclose(known.class_costs / 65536, np.log1p(means) / np.log(2), atol=2**-16)
    assert np.allclose(np.array(LADDER) / 65536, 1 / (1 + np.exp(-0.3 * np.arange(-20, 21))), atol=2**-16)
    assert abs(log2_q16(10**12, known.logs) / 65536 - math.log2(10**12)) < 0.001


@given(st.floats(2.0**-120, 2.0**120))
def test_a_step_survives_its_three_bytes(value: float) -> None:
    step = Step.near(value)
    assert abs(step.value / value - 1) <= 2.0**-12
    assert read_head(step.pack(0) + b"more") == (step, 0)
    assert read_head(step.pack(1)) == (step, 1)


@given(st.floats(1e-30, 1e25), st.floats(1.0, 2.0**30))
def test_a_fitted_step_times_any_magnitude_is_exact(value: float, reach: float) -> None:
    extent = float(np.float32(value * reach))
    fitted = Step.near(value).fitted(extent)
    most = math.floor(extent / fitted.value + 1.0)
    assert most < 2**24
    for magnitude in (most, most - 1, 3):
        product = magnitude * fitted.value
        assert float(np.float32(product)) == product


def test_bad_heads_are_refused() -> None:
    good = Step.near(1.0).pack(0)
    for bad in (
        b"",
        good[:2],
        good[:2] + b"\x10",
        good[:2] + b"\x03",
        b"\x00\x00\x00",
        b"\xff\x00\x00",
        Step.near(1.0).pack(1) + b"\0",
    ):
        with pytest.raises(FormatError):
            read_head(bad)
    with pytest.raises(ConfigError):
        Step(2048, 126)
