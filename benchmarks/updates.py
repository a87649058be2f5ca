"""Makes the real updates that codecs are measured on, with the repository's own tasks; the same seed, the same files.

python benchmarks/updates.py            # into benchmarks/.updates, about two minutes
python benchmarks/updates.py --only gpt-mean gpt-residual

Eight updates as safetensors, float32, each with a line in its metadata that says what it is. The recipes are those of
examples/digits.toml and examples/code-lm.toml: ten sites with skewed labels, four sites with whole packages.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from phloem import feedback as ef
from phloem.codecs.base import Codec
from phloem.codecs.casts import NoCompression
from phloem.codecs.selection import TopK
from phloem.rounds.merge import MergeRule, ServerOptimizer, WeightedMerge
from phloem.seeds import seed_for
from phloem.tasks.base import Task
from phloem.tasks.code_lm import CodeLM
from phloem.tasks.digits import Digits
from phloem.tensors import Layout, State, state_digest

DIRECTORY = Path(__file__).parent / ".updates"

SEED = 0
EARLY = 2  # the round whose update is kept; the first one starts from an untrained model
LATE = {"cnn": 40, "gpt": 25}
SITES = {"cnn": 10, "gpt": 4}
SENT = TopK(
    fraction=0.01
)  # what the residuals were left by; not `ecsq`, or they would change with every version of it
FINE_TUNE = {"steps": 120, "learning_rate": 5e-4}


@dataclass(frozen=True)
class Round:
    """One round seen from outside: what every site would encode (residual included), and the merged step."""

    number: int
    state: State
    owed: Mapping[str, State]
    merged: State


def task_of(kind: str, **options: object) -> Task:
    """The digits or the code task with the recipe's number of sites."""
    sites = [f"site-{number}" for number in range(SITES[kind])]
    return (Digits if kind == "cnn" else CodeLM)(sites, SEED, **options)


def rounds(task: Task, codec: Codec, division: float) -> Iterator[Round]:
    """Federated averaging round by round: each site trains, sends by error feedback, the mean is added."""
    sites: Sequence[str] = task.sites  # type: ignore[attr-defined]
    state = task.initial_state(SEED)
    layout = Layout.of(state)
    memory: dict[str, dict] = {site: {} for site in sites}
    residual = {site: ef.Residual() for site in sites}
    merge = WeightedMerge(MergeRule(division, ServerOptimizer("sgd", 1.0)))
    number = 0
    while True:
        number += 1
        owed: dict[str, State] = {}
        decoded = []
        for site in sites:
            seed = seed_for(SEED, "updates", site, number)
            trained, memory[site], examples, _ = task.train(state, task.shard(site), memory[site], seed)
            if not examples:
                continue
            update = [trained[name] - state[name] for name in layout.names]
            _, flying = ef.send(residual[site], update, codec, layout)
            assert flying.owed is not None
            owed[site] = layout.named(flying.owed)
            residual[site], arrived = ef.settle(flying, layout, accepted=True)
            assert arrived is not None
            decoded.append((float(examples), arrived))
        step = merge.step(layout, decoded)
        assert step is not None
        yield Round(number, state, owed, layout.named(step))
        state = {name: state[name] + s for name, s in zip(layout.names, step, strict=True)}


@lru_cache(maxsize=4)
def history(kind: str, *, lossy: bool) -> tuple[Round, Round]:
    """The early and the late round of a task, exchanged as float32 or by top-1 %."""
    kept: dict[int, Round] = {}
    last = LATE[kind]
    for one in rounds(task_of(kind), SENT if lossy else NoCompression(), 1.0 if lossy else 0.0):
        if one.number == EARLY:
            kept[EARLY] = one
        if one.number == last:
            return kept[EARLY], one
    raise AssertionError


def _site(kind: str, late: bool, lossy: bool = False) -> State:
    owed = history(kind, lossy=lossy)[late].owed
    return owed[sorted(owed)[0]]


def _fine_tuned() -> State:
    """What fine-tuning changes: the late trunk goes on with English prose, the reference topics that Python ships."""
    base = history("gpt", lossy=False)[1].state
    prose = (
        Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"
    )  # a folder that the corpus leaves out
    text = np.frombuffer(prose.read_bytes(), np.uint8)
    trained, *_ = task_of("gpt", **FINE_TUNE).train(base, text, {}, seed_for(SEED, "updates", "fine-tune"))
    return {name: trained[name] - base[name] for name in base}


UPDATES: Mapping[str, tuple[str, Callable[[], State]]] = {
    "cnn-early": (f"one site's SGD epoch, round {EARLY}", lambda: _site("cnn", late=False)),
    "cnn-late": (f"one site's SGD epoch, round {LATE['cnn']}", lambda: _site("cnn", late=True)),
    "cnn-residual": (
        f"one site's SGD epoch plus the residual of {LATE['cnn'] - 1} rounds of top-1 %",
        lambda: _site("cnn", late=True, lossy=True),
    ),
    "gpt-early": (f"one site's 20 AdamW steps, round {EARLY}", lambda: _site("gpt", late=False)),
    "gpt-late": (f"one site's 20 AdamW steps, round {LATE['gpt']}", lambda: _site("gpt", late=True)),
    "gpt-mean": (
        f"DiLoCo's pseudo-gradient: the mean of four sites, round {LATE['gpt']}",
        lambda: history("gpt", lossy=False)[1].merged,
    ),
    "gpt-residual": (
        f"one site's 20 AdamW steps plus the residual of {LATE['gpt'] - 1} rounds of top-1 %",
        lambda: _site("gpt", late=True, lossy=True),
    ),
    "gpt-finetune": (
        f"{FINE_TUNE['steps']} AdamW steps on English prose from the trunk of round {LATE['gpt']}",
        _fine_tuned,
    ),
}


def make(name: str, directory: Path = DIRECTORY) -> Path:
    """The file of one update, made anew."""
    meaning, build = UPDATES[name]
    update = build()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.safetensors"
    save_file({key: np.ascontiguousarray(update[key]) for key in sorted(update)}, path, {"update": meaning})
    size = sum(array.size for array in update.values())
    rms = ef.norm(list(update.values())) / size**0.5
    print(f"{name:14s} {size:8,d}  rms {rms:.2e}  {state_digest(update)[:12]}  {meaning}", file=sys.stderr)
    return path


def load(names: Sequence[str] = (), directory: Path = DIRECTORY) -> dict[str, State]:
    """The updates by name (all of them by default), made first where a file is missing."""
    torch.set_num_threads(1)
    found = {}
    for name in names or UPDATES:
        path = directory / f"{name}.safetensors"
        found[name] = load_file(path if path.exists() else make(name, directory))
    return found


def main() -> None:
    """Makes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(UPDATES), default=list(UPDATES))
    parser.add_argument("--out", type=Path, default=DIRECTORY)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        make(name, options.out)


if __name__ == "__main__":
    main()
