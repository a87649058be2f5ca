"""An audit of a run's ledger with replay, as the command does it."""

from __future__ import annotations

from pathlib import Path

from phloem.job.ledger import Payloads, ledger_of
from phloem.job.replay import Merges, replay
from phloem.ledger.audit import Audit, Auditor


def audited(root: Path) -> Audit:
    """The audit of the run in `root`, every merge computed again."""
    folder, run = ledger_of(root)
    payloads, merges = Payloads(folder, root), Merges(run)
    with folder.log() as log:
        audit = Auditor(folder.policy, open_=payloads, each=merges.take).run(log, log.checkpoints())
    audit.replayed = replay(root, merges, payloads.salts, audit.findings)
    return audit


def names(audit: Audit) -> set[str]:
    """The findings' names, without those that are only worth knowing."""
    return {row.name for row in audit.findings.rows} - {"note"}
