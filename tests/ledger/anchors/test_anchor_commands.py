"""`phloem anchor`, as a newcomer calls it and as an attacker does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from tests.ledger.anchors.authorities import POLICY, Authority
from tests.ledger.anchors.chains import OWNER, OWNERS_KEY, Anvil
from tests.ledger.anchors.notes import ORIGIN, ROOT, needs_evm, needs_tsa, note

from phloem.cli import anchor
from phloem.errors import ConfigError, FormatError, NotFoundError, ProofError, StoreError

GOLDEN = Path(__file__).parent / "golden"
Call = Callable[..., tuple[str, str]]


@pytest.fixture
def phloem(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the commands in a folder with a few checkpoints; an error is raised as it is."""
    monkeypatch.chdir(tmp_path)
    for name, data in (
        ("five", note(5)),
        ("nine", note(9)),
        ("fork", note(9, bytes(range(32)))),
        ("other", note(9, origin="example.org/other")),
    ):
        Path(name).write_bytes(data)
    app = typer.Typer()
    anchor.add_to(app)

    def call(*words: object) -> tuple[str, str]:
        capsys.readouterr()
        app(["anchor", *map(str, words)], standalone_mode=False)
        found = capsys.readouterr()
        return found.out, found.err

    return call


def written_key(name: str = "owner.key") -> Path:
    path = Path(name)
    path.write_text(OWNERS_KEY, encoding="ascii")
    path.chmod(0o600)
    return path


# -- on a chain --------------------------------------------------------------------------------------------------


@needs_evm
@pytest.mark.service("anvil")
def test_a_newcomer_deploys_anchors_and_verifies(phloem: Call, chain: Anvil) -> None:
    key = written_key()
    out, err = phloem("deploy", ORIGIN, "--rpc", chain.url, "--key", key)
    contract = out.strip()
    assert contract.startswith("0x")
    assert len(contract) == 42
    assert "chain 31337" in err
    common = ("--kind", "evm", "--rpc", chain.url, "--contract", contract, "--key", key)
    phloem("create", "five", "-o", "five.json", *common)
    out, err = phloem("create", "nine", "-o", "nine.json", *common, "--json")
    found = json.loads(out)
    assert (found["size"], found["root"], found["contract"]) == (9, ROOT.hex(), contract)
    assert "gas" in err
    out, err = phloem("verify", "nine.json", "nine", "--block-hash", found["block_hash"], "--json")
    assert json.loads(out) == found
    assert "a checkpoint of 9 entries existed by 2" in err
    assert "--contract ADDRESS" in err
    out, err = phloem("verify", "five.json", "five", "--rpc", chain.url, "--contract", contract)
    assert out == ""
    assert "the contract holds 9 entries now" in err
    assert "hint" not in err


@needs_evm
@pytest.mark.service("anvil")
def test_an_attacker_is_refused_on_the_chain(phloem: Call, chain: Anvil) -> None:
    contract = phloem("deploy", ORIGIN, "--rpc", chain.url, "--account", OWNER)[0].strip()
    another = phloem("deploy", ORIGIN, "--rpc", chain.url, "--account", OWNER)[0].strip()
    for_evm = ("--kind", "evm", "--rpc", chain.url, "--account", OWNER)
    common = (*for_evm, "--contract", contract)
    phloem("create", "nine", "-o", "nine.json", *common)
    with pytest.raises(ProofError, match="already holds a checkpoint of 9"):
        phloem("create", "five", "-o", "five.json", *common)
    with pytest.raises(ProofError, match="two histories"):
        phloem("create", "fork", "-o", "fork.json", *common)
    with pytest.raises(ConfigError, match="another log"):
        phloem("create", "other", "-o", "other.json", *common)
    assert not Path("five.json").exists()
    trust = ("--rpc", chain.url, "--contract", contract)
    with pytest.raises(ProofError, match="two histories"):
        phloem("verify", "nine.json", "fork", *trust)
    with pytest.raises(NotFoundError, match="later checkpoint"):
        phloem("verify", "nine.json", "five", *trust)
    phloem(
        "create", "fork", "-o", "fork.json", *for_evm, "--contract", another
    )  # a contract of the attacker's
    with pytest.raises(ProofError, match=f"not of {contract}"):
        phloem("verify", "fork.json", "fork", *trust)
    with Anvil() as own:  # a chain of the attacker's, with the same number and blocks of the same heights
        made = phloem("deploy", ORIGIN, "--rpc", own.url, "--account", OWNER)[0].strip()
        phloem(
            *("create", "fork", "-o", "own.json", "--kind", "evm", "--rpc", own.url),
            *("--account", OWNER, "--contract", made),
        )
    with pytest.raises(ProofError, match="another block"):
        phloem("verify", "own.json", "fork", "--rpc", chain.url)
    with Anvil(None, "--chain-id", "5") as foreign, pytest.raises(ConfigError, match="is of chain 5"):
        phloem("verify", "nine.json", "nine", "--rpc", foreign.url)


@needs_evm
@pytest.mark.service("anvil")
def test_a_chain_that_went_back_is_named(phloem: Call, chain: Anvil, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = phloem("deploy", ORIGIN, "--rpc", chain.url, "--account", OWNER)[0].strip()
    phloem(
        *("create", "nine", "-o", "nine.json", "--kind", "evm", "--rpc", chain.url),
        *("--account", OWNER, "--contract", contract),
    )
    from phloem.ledger.anchors.chain import Node

    for now in ((5, ROOT), (9, bytes(32)), (0, bytes(32))):
        monkeypatch.setattr(Node, "newest", lambda node, address, now=now: now)
        with pytest.raises(ProofError, match="the chain went back"):
            phloem("verify", "nine.json", "nine", "--rpc", chain.url)


@needs_evm
def test_without_a_network_an_evm_proof_is_verified_by_a_block_hash(phloem: Call) -> None:
    block = (GOLDEN / "evm.block").read_text(encoding="ascii").strip()
    words = ("verify", GOLDEN / "evm.json", GOLDEN / "checkpoint")
    for spelling in (block, f"0x{block}", block.upper()):
        _, err = phloem(*words, "--block-hash", spelling)
        assert "70000 entries" in err
    with pytest.raises(NotFoundError, match="is not known"):
        phloem(*words)
    with pytest.raises(ProofError, match="another block"):
        phloem(*words, "--block-hash", "00" * 32)
    with pytest.raises(StoreError, match="cannot be reached"):
        phloem(*words, "--rpc", "http://127.0.0.1:9")


@needs_evm
def test_wrong_words_about_chains_are_told(phloem: Call) -> None:
    block = "00" * 32
    words = ("verify", GOLDEN / "evm.json", GOLDEN / "checkpoint")
    wrong = (
        ("not both", (*words, "--block-hash", block, "--rpc", "http://127.0.0.1:9")),
        ("no use for --tsa-roots and --tsa-policy", (*words, "--tsa-roots", "x", "--tsa-policy", "1.2")),
        ("expected a hash", (*words, "--block-hash", "0x12")),
        ("expected an address", (*words, "--block-hash", block, "--contract", "0x12")),
        ("expected the address of a node", (*words, "--rpc", "node.example.org")),
        ("Give one of --key", ("deploy", ORIGIN, "--rpc", "http://127.0.0.1:9")),
        (
            "Give one of --key",
            ("deploy", ORIGIN, "--rpc", "http://127.0.0.1:9", "--key", "x", "--account", OWNER),
        ),
        ("needs --rpc, --contract", ("create", "nine", "-o", "new", "--kind", "evm", "--account", OWNER)),
        ("no use for --tsa", ("create", "nine", "-o", "new", "--kind", "evm", "--tsa", "http://127.0.0.1:9")),
    )
    for why, call in wrong:
        with pytest.raises(ConfigError, match=why):
            phloem(*call)
    for name in ("", "two\nlines"):
        with pytest.raises(ConfigError, match="no log's name"):
            phloem("deploy", name, "--rpc", "http://127.0.0.1:9", "--account", OWNER)
    assert not Path("new").exists()


# -- by an authority ---------------------------------------------------------------------------------------------


@needs_tsa
@pytest.mark.service("openssl")
def test_a_newcomer_has_a_checkpoint_stamped(phloem: Call, authority: Authority) -> None:
    roots = authority.folder / "root.pem"
    common = ("--kind", "rfc3161", "--tsa", authority.url)
    _, err = phloem("create", "nine", "-o", "nine.json", *common)
    assert "was not checked: give --tsa-roots" in err
    out, err = phloem("create", "nine", "-o", "again.json", *common, "--tsa-roots", roots, "--json")
    assert "not checked" not in err
    assert json.loads(out)["policy"] == POLICY
    out, err = phloem("verify", "nine.json", "nine", "--tsa-roots", roots, "--tsa-policy", POLICY)
    assert out == ""
    assert "a checkpoint of 9 entries existed by 2" in err
    with pytest.raises(ProofError, match="two histories"):
        phloem("verify", "nine.json", "fork", "--tsa-roots", roots)
    with pytest.raises(ProofError, match="not signed by an authority"):
        phloem("create", "nine", "-o", "x.json", *common, "--tsa-roots", authority.folder / "other.pem")
    with pytest.raises(ProofError, match="under the policy"):
        phloem("create", "nine", "-o", "x.json", *common, "--tsa-roots", roots, "--tsa-policy", "1.2.3")
    assert not Path("x.json").exists()


@needs_tsa
def test_wrong_words_about_authorities_and_files_are_told(phloem: Call) -> None:
    words = ("verify", GOLDEN / "rfc3161.json", GOLDEN / "checkpoint")
    with pytest.raises(NotFoundError, match="not known"):
        phloem(*words)
    with pytest.raises(NotFoundError, match="no root certificates at"):
        phloem(*words, "--tsa-roots", "none.pem")
    with pytest.raises(ConfigError, match="PEM"):
        phloem(*words, "--tsa-roots", "nine")
    with pytest.raises(ConfigError, match="no use for --block-hash"):
        phloem(*words, "--block-hash", "00" * 32)
    with pytest.raises(ConfigError, match="needs --tsa"):
        phloem("create", "nine", "-o", "new", "--kind", "rfc3161")
    with pytest.raises(ConfigError, match="no use for --rpc"):
        phloem("create", "nine", "-o", "new", "--kind", "rfc3161", "--rpc", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="--tsa-policy is checked"):
        phloem(
            *("create", "nine", "-o", "new", "--kind", "rfc3161", "--tsa", "http://127.0.0.1:9"),
            *("--tsa-policy", "1.2"),
        )
    with pytest.raises(ConfigError, match="nine exists already"):
        phloem("create", "nine", "-o", "nine", "--kind", "rfc3161", "--tsa", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="no directory none"):
        phloem("create", "nine", "-o", "none/x", "--kind", "rfc3161", "--tsa", "http://127.0.0.1:9")
    with pytest.raises(NotFoundError, match="no checkpoint at none"):
        phloem("create", "none", "-o", "new", "--kind", "rfc3161", "--tsa", "http://127.0.0.1:9")
    with pytest.raises(FormatError):
        phloem("verify", "nine", "nine")
    with pytest.raises(FormatError):
        phloem("verify", GOLDEN / "rfc3161.json", GOLDEN / "roots.pem")
    with pytest.raises(StoreError, match="cannot be read"):
        phloem("verify", ".", "nine")


def test_a_package_that_is_missing_is_named(phloem: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="web3 is not installed") as caught:
        phloem("verify", GOLDEN / "evm.json", GOLDEN / "checkpoint")
    assert "phloem[ledger,evm]" in str(caught.value)
    with pytest.raises(ConfigError, match="rfc3161_client is not installed"):
        phloem("verify", GOLDEN / "rfc3161.json", GOLDEN / "checkpoint")


def test_importing_the_commands_loads_nothing_heavy() -> None:
    names = ("web3", "numpy", "torch", "trie", "rfc3161_client", "cryptography", "requests")
    code = f"import sys, phloem.cli.anchor; print([n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
