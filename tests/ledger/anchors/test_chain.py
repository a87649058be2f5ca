"""The contract on a chain, and the proofs taken from its node."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from tests.ledger.anchors.chains import OWNER, OWNERS_KEY, STRANGER, Anvil, owner, stranger
from tests.ledger.anchors.notes import ORIGIN, ROOT, checkpoint, needs_evm, note

from phloem import canonical
from phloem.errors import ConfigError, FormatError, NotFoundError, ProofError, StoreError
from phloem.ledger.anchors import evm
from phloem.ledger.anchors.base import Trust, hash_of_origin, unhexed
from phloem.ledger.anchors.chain import Node
from phloem.ledger.anchors.evm import EvmProof
from phloem.ledger.anchors.proof import verify_anchor
from phloem.ledger.anchors.senders import Sender, address_of

pytestmark = [needs_evm, pytest.mark.service("anvil")]

MOST_GAS = 35_000  # of an anchor that is not the first
DENSEST = b"\xff" * 32  # no zero byte: the most that calldata can cost
LARGEST = (1 << 63) - 1


def deployed(chain: Anvil, origin: str = ORIGIN) -> bytes:
    return address_of(chain.node().deploy(origin, owner()).contract)


def trusted(chain: Anvil, proof: EvmProof) -> Trust:
    return Trust(block_hash=chain.node().block_hash(proof.block.number))


# -- what it costs -----------------------------------------------------------------------------------------------


def test_every_anchor_after_the_first_costs_at_most_35_000_gas(chain: Anvil) -> None:
    made = chain.node().deploy(ORIGIN, owner())
    assert made.gas <= 225_000
    address = address_of(made.contract)
    _, first = chain.node().anchor(address, checkpoint(1, DENSEST), owner())
    assert first <= 70_000
    sizes = (2, 255, 256, 70_000, 16_777_215, 1 << 40, LARGEST)
    later = [chain.node().anchor(address, checkpoint(size, DENSEST), owner())[1] for size in sizes]
    assert max(later) <= MOST_GAS
    assert min(later) > 21_000


# -- what the contract refuses -----------------------------------------------------------------------------------


def test_the_contract_refuses_to_go_back_and_another_root_and_another_sender(chain: Anvil) -> None:
    address = "0x" + deployed(chain).hex()
    assert chain.calls(address, "anchor", 21, ROOT)["status"] == 1
    refused = (
        ("fewer entries", (20, ROOT), OWNER),
        ("fewer entries", (0, bytes(32)), OWNER),
        ("another root", (21, DENSEST), OWNER),
        ("not the owner", (22, DENSEST), STRANGER),
        ("not the owner", (21, ROOT), STRANGER),
    )
    for why, words, sender in refused:
        assert why in chain.reason(address, "anchor", *words, sender=sender)
        assert chain.calls(address, "anchor", *words, sender=sender)["status"] == 0
        assert chain.node().newest(address_of(address)) == (21, ROOT)
    assert chain.calls(address, "anchor", 21, ROOT)["status"] == 1  # once more changes nothing


def test_an_empty_log_cannot_be_anchored(chain: Anvil) -> None:
    empty = checkpoint(0, DENSEST)
    with pytest.raises(ProofError, match="another root for 0 entries"):
        chain.node().anchor(deployed(chain), empty, owner())


def test_who_anchors_is_told_before_anything_is_paid(chain: Anvil) -> None:
    address = deployed(chain)
    chain.node().anchor(address, checkpoint(), owner())
    height = chain.ask("eth_blockNumber")
    with pytest.raises(ProofError, match="already holds a checkpoint of 21 entries; this one has 20"):
        chain.node().anchor(address, checkpoint(20), owner())
    with pytest.raises(ProofError, match="showed two histories"):
        chain.node().anchor(address, checkpoint(root=DENSEST), owner())
    with pytest.raises(ConfigError, match="owner is 0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266, not 0x7099"):
        chain.node().anchor(address, checkpoint(22), stranger())
    with pytest.raises(ConfigError, match=r"another log than 'example.org/other'"):
        chain.node().anchor(address, checkpoint(origin="example.org/other"), owner())
    with pytest.raises(ConfigError, match="no anchor contract"):
        chain.node().anchor(address_of(OWNER), checkpoint(), owner())
    assert chain.ask("eth_blockNumber") == height


def test_a_refusal_of_the_contract_itself_is_told(chain: Anvil, monkeypatch: pytest.MonkeyPatch) -> None:
    address = deployed(chain)
    chain.node().anchor(address, checkpoint(), owner())
    monkeypatch.setattr(Node, "newest", lambda node, address: (0, bytes(32)))
    with pytest.raises(ProofError, match=r"the contract refuses: .*fewer entries than anchored"):
        chain.node().anchor(address, checkpoint(20), owner())


# -- proofs ------------------------------------------------------------------------------------------------------


def test_a_proof_taken_once_holds_when_the_chain_is_gone() -> None:
    with Anvil() as running:
        address = deployed(running)
        running.node().anchor(address, checkpoint(5), owner())
        proof, gas = running.node().anchor(address, checkpoint(), owner())
        trust = trusted(running, proof)
    assert gas > 0
    data = canonical.dumps(proof)
    found = verify_anchor(data, note(), trust)
    assert (found.size, found.root, found.origin_hash) == (21, ROOT, hash_of_origin(ORIGIN))
    assert found.details["contract"] == "0x" + address.hex()
    assert found.details["owner"] == OWNER.lower()
    assert len(data) < 16_384
    with pytest.raises(StoreError, match="cannot be reached"):
        running.node().chain()


def test_what_is_anchored_already_is_proven_without_another_transaction(chain: Anvil) -> None:
    address = deployed(chain)
    proof, _ = chain.node().anchor(address, checkpoint(), owner())
    height = chain.ask("eth_blockNumber")
    again, gas = chain.node().anchor(address, checkpoint(), stranger())  # needs no key of the owner's
    assert (gas, again.transaction) == (0, None)
    assert chain.ask("eth_blockNumber") == height
    assert evm.shown(again).root == evm.shown(proof).root == ROOT
    assert verify_anchor(canonical.dumps(again), note(), trusted(chain, again)).size == 21


def test_roots_with_zeros_and_sizes_of_any_length_come_back(chain: Anvil) -> None:
    address = deployed(chain)
    for size, root in ((1, bytes(31) + b"\1"), (300, b"\1" + bytes(31)), (LARGEST, bytes(8) + DENSEST[:24])):
        proof, _ = chain.node().anchor(address, checkpoint(size, root), owner())
        found = verify_anchor(canonical.dumps(proof), note(size, root), trusted(chain, proof))
        assert (found.size, found.root) == (size, root)


@pytest.mark.parametrize("fork", ["shanghai", "cancun", "prague", "osaka"])
def test_the_headers_of_every_version_of_the_chain_are_hashed_as_it_does(fork: str) -> None:
    with Anvil(None, "--hardfork", fork, "--chain-id", "7") as running:
        proof, gas = running.node().anchor(deployed(running), checkpoint(), owner())
        assert verify_anchor(canonical.dumps(proof), note(), trusted(running, proof)).details["chain"] == 7
        assert gas > 0


def test_a_chain_that_was_stopped_goes_on_from_its_state(tmp_path: Path) -> None:
    with Anvil(tmp_path / "state.json") as running:
        address = deployed(running)
        proof, _ = running.node().anchor(address, checkpoint(), owner())
        trust = trusted(running, proof)
    with Anvil(tmp_path / "state.json") as running:
        assert trusted(running, proof) == trust
        assert running.node().newest(address) == (21, ROOT)
        with pytest.raises(ProofError, match="already holds"):
            running.node().anchor(address, checkpoint(20), owner())
        later, gas = running.node().anchor(address, checkpoint(22, DENSEST), owner())
        assert gas <= MOST_GAS
        assert verify_anchor(canonical.dumps(later), note(22, DENSEST), trusted(running, later)).size == 22


def test_a_block_that_the_chain_replaced_is_no_proof_any_more(chain: Anvil) -> None:
    address = deployed(chain)
    before = chain.ask("evm_snapshot")
    proof, _ = chain.node().anchor(address, checkpoint(), owner())
    assert verify_anchor(canonical.dumps(proof), note(), trusted(chain, proof)).size == 21
    chain.ask("evm_revert", before)
    with pytest.raises(NotFoundError, match="has no block"):
        trusted(chain, proof)
    chain.node().anchor(address, checkpoint(root=DENSEST), owner())
    with pytest.raises(ProofError, match="another block"):
        verify_anchor(canonical.dumps(proof), note(), trusted(chain, proof))


def test_a_transaction_that_no_block_takes_is_waited_for_and_not_sent_twice(chain: Anvil) -> None:
    address = deployed(chain)
    chain.ask("evm_setAutomine", False)
    try:
        with pytest.raises(StoreError, match="no block has the transaction 0x") as caught:
            chain.node(block_seconds=0.2).anchor(address, checkpoint(), owner())
        assert "without a second one" in str(caught.value)
    finally:
        chain.ask("evm_setAutomine", True)
        chain.ask("evm_mine")
    proof, gas = chain.node().anchor(address, checkpoint(), owner())
    assert gas == 0
    assert evm.shown(proof).size == 21


def test_a_node_whose_proof_does_not_hold_is_not_believed(
    chain: Anvil, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, other = deployed(chain), deployed(chain)
    chain.node().anchor(address, checkpoint(), owner())
    chain.node().anchor(other, checkpoint(root=DENSEST), owner())
    honest = Node.ask

    def of_the_other(node: Node, method: str, *words: object) -> object:
        if method == "eth_getProof":
            words = ("0x" + other.hex(), *words[1:])
        return honest(node, method, *words)

    def of_nothing(node: Node, method: str, *words: object) -> object:
        return {"accountProof": 7} if method == "eth_getProof" else honest(node, method, *words)

    monkeypatch.setattr(Node, "ask", of_the_other)
    with pytest.raises(ProofError):
        chain.node().anchor(address, checkpoint(), owner())
    monkeypatch.setattr(Node, "ask", of_nothing)
    with pytest.raises(FormatError, match="answered eth_getProof with something else"):
        chain.node().anchor(address, checkpoint(), owner())


# -- who sends ---------------------------------------------------------------------------------------------------


def test_a_key_in_a_file_signs_and_is_never_shown(chain: Anvil, tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    path.write_text(f"0x{OWNERS_KEY}\n", encoding="ascii")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    sender = Sender.from_file(path)
    assert sender.address == OWNER
    assert OWNERS_KEY not in repr(sender)
    made = chain.node().deploy(ORIGIN, sender)
    assert made.owner == OWNER.lower()
    proof, gas = chain.node().anchor(address_of(made.contract), checkpoint(), sender)
    assert gas > 0
    assert unhexed(str(proof.transaction), "a hash", 32)


def test_an_account_without_money_or_without_a_key_at_the_node_is_told(chain: Anvil, tmp_path: Path) -> None:
    path = tmp_path / "poor.key"
    path.write_text("11" * 32, encoding="ascii")
    path.chmod(0o600)
    poor = Sender.from_file(path)
    with pytest.raises(StoreError, match=r"(?i)insufficient funds") as caught:
        chain.node().deploy(ORIGIN, poor)
    assert f"the account that pays is {poor.address}" in str(caught.value)
    with pytest.raises(StoreError, match=r"(?i)no signer"):
        chain.node().deploy(ORIGIN, Sender.at_node("0x" + "00" * 19 + "ff"))


def test_the_address_of_a_node_is_shown_without_what_is_secret_in_it(chain: Anvil) -> None:
    host = chain.url.removeprefix("http://")
    node = Node(f"http://user:pass@{host}/secret?key=secret")
    with pytest.raises(StoreError) as caught:
        node.ask("eth_noSuchMethod")
    assert host in str(caught.value)
    gone = Node("http://user:pass@127.0.0.1:9/secret?key=secret")
    with pytest.raises(StoreError, match="cannot be reached") as unreachable:
        gone.chain()
    for error in (caught.value, unreachable.value):
        chain_of_errors = [error, error.__cause__]
        assert not any("secret" in str(one) or "pass" in str(one) for one in chain_of_errors)
        assert error.__suppress_context__ or error.__context__ is None


def test_a_node_that_asks_too_much_for_gas_gets_nothing(chain: Anvil, tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    path.write_text(OWNERS_KEY, encoding="ascii")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"asks \d+ gwei for a unit of gas, more than 1") as caught:
        Node(chain.url, most_gwei=1).deploy(ORIGIN, Sender.from_file(path))
    assert "--max-fee" in str(caught.value)
