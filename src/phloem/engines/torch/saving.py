"""What the ranks owe, in a folder: one file for each rank and step, complete or not taken.

    owed-00001200-2-of-4.safetensors    rank 2 of 4, after 1,200 steps

A rank that dies while it saves leaves a step incomplete; the one before is still there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as pack_tensors

from phloem.errors import StateError, StoreError
from phloem.store.files import write_durably

_NAME = re.compile(r"owed-(\d{8,})-(\d+)-of-(\d+)\.safetensors")
_KEPT_STEPS = 2


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes one rank's state, and removes steps before the last two.

    Raises:
        StoreError: the disk failed.
    """
    facts = {key: value for key, value in state.items() if key not in ("own", "right", "squares")}
    tensors = {
        f"{part}/{name}": tensor.numpy()
        for part in ("own", "right", "squares")
        for name, tensor in state[part].items()
    }
    name = f"owed-{state['step']:08d}-{state['rank']}-of-{state['ranks']}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / name, pack_tensors(tensors, {"phloem": json.dumps(facts, sort_keys=True)}))
        steps = sorted({step for step, _, _, _ in _files(folder)})
        for step, _, _, path in _files(folder):
            if step < steps[-_KEPT_STEPS:][0]:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{folder / name} cannot be written: {error.strerror}") from error


def newest(folder: Path, ranks: int, rank: int) -> Mapping[str, Any] | Iterator[Mapping[str, Any]]:
    """The newest step that is complete: this rank's state where there were as many ranks, else those of all.

    Raises:
        StateError: no step is complete, or a file is damaged.
    """
    sets: dict[tuple[int, int], dict[int, Path]] = {}
    for step, saver, of, path in _files(folder):
        sets.setdefault((step, of), {})[saver] = path
    complete = [key for key, files in sets.items() if len(files) == key[1]]
    if not complete:
        found = f"only {len(sets)} incomplete steps" if sets else "none"
        raise StateError(f"expected what all ranks owe in {folder}, found {found}")
    step, of = max(complete)
    files = sets[step, of]
    if of == ranks:
        return _read(files[rank])
    return (_read(path) for _, path in sorted(files.items()))


def _files(folder: Path) -> list[tuple[int, int, int, Path]]:
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("owed-*.safetensors")]
    return sorted((int(m[1]), int(m[2]), int(m[3]), path) for path, m in found if m)


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = {"own": {}, "right": {}, "squares": {}}
    try:
        with safe_open(path, "np") as file:
            state |= json.loads(file.metadata()["phloem"])
            for key in file.keys():  # noqa: SIM118 - it is no dict
                part, _, name = key.partition("/")
                state[part][name] = file.get_tensor(key)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged: {error}", hint="load an older checkpoint") from error
    return state
