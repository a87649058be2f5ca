"""What became of a model that was made smaller, as people read it."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phloem.files.compressing import Compressed
from phloem.ui.figures import rate_text, ratio_text, size_text


def print_compressed(console: Console, source: str, name: str, made: Compressed) -> None:
    """Prints sizes, zeros and error of the whole, then of every tensor."""
    smaller = ratio_text(made.bytes_before / made.bytes)
    console.print(Text(f"{name}: {smaller} smaller than {source}", style="bold"))
    facts = Table.grid(padding=(0, 3))
    facts.add_row("before", size_text(made.bytes_before))
    facts.add_row(
        "after", f"{size_text(made.bytes)}, {rate_text(made.bits_per_parameter)} bits per parameter"
    )
    facts.add_row("zeros", f"{made.sparsity:.1%} of the weights in matrices")
    facts.add_row("error", f"NMSE {made.nmse:.3g}" if made.nmse else "none")
    console.print(facts)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for heading in ("type", "shape"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "zeros", "NMSE"):
        table.add_column(heading, no_wrap=True, justify="right")
    for row in made.tensors:
        shape = " × ".join(map(str, row.shape)) or "–"
        zeros = f"{row.zeros / row.parameters:.1%}" if row.parameters else "–"
        cells = (row.name, row.dtype, shape, f"{row.parameters:,}", zeros, f"{row.nmse:.3g}")
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
