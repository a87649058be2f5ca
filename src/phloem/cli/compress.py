"""`phloem compress`: a model in a file, pruned and quantised into one frame."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.options import DebugOption, KernelChoice, KernelsOption

_HELP = """Make a model smaller: prune weights by magnitude, quantise the others.

Takes a safetensors file and writes a frame; phloem decode turns it back to a safetensors file, pruned
weights as zeros. Only matrices are pruned; what is pruned costs a fraction of a bit. Nothing is trained
here: for a mask that learning adapts to, see [prune] in a recipe.

\b
Examples:
  phloem compress model.safetensors -o small.phl --prune 0.5
      half of all weights, the smallest, are gone; the others keep every bit
  phloem compress model.safetensors -o small.phl --prune 2:4 --quantize int8
      two of every four weights along a row stay, in 8 bits each
  phloem compress model.safetensors -o small.phl --prune 0.5 --quantize ecsq:4
      the others at 4 bits each, entropy-coded, all at one step
  phloem decode small.phl -o small.safetensors
"""

_WIDE = 160  # columns of a table that goes to a file or to another program

_ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL.safetensors", help="The model.", show_default=False)
]
_OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="OUT", help="Where the frame goes.", show_default=False)
]
_PruneOption = Annotated[
    str | None,
    typer.Option(
        metavar="S|N:M",
        help="The share of all weights that goes, or how many of every M along a row stay.",
        show_default=False,
    ),
]
_QuantizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="CODEC",
        help="int8, int4, or ecsq:BITS with bits for each weight that stays; exact if not said.",
        show_default=False,
    ),
]
_JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]


def compress_command(
    model: _ModelArgument,
    out: _OutOption,
    prune: _PruneOption = None,
    quantize: _QuantizeOption = None,
    json_: _JsonOption = False,
    kernels: KernelsOption = KernelChoice.auto,
    debug: DebugOption = False,
) -> None:
    """Make a model smaller."""
    from rich.console import Console

    from phloem import kernels as backends
    from phloem.cli.printing import print_json
    from phloem.files.compressing import compress_file
    from phloem.ui.compressed import print_compressed
    from phloem.ui.meter import Meter

    backends.use(kernels.value)
    redraw = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    with Meter(sys.stderr.write, redraw=redraw) as progress:
        made = compress_file(model, out, prune=prune, quantize=quantize, progress=progress)
    if json_:
        print_json(made.to_json())
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    print_compressed(console, str(model), str(out), made)


def add_to(app: typer.Typer) -> None:
    """Gives the app this command."""
    app.command("compress", help=_HELP)(compress_command)
