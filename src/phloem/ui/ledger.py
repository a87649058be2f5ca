"""What a run says of its ledger: a line at a terminal, a section in the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phloem.ui.figures import size_text
from phloem.ui.markup import Markup, element


def ledger_line(summary: Mapping[str, Any], path: Path) -> str | None:
    """What the ledger took, and how to check it; None for a run without one."""
    ledger = summary.get("ledger")
    if ledger is None:
        return None
    return (
        f"ledger: {ledger['entries']:,} entries, {size_text(ledger['bytes_on_the_wire'])} of the bytes above; "
        f"check them: phloem ledger audit {path} --replay"
    )


def ledger_section(summary: Mapping[str, Any]) -> Markup | None:
    """The report's section; None for a run without a ledger."""
    ledger = summary.get("ledger")
    if ledger is None:
        return None
    share = ledger["bytes_on_the_wire"] / max(summary["total_bytes"], 1)
    words = (
        f"Every exchange of this run is in the log {ledger['origin']}: {ledger['entries']:,} signed entries in a "
        f"tree whose root is {ledger['root']}. Records and receipts took "
        f"{size_text(ledger['bytes_on_the_wire'])} on the wire, {share:.1%} of all bytes, and count as control. "
        f"Sites asked for receipts under the rule “{ledger['receipts']}”."
    )
    return element(
        "section",
        element("h2", "Ledger"),
        element("p", words),
        element("pre", element("code", "phloem ledger audit RUN --replay --html audit.html")),
    )
