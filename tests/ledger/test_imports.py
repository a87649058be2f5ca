"""Who verifies needs neither NumPy nor torch nor a chain's libraries, and who asks for help needs hardly anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ledger import golden
from tests.ledger.samples import LOG, POLICY, small_log
from tests.tiny import ROOT

HEAVY = (
    "numpy",
    "torch",
    "web3",
    "safetensors",
    "zstandard",
    "sklearn",
    "flwr",
    "vyper",
    "trie",
    "rfc3161_client",
)

VERIFIERS = (
    "phloem.ledger.audit, phloem.ledger.bundle, phloem.tlog.proof",
    "phloem.cli.verify",
    "phloem.cli.places",
    "phloem.cli.ledger",
    "phloem.cli.keys",
    "phloem.cli.witness",
    "phloem.ledger.evidence, phloem.ledger.exported, phloem.ledger.export",
    "phloem.ledger.book, phloem.ledger.party, phloem.ledger.log, phloem.ledger.witness_server, phloem.ledger.quorum",
    *(
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for folder in ("ledger", "tlog")
        for path in sorted((ROOT / "src" / "phloem" / folder).glob("*.py"))
    ),
)


def loaded(imports: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    """Which of these a fresh process has after the imports."""
    code = f"import sys, {imports}\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    return done.stdout.split()


@pytest.mark.parametrize("imports", VERIFIERS)
def test_the_ledger_loads_nothing_heavy(imports: str) -> None:
    assert loaded(imports) == []


def test_a_recipe_without_a_ledger_loads_no_library_for_signatures() -> None:
    assert (
        loaded("phloem.recipe, phloem.rounds.coordinator, phloem.rounds.site", ("cryptography", "sqlite3"))
        == []
    )


def test_help_about_the_ledger_loads_no_library_for_signatures() -> None:
    assert loaded("phloem.cli.ledger, phloem.cli.keys", ("cryptography", "sqlite3")) == []


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from phloem.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["verify", "bundle.flproof", "--policy", "policy.txt"], 0, "valid"),
        (["verify", "bundle.flproof"], 2, "cannot decide"),
        (["verify", "2.tlog-proof", "2.json", "--policy", "policy.txt"], 0, "valid"),
        (["verify", "checkpoint.txt", "--policy", "policy.txt"], 0, "valid"),
        (["verify", "bundle.flproof", "--policy", "other.txt"], 1, "invalid"),
    ],
)
def test_the_offline_verifier_runs_where_none_of_it_is_installed(
    tmp_path: Path, words: list[str], code: int, expected: str
) -> None:
    log = small_log()
    files = {
        "bundle.flproof": golden.read("bundle.flproof"),
        "policy.txt": POLICY.pack(),
        "other.txt": b"quorum none\n",
        "2.tlog-proof": log.receipt(2).pack(),
        "2.json": log.entries[2],
        "checkpoint.txt": log.note(LOG),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(heavy=HEAVY), "ledger", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert "No module named" not in done.stderr
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == expected
