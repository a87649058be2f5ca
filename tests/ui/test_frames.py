from __future__ import annotations

import io

import pytest
from rich.console import Console

from phloem.files.inspection import Inspection, TensorRow
from phloem.ui.frames import encoded_text, print_frame


def made(*tensors: TensorRow, nmse: float | None = 0.0123) -> Inspection:
    parameters = sum(row.parameters for row in tensors)
    return Inspection(parameters, 1000, 8000 / parameters, "ecsq", "fast", nmse, None, tensors)


PLAIN = TensorRow("layer.weight", "float32", (30, 20), 600, "ecsq", 0, 950)
WHOLE = TensorRow("steps", "int64", (), 1, "lossless", 1, 12)


def printed(inspection: Inspection, width: int) -> list[str]:
    out = io.StringIO()
    print_frame(Console(file=out, width=width), "update.phl", inspection)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_table_shows_only_what_differs() -> None:
    one = printed(made(PLAIN), 60)
    assert any(line.split() == ["tensor", "type", "shape", "parameters"] for line in one)
    two = printed(made(PLAIN, WHOLE), 80)
    assert any(line.split()[-4:] == ["codec", "section", "its", "bytes"] for line in two)
    assert any(line.split() == ["steps", "int64", "–", "1", "lossless", "2", "12"] for line in two)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_every_name_is_there_whole_at_any_width(width: int) -> None:
    name = "model.layers.0.self_attention.query.weight"
    row = TensorRow(name, "bfloat16", (4096, 4096), 1 << 24, "ecsq", 0, 100)
    lines = printed(made(row), width)
    assert max(map(len, lines)) <= width
    letters = iter("".join(lines))
    assert all(letter in letters for letter in name), "cut short"


def test_the_line_for_what_was_written_says_size_and_quality() -> None:
    text = encoded_text("update.phl", made(PLAIN, WHOLE), "new.safetensors", 2_500)
    assert text == (
        "update.phl: 1.00 kB, 13.3 bits per parameter, 2.5× smaller than new.safetensors\n"
        "ecsq, effort fast · NMSE 0.0123 · 601 parameters in 2 tensors"
    )
    assert "error not measured" in encoded_text("u", made(PLAIN, nmse=None), "n", 1)
