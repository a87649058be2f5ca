"""One-shot pruning of a model in a file: which weights go, by magnitude, and the file without them.

Weights of all matrices (tensors of two or more dimensions that may be coded with loss) are compared as float32. Two
rules: the smallest share of all of them together, among equal ones those of later tensors and higher indices; or
N of every M, where groups of M run along a matrix's rows (the first dimension by all others, as `ecsq` sees it): of
each group the N largest stay, of equal ones the earlier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError
from phloem.files.dtypes import CODED, ITEM_BYTES, Raw, floats
from phloem.files.tensorfile import TensorFile, TensorFileWriter, bytes_of
from phloem.masks import Mask
from phloem.tensors import TensorSpec

Keys = npt.NDArray[np.uint32]
#: Given a matrix and the magnitudes of its weights, which of them stay.
Choose = Callable[[TensorSpec, Keys], Mask]
_HALF = 1 << 16
_INFINITY = 0x7F800000
_LARGEST_GROUP = 1024


@dataclass(frozen=True)
class Share:
    """Prunes the smallest `sparsity` of all weights together."""

    sparsity: float


@dataclass(frozen=True)
class Groups:
    """Keeps `kept` of every `size` weights along a row."""

    kept: int
    size: int


def rule_of(text: str | float) -> Share | Groups:
    """The rule that "0.8" or "2:4" names.

    >>> rule_of("2:4")
    Groups(kept=2, size=4)

    Raises:
        ConfigError: it is neither a share nor N:M.
    """
    match = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(\d{1,4})\s*", str(text))
    if match:
        kept, size = int(match[1]), int(match[2])
        if 0 < kept <= size and 1 < size <= _LARGEST_GROUP:
            return Groups(kept, size)
    else:
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if 0.0 < share < 1.0:
            return Share(share)
    raise ConfigError(
        f"prune: expected the share of weights that goes, or how many of how many stay, found '{text!s:.40}'",
        hint="for example 0.8, or 2:4",
    )


def matrices(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The tensors whose weights may go."""
    return [spec for spec in specs if spec.dtype in CODED and len(spec.shape) >= 2 and spec.size]


def magnitudes(raw: Raw, spec: TensorSpec) -> Keys:
    """A matrix's magnitudes as float32, in integers of the same order; NaN is larger than all. Shape: (size,)."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(floats(raw, spec.dtype), dtype=np.float32)
    return values.view(np.uint32) & np.uint32(0x7FFFFFFF)


def choice_of(rule: Share | Groups, file: TensorFile, each: Callable[[int], None]) -> Choose:
    """How the rule decides on the matrices of this file, which must then be asked for in their order."""
    if isinstance(rule, Groups):
        return lambda spec, keys: _of_groups(keys, spec.shape[0], rule.kept, rule.size)
    wanted = matrices(file.contents.specs)
    count = sum(spec.size for spec in wanted)
    kept = count - int(np.floor(rule.sparsity * count + 0.5))
    threshold, ties = _threshold(file, wanted, kept, each)
    left = [ties]

    def choose(spec: TensorSpec, keys: Keys) -> Mask:
        mask: Mask = keys > threshold
        equal = np.flatnonzero(keys == threshold)[: left[0]]
        mask[equal] = True
        left[0] -= equal.size
        return mask

    return choose


def thin(file: TensorFile, out: Path, rule: Share | Groups, each: Callable[[int], None]) -> tuple[int, int]:
    """Writes the file without the weights that go; gives how many weights stay, of how many in matrices.

    `each` is told of the bytes that were read; every matrix is read three times, other tensors once.
    """
    choose = choice_of(rule, file, each)
    thinned = {spec.name for spec in matrices(file.contents.specs)}
    kept = total = 0
    with out.open("w+b") as draft:
        writer = TensorFileWriter(draft, file.contents)
        for spec in file.contents.specs:
            raw = file.read(spec)
            keys = magnitudes(raw, spec) if spec.dtype in CODED else np.zeros(0, np.uint32)
            if keys.max(initial=0) >= _INFINITY:
                raise ConfigError(
                    f"tensor '{spec.name}' of {file.path} holds NaN, infinity or values beyond float32"
                )
            if spec.name in thinned:
                mask = choose(spec, keys)
                raw.reshape(spec.size, ITEM_BYTES[spec.dtype])[~mask] = 0
                kept += int(np.count_nonzero(mask))
                total += spec.size
            writer.write(spec, raw)
            each(bytes_of(spec))
    return kept, total


def _threshold(
    file: TensorFile, specs: Sequence[TensorSpec], kept: int, each: Callable[[int], None]
) -> tuple[int, int]:
    """The magnitude of the `kept`-th largest weight, and how many of that very magnitude stay.

    Two counts, of the upper and of the lower half of the integers: exact, in memory that no file makes larger.
    """

    def all_keys() -> Iterator[Keys]:
        for spec in specs:
            yield magnitudes(file.read(spec), spec)
            each(bytes_of(spec))

    def rank(counts: npt.NDArray[np.int64], above: int) -> tuple[int, int]:
        """The bin in which the weight lies, and how many are in higher ones."""
        reached = above + np.cumsum(counts[::-1])
        place = int(np.searchsorted(reached, kept))
        return counts.size - 1 - place, int(reached[place] - counts[counts.size - 1 - place])

    if kept == 0 or not specs:
        return 0x80000000, 0
    upper = np.zeros(_HALF, np.int64)
    for keys in all_keys():
        upper += np.bincount(keys >> 16, minlength=_HALF)
    high, above = rank(upper, 0)
    lower = np.zeros(_HALF, np.int64)
    for keys in all_keys():
        lower += np.bincount(keys[keys >> 16 == high] & 0xFFFF, minlength=_HALF)
    low, above = rank(lower, above)
    return high << 16 | low, kept - above


def _of_groups(keys: Keys, rows: int, kept: int, size: int) -> Mask:
    """The `kept` largest of every `size` weights of a row; a shorter last group keeps as many, if it has them."""
    columns = keys.size // rows
    groups = -(-columns // size)
    padded = np.zeros((rows, groups * size), np.int64)
    padded[:, :columns] = keys.reshape(rows, columns).astype(np.int64) + 1  # beyond the row nothing is larger
    order = np.argsort(-padded.reshape(rows * groups, size), axis=1, kind="stable")
    mask = np.zeros((rows * groups, size), np.bool_)
    np.put_along_axis(mask, order[:, :kept], True, axis=1)
    return mask.reshape(rows, groups * size)[:, :columns].reshape(-1)
