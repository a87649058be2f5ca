"""Frames in files as people read them: a line for what was written, a table for what is in one."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phloem.files import Inspection
from phloem.ui.figures import rate_text, ratio_text, size_text

_DIGITS_OF_A_DIGEST = 16


def encoded_text(name: str, made: Inspection, source: str, source_bytes: int) -> str:
    """What `phloem encode` says at its end: sizes, then quality."""
    smaller = source_bytes / made.bytes
    lines = [
        f"{name}: {size_text(made.bytes)}, {rate_text(made.bits_per_parameter)} bits per parameter, "
        f"{ratio_text(smaller)} smaller than {source}",
        f"{codec_text(made)} · {error_text(made)} · {count_text(made)}",
    ]
    return "\n".join(lines)


def print_frame(console: Console, name: str, made: Inspection) -> None:
    """Prints what a frame holds: the figures, then a row per tensor."""
    facts = Table.grid(padding=(0, 3))
    facts.add_row("parameters", f"{made.parameters:,} in {len(made.tensors):,} tensors")
    facts.add_row("bytes", f"{made.bytes:,}")
    facts.add_row("bits per parameter", rate_text(made.bits_per_parameter))
    facts.add_row("codec", codec_text(made))
    facts.add_row("error", error_text(made))
    base = made.base_digest
    facts.add_row(
        "base", f"the state {base[:_DIGITS_OF_A_DIGEST]}…" if base else "none: the tensors themselves"
    )
    console.print(Text(name, style="bold"))
    console.print(facts)
    console.print(_tensors(made))


def codec_text(made: Inspection) -> str:
    """The codec, and its effort if it has one."""
    return f"{made.codec}, effort {made.effort}" if made.effort else made.codec


def error_text(made: Inspection) -> str:
    """The measured error in words."""
    if made.nmse is None:
        return "error not measured"
    if made.codec == "lossless":
        return "every bit comes back"
    return f"NMSE {made.nmse:.3g}"


def count_text(made: Inspection) -> str:
    """How much is in it."""
    tensors = len(made.tensors)
    return f"{made.parameters:,} parameters in {tensors:,} tensor{'s' if tensors != 1 else ''}"


def _tensors(made: Inspection) -> Table:
    """The tensors; what would be the same in every row is left out.

    The size of a section stands at the first of its tensors.
    """
    codecs, sections = {row.codec for row in made.tensors}, {row.section for row in made.tensors}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for heading in ("type", "shape"):
        table.add_column(heading, no_wrap=True)
    table.add_column("parameters", no_wrap=True, justify="right")
    if len(codecs) > 1:
        table.add_column("codec", no_wrap=True)
    if len(sections) > 1:
        table.add_column("section", no_wrap=True, justify="right")
        table.add_column("its bytes", no_wrap=True, justify="right")
    unsaid = set(sections)
    for row in made.tensors:
        cells = [row.name, row.dtype, " × ".join(map(str, row.shape)) or "–", f"{row.parameters:,}"]
        if len(codecs) > 1:
            cells.append(row.codec)
        if len(sections) > 1:
            cells += [str(row.section + 1), f"{row.section_bytes:,}" if row.section in unsaid else ""]
            unsaid.discard(row.section)
        table.add_row(*(Text(cell) for cell in cells))
    return table
