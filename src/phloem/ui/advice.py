"""What `phloem advise` prints: the verdict, why, and the evidence."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from phloem.branches.advising import Advice

_LAYERS = 12


def print_advice(found: Advice, console: Console | None = None) -> None:
    """The verdict first, then what speaks for it, then the layers that agree least."""
    console = console or Console(highlight=False)
    console.print(f"[bold]{found.verdict}[/bold]: " + " | ".join(", ".join(group) for group in found.groups))
    for words in found.words:
        console.print(f"  {words}", markup=False)
    evidence = found.evidence
    if evidence.trials:
        table = Table(box=None, pad_edge=False)
        table.add_column("each site is served with")
        names = list(evidence.trials[0].scores)
        for name in (*names, "mean"):
            table.add_column(name, justify="right")
        for trial in evidence.trials:
            table.add_row(trial.what, *(f"{trial.scores[name]:.4g}" for name in names), f"{trial.mean:.4g}")
        console.print(table)
    if evidence.layers:
        table = Table(box=None, pad_edge=False)
        table.add_column("layer")
        for name in ("moved", "cosine", "same sign", "left after averaging"):
            table.add_column(name, justify="right")
        for layer in sorted(evidence.layers, key=lambda one: one.cosine)[:_LAYERS]:
            moved = "–" if layer.moved is None else f"{100 * layer.moved:.2g} %"
            signs, left = f"{100 * layer.signs:.0f} %", f"{100 * layer.left:.0f} %"
            table.add_row(layer.name, moved, f"{layer.cosine:+.3f}", signs, left)
        console.print(table)
        if len(evidence.layers) > _LAYERS:
            console.print(f"and {len(evidence.layers) - _LAYERS} layers that agree more")
