"""How long the tip of a branch takes to be in memory, every tensor checked, beside reading the model's own file.

Theirs reads the safetensors file into memory that is there already, in pieces of 8 MB, and checks nothing. Ours
opens the commit, decodes its chain and copies tensor after tensor into memory that is there already, each checked
against its SHA-256. `throttled`: both through the same reader of 500 MB/s (`branches_reader.py`). `page cache`: as
fast as it goes; beside it stands reading the file and taking its SHA-256. Every run measures all of them one after
another, so a ratio is one of the same moment. The chains: `commits` made by `repo.commit` from files, `rounds` by
what commits a run's rounds; up to 24 of 0.05 bits each on one exact model; the last once more after `repack`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from branches_line import Line, step_for
from branches_models import Shapes, Training, initial, say
from branches_reader import RATE, Reader, read_file, throttled
from measuring import spread
from phloem.branches import chains
from phloem.branches.repacking import repack
from phloem.branches.repository import Repository

BITS = 0.05
LENGTHS = (1, 8, 16, 24)


def measure(scratch: Path, shapes: Shapes, lengths: Sequence[int], runs: int) -> dict[str, Any]:
    """Both kinds of chains, at every length."""
    started = time.perf_counter()
    training, answer = Training(shapes), {}
    for form, make in (("commits", committed), ("rounds", rounds)):
        folder = scratch / form
        folder.mkdir()
        repo, models = make(folder, training, shapes, lengths)
        say(f"time: {max(lengths)} {form} made", started)
        rows = []
        for length in lengths:
            ref = f"trunk~{max(lengths) - length}"
            rows.append({"commits": length, **tip(repo, ref, models[length], runs)})
            row = rows[-1]
            say(
                f"  {form}, {length} commits, chain of {row['chain']}: throttled {_ratio(row, 'throttled')}, "
                f"page cache {_ratio(row, 'page cache')} (with SHA-256 {row['÷ read and SHA-256']['median']:.2f})",
                started,
            )
        repack(repo)
        rows.append(
            {"commits": max(lengths), "repacked": True, **tip(repo, "trunk", models[max(lengths)], runs)}
        )
        say(f"  {form}, repacked: throttled {_ratio(rows[-1], 'throttled')}", started)
        answer[form] = {
            "tips": rows,
            "checkout": checkout(repo, models[max(lengths)], folder, runs),
        }
        repo.close()
        shutil.rmtree(folder)
    layout = training.layout
    return {
        "parameters": layout.size,
        "tensors": len(layout.specs),
        "file_bytes": 4 * layout.size,
        "bytes_per_second": RATE,
        "bits": BITS,
        **answer,
    }


Made = tuple[Repository, dict[int, Path]]


def committed(folder: Path, training: Training, shapes: Shapes, lengths: Sequence[int]) -> Made:
    """A repository of files that were committed one by one, and the states as files at these lengths."""
    repo, model = Repository.create(folder / ".phloem"), folder / "model.safetensors"
    state, kept = initial(shapes), {}
    save_file(state, model)
    repo.commit(model)
    for number in range(max(lengths)):
        update = training.update(number)
        state = {n: state[n] + u for n, u in zip(training.layout.names, update, strict=True)}
        save_file(state, model)
        repo.commit(model, bits=BITS)
        if number + 1 in lengths:
            kept[number + 1] = folder / f"{number + 1}.safetensors"
            repo.checkout("trunk", kept[number + 1])
    return repo, kept


def rounds(folder: Path, training: Training, shapes: Shapes, lengths: Sequence[int]) -> Made:
    """The same of a run's rounds."""
    repo, kept = Repository.create(folder / ".phloem"), {}
    line = Line(repo, initial(shapes), training, step_for(training, BITS))
    for number in range(max(lengths)):
        line.next()
        if number + 1 in lengths:
            kept[number + 1] = folder / f"{number + 1}.safetensors"
            save_file(line.state, kept[number + 1])
    return repo, kept


def tip(repo: Repository, ref: str, model: Path, runs: int) -> dict[str, Any]:
    """One commit beside the file of its state."""
    memory = {spec.name: np.zeros(4 * spec.size, np.uint8) for spec in repo.restored(ref).contents.specs}
    whole = bytearray(model.stat().st_size)
    found: dict[str, list[float]] = {}

    def note(what: str, call: Callable[[], Any], before: float | None = None) -> float:
        took = seconds(call)
        found.setdefault(what, []).append(took)
        if before is not None:
            found.setdefault(f"÷ {what}", []).append(before / took)
        return took

    restore(repo, ref, memory)  # warm: the page cache, and this process
    _check(memory, model)
    for _ in range(runs):
        with throttled() as reader:
            ours = note("throttled", lambda: restore(repo, ref, memory))
        note("read, throttled", lambda: read_file(model, whole, Reader()), ours)
        ours = note("page cache", lambda: restore(repo, ref, memory))
        note("read", lambda: read_file(model, whole), ours)
        note("read and SHA-256", lambda: (read_file(model, whole), hashlib.sha256(whole).digest()), ours)
        before = time.process_time()
        note("opening", lambda: repo.restored(ref))
        found.setdefault("opening, of all cores", []).append(time.process_time() - before)
        before = time.process_time()
        restore(repo, ref, memory)
        found.setdefault("page cache, of all cores", []).append(time.process_time() - before)
    state = repo.restored(ref)
    return {
        "chain": len(state.chain),
        "parts": len(state.parts),
        "planned_times": chains.times_reading(state.chain, state.size),
        "read_bytes": reader.taken,
        **{what: spread(values) for what, values in found.items()},
    }


def restore(repo: Repository, ref: str, memory: dict[str, np.ndarray]) -> None:
    """The state of a commit in memory, checked."""
    with repo.restored(ref) as state:
        for spec, raw in state.iterate():
            memory[spec.name][:] = raw


def checkout(repo: Repository, model: Path, folder: Path, runs: int) -> dict[str, Any]:
    """The tip as a file, durable, beside a durable copy of that file."""
    out, ours, theirs = folder / "out.safetensors", [], []
    for _ in range(runs):
        ours.append(seconds(lambda: repo.checkout("trunk", out)))
        theirs.append(seconds(lambda: copied(model, out)))
    return {
        "checkout": spread(ours),
        "copy": spread(theirs),
        "ratio": spread([a / b for a, b in zip(ours, theirs, strict=True)]),
    }


def copied(source: Path, out: Path) -> None:
    """Copies a file and syncs it."""
    shutil.copyfile(source, out)
    with out.open("rb") as file:
        os.fsync(file.fileno())


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _check(memory: dict[str, np.ndarray], model: Path) -> None:
    from safetensors.numpy import load_file

    wanted = load_file(model)
    if any(memory[name].tobytes() != array.tobytes() for name, array in wanted.items()):
        raise SystemExit("what was restored is not what was committed")


def _ratio(row: dict[str, Any], what: str) -> str:
    theirs = "÷ read, throttled" if what == "throttled" else "÷ read"
    median = statistics.median([row[what]["median"]])
    return f"{1000 * median:.0f} ms = {row[theirs]['median']:.2f}×"
