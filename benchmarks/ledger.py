"""The log in a file: durable appends, proofs, receipts checked, per second.

    python benchmarks/ledger.py

Entries have 608 bytes. `one by one` and `batched` commit to SQLite with full synchronisation, so they measure the disk
as well: its own time for a synced write of 4 KiB stands beside them. A receipt has the log's signature, three
cosignatures and the path; to check it is to parse all of it anew, under a policy that was parsed before. Five runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from measuring import spread, write
from phloem.ledger.export import Directory, export
from phloem.ledger.log import Log
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer
from phloem.tlog.merkle import (
    check_consistency,
    check_inclusion,
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    tree_hash,
)
from phloem.tlog.note import Note
from phloem.tlog.policy import Group, Policy
from phloem.tlog.proof import Receipt

ENTRY_BYTES = 608
LOG = Signer.new("example.org/log", NOTE)
WITNESSES = [Signer.new(f"witness-{number}.example", COSIGNATURE) for number in range(3)]
POLICY = Policy(
    (LOG.verifier,),
    {signer.name: signer.verifier for signer in WITNESSES},
    {"all": Group(3, tuple(signer.name for signer in WITNESSES))},
    "all",
)


def rate(count: int, work: Callable[[], Any]) -> float:
    """How many of `count` things are done a second."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def synced_write_seconds(folder: Path) -> float:
    """What the disk takes to write and sync 4 KiB, in the median of 200."""
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(200):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def once(size: int, few: int, many: int) -> dict[str, float]:
    """Every figure once."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = {"disk, seconds for a synced 4 KiB": synced_write_seconds(folder)}
        entries = [draw.bytes(ENTRY_BYTES) for _ in range(256)]
        with Log.create(folder / "one.db", "example.org/log") as log:
            found["appends one by one"] = rate(few, lambda: [log.append(entries[:1]) for _ in range(few)])
            threads = [
                threading.Thread(target=lambda: [log.append(entries[:1]) for _ in range(few // 16)])
                for _ in range(16)
            ]

            def together() -> None:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            found["appends one by one, from 16 threads"] = rate(few // 16 * 16, together)
        log = Log.create(folder / "log.db", "example.org/log")
        batches = size // 256
        found["appends in batches of 256"] = rate(
            batches * 256, lambda: [log.append(entries) for _ in range(batches)]
        )
        size = log.size
        note = Note.unpack(log.sign([LOG])).signed(WITNESSES, lambda: 1_700_000_000).pack()
        root = tree_hash(size, log.read)
        places = [int(place) for place in draw.integers(1, size, many)]
        proofs: list[list[bytes]] = []
        found["inclusion proofs"] = rate(
            many, lambda: proofs.extend(prove_inclusion(place, size, log.read) for place in places)
        )
        leaves = [leaf_hash(entries[place % 256]) for place in places]
        found["inclusion proofs checked"] = rate(
            many,
            lambda: [
                check_inclusion(place, size, leaf, proof, root)
                for place, leaf, proof in zip(places, leaves, proofs, strict=True)
            ],
        )
        olds = [tree_hash(place, log.read) for place in places]
        chains: list[list[bytes]] = []
        found["consistency proofs"] = rate(
            many, lambda: chains.extend(prove_consistency(place, size, log.read) for place in places)
        )
        found["consistency proofs checked"] = rate(
            many,
            lambda: [
                check_consistency(place, size, old, root, chain)
                for place, old, chain in zip(places, olds, chains, strict=True)
            ],
        )
        receipts = [
            Receipt(place, tuple(proof), note).pack()
            for place, proof in zip(places[:few], proofs[:few], strict=True)
        ]
        found["receipts checked"] = rate(
            few,
            lambda: [
                Receipt.unpack(data).check(leaf, POLICY)
                for data, leaf in zip(receipts, leaves[:few], strict=True)
            ],
        )
        found["bytes of a receipt"] = float(max(map(len, receipts)))
        found["bytes of the file per entry"] = (
            sum(path.stat().st_size for path in folder.glob("log.db*")) / size
        )
        found["entries exported as tiles"] = rate(size, lambda: export(log, Directory(folder / "out")))
        log.close()
    return found


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=200_000, help="entries of the log that is proved about")
    parser.add_argument("--few", type=int, default=2000, help="appends one by one, and receipts")
    parser.add_argument("--many", type=int, default=20_000, help="proofs of each kind")
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        runs.append(once(options.size, options.few, options.many))
        print({key: round(value, 4) for key, value in runs[-1].items()}, file=sys.stderr, flush=True)
    figures = {key: spread([run[key] for run in runs]) for key in runs[0]}
    write("ledger", f"python benchmarks/ledger.py --runs {options.runs}", {"per second": figures})


if __name__ == "__main__":
    main()
