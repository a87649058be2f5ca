"""Whole models from nodes without the mod: what a merge must not be given."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord

from phloem.engines.flower.records import Manifest
from phloem.rounds.plan import LARGEST_VALUE


def unfit(arrays: ArrayRecord, manifest: Manifest) -> str | None:
    """Why these arrays are no model like the manifest's, or not a finite one; None where they are."""
    shapes = {name: shape for name, _, shape in manifest.rows}
    if set(arrays) != set(shapes):
        return "the reply has other arrays than the model"
    for name, array in arrays.items():
        try:
            values = array.numpy()
        except Exception as error:  # NumPy reads foreign bytes, and raises what it likes
            return f"array '{name}' is damaged: {error}"
        if values.shape != shapes[name]:
            return f"array '{name}' has the shape {values.shape}, expected {shapes[name]}"
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            return f"array '{name}' holds NaN or infinity, or no numbers"
        if values.dtype.kind == "f" and float(np.abs(values).max(initial=0)) >= LARGEST_VALUE:
            return f"array '{name}' holds values beyond 2^100"
    return None
