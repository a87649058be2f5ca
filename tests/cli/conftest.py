from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.calls import Call, Said, write_recipe

from phloem.cli.main import main


@pytest.fixture
def phloem(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls the command in this process."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        found = capsys.readouterr()
        return Said(int(left.value.code or 0), found.out, found.err)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's file, whose run takes milliseconds."""
    return write_recipe(tmp_path / "tiny.toml")
