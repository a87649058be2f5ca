"""Ways to call the command, and what it said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny import ROOT, table

from phloem.ui.recipe_text import recipe_text


@dataclass(frozen=True)
class Said:
    """What a call of the command said, and how it left."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


Call = Callable[..., Said]


def write_recipe(path: Path, **keys: Any) -> Path:
    path.write_text(recipe_text(table(**keys)), encoding="utf-8")
    return path


def start(*words: object, cwd: Path = ROOT, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own, as a shell would start it."""
    folders = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "phloem.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "OMP_NUM_THREADS": "1"},
        **options,
    )


def finish(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate(timeout=60)
    return Said(process.returncode, out, err)


def files_under(folder: Path, but: Sequence[Path] = ()) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path not in but)
