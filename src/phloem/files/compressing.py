"""A model made smaller in one go: weights pruned by magnitude, the others quantised, all in one frame."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phloem import canonical
from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError
from phloem.files.decoding import decode_file
from phloem.files.drafts import in_words
from phloem.files.dtypes import CODED, floats
from phloem.files.encoding import encode_file
from phloem.files.exact import encode_exact
from phloem.files.tensorfile import Progress, TensorFile, bytes_of, silent
from phloem.files.thinning import matrices, rule_of, thin

_EXACT: Mapping[str, Any] = {"codec": "lossless"}
_INTEGERS = ("int8", "int4")
_MOST_BITS = 16.0
_FEWEST_BITS = 1e-6  # that "ecsq" takes


@dataclass(frozen=True)
class TensorLoss:
    """What became of one tensor.

    Attributes:
        zeros: how many of its values are zero now.
        nmse: Σ(new − old)² ÷ Σ old², 0 where nothing changed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parameters: int
    zeros: int
    nmse: float


@dataclass(frozen=True)
class Compressed:
    """What `compress_file` made; its fields are those of `phloem compress --json`.

    Attributes:
        parameters: elements of all tensors. `bytes_before`, `bytes`: of the two files.
        bits_per_parameter: 8 · bytes ÷ parameters.
        sparsity: the share of zeros among the weights of matrices.
        nmse: Σ(new − old)² ÷ Σ old² over all tensors that may be coded with loss.
        tensors: a row per tensor, sorted by name.
    """

    parameters: int
    bytes_before: int
    bytes: int
    bits_per_parameter: float
    sparsity: float
    nmse: float
    tensors: tuple[TensorLoss, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON's own types."""
        plain: dict[str, Any] = canonical.plain(self)
        return plain


def compress_file(
    model: str | Path,
    out: str | Path,
    *,
    prune: str | float | None = None,
    quantize: str | None = None,
    progress: Progress = silent,
) -> Compressed:
    """Writes a frame that `decode_file` turns back to a smaller-made model, and gives back what became of it.

    Weights are those of matrices (tensors of two or more dimensions of a float type); biases, norms and integers
    stay as they are, but that "ecsq" has one step for all float tensors. Pruned weights come back as zeros. Memory
    is bounded by the largest tensor; beside `out` the disk holds the model twice while this works.

    All errors here are against the model given; the frame's own (`inspect_file`) is against the pruned one.

    Args:
        model: a safetensors file.
        out: where the frame goes; replaced once it is whole.
        prune: 0.8 prunes that share of all weights, the smallest; "2:4" keeps 2 of every 4 along a row.
        quantize: "int8" or "int4", in blocks with a scale each; "ecsq:3" takes 3 bits for each weight that is not
            pruned, and for the places of zeros what an ideal code for a random mask takes; None leaves weights
            exact (float64 as float32).
        progress: told what is being done, and how far it is.

    Raises:
        ConfigError: neither `prune` nor `quantize`, or one that means nothing; a file that cannot be read or
            written, or that holds NaN. FormatError: the file is damaged. StoreError: the disk failed.
    """
    if prune is None and quantize is None:
        raise ConfigError("there is nothing to do", hint="give prune, quantize or both")
    rule, bits = None if prune is None else rule_of(prune), _bits(quantize)
    target = Path(out)
    try:
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name[:32]}.", dir=target.parent)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    with scratch as folder, TensorFile.open(Path(model)) as file:
        source, again = Path(model), Path(folder) / "again.safetensors"
        before = source.stat().st_size  # now, because `out` may take the model's place
        kept = total = sum(spec.size for spec in matrices(file.contents.specs))
        if rule is not None:
            source = Path(folder) / "thin.safetensors"
            read = file.size_bytes + 2 * sum(bytes_of(spec) for spec in matrices(file.contents.specs))
            with in_words(target):
                kept, total = thin(file, source, rule, _meter("pruning", progress, read))
        made = encode_file(source, target, progress=progress, **_options(quantize, bits, kept, total, file))
        decode_file(target, again, progress=progress)
        with TensorFile.open(again) as result:
            rows, nmse = _losses(file, result, progress)
    among = {spec.name for spec in matrices(file.contents.specs)}
    zeros = sum(row.zeros for row in rows if row.name in among)
    return Compressed(
        made.parameters,
        before,
        made.bytes,
        made.bits_per_parameter,
        zeros / total if total else 0.0,
        nmse,
        rows,
    )


def _bits(quantize: str | None) -> float | None:
    """The bits of "ecsq:BITS"; None for other words."""
    if quantize is None:
        return None
    if quantize in _INTEGERS:
        codec_from({"codec": quantize})
        return None
    match = re.fullmatch(r"ecsq:(\d{1,4}(?:\.\d{1,6})?)", quantize)
    if not match or not 0.0 < float(match[1]) <= _MOST_BITS:
        raise ConfigError(
            f"quantize: expected int8, int4 or ecsq:BITS, found '{quantize:.40}'", hint="for example ecsq:3"
        )
    return float(match[1])


def _options(
    quantize: str | None, bits: float | None, kept: int, total: int, file: TensorFile
) -> dict[str, Any]:
    """What `encode_file` is asked for."""
    if bits is not None:
        coded = sum(spec.size for spec in file.contents.specs if spec.dtype in CODED)
        if coded == 0:
            return {"lossless": True}  # there is nothing that bits could be for
        share = (kept + coded - total) / coded
        wanted = coded * max(share * bits + _entropy(share), _FEWEST_BITS)
        # what travels exactly comes on top: `bits` are those of the coded tensors
        exact = [spec for spec in file.contents.specs if spec.dtype not in CODED]
        wanted += 8 * sum(len(encode_exact([file.read(spec)], spec.dtype, None)) for spec in exact)
        return {"codec": "ecsq", "bits": wanted / sum(spec.size for spec in file.contents.specs)}
    weights = dict(_EXACT) if quantize is None else {"codec": quantize}
    return {"codec": "model", "weights": weights, "vectors": dict(_EXACT)}


def _entropy(share: float) -> float:
    """The bits per weight that a random mask takes in which this share is kept."""
    return -sum(p * math.log2(p) for p in (share, 1.0 - share) if p > 0.0)


def _losses(old: TensorFile, new: TensorFile, progress: Progress) -> tuple[tuple[TensorLoss, ...], float]:
    each = _meter("comparing", progress, old.size_bytes)
    rows, lost_in_all, power_in_all = [], 0.0, 0.0
    for spec in old.contents.specs:
        before, after = old.read(spec), new.read(spec)
        lost = power = 0.0
        if spec.dtype in CODED:
            first, second = floats(before, spec.dtype), floats(after, spec.dtype)
            lost = float(np.square(np.subtract(second, first, dtype=np.float64)).sum())
            power = float(np.square(first, dtype=np.float64).sum())
            zeros = int(np.count_nonzero(second == 0))
        else:
            zeros = int(np.count_nonzero(~after.reshape(spec.size, -1).any(axis=1))) if spec.size else 0
        lost_in_all, power_in_all = lost_in_all + lost, power_in_all + power
        nmse = lost / power if power else 0.0
        rows.append(TensorLoss(spec.name, spec.dtype, spec.shape, spec.size, zeros, nmse))
        each(bytes_of(spec))
    return tuple(rows), lost_in_all / power_in_all if power_in_all else 0.0


def _meter(what: str, progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def each(size: int) -> None:
        nonlocal done
        done += size
        progress(what, done, total)

    return each
