"""A device's profile, as people read it."""

from __future__ import annotations

import itertools
import math

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from phloem.planner.device import DECODE, ENCODE, Device
from phloem.planner.levels import LADDER
from phloem.ui.figures import ratio_text, size_text


def print_device(console: Console, device: Device) -> None:
    """Prints a device's profile: a row per option, with what a plain copy of memory would take beside it."""
    copying = 4 / device.copy_bytes_per_second if device.copy_bytes_per_second else math.nan
    for key, value in (device.made_by or {}).items():
        console.print(Text(f"{key:10s} {value or '–'}", style="dim"), soft_wrap=True)
    console.print(Text(f"{'memory':10s} {size_text(device.memory_bytes)}", style="dim"))
    console.print(Text(f"{'copying':10s} {size_text(device.copy_bytes_per_second)}/s", style="dim"))
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("option", no_wrap=True)
    for way in (ENCODE, DECODE):
        for heading in (f"{way}\nM/s", "fixed\nµs", "times\na copy"):
            grid.add_column(heading, justify="right", no_wrap=True)
    for key in itertools.chain.from_iterable(level.keys for level in LADDER):
        cells = [key]
        for way in (ENCODE, DECODE):
            fixed, each = device.costs[key][way]
            speed = 1e-6 / each if each else math.inf
            cells += [f"{speed:,.0f}" if speed >= 99.5 else f"{speed:.3g}", f"{1e6 * fixed:,.0f}"]
            cells.append(ratio_text(each / copying))
        grid.add_row(*(Text(cell) for cell in cells))
    console.print(grid)
