"""Processes that are ranks, for every test that asks for `ranks`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engines.torch.ranks import SECONDS, Ended, Forks, Start


@pytest.fixture(scope="session")
def _forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def ranks(_forks: Forks, tmp_path: Path) -> Start:
    """Starts ranks, whose folder is `tmp_path`, and waits for them."""

    def start(
        count: int,
        function: Callable[..., None],
        *,
        silent: Collection[int] = (),
        seconds: float = SECONDS,
        **options: Any,
    ) -> list[Ended]:
        return _forks.start(tmp_path, count, function, options, silent, seconds)

    return start
