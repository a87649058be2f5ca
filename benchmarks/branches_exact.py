"""A thousand lossy commits: the same bits by every kernel and again from the same models, with a bounded error.

A digits CNN (151,306 parameters) drifts: the next model is the last *given* one, not the committed one, plus a
drawn update. So what a commit leaves out stays to be sent, and an error that grew with the number of commits would
show. Every commit is `repo.commit` of a file at 0.5 bits. Checked are:

- The bound. A value is off by at most 1.6 steps of its frame: `docs/ecsq.md` fixes what a code word stands for and
  leaves the thresholds to the encoder, whose class states 1.6 (`Ecsq`, effort `fast`; they end at 1.59 steps).
  Besides, the float32 subtraction before and the addition after round by half a unit in the last place each.
- The largest error that a commit's own record names: it is the one that is found.
- Every hundredth state and the last, restored under the reference kernels and under every level of the native ones:
  `Restored` compares each tensor with its digest; the arrays are compared as well.
- The same thousand files, committed again to another repository: the same frames, the same states. Every hundredth
  update, encoded by the reference kernels: the same frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from branches_models import say
from measuring import spread
from phloem import kernels
from phloem.branches.blobs import BlobFile
from phloem.branches.records import Encoding
from phloem.branches.repository import Repository
from phloem.codecs.ecsq import Ecsq
from phloem.files import encode_file
from phloem.files.container import FrameReader
from phloem.job.branching import read_state
from phloem.kernels import native
from phloem.tasks import digits_cnn
from phloem.tensors import State

BITS = 0.5
BOUND_STEPS = 1.6
EVERY = 100
STEP = 0.01  # an update's deviation, of the tensor's
DRAWN = 7
SHOWN = (1, 10, 100, 1000)


def given(count: int) -> Iterator[State]:
    """The models that are committed, the first one first; the same ones every time."""
    draw = np.random.default_rng(7)
    state = digits_cnn.initial(0)
    updates = [
        {
            name: (draw.standard_t(4, array.shape) * STEP * array.std() / np.sqrt(2)).astype(np.float32)
            for name, array in state.items()
        }
        for _ in range(DRAWN)
    ]
    yield state
    for number in range(count):
        sign = np.float32(1 if number // DRAWN % 3 else -1)
        state = {name: array + sign * updates[number % DRAWN][name] for name, array in state.items()}
        yield state


def measure(scratch: Path, count: int) -> dict[str, Any]:
    """All of it."""
    started = time.perf_counter()
    kernels.use("native")
    first, again = (Repository.create(scratch / name) for name in ("first", "again"))
    errors = committed(first, scratch, count)
    say(f"exact: {count} commits", started)
    same = committed_again(first, again, scratch, count)
    say("exact: the same again", started)
    found = restored(first, count)
    say("exact: restored by other kernels", started)
    encoded = encoded_by_reference(first, scratch, count)
    say("exact: encoded by the reference kernels", started)
    kernels.use("auto")
    return {
        "parameters": sum(array.size for array in digits_cnn.initial(0).values()),
        "commits": count,
        "bits": BITS,
        "bound_steps": BOUND_STEPS,
        "errors": errors,
        "the same frames again": same,
        "restored": found,
        "cuda": "not measured: this version has no kernels for it",
        "encoded by the reference": encoded,
    }


def committed(repo: Repository, scratch: Path, count: int) -> dict[str, Any]:
    """Commits all models, and measures every commit's error against the model that was given."""
    model, out = scratch / "given.safetensors", scratch / "committed.safetensors"
    rows, before, base = [], digits_cnn.initial(0), None
    for number, wanted in enumerate(given(count)):
        save_file(wanted, model)
        if base is None:
            repo.commit(model)
            base = wanted
            continue
        made = repo.commit(model, bits=BITS, out=out)
        after = load_file(out)
        step = step_of(repo, update_of(repo, made.state))
        row = error(base, wanted, after, step)
        moved = np.sqrt(sum(float(np.square(wanted[n] - before[n], dtype=np.float64).sum()) for n in wanted))
        assert made.drift is not None
        row |= {
            "commit": number,
            "of an update": row.pop("norm") / moved,
            "recorded": made.drift.largest == row["largest"],
            "bits": 8 * made.bytes / made.parameters,
        }
        rows.append(row)
        base, before = after, wanted
    held = sum(row["steps"] <= BOUND_STEPS for row in rows)
    return {
        "bound held": held,
        "largest, steps": max(row["steps"] for row in rows),
        "steps": spread([row["steps"] for row in rows]),
        "recorded": sum(row["recorded"] for row in rows),
        "of an update": {str(row["commit"]): row["of an update"] for row in rows if row["commit"] in SHOWN},
        "rows": [{key: float(f"{row[key]:.5g}") for key in ("steps", "of an update")} for row in rows],
    }


def error(base: State, wanted: State, after: State, step: float) -> dict[str, float]:
    """How far what was committed is from what was given; in steps without what float32 rounds off."""
    largest, steps, energy = 0.0, 0.0, 0.0
    for name, array in wanted.items():
        distance = np.abs(after[name].astype(np.float64) - array)
        rounded = np.spacing(np.abs(array - base[name])) + np.spacing(np.abs(after[name]))
        steps = max(steps, float(((distance - 0.5 * rounded.astype(np.float64)) / step).max()))
        largest = max(largest, float(np.abs(after[name] - array).max()))
        energy += float(np.square(distance).sum())
    return {"largest": largest, "steps": steps, "norm": float(np.sqrt(energy))}


def update_of(repo: Repository, state: str) -> Encoding:
    """The encoding of a state that is not a key-frame."""
    return next(one for one in repo.objects.encodings(state) if one.base is not None)


def step_of(repo: Repository, encoding: Encoding) -> float:
    """The step that a frame names."""
    blob = repo.objects.frame(encoding.frame)
    reader = FrameReader.open(BlobFile(blob), blob.size)  # type: ignore[arg-type]
    _, at, size = next(reader.places())
    return Ecsq.last_step(blob.read(at, size))


def committed_again(first: Repository, again: Repository, scratch: Path, count: int) -> int:
    """Commits the same files to another repository; how many gave the same frame and the same state."""
    model, same = scratch / "given.safetensors", 0
    before = [entry.state for entry in first.log("trunk")][::-1]
    for number, wanted in enumerate(given(count)):
        save_file(wanted, model)
        made = again.commit(model, bits=BITS) if number else again.commit(model)
        if number:
            frames = [update_of(repo, made.state).frame for repo in (first, again)]
            same += made.state == before[number] and frames[0] == frames[1]
    return same


def restored(repo: Repository, count: int) -> dict[str, Any]:
    """Every hundredth state and the last by all kernels; `Restored` refuses whatever has another digest."""
    refs = [f"trunk~{count - number}" for number in range(EVERY, count, EVERY)] + ["trunk"]
    answer: dict[str, Any] = {"states": len(refs)}
    first: list[State] = []
    for name, use in ways():
        use()
        started = time.perf_counter()
        states = [read_state(repo.restored(ref)) for ref in refs]
        first = first or states
        equal = [all(a[n].tobytes() == b[n].tobytes() for n in a) for a, b in zip(first, states, strict=True)]
        answer[name] = {"equal": sum(equal), "seconds": time.perf_counter() - started}
    return answer


def ways() -> Iterator[tuple[str, Callable[[], None]]]:
    """Every kind of kernels that is here, and what chooses it."""
    yield "reference", lambda: kernels.use("reference")
    for level in native.simd_levels():

        def use(level: str = level) -> None:
            kernels.use("native")
            native.set_simd(level)

        yield f"native, {level}", use


def encoded_by_reference(repo: Repository, scratch: Path, count: int) -> dict[str, int]:
    """Every hundredth update encoded again by the reference kernels: how many frames are the same to the byte."""
    base, model, frame = (scratch / name for name in ("base", "given", "frame"))
    same, tried = 0, 0
    kernels.use("reference")
    for number, wanted in enumerate(given(count)):
        if number and (number % EVERY == 0 or number == count):
            repo.checkout(f"trunk~{count - number + 1}", base.with_suffix(".safetensors"))
            save_file(wanted, model)
            encode_file(model, frame, base=base.with_suffix(".safetensors"), bits=BITS, effort="fast")
            blob = repo.objects.frame(update_of(repo, repo.show(f"trunk~{count - number}").state).frame)
            same += frame.read_bytes() == blob.read(0, blob.size)
            tried += 1
    return {"same": same, "of": tried}
