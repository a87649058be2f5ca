"""`phloem bench codecs`: every codec on an update, over `phloem.bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem import kernels
from phloem.bench import bench_codecs, lines, sample_update
from phloem.bench.plot import write_plot
from phloem.bench.updates import MOST_PARAMETERS
from phloem.cli.console import drawing
from phloem.cli.printing import print_json, say, stderr_meter
from phloem.errors import ConfigError
from phloem.files import read_update
from phloem.tensors import State
from phloem.ui.meter import Meter


@dataclass(frozen=True)
class BenchCall:
    """The words of one `phloem bench codecs`."""

    update: Path | None
    base: Path | None
    codecs: Sequence[str]
    out: Path | None
    json: bool
    kernels: Any


def run_bench(call: BenchCall) -> None:
    """Prints the table or the rows as JSON on standard output, and draws the plot.

    Raises:
        PhloemError: as `phloem.bench.bench_codecs` and `phloem.files.read_update`.
    """
    kernels.use(call.kernels)
    if call.base is not None and call.update is None:
        raise ConfigError("--base says what --update is to be compared with", hint="give both, or neither")
    with stderr_meter() as meter:
        update, words = _update(call, meter)
        rows = bench_codecs(
            update, names=call.codecs, progress=lambda label: meter.tell(f"measuring {label}")
        )
    if call.json:
        print_json([row.to_json() for row in rows])
    else:
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines(rows)))
        sys.stdout.flush()
    say(f"measured on {words}")
    if call.out is not None:
        with drawing(call.out):
            write_plot(rows, call.out, words)


def _update(call: BenchCall, meter: Meter) -> tuple[State, str]:
    """What codecs are measured on, and what that is in words."""
    if call.update is None:
        return sample_update()
    update = read_update(call.update, call.base, most=MOST_PARAMETERS, progress=meter)
    size = sum(array.size for array in update.values())
    difference = f" minus {call.base.name}" if call.base else ""
    return update, f"{call.update.name}{difference}, {size:,} parameters in {len(update)} tensors"
