"""The arithmetic of benchmarks/: a wrong mean or curve would be a wrong claim."""

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    pytest.importorskip("scipy")
    names = ("measuring", "rates", "ideal", "ddp")
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(SCRIPTS))


def test_the_geometric_mean_of_a_number_and_its_inverse_is_one(scripts) -> None:
    assert scripts["measuring"].geometric_mean([4.0, 0.25]) == pytest.approx(1.0)
    assert scripts["measuring"].geometric_mean([1, 8]) == pytest.approx(math.sqrt(8))


def test_interpolation_gives_the_points_back_and_nothing_outside(scripts) -> None:
    bits_at = scripts["rates"].bits_at
    nmse, bits = [0.9, 0.5, 0.1], [0.1, 0.5, 2.0]
    assert [bits_at(n, nmse, bits) for n in nmse] == pytest.approx(bits)
    assert bits_at(0.95, nmse, bits) is None
    assert bits_at(0.05, nmse, bits) is None
    # straight in log bits over logit NMSE: half-way from logit 0 to logit log 9 is an NMSE of 0.25
    assert bits_at(0.25, nmse, bits) == pytest.approx(1.0)


def test_interpolation_is_within_a_hundredth_of_a_known_curve(scripts) -> None:
    nmse = [2 ** (-2 * r) for r in np.geomspace(0.01, 4, 25)]
    bits = list(np.geomspace(0.01, 4, 25))
    for rate in (0.0173, 0.222, 1.37, 3.3):
        assert scripts["rates"].bits_at(2 ** (-2 * rate), nmse, bits) == pytest.approx(rate, rel=0.01)


def test_the_same_coder_is_at_one_everywhere_and_half_the_bits_at_a_half(scripts) -> None:
    rates = scripts["rates"]
    theirs = [{"bits": b, "nmse": 2 ** (-2 * b)} for b in (0.04, 0.1, 0.3, 0.6, 2.0)]
    ours = [rates.Point(p["bits"], p["bits"] / 2, p["nmse"]) for p in theirs]
    rows = {"a": rates.ratios(ours, theirs), "b": rates.ratios(ours, theirs[1:3])}
    assert rates.summary(rows, "file")["mean"] == pytest.approx(1.0)
    assert rates.summary(rows, "wire")["mean"] == pytest.approx(0.5)
    assert rates.summary(rows, "file")["updates"]["a"]["points"] == 4
    assert rates.summary(rows, "wire")["worst_up_to"]["3"]["ratio"] == pytest.approx(0.5)


def test_every_update_weighs_the_same_in_the_mean(scripts) -> None:
    many = [{"bits": 0.1, "file": 0.5}] * 9
    rows = {"many": many, "one": [{"bits": 0.1, "file": 2.0}]}
    assert scripts["rates"].summary(rows, "file")["mean"] == pytest.approx(1.0)


def test_points_outside_the_window_count_only_for_the_worst_ratio(scripts) -> None:
    rows = {"a": [{"bits": 0.01, "file": 3.0}, {"bits": 0.1, "file": 0.5}, {"bits": 3.5, "file": 4.0}]}
    found = scripts["rates"].summary(rows, "file")
    assert found["mean"] == pytest.approx(0.5)
    assert found["worst_up_to"]["3"]["ratio"] == 3.0
    assert found["worst_up_to"]["4"]["ratio"] == 4.0


def test_the_front_drops_what_is_beaten(scripts) -> None:
    points = [{"bits": b, "nmse": n} for b, n in ((1.0, 0.1), (0.5, 0.9), (0.6, 0.95), (0.7, 0.6))]
    front = scripts["rates"].front(points)
    assert [p["bits"] for p in front] == [0.5, 0.7, 1.0]


@pytest.mark.parametrize(
    ("name", "bits", "nmse"),
    [  # research/codecs.md, table 1.3
        ("gaussian", 0.1, 0.909),
        ("gaussian", 1, 0.348),
        ("laplace", 0.5, 0.486),
        ("laplace", 2, 0.0729),
        ("student-t3", 0.25, 0.507),
        ("student-t3", 2, 0.0597),
        ("ggd-half", 0.1, 0.653),
        ("ggd-half", 4, 2.29e-3),
    ],
)
def test_the_ideal_curve_is_the_published_one(scripts, name: str, bits: float, nmse: float) -> None:
    ideal = scripts["ideal"]
    source = ideal.SOURCES[name]
    near = 0.5 * math.log2(
        1 / nmse
    )  # a step of about this many octaves under the deviation, give or take two
    steps = [2 ** (k / 8) for k in range(int(-8 * near) - 8, int(-8 * near) + 28)]
    found = ideal.curves(lambda step, zone: ideal.of_source(source, step, zone), steps)
    assert ideal.ideal_bits(nmse, found) == pytest.approx(bits, rel=0.012, abs=0.004)


def test_the_ideal_of_a_sample_is_the_ideal_of_its_distribution(scripts) -> None:
    ideal = scripts["ideal"]
    values = np.random.default_rng(5).laplace(0, 1 / math.sqrt(2), 1 << 18).astype(np.float32)
    sample = ideal.Sample(values)
    for step, zone in ((2.5, 0.8), (1.7, 0.7), (0.3, 0.55)):
        bits, nmse = sample.at(step, zone)
        expected = ideal.of_source(ideal.SOURCES["laplace"], step * sample.rms, zone)
        assert bits == pytest.approx(expected[0], rel=0.02)
        assert nmse == pytest.approx(expected[1], rel=0.02)


def test_no_effort_beats_the_ideal_of_independent_values_by_more_than_luck(scripts) -> None:
    from phloem import feedback as ef
    from phloem.codecs.ecsq import Ecsq
    from phloem.tensors import Layout

    ideal = scripts["ideal"]
    values = np.random.default_rng(6).standard_normal(1 << 16).astype(np.float32)
    layout = Layout.of({"values": values})
    sample = ideal.Sample(values)
    found = ideal.curves(sample.at, [2 ** (k / 8) for k in range(-24, 24)])
    body = Ecsq(step=1.0).encode([values], layout)
    limit = ideal.ideal_bits(ef.nmse([values], Ecsq.decode(body, layout)), found)
    assert -0.002 < 8 * len(body) / layout.size - limit < 0.06


def test_steps_to_a_loss_are_straight_over_the_logarithm_of_steps(scripts) -> None:
    curve = [(50, 3.0), (100, 2.0), (200, 1.5)]
    steps_to = scripts["ddp"].steps_to
    assert [steps_to(curve, loss) for _, loss in curve] == pytest.approx([50, 100, 200])
    assert steps_to(curve, 2.5) == pytest.approx(50 * math.sqrt(2.0))
    assert steps_to(curve, 4.0) == pytest.approx(25)
    assert steps_to(curve, 1.0) == pytest.approx(400)


def test_a_way_that_is_as_far_after_twice_the_steps_has_inflation_two(scripts) -> None:
    curve = [[step, 5.0 - math.log(step)] for step in (50, 100, 150)]
    late = [[step, 5.0 - math.log(step / 2)] for step in (50, 100, 150)]
    rows = scripts["ddp"].inflation(
        {"bf16": {"runs": [{"losses": curve}]}, "late": {"runs": [{"losses": late}]}}
    )
    assert rows["late"]["mean"] == pytest.approx(2.0)
    assert rows["bf16"]["mean"] == pytest.approx(1.0)


def test_the_levels_of_ddp_cost_what_was_measured(scripts) -> None:
    pytest.importorskip("torch")
    from phloem.engines.torch.settings import LEVELS

    ddp = scripts["ddp"]
    measured = ddp.inflation(ddp.losses_of_record())
    for rank, bits, inflation in LEVELS:
        way = ddp.OURS["code-lm"][f"phloem-{rank}"]
        assert (way["matrix_rank"], way["bits"]) == (rank, bits)
        assert inflation == round(measured[f"phloem-{rank}"]["mean"], 2)
