"""A run on Flower keeps the same kind of ledger, with keys at the nodes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.job.auditing import audited, names
from tests.tiny import table

import phloem
from phloem.recipe import load_recipe

pytestmark = [pytest.mark.service("flower"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


@pytest.mark.parametrize("receipts", ["strict", "lagged 4"])
def test_on_flower_the_audit_of_a_run_is_valid_and_its_state_is_the_local_engines(
    receipts: str, tmp_path: Path
) -> None:
    recipe = load_recipe(table(count=3, rounds=3, ledger={"receipts": receipts}))
    local = phloem.build(load_recipe(table(count=3, rounds=3)), out=tmp_path / "local")
    run = phloem.build(recipe, out=tmp_path / "run", engine="flower")
    assert run.summary["state_digest"] == local.summary["state_digest"]
    assert run.summary["chain"] == local.summary["chain"]
    found = audited(run.path)
    assert (str(found.verdict), names(found), found.replayed) == ("valid", set(), 3)
    (rules,) = found.runs.values()
    assert rules.sites == dict.fromkeys(recipe.sites.all, 3)
    assert rules.members.names == sorted([*recipe.sites.all, "coordinator"])
