"""What methods are made of, and how much memory a merge of many branches takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.branches.one_tensor import EVERY, named

from phloem.branches.arithmetic import halved, shares, spans, stretch
from phloem.branches.methods import Method
from phloem.seeds import generator
from phloem.tensors import Array


@given(st.lists(st.integers(-(2**40), 2**40), max_size=40))
def test_a_sum_by_halves_is_the_sum(numbers: list[int]) -> None:
    assert halved(np.array(numbers, np.float64)) == sum(numbers)


def test_shares_add_up_and_stretches_fit_a_cache() -> None:
    assert shares([1, 3]) == [0.25, 0.75]
    assert all(count * stretch(count) <= 1 << 18 for count in range(4, 257))


@dataclass(frozen=True)
class OnDisk:
    """Branches that are read from files, again at every pass."""

    paths: Sequence[Path]
    labels: Sequence[str]
    size: int

    def each(self) -> Iterator[Array]:
        for path in self.paths:
            yield np.fromfile(path, np.float32)

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        for where in spans(self.size, stretch(len(self.paths))):
            part = np.empty((len(self.paths), where.stop - where.start), np.float32)
            for row, path in zip(part, self.paths, strict=True):
                row[:] = np.fromfile(path, np.float32, row.size, offset=4 * where.start)
            yield where, part
            del part, row


@pytest.fixture(scope="module")
def sixty_four(tmp_path_factory: pytest.TempPathFactory) -> OnDisk:
    """64 branches of a tensor of 4 MiB, eight of them different."""
    folder, size = tmp_path_factory.mktemp("branches"), 1 << 20
    for place in range(8):
        generator(0, "memory", place).standard_normal(size, np.float32).tofile(folder / str(place))
    return OnDisk([folder / str(place % 8) for place in range(64)], [str(place) for place in range(64)], size)


QUICK = ("mean",)  # the others take some seconds each


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, id=named(m), marks=() if m.name in QUICK else pytest.mark.slow) for m in EVERY],
)
def test_64_branches_need_the_memory_of_a_few_tensors(method: Method, sixty_four: OnDisk) -> None:
    weights = [1.0 + place % 3 for place in range(64)]
    tracemalloc.start()
    try:
        base = np.zeros(sixty_four.size, np.float32)
        survey = method.survey("w", base, sixty_four) if method.needs_survey else None
        method.tensor("w", base, sixty_four, weights, method.resolve(survey, weights))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 4 * sixty_four.size, f"{peak / (4 * sixty_four.size):.2f} tensors"
