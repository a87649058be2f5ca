"""The comparison of codecs: figures that frames bear out, choices that follow the registry, pictures on request."""

import numpy as np
import pytest

from phloem.bench import Row, bench_codecs, cut, lines, sample_update
from phloem.bench.choices import choices
from phloem.bench.plot import family_of, write_plot
from phloem.bench.table import timed
from phloem.bench.updates import heavy_tailed
from phloem.codecs.registry import BY_NAME
from phloem.errors import ConfigError
from phloem.tensors import Layout

UPDATE = heavy_tailed(40, 60)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return bench_codecs(UPDATE, seconds=0)


def test_every_codec_that_makes_updates_smaller_has_a_row(rows: list[Row]) -> None:
    shown = {row.config["codec"] for row in rows}
    assert shown >= set(BY_NAME) - {"hadamard", "model"}


def test_no_codec_of_the_registry_refuses_an_ordinary_update(rows: list[Row]) -> None:
    assert {row.label: row.refused for row in rows if row.refused} == {}


def test_the_figures_are_those_of_the_frame(rows: list[Row]) -> None:
    from phloem.codecs.registry import codec_from
    from phloem.wire import frame as frames

    layout = Layout.of(UPDATE)
    row = next(row for row in rows if row.config["codec"] == "topk")
    frame = frames.pack(codec_from(row.config), layout.arrays(UPDATE), layout)
    decoded = frames.unpack(frame, layout).decode()[0]
    assert (row.bytes, row.bits) == (len(frame), 8 * len(frame) / 2400)
    error = np.square(decoded - UPDATE["weight"], dtype=np.float64).sum()
    assert row.nmse == pytest.approx(error / np.square(UPDATE["weight"], dtype=np.float64).sum(), rel=1e-6)
    assert row.encode > 0
    assert row.decode > 0


def test_a_lossless_codec_loses_nothing_and_more_bits_lose_less(rows: list[Row]) -> None:
    assert all(row.nmse == 0 for row in rows if row.lossless)
    fast = [row for row in rows if row.label.startswith("ecsq fast") and row.config["bits"] >= 0.25]
    assert len(fast) > 3
    assert [row.nmse for row in fast] == sorted((row.nmse for row in fast), reverse=True)


def test_only_the_named_codecs_and_a_near_miss_is_named() -> None:
    assert {row.config["codec"] for row in bench_codecs(UPDATE, names=["sign", "bf16"], seconds=0)} == {
        "sign",
        "bf16",
    }
    with pytest.raises(ConfigError, match="sing") as caught:
        list(choices(1.0, ["sing"]))
    assert "sign" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"w": np.zeros((3, 3), np.float32)}, "zero"),
        ({"w": np.array([1, np.nan], np.float32)}, "NaN"),
        ({}, "at least one"),
    ],
)
def test_an_update_without_figures_is_refused(update: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bench_codecs(update)


def test_labels_are_distinct(rows: list[Row]) -> None:
    labels = [row.label for row in rows]
    assert len(set(labels)) == len(labels)


def test_a_refused_row_is_a_line_with_its_reason() -> None:
    text = lines(
        [Row("a", {"codec": "a"}, refused="too large"), Row("b", {"codec": "b"}, 10, 4.0, 0.5, 1e6, 2e6)]
    )
    assert text[1].split() == ["b", "4.000", "0.5", "1", "2"]
    assert text[2].split(maxsplit=1) == ["a", "too large"]


def test_timing_runs_three_times_at_least() -> None:
    calls: list[int] = []
    assert timed(lambda: calls.append(1), 0.0)[0] is None
    assert len(calls) == 3


def test_a_large_update_is_cut_to_the_same_share_of_every_tensor() -> None:
    update = {"a": np.arange(4000, dtype=np.float32).reshape(400, 10), "b": np.ones(100), "c": np.float32(3)}
    small = cut(update, 410)
    assert {name: array.shape for name, array in small.items()} == {"a": (40, 10), "b": (10,), "c": ()}
    assert (small["a"] == update["a"][:40]).all()
    assert cut(update)["a"].shape == (400, 10)


def test_the_sample_is_the_same_every_time() -> None:
    first, words = sample_update()
    second, _ = sample_update()
    assert "parameters" in words or "values" in words
    assert all((first[name] == second[name]).all() for name in first)


def test_a_plot_is_a_png_with_something_in_it(rows: list[Row], tmp_path) -> None:
    pytest.importorskip("matplotlib")
    write_plot(rows, tmp_path / "plot.png", "a title")
    data = (tmp_path / "plot.png").read_bytes()
    assert data[:4] == b"\x89PNG"
    assert len(data) > 20_000
    with pytest.raises(ConfigError, match="nothing to draw"):
        write_plot([Row("a", {"codec": "a"}, refused="no")], tmp_path / "plot.png")


def test_lines_of_the_plot_are_codecs_with_their_effort() -> None:
    assert family_of(Row("topk fraction=0.1", {"codec": "topk", "fraction": 0.1})) == "topk"
    assert family_of(Row("topk x → int8", {"codec": "chain", "stages": []})) == "topk → …"
