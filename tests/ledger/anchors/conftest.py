from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ledger.anchors.authorities import Authority
from tests.ledger.anchors.chains import Anvil


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    """A chain that the tests of a module share; each deploys a contract of its own."""
    with Anvil() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """A time-stamping authority that the tests of a module share."""
    folder: Path = tmp_path_factory.mktemp("authority")
    with Authority(folder) as running:
        yield running
