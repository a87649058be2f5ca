"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import phloem

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src" / "phloem").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OTHERS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
GOLDEN = ROOT / "tests" / "golden"

LONGEST_MODULE = 400
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "joblib"}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common"}
HEAVY = ("numpy", "torch", "sklearn", "flwr", "typer", "rich", "zstandard", "cryptography", "fsspec")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def imported(path: Path) -> set[str]:
    """The top-level names of all packages that a file imports, wherever in it."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_module_is_longer_than_a_reader_can_hold(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE, f"{named(path)} has {lines} lines: look for the seam"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *OTHERS], ids=named)
def test_a_path_says_what_is_in_the_file(path: Path) -> None:
    parts = set(path.relative_to(ROOT).with_suffix("").parts)
    words = {word for part in parts for word in part.split("_")}
    assert not words & EMPTY_NAMES, f"{named(path)}: say what it does instead of {words & EMPTY_NAMES}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_class_is_called_a_manager_or_helper(path: Path) -> None:
    classes = [node.name for node in nodes(path) if isinstance(node, ast.ClassDef)]
    assert not [name for name in classes if re.search(r"(Manager|Helpers?|Utils?)$", name)]


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *OTHERS], ids=named)
def test_nothing_reads_or_writes_a_pickle(path: Path) -> None:
    assert not imported(path) & PICKLES
    calls = [node for node in nodes(path) if isinstance(node, ast.Call)]
    allowed = [
        keyword
        for call in calls
        for keyword in call.keywords
        if keyword.arg == "allow_pickle"
        and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
    ]
    assert not allowed, f"{named(path)} lets NumPy read pickles"
    torch_files = [
        call
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"load", "save"}
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
    ]
    assert not torch_files, f"{named(path)}: torch's files are pickles, use safetensors"


@pytest.mark.parametrize("path", TESTS, ids=named)
def test_no_test_sleeps(path: Path) -> None:
    calls = [node.func for node in nodes(path) if isinstance(node, ast.Call)]
    names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}
    assert "sleep" not in names, f"{named(path)}: wait for what must happen, not for time to pass"


def test_importing_phloem_loads_nothing_heavy() -> None:
    code = f"import sys, phloem; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def modules() -> list[str]:
    # By path, not by import: an optional package that is missing must not end the collection.
    paths = [path.relative_to(ROOT / "src").with_suffix("") for path in SOURCES]
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


@pytest.mark.parametrize("name", modules())
def test_every_example_in_a_docstring_runs(name: str) -> None:
    if name.endswith("__main__"):
        pytest.skip("importing it runs the command")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("phloem"):
            raise
        pytest.skip(f"the package {error.name} is not installed")
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0, f"{outcome.failed} of {outcome.attempted} examples in {name} are wrong"


def codecs() -> list[str]:
    registry = importlib.import_module("phloem.codecs.registry")
    return sorted(registry.BY_NAME)


def test_every_codec_has_a_golden_frame() -> None:
    missing = [name for name in codecs() if not list((GOLDEN / name).glob("*/frame.bin"))]
    assert not missing, (
        f"tests/golden/<codec>/<case>/frame.bin is missing for {missing}; see tools/write_golden.py"
    )


def test_every_codec_is_explained_in_the_docs() -> None:
    pages = [ROOT / "docs" / name for name in ("glossary.md",)]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.exists())
    missing = [name for name in codecs() if f"`{name}`" not in text]
    assert not missing, f"docs/glossary.md has no line with {missing} in backquotes"


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt is a list of name==version and comments"
    assert len({name for name, _ in pairs}) == len(pairs), "constraints.txt pins something twice"
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_every_requirement_is_pinned_by_a_version_that_it_allows() -> None:
    metadata = project()
    table = metadata["project"]
    groups = [metadata["build-system"]["requires"], table["dependencies"]]
    groups += table["optional-dependencies"].values()
    pinned = pins()
    for requirement in (Requirement(text) for group in groups for text in group):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(version), f"constraints.txt pins {version}, not {requirement}"


def test_torch_is_pinned_exactly_because_a_free_one_downloads_cuda() -> None:
    assert pins()["torch"] == Version("2.13.0")


def test_the_package_version_is_the_one_in_pyproject() -> None:
    assert phloem.__version__ == project()["project"]["version"]


@pytest.mark.slow
def test_without_a_compiler_the_native_build_says_so_in_one_line_and_succeeds(tmp_path: Path) -> None:
    tools = Path(sys.executable).parent
    if not ((tools / "cmake").exists() and (tools / "ninja").exists()):
        pytest.skip("this environment has no CMake and Ninja of its own")
    missing = str(tmp_path / "no-compiler")
    done = subprocess.run(
        [tools / "cmake", "-G", "Ninja", "-S", ROOT, "-B", tmp_path / "build"],
        env={"PATH": str(tools), "CC": missing, "CXX": missing},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    said = [line for line in lines if "native kernels are not built" in line]
    assert len(said) == 1
    assert "NumPy reference" in said[0]
