"""The update between two files in memory, for those who look at updates rather than send them."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from phloem.errors import ConfigError
from phloem.files.dtypes import CODED
from phloem.files.pair import Pair
from phloem.files.tensorfile import Progress, TensorFile, bytes_of, silent
from phloem.tensors import State


def read_update(
    new: str | Path,
    base: str | Path | None = None,
    *,
    most: int | None = None,
    progress: Progress = silent,
) -> State:
    """The float tensors of a file minus those of another, or themselves, as float32 by name.

    Of more than `most` parameters every tensor keeps its first rows, about the same share of each and one row at
    least, so that the mixture of tensors stays.

    Raises:
        ConfigError: there are no float tensors, one holds NaN or infinity, or the files do not fit each other.
    """
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(TensorFile.open(Path(new)))
        theirs = None if base is None else stack.enter_context(TensorFile.open(Path(base)))
        pair = Pair(mine, theirs)
        specs = [spec for spec in mine.contents.specs if spec.dtype in CODED]
        size, done = sum(spec.size for spec in specs), 0
        if not size:
            raise ConfigError(f"{new} holds no values of a float type")
        share = 1.0 if most is None else min(1.0, most / size)
        update: State = {}
        for spec in specs:
            values = pair.update(spec)
            if share < 1.0 and values.ndim:
                values = values[: math.ceil(len(values) * share)].copy()
            update[spec.name] = values
            done += bytes_of(spec)
            progress(f"reading {mine.path.name}", done, sum(map(bytes_of, specs)))
    return update
