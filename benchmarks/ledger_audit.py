"""An audit of a log of a million entries, on one core: every signature, number, base and merge checked.

    python benchmarks/ledger_audit.py

The log is that of a run with 50 sites, each of whose updates is merged: made here entry by entry, with real signatures
and a real tree, but without models, which an audit does not look at unless it is asked to replay. To make it takes
longer than to audit it. Runs: the audit is done `--runs` times over the same log.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

from measuring import spread, write
from phloem.ledger.audit import Auditor
from phloem.ledger.commitments import WEIGHT, commitment, new_salt
from phloem.ledger.entry import Seen, Statement
from phloem.ledger.exchange import Base, Sent
from phloem.ledger.folder import LedgerFolder
from phloem.ledger.journal import Journal
from phloem.ledger.kinds import DELTA, TAKEN
from phloem.ledger.record import member_statement
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import Signer
from phloem.tlog.note import Note

SITES = 50
FRAME = bytes(64)


def make(root: Path, entries: int) -> LedgerFolder:
    """A ledger of about so many entries."""
    folder = LedgerFolder.create(root, "example.org/log")
    journal = Journal(folder, "benchmark")
    sites = [Signer.new(f"site-{n:02}") for n in range(SITES)]
    names = sorted(site.name for site in sites)
    plan, chain = secrets.token_hex(32), secrets.token_hex(32)
    genesis = {
        "key": str(journal.signer.verifier),
        "name": journal.signer.name,
        "origin": journal.log.origin,
        "plan": plan,
        "policy": secrets.token_hex(32),
        "receipts": "audit-only",
        "retention": "6 years",
        "software": "benchmark",
    }
    journal.write([("genesis", genesis)])
    now = int(time.time())
    for site in sites:
        said = member_statement("benchmark", site.name, 0, now, Seen(), site.verifier, "add", "benchmark")
        journal.append([said.signed(site, journal.signer)])
    number = 0
    while journal.log.size < entries:
        base, seen = Base(chain), journal.seen
        opened = {
            "asked": names,
            "base": base.to_json(),
            "plan": plan,
            "reached": names,
            "round": number,
        }
        down = Sent(number, base, FRAME, "ecsq", 4096, DELTA).fields(new_salt(), "")
        journal.write([("round-open", opened), ("broadcast", down)])
        first, updates, answers = journal.log.size, [], []
        for place, site in enumerate(sites):
            fields = Sent(number, base, FRAME, "ecsq", 4096, "", 100).fields(new_salt(), journal.signer.name)
            said = Statement("update", "benchmark", site.name, number + 1, now, seen, fields)
            updates.append(said.signed(site))
            leaf = updates[-1].leaf.hex()
            answers.append(
                ("received", {"entry": first + place, "leaf": leaf, "outcome": TAKEN, "round": number})
            )
        chain = secrets.token_hex(32)
        merged = {
            "base": base.to_json(),
            "excluded": [],
            "inputs": list(range(first, first + SITES)),
            "output": Base(chain).to_json(),
            "round": number,
            "rule": plan,
            "weights": commitment(new_salt(), WEIGHT, b""),
        }
        measured = {"metrics": commitment(new_salt(), WEIGHT, b""), "part": "stop", "round": number}
        journal.write([*answers, ("aggregate", merged), ("eval", measured)], before=updates)
        number += 1
        if number % 100 == 0:
            note = journal.log.sign([journal.log_signer])
            found = Checkpoint.unpack(Note.unpack(note).text)
            journal.seen = Seen(found.size, found.root)
            print(f"{journal.log.size:,} entries made", file=sys.stderr, flush=True)
    journal.checkpoint()
    journal.close()
    return folder


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        folder = make(Path(scratch) / "ledger", options.entries)
        seconds = []
        for _ in range(options.runs):
            with folder.log() as log:
                started = time.perf_counter()
                found = Auditor(folder.policy).run(log, log.checkpoints())
                seconds.append(time.perf_counter() - started)
            assert str(found.verdict) == "valid", found.findings.rows[:3]
            print(f"{found.size:,} entries audited in {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
        size = (folder.root / "log.db").stat().st_size
    result = {
        "entries": found.size,
        "rounds": next(iter(found.runs.values())).rounds,
        "bytes of the file per entry": size / found.size,
        "seconds": spread(seconds),
        "entries per second": spread([found.size / one for one in seconds]),
    }
    print(result, file=sys.stderr)
    if not options.no_write:
        write("ledger-audit", f"python benchmarks/ledger_audit.py --runs {options.runs}", result)


if __name__ == "__main__":
    main()
