"""The README and the docs say what is true: their code runs, their listings equal the files they show."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from phloem.cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LISTINGS = re.findall(r"<!-- listing: (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PYTHON_BLOCKS)))
def test_every_python_block_of_the_readme_runs(number: int, tmp_path: Path) -> None:
    """A newcomer pastes it into a file and it works."""
    if "flwr" in PYTHON_BLOCKS[number]:
        pytest.importorskip("flwr")
    script = tmp_path / "pasted.py"
    script.write_text(PYTHON_BLOCKS[number], "utf-8")
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        env=os.environ | {"PYTHONPATH": paths} | alone(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def alone() -> dict[str, str]:
    """What `torchrun` sets for a single rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def test_the_listings_of_the_readme_equal_the_files_they_show() -> None:
    """The shown task is the one that is tested and run."""
    assert LISTINGS, "the README shows no listing any more: take this test away"
    for path, shown in LISTINGS:
        assert (ROOT / path).read_text("utf-8") == shown, path


def test_the_command_line_page_equals_the_help_texts() -> None:
    """`docs/command-line.md` is what `--help` prints, at 100 columns."""
    page = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    shown = re.findall(r"```console\n\$ phloem ([^\n]*)--help\n(.*?)```", page, re.DOTALL)
    assert len(shown) >= 2
    for command, text in shown:
        assert text == help_of(command.split()), f"phloem {command}--help"


def help_of(command: list[str]) -> str:
    """What `phloem COMMAND --help` prints on a plain terminal of 100 columns."""
    said = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(said),
        pytest.raises(SystemExit) as left,
    ):
        main([*command, "--help"])
    assert left.value.code == 0
    return "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines()) + "\n"


def test_links_of_the_readme_and_docs_lead_somewhere() -> None:
    """Every relative link names a file that is there."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_figures_of_the_readme_are_those_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    figures = importlib.import_module("figures")
    shown = re.search(
        r"<!-- figures: benchmarks/figures.py -->\n(.*?)<!-- end of figures -->", README, re.DOTALL
    )
    assert shown is not None
    assert shown[1] == figures.table()
    page = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    shown = re.search(r"<!-- frontier: \S+ -->\n(.*?)<!-- end of frontier -->", page, re.DOTALL)
    assert shown is not None
    assert shown[1] == figures.frontier()
