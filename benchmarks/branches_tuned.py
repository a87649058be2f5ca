"""A fine-tuned branch at fewer and fewer bits: what the commit takes, and what the model that is checked out can do.

The pairs are those of `branches_tunes.py`. The first model is committed exactly; every rate is a branch of its own
from there, committed from a file, checked out to a file, and scored. `bytes` is by how much the files of the
repository grew; `frame` is the update's frame alone. `points`: accuracy lost against the tuned model as it was
given, in percentage points. `improvement`: the share of the loss that the tuning took off which the coding gave
back.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from branches_disk import folder_bytes
from branches_models import say
from branches_tunes import Pair, pairs
from phloem.branches.repository import Repository

#: With the records of a commit 1.9 and 0.7 bits are below a sixteenth and a fortieth of the file.
BITS = (1.9, 0.7, 0.5, 0.25, 0.1)
#: How the update is coded: as `commit --bits R` does, with effort `best`, and as `commit --bits R --rank 24` does.
WAYS = {"fast": BITS, "best": (0.7,), "rank 24": BITS}
RANK = 24
PROCESSES = 2  # of one thread each


def measure(scratch: Path, seeds: int, *, small: bool) -> dict[str, Any]:
    """All pairs, all rates, all seeds."""
    started = time.perf_counter()
    rates = [(way, bits) for way, rates in WAYS.items() for bits in rates if not small or bits in (1.9, 0.7)]
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(one_seed, range(seeds), repeat(scratch), repeat(rates)))
    say("bytes: fine-tunes", started)
    return {
        "seeds": seeds,
        "pairs": {
            name: {**over_seeds([row[name] for row in found]), "seeds": [row[name] for row in found]}
            for name in found[0]
        },
    }


def one_seed(seed: int, scratch: Path, rates: Sequence[tuple[str, float]]) -> dict[str, dict[str, Any]]:
    """All pairs of one seed."""
    started, found = time.perf_counter(), {}
    for pair in pairs(seed):
        found[pair.name] = one(scratch / f"tuned-{seed}", pair, rates)
        say(f"bytes: seed {seed}, {pair.name}", started)
    return found


def one(folder: Path, pair: Pair, rates: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """One pair at all rates."""
    folder.mkdir()
    base, tuned, out = (folder / f"{name}.safetensors" for name in ("base", "tuned", "out"))
    save_file(pair.base, base)
    save_file(pair.tuned, tuned)
    before, after = pair.score(pair.base), pair.score(pair.tuned)
    rows = []
    with Repository.create(folder / ".phloem") as repo:
        repo.commit(base)
        for way, bits in rates:
            name = f"{way.replace(' ', '-')}-{bits:g}"
            repo.branch(name, "trunk")
            size = stored(repo)
            if way.startswith("rank"):
                made = repo.commit(tuned, branch=name, bits=bits, rank=RANK)
            else:
                coding = {"codec": "ecsq", "bits": bits, "effort": way}
                made = repo.commit(tuned, branch=name, coding=coding)
            took = stored(repo) - size
            repo.checkout(name, out)
            accuracy, loss = pair.score(load_file(out))
            frame = next(e.frame_bytes for e in repo.objects.encodings(made.state) if e.base is not None)
            assert made.drift is not None
            rows.append(
                {
                    "way": way,
                    "bits": bits,
                    "bytes": took,
                    "frame": frame,
                    "share": took / tuned.stat().st_size,
                    "frame_share": frame / tuned.stat().st_size,
                    "key_frame": made.bytes > frame,
                    "points": after[0] - accuracy,
                    "improvement": (loss - after[1]) / (before[1] - after[1]),
                    "drift": made.drift.relative,
                }
            )
    size = tuned.stat().st_size
    shutil.rmtree(folder)
    return {"file_bytes": size, "base": before, "tuned": after, "rates": rows}


def stored(repo: Repository) -> int:
    """The bytes of the packs and frames of a repository."""
    return sum(folder_bytes(repo.folder.root / name) for name in ("packs", "frames"))


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and the worst seed, by rate."""
    table = []
    for at, first in enumerate(rows[0]["rates"]):
        same = [row["rates"][at] for row in rows]
        table.append(
            {
                "way": first["way"],
                "bits": first["bits"],
                "share": statistics.fmean(one["share"] for one in same),
                "frame_share": statistics.fmean(one["frame_share"] for one in same),
                "key_frame": any(one["key_frame"] for one in same),
                "points": statistics.fmean(one["points"] for one in same),
                "worst_points": max(one["points"] for one in same),
                "improvement": statistics.fmean(one["improvement"] for one in same),
            }
        )
    return {
        "file_bytes": rows[0]["file_bytes"],
        "base": [statistics.fmean(row["base"][at] for row in rows) for at in (0, 1)],
        "tuned": [statistics.fmean(row["tuned"][at] for row in rows) for at in (0, 1)],
        "rates": table,
    }
