"""Who gets which samples: three disjoint parts, then label-skewed shares for the sites.

Everything here is NumPy and takes its generator from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError

Indices = npt.NDArray[np.int64]

MINIMUM = 4
"""Sites with fewer training samples than this stay silent: one mini-batch of noise helps nobody."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Sample indices of the three parts: disjoint, each sorted."""

    train: Indices
    stop: Indices
    test: Indices


def split_parts(labels: npt.NDArray[Any], stop: int, test: int, rng: np.random.Generator) -> Parts:
    """Training, stopping and test indices that cover everything once, stratified by label.

    `stop` and `test` are sample counts. Every label gives each part its share of them, rounded so that the
    counts come out exactly (largest remainder, ties to the lower label).

    Raises:
        ConfigError: the two parts leave nothing to train on.
    """
    if stop < 1 or test < 1 or stop + test >= len(labels):
        raise ConfigError(
            f"{len(labels)} samples cannot give {stop} to stop on, {test} to test on, and some to train on"
        )
    values, sizes = np.unique(labels, return_counts=True)
    stop_counts = _apportion(sizes, stop)
    test_counts = _apportion(sizes - stop_counts, test)
    parts: tuple[list[Indices], list[Indices], list[Indices]] = ([], [], [])
    for value, n_stop, n_test in zip(values, stop_counts, test_counts, strict=True):
        order = rng.permutation(np.flatnonzero(labels == value))
        for part, piece in zip(parts, np.split(order, [n_stop, n_stop + n_test]), strict=True):
            part.append(piece)
    stop_part, test_part, train_part = (np.sort(np.concatenate(part)) for part in parts)
    return Parts(train=train_part, stop=stop_part, test=test_part)


def dirichlet_partition(
    labels: npt.NDArray[Any],
    sites: Sequence[str],
    alpha: float,
    rng: np.random.Generator,
    sizes: Sequence[float] | None = None,
) -> dict[str, Indices]:
    """Each site's sample indices, sorted; together they cover every sample exactly once.

    For every label a Dirichlet(`alpha`) draw over the sites says how that label is dealt out. A small alpha
    gives skewed labels *and* unequal sizes: at 0.3 with ten sites, some have two labels and a few dozen
    samples, some have none; at 100 all look alike. `sizes` are relative sizes that the sites have on average
    (the draw is then Dirichlet(alpha · sites · share)). A site may get nothing: below `MINIMUM` it stays
    silent.

    Source: Hsu, Qi, Brown 2019 (arXiv:1909.06335) for the Dirichlet over labels; drawing per label over the
    sites, which makes sizes unequal too, is the form of Yurochkin et al. 2019 (arXiv:1905.12022).

    Raises:
        ConfigError: alpha or a size is not positive.

    >>> rng = np.random.default_rng(0)
    >>> shares = dirichlet_partition(np.array([0, 0, 1, 1, 1, 2]), ["a", "b"], 0.3, rng)
    >>> sorted(int(i) for share in shares.values() for i in share)
    [0, 1, 2, 3, 4, 5]
    """
    if not (alpha > 0 and np.isfinite(alpha)):
        raise ConfigError(
            f"option 'alpha' must be more than 0, found {alpha}", hint="0.3 is skewed, 100 is even"
        )
    share = np.full(len(sites), 1 / len(sites)) if sizes is None else np.asarray(sizes, np.float64)
    if share.shape != (len(sites),) or not (share > 0).all():
        raise ConfigError(f"expected {len(sites)} positive sizes, one for each site, found {sizes}")
    concentration = alpha * len(sites) * share / share.sum()
    pieces: list[list[Indices]] = [[] for _ in sites]
    for value in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == value))
        cuts = np.floor(np.cumsum(rng.dirichlet(concentration))[:-1] * len(order) + 0.5).astype(np.int64)
        for piece, part in zip(pieces, np.split(order, cuts), strict=True):
            piece.append(part)
    return {
        site: np.sort(np.concatenate(piece)).astype(np.int64)
        for site, piece in zip(sites, pieces, strict=True)
    }


def _apportion(sizes: Indices, total: int) -> Indices:
    """`total` divided in proportion to `sizes`, in whole samples."""
    exact = sizes * (total / sizes.sum())
    counts = np.floor(exact).astype(np.int64)
    rest = np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]
    counts[rest] += 1
    result: Indices = counts
    return result
