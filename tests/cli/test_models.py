"""The commands on a repository of models, as a user types them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.branches.makers import model, tuned, written
from tests.cli.calls import Call, Said

from phloem.tensors import state_digest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model and three that were trained on from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PHLOEM_REPO", raising=False)
    written(tmp_path / "base.safetensors", model())
    for number, name in enumerate(("ant", "bee", "cat")):
        written(tmp_path / f"{name}.safetensors", tuned(model(), number + 1))
    return tmp_path


@pytest.fixture
def forest(here: Path, phloem: Call) -> Path:
    """A repository with a branch for each of them."""
    assert phloem("init", "base.safetensors", "-m", "the start").code == 0
    for name in ("ant", "bee", "cat"):
        assert phloem("branch", name).code == 0
        said = phloem(
            "commit", f"{name}.safetensors", "-b", name, "--bits", "2", "--examples", "10", "--site", name
        )
        assert said.code == 0, said.err
    return here


def ok(said: Said) -> str:
    assert said.code == 0, said.err
    return said.out.strip()


def test_a_model_there_and_back(here: Path, phloem: Call) -> None:
    said = phloem("init", "base.safetensors")
    assert said.code == 0
    said = phloem("commit", "ant.safetensors", "--bits", "1", "-o", "on.safetensors", "--metric", "loss=0.5")
    assert re.fullmatch(r"[0-9a-f]{64}\n", said.out)
    assert re.search(
        r"trunk [0-9a-f]{10}: \d+ B, 1[.\d]* bits per parameter, .*× smaller than the model; error", said.err
    )
    said = phloem("checkout", "trunk", "-o", "out.safetensors")
    assert (said.code, said.out) == (0, "")
    assert "3,664 parameters, state" in said.err
    assert state_digest(load_file("out.safetensors")) == state_digest(load_file("on.safetensors"))
    shown = json.loads(ok(phloem("checkout", "trunk~1", "-o", "old.safetensors", "--json")))
    assert shown["state"] == state_digest(model())
    said = phloem("checkout", "trunk", "-o", "few.safetensors", "--tensors", "layer", "--dtype", "bf16")
    assert said.code == 0
    assert "state" not in said.err
    assert ok(phloem("verify")).startswith("valid: ")


def test_merging_and_making_the_merge_again(forest: Path, phloem: Call) -> None:
    said = phloem(
        "merge", "ant", "bee", "cat", "--method", "ties", "--option", "density=0.5", "--scale", "0.7"
    )
    commit = ok(said)
    assert "ties of ant, bee, cat" in said.err
    said = phloem("verify", "--replay")
    assert said.code == 0
    assert "1 merges made again" in said.out
    said = phloem("merge", "--into", "trunk", "--without", "bee", "--json")
    found = json.loads(ok(said))
    assert found["recipe"]["excluded"] == ["bee"]
    assert found["recipe"]["again"] == commit
    assert [row["name"] for row in found["recipe"]["branches"]] == ["ant", "cat"]
    said = phloem("merge", "trunk", "--into", "ant", "--keep-local", "norm")
    assert said.code == 0, said.err
    assert json.loads(ok(phloem("verify", "ant", "--replay", "--json")))["valid"] is True


def test_the_scale_is_searched_for_by_a_command(forest: Path, phloem: Call) -> None:
    score = forest / "score.py"
    score.write_text(
        "import sys\nfrom safetensors.numpy import load_file\n"
        "state = load_file(sys.argv[1])\nprint('score', -abs(float(abs(state['norm.weight']).sum()) - 2.0))\n"
    )
    said = phloem(
        "merge", "ant", "bee", "--method", "task-arithmetic", "--scale", "search", "--eval",
        f"{sys.executable} {score} {{}}",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert len(re.findall(r"scale 0\.\d: -?\d", said.err)) == 9
    assert said.err.count("← taken") == 1
    for command, words in (
        ("true {}", "printed no number"),
        ("false {}", "no number"),
        ("true", "no place for"),
    ):
        said = phloem("merge", "ant", "cat", "--method", "ties", "--scale", "search", "--eval", command)
        assert said.code == 2
        assert words in said.err


def test_signed_commits(forest: Path, phloem: Call) -> None:
    key = ok(phloem("key", "new", "ant", "-o", "ant.key"))
    written(forest / "more.safetensors", tuned(tuned(model(), 1), 9))
    assert phloem("commit", "more.safetensors", "-b", "ant", "--sign", "ant.key").code == 0
    said = phloem("verify", "ant")
    assert (said.code, "signed by ant+" in said.out) == (0, True)
    said = phloem("verify", "ant", "--key", key)
    assert said.code == 1
    assert "it is not signed" in said.err
    assert phloem("verify", "ant", "--key", "nonsense").code == 3


@pytest.mark.parametrize(
    ("words", "said_of_it"),
    [
        (("commit", "nowhere.safetensors"), "cannot be read"),
        (("commit", "ant.safetensors", "-b", "nobody"), "there is no branch 'nobody'"),
        (("commit", "ant.safetensors", "--bits", "1", "--lossless"), "give one of"),
        (("commit", "ant.safetensors", "--bits", "1", "--nmse", "1"), "give one of"),
        (("commit", "ant.safetensors", "--rank", "4", "--lossless"), "--rank goes with --bits"),
        (("commit", "ant.safetensors", "--metric", "x"), "expected NAME=NUMBER"),
        (("commit", "ant.safetensors", "--adapter", "x"), "expected NAME=DIR"),
        (("checkout", "nobody", "-o", "x.safetensors"), "there is no branch, tag or commit 'nobody'"),
        (("checkout", "ant", "-o", "x.safetensors", "--tensors", "("), "regular expression"),
        (("merge", "ant", "bee", "--scale", "x"), "expected a number or search"),
        (("merge", "ant", "bee", "--option", "x"), "expected KEY=VALUE"),
        (("merge", "ant", "bee", "--method", "tie"), "did you mean 'ties'"),
        (("merge",), "name the branches to merge"),
        (("merge", "--without", "ant", "--method", "dare"), "made again keeps its method"),
        (("merge", "ant", "bee", "--option", "name=mean"), "the method's name is --method"),
        (("merge", "ant", "bee", "--eval", "x {}"), "say --scale search"),
        (("merge", "ant", "bee", "--keep-local", "("), "keep-local: expected a regular expression"),
        (("merge", "ant", "bee", "--scale", "search", "--eval", "'x {}"), "cannot be taken apart"),
        (("commit", "ant.safetensors", "--examples", "-3"), "-3"),
        (("commit", "ant.safetensors", "--metric", "a=nan"), "metrics are finite numbers"),
        (("log", "-n", "-1"), "-1"),
        (("build", "x.toml", "--cycles", "2"), "say --branches"),
        (("--repo", "x"), "No such option"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_sentence_and_changes_nothing(
    forest: Path, phloem: Call, words: tuple[str, ...], said_of_it: str
) -> None:
    before = (forest / ".phloem" / "refs.json").read_bytes()
    said = phloem(*words)
    assert said.code == 2
    assert len(said.errors) == 1
    assert said_of_it in said.err
    assert (forest / ".phloem" / "refs.json").read_bytes() == before
    assert not (forest / "x.safetensors").exists()


def test_an_own_author_and_another_repository(
    forest: Path, phloem: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = forest / "sub"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    written(forest / "m.safetensors", {"w": np.ones((4, 4), np.float32)})
    assert phloem("init", forest / "m.safetensors", "--author", "Ada").code == 0
    assert json.loads(ok(phloem("show", "--json")))["author"] == "Ada"
    assert json.loads(ok(phloem("show", "--repo", forest, "--json")))["message"] == "the start"
    monkeypatch.setenv("PHLOEM_REPO", str(forest))
    assert json.loads(ok(phloem("show", "--json")))["message"] == "the start"
