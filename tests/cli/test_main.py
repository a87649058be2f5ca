from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.calls import Call, files_under, finish, start, write_recipe
from tests.tiny import ROOT, table

import phloem as package


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("finished")
    package.build(table(), out=folder / "run")
    return folder / "run"


# -- words -----------------------------------------------------------------------------------------


def test_help_says_what_happens_and_what_comes_out(phloem: Call) -> None:
    said = phloem("build", "--help")
    assert said.code == 0
    assert said.err == ""
    for word in ("--set", "--out", "--resume", "--compare", "--json", "--kernels", "--debug"):
        assert word in said.out
    for word in (
        "Examples:",
        "phloem build examples/digits.toml --compare",
        "report.html",
        "summary.json",
        "Exit codes",
    ):
        assert word in said.out


def test_a_call_without_words_shows_the_help(phloem: Call) -> None:
    said = phloem()
    assert said.code == 0
    assert "build" in said.out
    assert "report" in said.out


def test_the_version_is_the_packages(phloem: Call) -> None:
    assert phloem("--version").out == f"phloem {package.__version__}\n"


def test_help_imports_neither_numpy_nor_torch() -> None:
    names = "numpy", "torch", "sklearn", "rich.console", "cryptography", "phloem.job"
    code = (
        "import sys\nfrom phloem.cli.main import main\n"
        "try:\n    main(['build', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {names!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert done.stderr.strip() == "[]"


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize(
    "words",
    [
        ["bild"],
        ["build", "--no-such-option"],
        ["build", "x.toml", "y.toml"],
        ["build", "--kernels", "fast", "x.toml"],
        ["build", "--out"],
        ["build"],
        ["build", "x.toml", "--out", "a", "--resume", "b"],
        ["report"],
    ],
    ids=" ".join,
)
def test_wrong_words_are_one_error_with_a_hint(phloem: Call, words: list[str]) -> None:
    said = phloem(*words)
    assert said.code == 2
    assert said.out == ""
    assert len(said.errors) == 1
    assert re.search(r"^hint: ", said.err, re.MULTILINE)
    assert "Traceback" not in said.err


def test_a_mistyped_command_is_met_with_one_suggestion(phloem: Call) -> None:
    assert phloem("bild").errors == ["error: No such command 'bild'. Did you mean 'build'?"]


# -- recipes that are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rounds.mx=3", ["'mx'", "did you mean 'max'"]),
        ("round.max=3", ["'round'", "did you mean 'rounds'"]),
        ("rounds.max=soon", ["'max'", "whole number", "'soon'"]),
        ("rounds.max=2.5", ["'max'", "whole number", "2.5"]),
        ("rounds.max=0", ["'max'", "0"]),
        ("sites.dropout=1.5", ["'dropout'", "1.5"]),
        ("rounds.stop=target", ["'target'"]),
        ("up.codec=int9", ["[up]", "'int9'", "did you mean 'int8'"]),
        ("down.blck=16", ["'blck'", "did you mean 'block'"]),
        ("task.featurs=3", ["'featurs'", "did you mean 'features'"]),
        ("task.features=many", ["'features'", "whole number"]),
        ("task.name=hospital", ["'hospital'", "did you mean 'hospitals'"]),
        ("task.name=tests.tiny:Blob", ["'Blob'", "did you mean 'Blobs'"]),
        ("task.name=no_such_package.tasks:Mine", ["no_such_package"]),
        ("link.up=10furlongs", ["'up'", "10mbit", "10furlongs"]),
        ("links.nobody.up=1mbit", ["nobody"]),
        ("rounds", ["key=value"]),
    ],
)
def test_a_wrong_recipe_is_one_error_and_leaves_nothing_behind(
    phloem: Call, recipe: Path, tmp_path: Path, change: str, words: list[str]
) -> None:
    said = phloem("build", recipe, "--set", change, "--out", tmp_path / "run")
    assert said.code == 2, said.err
    assert said.out == ""
    assert len(said.errors) == 1
    assert len(said.err.splitlines()) <= 2
    for word in words:
        assert word in said.err
    assert files_under(tmp_path, but=[recipe]) == []


def test_a_missing_recipe_is_named(phloem: Call, tmp_path: Path) -> None:
    said = phloem("build", tmp_path / "none.toml", "--out", tmp_path / "run")
    assert (said.code, said.out) == (2, "")
    assert "none.toml" in said.errors[0]
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("text", ["name = ", "a = 1\na = 2", "\x00"])
def test_a_file_that_is_not_toml_is_refused(phloem: Call, tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="utf-8")
    said = phloem("build", path, "--out", tmp_path / "run")
    assert (said.code, said.out) == (2, "")
    assert "not TOML" in said.errors[0]
    assert files_under(tmp_path, but=[path]) == []


def test_a_missing_data_file_is_found_before_anything_is_written(phloem: Call, tmp_path: Path) -> None:
    path = tmp_path / "cards.toml"
    path.write_text(
        'name = "cards"\n[task]\nname = "tests.cli.file_task:FromFile"\n'
        f'path = "{tmp_path / "cards.csv"}"\n[sites]\ncount = 2\n',
        encoding="utf-8",
    )
    said = phloem("build", path, "--out", tmp_path / "run")
    assert (said.code, said.out) == (2, "")
    assert "cards.csv" in said.errors[0]
    assert files_under(tmp_path, but=[path]) == []


# -- directories that are wrong --------------------------------------------------------------------


def test_a_directory_with_something_in_it_is_left_alone(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    said = phloem("build", recipe, "--out", tmp_path / "mine")
    assert (said.code, said.out) == (2, "")
    assert "not empty" in said.errors[0]
    assert [path.name for path in files_under(tmp_path / "mine")] == ["thesis.txt"]


def test_a_run_is_not_started_again_in_its_own_directory(phloem: Call, recipe: Path, finished: Path) -> None:
    before = files_under(finished)
    said = phloem("build", recipe, "--out", finished)
    assert (said.code, said.out) == (2, "")
    assert "--resume" in said.err
    assert files_under(finished) == before


def test_resuming_what_is_no_run_is_refused(phloem: Call, tmp_path: Path) -> None:
    said = phloem("build", "--resume", tmp_path / "nothing")
    assert (said.code, said.out) == (2, "")
    assert "no run" in said.errors[0]
    assert files_under(tmp_path) == []


def test_a_run_of_another_version_is_left_alone(phloem: Call, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    marker = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(marker | {"layout": 99}))
    before = {path: path.read_bytes() for path in files_under(run) if path.is_file()}
    for words in (("build", "--resume", run), ("report", run)):
        said = phloem(*words)
        assert (said.code, said.out) == (1, "")
        assert "version 99" in said.errors[0]
    assert {path: path.read_bytes() for path in files_under(run) if path.is_file()} == before


def test_resuming_with_another_recipe_is_refused(phloem: Call, recipe: Path, finished: Path) -> None:
    said = phloem("build", recipe, "--resume", finished, "--set", "seed=7")
    assert (said.code, said.out) == (2, "")
    assert "another recipe" in said.errors[0]


def test_a_finished_run_is_not_trained_again(phloem: Call, finished: Path) -> None:
    before = (finished / "rounds.jsonl").read_bytes()
    said = phloem("build", "--resume", finished)
    assert said.code == 0
    assert "finished before" in said.err
    assert (finished / "rounds.jsonl").read_bytes() == before
    assert not (finished / "private").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]"])
def test_a_damaged_run_is_one_error(phloem: Call, finished: Path, tmp_path: Path, damage: bytes) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_bytes(damage)
    said = phloem("build", "--resume", tmp_path / "run")
    assert (said.code, said.out) == (1, "")
    assert len(said.errors) == 1
    assert "damaged" in said.err


def test_debug_shows_where_an_error_comes_from(phloem: Call, tmp_path: Path) -> None:
    said = phloem("build", tmp_path / "none.toml", "--debug")
    assert said.code == 2
    assert "Traceback" in said.err
    assert len(said.errors) == 1


# -- runs ------------------------------------------------------------------------------------------


def test_a_run_shows_a_table_and_says_where_the_report_is(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = phloem("build", recipe, "--out", run, "--set", "rounds.max=2")
    assert (said.code, said.out) == (0, "")
    for word in ("round 1 of 2", "round 2 of 2", "accuracy", "this recipe", "--compare", "report.html"):
        assert word in said.err
    for name in ("summary.json", "rounds.jsonl", "model.safetensors", "report.html"):
        assert (run / name).is_file()


def test_json_prints_the_summary_and_nothing_else(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    said = phloem("build", recipe, "--out", tmp_path / "run", "--json")
    assert said.code == 0
    summary = json.loads(said.out)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"] == 4
    assert "round 4 of 4" in said.err


def test_compare_shows_both_baselines(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    said = phloem("build", recipe, "--out", tmp_path / "run", "--compare", "--json")
    summary = json.loads(said.out)
    assert set(summary["compare"]) == {"fp32", "bf16"}
    assert (
        summary["total_bytes"]
        < summary["compare"]["bf16"]["total_bytes"]
        < summary["compare"]["fp32"]["total_bytes"]
    )
    again = phloem("build", "--resume", tmp_path / "run", "--compare")
    assert again.code == 0
    for word in ("uncompressed fp32", "bf16", "fewer"):
        assert word in again.err


def test_a_target_that_nobody_reaches_is_said_so(phloem: Call, recipe: Path, tmp_path: Path) -> None:
    change = ["--set", "rounds.stop=target", "--set", "rounds.target=1.5", "--set", "rounds.max=2"]
    said = phloem("build", recipe, "--out", tmp_path / "run", "--compare", *change)
    assert said.code == 0
    assert "not reached" in said.err
    assert "fewer" not in said.err


def test_a_site_that_is_refused_is_named(phloem: Call, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "nan.toml", task={"nan_site": "site-1"})
    said = phloem("build", path, "--out", tmp_path / "run")
    assert said.code == 0
    assert "refused: site-1 (" in said.err
    assert "site-1" in (tmp_path / "run" / "report.html").read_text()


def test_a_task_beside_the_recipe_is_found(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text("from tests.tiny import Blobs as Mine\n")
    path = write_recipe(tmp_path / "mine.toml", task={"name": "my_tasks:Mine"}, rounds=2, run={"workers": 2})
    said = finish(start("build", path, "--out", tmp_path / "run", "--json"))
    assert said.code == 0, said.err
    assert json.loads(said.out)["rounds"] == 2


def test_the_report_is_written_again(phloem: Call, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    said = phloem("report", tmp_path / "run")
    assert said.code == 0
    assert said.out.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_bytes() == (finished / "report.html").read_bytes()


def test_a_report_of_nothing_is_refused(phloem: Call, tmp_path: Path) -> None:
    said = phloem("report", tmp_path / "run")
    assert (said.code, said.out) == (2, "")
    assert files_under(tmp_path) == []


def test_without_out_the_first_free_directory_is_taken(
    phloem: Call, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "tiny-2"):
        assert phloem("build", recipe, "--set", "rounds.max=1").code == 0
        assert (tmp_path / "runs" / name / "report.html").is_file()
