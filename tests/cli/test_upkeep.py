"""History, upkeep and other places at the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.branches.makers import model, tuned, written
from tests.cli.calls import Call
from tests.cli.test_models import forest, here, ok

from phloem.tensors import state_digest

__all__ = ["forest", "here"]  # fixtures


def test_history_as_people_and_programs_read_it(forest: Path, phloem: Call) -> None:
    assert phloem("merge", "ant", "bee").code == 0
    lines = ok(phloem("log", "--graph", "--all")).splitlines()
    assert len([line for line in lines if "·" in line]) == 5
    assert "(trunk)" in lines[0]
    assert lines[-1].endswith("the start")
    rows = json.loads(ok(phloem("log", "--json", "-n", "2")))
    assert [row["kind"] for row in rows] == ["merge", "update"]
    assert rows[0]["names"] == ["trunk"]
    assert json.loads(ok(phloem("status", "--json")))["commits"] == 5
    assert ok(phloem("status")).startswith("On branch trunk")
    assert {row["name"] for row in json.loads(ok(phloem("branch", "--json")))} == {
        "trunk",
        "ant",
        "bee",
        "cat",
    }
    assert ok(phloem("branch")).splitlines()[0].startswith("* trunk")
    assert phloem("tag", "v1", "ant").code == 0
    assert ok(phloem("tag")).startswith("v1\t")
    assert set(json.loads(ok(phloem("tag", "--json")))) == {"v1"}
    assert phloem("tag", "--delete", "v1").code == phloem("switch", "ant").code == 0
    assert phloem("branch", "--delete", "cat").code == 2
    assert phloem("branch", "--delete", "cat", "--force").code == 0
    shown = ok(phloem("show", "trunk"))
    assert "merge     mean" in shown
    assert "stored " in shown


def test_differences_in_a_table_a_page_and_json(forest: Path, phloem: Call) -> None:
    said = phloem("diff", "ant", "bee", "--layers", "--html", "diff.html")
    assert said.code == 0
    assert "cosine" in said.out
    assert (forest / "diff.html").read_text("utf-8").startswith("<!doctype html>")
    found = json.loads(ok(phloem("diff", "ant", "bee", "--json")))
    assert found["total"]["figures"]["parameters"] == 3664
    assert "the same to the bit" in ok(phloem("diff", "ant", "ant"))
    assert phloem("diff", "ant", "nobody").code == 2


def test_advice_with_and_without_scores(forest: Path, phloem: Call) -> None:
    assert ok(phloem("advise", "ant", "bee", "cat")).split(":")[0] in ("merge", "keep apart", "groups")
    score = forest / "score.py"
    score.write_text("print(0.5)")
    words = [f"{name}={sys.executable} {score} {{}}" for name in ("ant", "bee")]
    found = json.loads(ok(phloem("advise", "ant", "bee", "--eval", words[0], "--eval", words[1], "--json")))
    assert found["evidence"]["trials"][0]["scores"] == {"ant": 0.5, "bee": 0.5}
    assert phloem("advise", "ant").code == 2
    assert phloem("advise", "ant", "bee", "--eval", "x").code == 2


def test_upkeep_changes_no_bit(forest: Path, phloem: Call) -> None:
    states = {name: json.loads(ok(phloem("show", name, "--json")))["state"] for name in ("ant", "bee", "cat")}
    written(forest / "more.safetensors", tuned(tuned(model(), 1), 7))
    assert phloem("commit", "more.safetensors", "-b", "ant", "--bits", "1").code == 0
    states["ant"] = json.loads(ok(phloem("show", "ant", "--json")))["state"]
    made = json.loads(ok(phloem("squash", "ant", "--onto", "trunk", "--json")))
    assert (made["squashed"], made["state"]) == (2, states["ant"])
    dry = json.loads(ok(phloem("gc", "--grace", "0", "--dry-run", "--json")))
    real = json.loads(ok(phloem("gc", "--grace", "0", "--json")))
    assert {**dry, "dry_run": False} == real
    assert real["commits"] == 2
    assert phloem("repack").code == 0
    assert ok(phloem("fsck", "--deep")).splitlines()[-1].startswith("whole: 4 commits")
    for name, state in states.items():
        assert json.loads(ok(phloem("checkout", name, "-o", "x.safetensors", "--json")))["state"] == state
        assert state_digest(load_file("x.safetensors")) == state


def test_another_place_and_what_it_brings_back(
    forest: Path, phloem: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert phloem("remote", "add", "origin", forest / "there").code == 0
    said = phloem("push", "origin", "trunk", "ant", "bee")
    assert said.code == 0, said.err
    assert "new →" in said.err
    assert "up to date with origin/trunk" in ok(phloem("status"))
    assert phloem("clone", forest / "there", "--in", forest / "second").code == 0
    monkeypatch.chdir(forest / "second")
    assert ok(phloem("verify", "ant")).startswith("valid")
    written(forest / "second" / "m.safetensors", tuned(model(), 11))
    assert phloem("commit", "m.safetensors", "--bits", "1").code == 0
    assert phloem("push").code == 0
    monkeypatch.chdir(forest)
    written(forest / "m.safetensors", tuned(model(), 12))
    assert phloem("commit", "m.safetensors", "--bits", "1").code == 0
    said = phloem("push")
    assert said.code == 2
    assert "hint: phloem pull origin, merge origin/trunk, and push again" in said.err
    said = phloem("pull")
    assert said.code == 0
    assert "hint: phloem merge origin/trunk --into trunk" in said.err
    assert phloem("merge", "origin/trunk").code == phloem("push").code == 0
    pack = max((forest / ".phloem" / "packs").iterdir(), key=lambda path: path.stat().st_size)
    damaged = bytearray(pack.read_bytes())
    damaged[200:260] = bytes(60)
    pack.write_bytes(damaged)
    said = phloem("fsck")
    assert said.code == 1
    assert "damaged" in said.out
    assert phloem("fsck", "--from", "origin").code == 0, phloem("fsck").out
    assert phloem("fsck", "--deep").code == 0


def test_runs_on_branches(forest: Path, phloem: Call, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (forest / "runs-of").mkdir()
    monkeypatch.chdir(forest / "runs-of")
    assert phloem("init").code == 0
    said = phloem("build", recipe, "--branch", "trunk", "--set", "rounds.max=2", "--out", "one")
    assert said.code == 0, said.err
    assert len(ok(phloem("log")).splitlines()) == 3
    said = phloem(
        "build", recipe, "--branch", "north", "--from", "trunk~1", "--set", "rounds.max=1", "--out", "two"
    )
    assert said.code == 0, said.err
    assert "2 merges made again" in ok(phloem("verify", "north", "--replay"))
    said = phloem(
        "build", recipe, "--branches", "--set", "rounds.max=1", "--branch", "forest", "--out", "three"
    )
    assert said.code == 0, said.err
    assert "forest, merged" in said.err
    assert phloem("build", recipe, "--from", "trunk").code == 2
    assert phloem("build", "--branches").code == 2
