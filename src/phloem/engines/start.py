"""The state that a run starts from, where its recipe names one: a safetensors file, or a commit of a repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from phloem.errors import ConfigError
from phloem.files.dtypes import CODED, floats
from phloem.files.models import open_model
from phloem.tensors import State


def read_start(where: str) -> State:
    """The float32 arrays at `where`: a model's file or directory, or REPOSITORY#REF.

    Raises:
        ConfigError: there is no such model, or it has tensors that runs do not train.
    """
    place, mark, ref = where.rpartition("#")
    found: State = {}
    if mark:
        from phloem.branches.repository import Repository

        with Repository.open(place) as repo, repo.restored(ref) as state:
            rows = [(spec, raw) for spec, raw in state.iterate()]
    else:
        with open_model(Path(where)) as model:
            rows = [(spec, model.read(spec)) for spec in model.contents.specs]
    for spec, raw in rows:
        if spec.dtype not in CODED:
            raise ConfigError(
                f"tensor '{spec.name}' of {where} is {spec.dtype}, and runs train float tensors only"
            )
        values = np.ascontiguousarray(floats(raw, spec.dtype), np.float32)
        found[spec.name] = np.array(values.reshape(spec.shape))
    return found


def check_start(state: State, own: State, where: str) -> None:
    """Nothing, if a start has the tensors that the task's own first state has.

    Raises:
        ConfigError: one is missing, or has another shape; it is named.
    """
    for name in sorted(state.keys() ^ own.keys()):
        lacks = "has" if name in state else "lacks"
        raise ConfigError(f"start: {where} {lacks} the tensor '{name}', and the task's model does not agree")
    for name, array in state.items():
        if array.shape != own[name].shape:
            raise ConfigError(
                f"start: tensor '{name}' has the shape {list(array.shape)} in {where}, "
                f"{list(own[name].shape)} in the task's model"
            )
