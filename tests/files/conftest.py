from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.files.models import Arrays, mixed, moved, network, write


@dataclass(frozen=True)
class Files:
    """A base, what became of it, and room for what tests make."""

    folder: Path
    base: Path
    new: Path

    @property
    def frame(self) -> Path:
        return self.folder / "update.phl"

    @property
    def out(self) -> Path:
        return self.folder / "out.safetensors"


def files_of(folder: Path, base: Arrays, update: Arrays) -> Files:
    return Files(
        folder,
        write(folder / "base.safetensors", base, {"format": "pt"}),
        write(folder / "new.safetensors", moved(base, update), {"format": "pt"}),
    )


@pytest.fixture
def net(tmp_path: Path) -> Files:
    """A network of float32 before and after training."""
    return files_of(tmp_path, network(), network("update", 0.002))


@pytest.fixture
def odd(tmp_path: Path) -> Files:
    """Tensors of every type."""
    return files_of(tmp_path, mixed(), mixed("update", 0.01))
