"""What `phloem build --branches` gave, as a table: every branch before it was merged, and the trunk."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from phloem.job.separately import Built
from phloem.ui.figures import metric_text, size_text


def print_branches(console: Console, built: Built, trunk: str) -> None:
    """The metric of every branch on the task's test data, then the trunk's."""
    table = Table(box=None, pad_edge=False)
    table.add_column("branch")
    table.add_column(f"{built.metric}, alone", justify="right")
    if built.personal:
        table.add_column("with the trunk taken over", justify="right")
    for name, value in sorted(built.branches.items()):
        personal = [metric_text(built.metric, built.personal[name])] if built.personal else []
        table.add_row(name, metric_text(built.metric, value), *personal)
    table.add_row(f"[bold]{trunk}[/bold], merged", f"[bold]{metric_text(built.metric, built.merged)}[/bold]")
    console.print(table)
    console.print(f"{size_text(built.bytes)} crossed the lines of {len(built.branches)} sites")
