"""The words of `phloem encode`, `decode`, `inspect` and `bench`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.options import DebugOption, KernelChoice, KernelsOption

_ENCODE_HELP = """Encode a model, or what it differs from another by, in a frame.

Takes safetensors files. Float tensors are coded with the error or size that you ask for, all at one
step; integers and the like travel exactly. Files of any size are read tensor by tensor.

\b
Examples:
  phloem encode tuned.safetensors --base base.safetensors -o tuned.phl --bits 0.1
      what fine-tuning changed, at a tenth of a bit per parameter
  phloem encode tuned.safetensors --base base.safetensors -o tuned.phl --bytes 2000000
      as good as two million bytes can be, never more
  phloem encode tuned.safetensors --base base.safetensors -o tuned.phl --lossless
      every bit, in every type
  phloem encode model.safetensors -o model.phl --nmse 0.0001
      the tensors themselves; the error's energy is a ten-thousandth of theirs

\b
The way back:
  phloem decode tuned.phl --base base.safetensors -o again.safetensors
"""
_DECODE_HELP = """Decode a frame to a safetensors file.

The tensors have the types of the file that was encoded. The base is compared by the digest of its
state before anything is written; the file appears only once it is whole.

\b
Examples:
  phloem decode tuned.phl --base base.safetensors -o tuned.safetensors
  phloem decode model.phl -o model.safetensors
"""
_INSPECT_HELP = """Show what a frame holds, without decoding it.

Prints its size, codec, measured error and base, and a row per tensor. The checksum is compared, so a
frame that was damaged on its way is found out here.

\b
Examples:
  phloem inspect tuned.phl
  phloem inspect tuned.phl --json | jq .bits_per_parameter
"""
_BENCH_HELP = """Measure codecs on this machine.

\b
  phloem bench codecs --help
"""
_CODECS_HELP = """Compare every codec on your own update.

Prints bits, error and speed as a table in order of bits per parameter, and draws plot.png: error against
bits, and speed against bits. Without --update it measures on a small training run made here. Of a large
update the first rows of every tensor are taken.

\b
Examples:
  phloem bench codecs
  phloem bench codecs --update tuned.safetensors --base base.safetensors -o codecs.png
  phloem bench codecs --codec ecsq --codec topk --json
"""


class Effort(StrEnum):
    """How hard the encoder works at equal quality."""

    fast = "fast"
    balanced = "balanced"
    best = "best"


NewArgument = Annotated[
    Path, typer.Argument(metavar="NEW.safetensors", help="The model to encode.", show_default=False)
]
FrameArgument = Annotated[
    Path, typer.Argument(metavar="FRAME", help="What phloem encode wrote.", show_default=False)
]
FrameOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="FRAME", help="Where the frame goes.", show_default=False)
]
FileOption = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="OUT.safetensors", help="Where the model goes.", show_default=False),
]
BaseOption = Annotated[
    Path | None,
    typer.Option(
        metavar="BASE.safetensors",
        help="The model that the receiver has; without it the tensors are the update.",
    ),
]
BaseAgainOption = Annotated[
    Path | None,
    typer.Option(metavar="BASE.safetensors", help="The base that the frame was made against, if it was."),
]
BitsOption = Annotated[
    float | None,
    typer.Option(
        metavar="R",
        help="Bits per parameter of the whole frame, met within 2 % (5 % below 0.25) where sizes do not jump.",
    ),
]
BytesOption = Annotated[
    int | None, typer.Option("--bytes", metavar="N", help="Bytes of the whole frame, never exceeded.")
]
ErrorOption = Annotated[
    float | None,
    typer.Option(metavar="E", help="Energy of the error ÷ energy of the update, met within 2 %."),
]
StepOption = Annotated[
    float | None, typer.Option(metavar="S", help="The quantiser's step, in the tensors' own unit.")
]
LosslessOption = Annotated[bool, typer.Option("--lossless", help="Every bit comes back, in every type.")]
CodecOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Another codec than ecsq, as NAME or NAME:key=value,key=value; repeated, a chain of them.",
    ),
]
EffortOption = Annotated[
    Effort | None,
    typer.Option(help="How hard the encoder works at equal quality; fast if not said.", show_default=False),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print what phloem inspect --json does, and nothing else, on standard output."
    ),
]
InspectJsonOption = Annotated[
    bool, typer.Option("--json", help="Print it as JSON on standard output, and nothing else there.")
]
UpdateOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="An update, or with --base a model, as a safetensors file."),
]
UpdateBaseOption = Annotated[
    Path | None, typer.Option(metavar="BASE", help="What FILE is to be compared with.")
]
CodecNameOption = Annotated[
    list[str] | None, typer.Option("--codec", metavar="NAME", help="Only this codec; repeatable.")
]
PlotOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="PLOT", help="The picture: PNG, SVG or PDF by its ending.")
]
RowsJsonOption = Annotated[
    bool, typer.Option("--json", help="Print the rows as JSON on standard output, and nothing else there.")
]


def encode_command(
    new: NewArgument,
    out: FrameOption,
    base: BaseOption = None,
    bits: BitsOption = None,
    bytes_: BytesOption = None,
    nmse: ErrorOption = None,
    step: StepOption = None,
    lossless: LosslessOption = False,
    codec: CodecOption = None,
    effort: EffortOption = None,
    json_: JsonOption = False,
    kernels: KernelsOption = KernelChoice.auto,
    debug: DebugOption = False,
) -> None:
    """Encode a model, or what it differs from another by, in a frame."""
    from phloem.cli.files import EncodeCall, run_encode

    run_encode(
        EncodeCall(
            new=new,
            base=base,
            out=out,
            bits=bits,
            bytes=bytes_,
            nmse=nmse,
            step=step,
            lossless=lossless,
            codecs=tuple(codec or ()),
            effort=effort.value if effort else None,
            json=json_,
            kernels=kernels.value,
        )
    )


def decode_command(
    frame: FrameArgument,
    out: FileOption,
    base: BaseAgainOption = None,
    kernels: KernelsOption = KernelChoice.auto,
    debug: DebugOption = False,
) -> None:
    """Decode a frame to a safetensors file."""
    from phloem.cli.files import run_decode

    run_decode(frame, base, out, kernels.value)


def inspect_command(
    frame: FrameArgument, json_: InspectJsonOption = False, debug: DebugOption = False
) -> None:
    """Show what a frame holds."""
    from phloem.cli.files import run_inspect

    run_inspect(frame, as_json=json_)


def bench_codecs_command(
    update: UpdateOption = None,
    base: UpdateBaseOption = None,
    codec: CodecNameOption = None,
    out: PlotOption = Path("plot.png"),
    json_: RowsJsonOption = False,
    kernels: KernelsOption = KernelChoice.auto,
    debug: DebugOption = False,
) -> None:
    """Compare every codec on your own update."""
    from phloem.cli.bench import BenchCall, run_bench

    run_bench(BenchCall(update, base, tuple(codec or ()), out, json_, kernels.value))


def add_to(app: typer.Typer) -> None:
    """Gives the app these commands."""
    app.command("encode", help=_ENCODE_HELP)(encode_command)
    app.command("decode", help=_DECODE_HELP)(decode_command)
    app.command("inspect", help=_INSPECT_HELP)(inspect_command)
    bench = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    bench.command("codecs", help=_CODECS_HELP)(bench_codecs_command)

    @bench.callback(help=_BENCH_HELP)
    def bench_command() -> None:
        """What is measured is a command of its own."""

    app.add_typer(bench, name="bench")
