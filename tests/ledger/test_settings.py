"""`[ledger]` of a recipe: every wrong value is one sentence about it, before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.ledger.samples import ANT, BEE, LOG
from tests.tiny import table

from phloem.errors import ConfigError
from phloem.ledger.settings import LedgerSettings, lag_of
from phloem.recipe import Recipe, load_recipe
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer
from phloem.tlog.policy import NONE, Group, Policy
from phloem.ui.recipe_text import recipe_text

WITNESSES = [Signer.from_seed(f"w{n}.example", COSIGNATURE, bytes([60 + n]) * 32) for n in range(4)]
LINES = [f"w{n} {one.verifier} http://127.0.0.1:{8400 + n}" for n, one in enumerate(WITNESSES)]


def loaded(tmp_path: Path, toml: str) -> Recipe:
    """The recipe in a file with this section [ledger]."""
    names = table(sites={"names": ["ant", "bee"], "count": 0})
    path = tmp_path / "recipe.toml"
    path.write_text(f"{recipe_text(names)}\n{toml}\n", encoding="utf-8")
    return load_recipe(path)


def settings(tmp_path: Path, toml: str) -> LedgerSettings:
    found = loaded(tmp_path, toml).ledger
    assert found is not None
    return found


def test_a_recipe_without_the_section_keeps_no_ledger(tmp_path: Path) -> None:
    assert loaded(tmp_path, "").ledger is None


def test_the_section_alone_is_a_strict_ledger_without_witnesses(tmp_path: Path) -> None:
    found = settings(tmp_path, "[ledger]")
    assert found == LedgerSettings()
    assert (found.receipts, found.lag, found.retention, found.folder) == ("strict", 0, "6 years", "")
    assert found.policy(LOG.verifier) == Policy((LOG.verifier,))


def test_everything_that_can_be_said_comes_back_from_toml_and_json(tmp_path: Path) -> None:
    rows = ", ".join(f'"{line}"' for line in LINES[:3])
    toml = (
        f'[ledger]\nreceipts = "lagged 8"\nquorum = 2\nretention = "10 years"\nfolder = "../consortium"\n'
        f'witnesses = [{rows}]\n[ledger.members]\nant = "{ANT.verifier}"\n'
    )
    recipe = loaded(tmp_path, toml)
    assert recipe.ledger == LedgerSettings(
        "lagged 8", LINES[:3], 2, {"ant": str(ANT.verifier)}, "../consortium", "10 years"
    )
    assert recipe.ledger.lag == 8
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_changes_on_the_command_line_reach_it() -> None:
    recipe = load_recipe(table(), ["ledger.receipts=lagged 3", "ledger.quorum=0"])
    assert recipe.ledger is not None
    assert recipe.ledger.lag == 3


@pytest.mark.parametrize(
    ("words", "lag"), [("strict", 0), ("audit-only", None), ("lagged 1", 1), ("lagged 999999", 999_999)]
)
def test_rules_about_receipts(words: str, lag: int | None) -> None:
    assert lag_of(words) == lag
    assert LedgerSettings(receipts=words).lag == lag


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("receipts = 'never'", "'receipts' is 'strict', 'lagged K' or 'audit-only', found 'never'"),
        ("receipts = ''", "'receipts' is"),
        ("receipts = 'Strict'", "'receipts' is"),
        ("receipts = 'lagged 0'", "'receipts' is"),
        ("receipts = 'lagged -1'", "'receipts' is"),
        ("receipts = 'lagged 01'", "'receipts' is"),
        ("receipts = 'lagged 1000000'", "'receipts' is"),
        ("receipts = 'lagged  1'", "'receipts' is"),
        ("receipts = 'lagged 1 '", "'receipts' is"),
        ("receipts = 'lagged ١'", "'receipts' is"),
        ('receipts = "strict\\n"', "'receipts' is"),
        ('receipts = "\\u001b[2J"', "'receipts' is"),
        ("receipts = 3", "'receipts' must be a text, found 3"),
        ("receipts = true", "'receipts' must be a text"),
        ("receipts = ['strict']", "'receipts' must be a text"),
        ("recipts = 'strict'", "has no key 'recipts'"),
        ("quorum = 1", "'quorum' is at most the number of witnesses, 0, found 1"),
        ("quorum = -1", "'quorum' is at most"),
        ("quorum = true", "'quorum' must be a whole number"),
        ("quorum = 1.0", "'quorum' must be a whole number"),
        ("quorum = '1'", "'quorum' must be a whole number"),
        ("retention = ''", "'retention' must be a few words"),
        ('retention = "6\\nyears"', "'retention' must be a few words"),
        (f"retention = '{'x' * 101}'", "'retention' must be a few words"),
        ("retention = 6", "'retention' must be a text"),
        ("folder = 1", "'folder' must be a text"),
        ('folder = "a\\u0000b"', "'folder'"),
        ("witnesses = 'w'", "'witnesses' must be a list"),
        ("witnesses = [1]", "'witnesses' must be a text"),
        ("witnesses = ['']", "expected a witness as 'NAME KEY URL'"),
        ("witnesses = ['w1']", "expected a witness as 'NAME KEY URL'"),
        (f"witnesses = ['w1 {WITNESSES[0].verifier}']", "expected a witness as 'NAME KEY URL'"),
        (f"witnesses = ['{LINES[0]} more']", "expected a witness as 'NAME KEY URL'"),
        (f"witnesses = ['{LINES[0]}', '{LINES[0]}']", "each name once"),
        (f"witnesses = ['{LINES[0]}', '{LINES[0].replace('w0 ', 'w1 ', 1)}']", "stands there twice"),
        ("witnesses = ['w1 nonsense http://x']", "witness 'w1': expected a verifier key"),
        (f"witnesses = ['w1 {ANT.verifier} http://x']", "witness 'w1': the key is of another type"),
        (f"witnesses = ['none {WITNESSES[0].verifier} http://x']", "the name 'none' is taken"),
        (f"witnesses = ['quorum {WITNESSES[0].verifier} http://x']", "the name 'quorum' is taken"),
        (f'witnesses = ["w {WITNESSES[0].verifier} http://\\u0007"]', "control characters"),
        (f"witnesses = ['{WITNESSES[0].verifier} w0 http://x']", "expected a verifier key"),
        ("members = 1", "must be a table"),
        ("members = { ant = 1 }", "'ant' must be a text, found 1"),
        ("members = { ant = 'x' }", "'ant': expected a verifier key"),
        (f"members = {{ ant = '{BEE.verifier}' }}", "'ant': the key is of another type, or another's"),
        (
            f"members = {{ ant = '{WITNESSES[0].verifier}' }}",
            "'ant': the key is of another type, or another's",
        ),
        (f"members = {{ cat = '{Signer.from_seed('cat', NOTE, bytes(32)).verifier}' }}", "has no key 'cat'"),
    ],
)
def test_every_wrong_value_is_one_sentence_about_it(tmp_path: Path, toml: str, words: str) -> None:
    with pytest.raises(ConfigError) as said:
        loaded(tmp_path, f"[ledger]\n{toml}")
    assert words in said.value.message
    assert "ledger" in said.value.message
    assert said.value.message.isprintable()


def test_a_ledger_is_a_table(tmp_path: Path) -> None:
    for value in (1, "strict", True, [], [{}]):
        with pytest.raises(ConfigError, match="ledger"):
            load_recipe(table(ledger=value))


def test_a_site_may_not_be_called_coordinator(tmp_path: Path) -> None:
    names: dict[str, Any] = {"sites": {"names": ["coordinator", "bee"], "count": 0}}
    assert load_recipe(table(**names)).ledger is None
    with pytest.raises(ConfigError, match="'coordinator'"):
        load_recipe(table(**names, ledger={}))


@pytest.mark.parametrize(
    ("count", "quorum", "wanted"), [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 0, 3), (3, 1, 1)]
)
def test_a_policy_asks_for_more_than_half_or_for_the_quorum(count: int, quorum: int, wanted: int) -> None:
    found = LedgerSettings(witnesses=LINES[:count], quorum=quorum).policy(LOG.verifier)
    names = tuple(f"w{n}" for n in range(count))
    assert found.groups == {"quorum": Group(wanted, names)}
    assert found.quorum == "quorum"
    assert found.urls[WITNESSES[0].verifier] == "http://127.0.0.1:8400"
    assert Policy.parse(found.pack()) == found
    assert LedgerSettings().policy(LOG.verifier).quorum == NONE
