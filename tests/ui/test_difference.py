from __future__ import annotations

import dataclasses
import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from tests.ui.test_audit_page import Outline
from tests.ui.test_report_in_a_browser import _chromium as chromium

from phloem.branches.comparing import Difference, Figures, Row
from phloem.seeds import generator
from phloem.tensors import TensorSpec
from phloem.ui.difference import SHOWN_TENSORS, Sides, balance, bar, print_difference
from phloem.ui.difference_page import SHOWN_LAYERS, SHOWN_NAMES, SHOWN_ROWS, difference_page

NAMES = re.compile(r"^ ([a-z]\S*) +[\d.]+ ?k? +[<>\d]", re.MULTILINE)  # of the rows of a table
SIDES = Sides("clinic-a", "clinic-b", "trunk~3")
EVIL = '\x1b[31m[bold]"><script>alert(1)</script><img src=x onerror=alert(1)>\u202e'


def row(name: str, size: int, change: float, cosine: float, *, base: bool = True) -> Row:
    """A tensor that moved by `change` on both ways, at this cosine."""
    norm = 4e-4 * size
    way = norm * change**2
    apart = 2 * way * (1 - cosine)
    ways = (cosine * way, way, way, size // 2, int(size * (1 + cosine) / 4)) if base else ()
    if not change:
        return Row(name, (size,), "float32", "float32", True, Figures(parameters=size))
    figures = Figures(change, size, size, size - 1, apart, norm, *ways)
    return Row(name, (size,), "float32", "float32", False, figures)


def made(layers: int = 4, *, base: bool = True) -> Difference:
    """Two models of some layers, the later of which differ more; one tensor is the same."""
    draw = generator(0, "difference")
    rows = [row("wte.weight", 50_000, 0.002, 0.3, base=base), row("wpe.weight", 1000, 0.0, 0.0)]
    for number in range(layers):
        cosine = float(np.clip(0.6 - number / layers + 0.1 * draw.normal(), -1, 1))
        names = (f"h.{number}.{kind}.weight" for kind in ("attn", "mlp"))
        rows += [row(name, 10_000, 0.01 * (number + 1), cosine, base=base) for name in names]
    rows.sort(key=lambda one: one.name)
    return Difference("a" * 64, "b" * 64, "c" * 64 if base else None, tuple(rows))


def same() -> Difference:
    return Difference("a" * 64, "a" * 64, None, (row("w", 5, 0.0, 0.0),))


def odd(name: str = "head.weight") -> Difference:
    """Everything that can be said besides figures."""
    found = made()
    rows = list(found.rows)
    rows[0] = dataclasses.replace(rows[0], not_finite=(2, 0, 1))
    rows[1] = dataclasses.replace(rows[1], dtype_b="bfloat16", name=name)
    many = tuple(TensorSpec(f"extra.{number}", (3,)) for number in range(SHOWN_NAMES + 7))
    pair = (TensorSpec(name, (4, 2)), TensorSpec(name, (2, 4)))
    return dataclasses.replace(
        found,
        rows=tuple(rows),
        only_a=(TensorSpec(name, ()),),
        only_b=many,
        unlike=(pair,),
        not_in_base=(name,),
    )


def printed(found: Difference, sides: Sides = SIDES, width: int = 120, *, layers: bool = False) -> str:
    file = io.StringIO()
    print_difference(Console(file=file, width=width, highlight=False), found, sides, layers=layers)
    return file.getvalue()


# -- at a terminal ---------------------------------------------------------------------------------------------------


def test_it_begins_with_the_comparison_in_one_sentence() -> None:
    assert printed(made()).startswith("From clinic-a to clinic-b: 9 of 10 tensors differ.\n")
    assert printed(same()).startswith("From clinic-a to clinic-b: the same to the bit.\n")
    alone = dataclasses.replace(same(), only_a=(TensorSpec("x", ()),))
    assert "1 tensor that both have, the same to the bit." in printed(alone)
    assert "no tensor in common." in printed(dataclasses.replace(alone, rows=()))


def test_the_figures_of_the_whole_are_said_with_what_they_are_of() -> None:
    text = " ".join(printed(made()).split())
    total = made().total.figures
    assert f"values that differ {total.changed:,} of {total.parameters:,}" in text
    assert total.cosine is not None
    assert f"since trunk~3 cosine {total.cosine:+.3f} between their changes" in text
    assert "clinic-b moved 1.00× as far as clinic-a" in text
    assert "since" not in printed(made(base=False))
    still = dataclasses.replace(made(), rows=(row("w", 9, 0.1, 1.0, base=False),))
    assert "since trunk~3 –" in " ".join(printed(still).split())
    figures = dataclasses.replace(still.rows[0].figures, way_b=2.0)
    moved = dataclasses.replace(still, rows=(dataclasses.replace(still.rows[0], figures=figures),))
    assert "since trunk~3 clinic-a has not moved" in " ".join(printed(moved).split())


def test_with_layers_every_layer_has_a_row_in_order() -> None:
    text = printed(made(12), layers=True)
    names = NAMES.findall(text)
    assert names == [*(f"h.{number}" for number in range(12)), "wpe", "wte"]


def test_without_layers_the_tensors_that_changed_most_come_first_and_the_rest_is_counted() -> None:
    text = printed(made(12))
    names = NAMES.findall(text)
    changes = {one.name: one.figures.relative or 0.0 for one in made(12).rows}
    assert names == sorted(names, key=lambda name: (-changes[name], name))
    assert changes[names[0]] == max(changes.values())
    assert len(names) == SHOWN_TENSORS
    assert "… and 5 more that changed less" in text
    assert "wpe" not in text
    grown = row("new", 5, 0.1, 0.0)
    grown = dataclasses.replace(grown, figures=dataclasses.replace(grown.figures, a=0.0))
    first = dataclasses.replace(made(), rows=(*made().rows, grown))
    assert NAMES.findall(printed(first))[0] == "new"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 118, 119, 120, 160, 240])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("layers", [True, False])
def test_a_table_fits_its_terminal(width: int, base: bool, layers: bool) -> None:
    text = printed(made(base=base), width=width, layers=layers)
    assert max(map(cell_len, text.splitlines())) <= width
    if width >= 80:
        assert "█" in text
        assert len(NAMES.findall(text)) == (6 if layers else 9)  # no name is broken
    if width >= 120:
        assert ("agree" in text) is base


def test_bars_are_as_long_as_what_they_show() -> None:
    for share in (0.0, 0.001, 0.25, 0.5, 0.99, 1.0):
        drawn = bar(share, 16)
        assert len(drawn) <= 16
        eighths = sum(8 if cell == "█" else "▏▎▍▌▋▊▉".index(cell) + 1 for cell in drawn)
        assert eighths == max(round(128 * share), int(share > 0))
        assert bar(share, 16, plain=True) == "#" * max(round(16 * share), int(share > 0))
    for value in (-1.0, -0.3, -1e-9, 0.0, 1e-9, 0.3, 1.0, None):
        left, right = balance(value, 7)
        assert (len(left), len(right)) == (7, 7)
        assert not (left.strip() and right.strip())
    assert balance(-1.0, 3) == ("███", "   ")
    assert balance(1.0, 3, plain=True) == ("   ", "###")
    assert balance(-1.0, 3, plain=True) == ("###", "   ")


def test_the_longest_bar_is_that_of_the_layer_that_changed_most() -> None:
    lines = [line for line in printed(made(), width=100, layers=True).splitlines() if line.startswith(" h.")]
    lengths = [line.split("│")[0].count("█") for line in lines]
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 6


def test_nothing_but_text_goes_to_a_pipe_and_colours_to_a_terminal() -> None:
    assert "\x1b" not in printed(odd())
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, color_system="standard", highlight=False)
    print_difference(console, made(), SIDES, layers=True)
    assert "\x1b[36m" in file.getvalue()


def test_a_terminal_that_knows_ascii_only_is_given_ascii_and_every_sign() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    console = Console(file=file, width=100, highlight=False)
    print_difference(console, made(12), SIDES, layers=True)
    print_difference(console, odd(), SIDES)
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "###" in text
    assert re.search(r" -0\.\d\d\d ", text)
    assert "|b - a| / |a|" in text


def test_what_cannot_be_compared_is_named_some_of_it_and_the_rest_counted() -> None:
    text = " ".join(printed(odd(), width=300).split())
    for words in (
        "only in clinic-a: head.weight",
        "only in clinic-b: extra.0, extra.1, extra.2, extra.3, extra.4 and 52 more",
        "of another form: head.weight (float32 4 × 2 → float32 2 × 4)",
        "of another type: head.weight (float32 → bfloat16)",
        "NaN or infinite, left out: h.0.attn.weight (2 in clinic-a, 1 in trunk~3)",
        "not in trunk~3: head.weight",
    ):
        assert words in text, words


def test_names_of_any_origin_move_no_cursor_and_are_no_markup() -> None:
    for layers in (True, False):
        text = printed(odd(EVIL), Sides(EVIL, EVIL, EVIL), width=400, layers=layers)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]" in text


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_page_shows_norms_and_cosines_of_every_layer() -> None:
    page = Outline(difference_page(made(), SIDES))
    assert [tag for tag, _ in page.tags].count("svg") == 4
    for words in (
        "From clinic-a to clinic-b : 9 of 10 tensors differ.",
        "Cosine of their changes since trunk~3",
        "How far each moved since trunk~3",
        "The 9 tensors that differ, most changed first",
        "phloem diff clinic-a clinic-b --html difference.html",
        "c" * 64,
    ):
        assert words in page.text, words
    for layer in made().layers:
        cosine = layer.figures.cosine
        assert layer.name in page.text
        assert cosine is None or f"{cosine:+.3f}".replace("-", "−") in page.text


def test_a_page_without_a_base_says_nothing_of_one() -> None:
    page = Outline(difference_page(made(base=False), Sides("trunk", "clinic-b")))
    assert [tag for tag, _ in page.tags].count("svg") == 2
    assert "osine" not in page.text
    assert "base" not in page.text


def test_a_page_about_the_same_model_twice_says_so_and_draws_nothing() -> None:
    page = Outline(difference_page(same(), SIDES))
    assert "the same to the bit." in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


def test_bars_lie_within_their_chart_and_to_the_side_of_their_sign() -> None:
    page = Outline(difference_page(made(), SIDES))
    bars = [fields for tag, fields in page.tags if tag == "rect" and fields["height"] != "12"]
    assert len(bars) == 5 + 5 + 10 + 5
    for fields in bars:
        x, width = float(fields["x"] or 0), float(fields["width"] or 0)
        assert 0 < x < x + width <= 453
    cosines = [layer.figures.cosine for layer in made().layers if layer.figures.cosine]
    signs = [fields["class"] for fields in bars[5:10]]
    assert signs == ["bar a" if cosine > 0 else "bar b" for cosine in cosines]


def test_of_many_layers_those_that_changed_most_are_drawn_and_all_are_listed() -> None:
    text = difference_page(made(SHOWN_LAYERS + 30), SIDES)
    page = Outline(text)
    assert f"Drawn are the {SHOWN_LAYERS} of {SHOWN_LAYERS + 32} layers that changed most" in page.text
    assert text.count('class="tick" text-anchor="end">h.') == 4 * SHOWN_LAYERS
    assert "<bdi>h.0</bdi>" in text
    assert "<bdi>h.93</bdi>" in text


def test_a_huge_model_has_a_page_of_bounded_size() -> None:
    text = difference_page(made(20_000), SIDES)
    assert f"and {40_001 - SHOWN_ROWS:,} more: phloem diff --json" in text
    assert f"and {20_002 - SHOWN_ROWS:,} more: phloem diff --json" in text
    assert len(text) < 2 << 20


def test_what_cannot_be_compared_is_on_the_page() -> None:
    page = Outline(difference_page(odd(), SIDES))
    assert "Not compared, or not fully" in page.text
    assert "extra.49 and 7 more" in page.text
    assert "2 in clinic-a, 1 in trunk~3" in page.text


def test_nothing_of_a_model_becomes_markup() -> None:
    text = difference_page(odd(EVIL), Sides(EVIL, EVIL, EVIL))
    for tag, attributes in Outline(text).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    for sign in ("<script", "<img", "url(", "@import", "\x1b", "\u202e"):
        assert sign not in text


@pytest.mark.service("chromium")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_draws_the_page(tmp_path: Path, width: int) -> None:
    path, shot = tmp_path / "difference.html", tmp_path / "shot.png"
    path.write_text(difference_page(made(12), SIDES), encoding="utf-8")
    chromium(tmp_path / "profile", f"--window-size={width},1600", f"--screenshot={shot}", path.as_uri())
    picture = shot.read_bytes()
    assert struct.unpack(">II", picture[16:24]) == (width, 1600)
    assert len(picture) > 50_000
    dom = chromium(tmp_path / "profile", "--dump-dom", path.as_uri()).decode()
    assert dom.count("<svg") == 4
    assert "<title>clinic-a → clinic-b · model difference</title>" in dom
