"""Anchors of a run's log: written down in it, checked by an audit, and shown in a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.anchors.authorities import Authority
from tests.ledger.anchors.chains import OWNER, Anvil
from tests.ledger.anchors.notes import needs_evm, needs_tsa
from tests.tiny import table

import phloem as package
from phloem.cli.main import _run
from phloem.ledger.bundle import Bundle

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def phloem(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run([*map(str, words)])
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


@pytest.fixture
def run(tmp_path: Path) -> Path:
    package.build(table(rounds=2, ledger={"receipts": "strict"}), out=tmp_path / "run")
    return tmp_path / "run"


def audited(phloem: Call, run: Path, *words: object) -> tuple[int, set[str]]:
    code, out, _ = phloem("ledger", "audit", run, "--json", *words)
    found: dict[str, Any] = json.loads(out)
    return code, {row["name"] for row in found["findings"]} - {"note"}


def followed(phloem: Call, run: Path, anchor: Path, checkpoint: Path) -> None:
    """The anchor goes into the log, an audit takes it, and a bundle has it, also after the log has grown."""
    assert phloem("ledger", "append", run, "anchor", "--proof", anchor, "--checkpoint", checkpoint)[0] == 0
    assert phloem("ledger", "checkpoint", run)[0] == 0
    assert audited(phloem, run, "--anchor", anchor) == (0, set())
    bundle, policy = run.parent / "b.flproof", run / "ledger" / "policy.txt"
    assert phloem("ledger", "prove", run, 4, "-o", bundle, "--anchor", anchor)[0] == 0
    code, out, _ = phloem("ledger", "verify", bundle, "--policy", policy)
    assert (code, out.splitlines()[-1]) == (0, "valid")
    assert "entries existed by" in out
    for damage in (unlinked, forged):
        bundle.write_bytes(damage(Bundle.unpack(bundle.read_bytes())).pack())
        code, out, _ = phloem("ledger", "verify", bundle, "--policy", policy)
        assert code == 1, damage
        assert damage.__doc__ is not None
        assert damage.__doc__ in out


def forged(bundle: Bundle) -> Bundle:
    """forged"""
    (size,) = bundle.checkpoints or {0}
    bundle.consistency[size] = b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    forged.__doc__ = "forked-history" if size else "missing-entry"
    return bundle


def unlinked(bundle: Bundle) -> Bundle:
    """rolled-back-anchor"""
    bundle.consistency.clear()
    return bundle


@needs_tsa
@pytest.mark.service("openssl")
def test_a_stamped_checkpoint_of_a_run_is_of_its_history(
    phloem: Call, run: Path, authority: Authority, tmp_path: Path
) -> None:
    checkpoint, anchor = run / "ledger" / "checkpoint", tmp_path / "stamp.json"
    words = ("--kind", "rfc3161", "--tsa", authority.url)
    assert phloem("anchor", "create", checkpoint, "-o", anchor, *words)[0] == 0
    followed(phloem, run, anchor, checkpoint)


@needs_evm
@pytest.mark.service("anvil")
def test_a_checkpoint_of_a_run_on_a_chain_is_of_its_history_and_of_no_other_run(
    phloem: Call, run: Path, chain: Anvil, tmp_path: Path
) -> None:
    checkpoint, anchor = run / "ledger" / "checkpoint", tmp_path / "chain.json"
    origin = checkpoint.read_text("utf-8").splitlines()[0]
    code, out, _ = phloem("anchor", "deploy", origin, "--rpc", chain.url, "--account", OWNER)
    assert code == 0
    words = ("--kind", "evm", "--rpc", chain.url, "--account", OWNER, "--contract", out.strip())
    assert phloem("anchor", "create", checkpoint, "-o", anchor, *words)[0] == 0
    followed(phloem, run, anchor, checkpoint)
    package.build(table(rounds=2, ledger={"receipts": "strict"}), out=tmp_path / "other")
    assert audited(phloem, tmp_path / "other", "--anchor", anchor) == (1, {"rolled-back-anchor"})
    bundle = tmp_path / "o.flproof"
    code, _, err = phloem("ledger", "prove", tmp_path / "other", 4, "-o", bundle, "--anchor", anchor)
    assert code == 1
    assert "never signed" in err
