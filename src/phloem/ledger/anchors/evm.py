"""Anchors of the kind `evm`: what a log's contract stored at a block, proven down to that block's hash.

    block hash  <-  header: number, time, state root
    state root  <-  account of the contract: code hash, storage root
    code hash   <-  the contract's code with its owner, log and chain
    storage root  <-  size and root

Who believes the block's hash believes all of it; nothing else is asked of a node. The hash of the transaction, if there
was one, is for people who want to look it up, and is not proven.

Source: Ethereum yellow paper, section 4.1 and appendix D (Merkle-Patricia tries); EIP-1186 (the proofs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phloem.errors import FormatError, NotFoundError, ProofError
from phloem.ledger.anchors.base import EVM, Anchored, Trust, hexed, unhexed
from phloem.ledger.anchors.contract import ADDRESS_BYTES, ROOT_SLOT, SIZE_SLOT, deployed_code
from phloem.ledger.anchors.headers import HASH_BYTES, Header, keccak, unpack_header, unpack_rlp
from phloem.tlog.merkle import LARGEST_SIZE

_MOST_NODES = 64  # of a proof: one per half byte of the key
_LARGEST_CHAIN = (1 << 53) - 1


@dataclass(frozen=True)
class EvmProof:
    """The fields of a proof file; bytes are hexadecimal, tries' nodes and the header as they are hashed."""

    kind: str
    version: int
    chain: int
    contract: str
    owner: str
    origin_hash: str
    header: str
    account_proof: list[str]
    size_proof: list[str]
    root_proof: list[str]
    transaction: str | None

    @property
    def block(self) -> Header:
        """The block that the proof is of.

        Raises:
            FormatError: it has no header.
        """
        return unpack_header(unhexed(self.header, "the block's header"))


def shown(proof: EvmProof) -> Anchored:
    """What the proof shows to who believes its block.

    Raises:
        FormatError: a field is damaged.
        ProofError: the parts do not belong together, or the contract is not one that refuses to go back.
    """
    if not 0 < proof.chain <= _LARGEST_CHAIN:
        raise FormatError(f"a chain's number is between 1 and {_LARGEST_CHAIN}, found {proof.chain}")
    contract = unhexed(proof.contract, "the contract's address", ADDRESS_BYTES)
    owner = unhexed(proof.owner, "the owner's address", ADDRESS_BYTES)
    origin_hash = unhexed(proof.origin_hash, "the origin's digest", HASH_BYTES)
    if proof.transaction is not None:
        unhexed(proof.transaction, "the transaction's hash", HASH_BYTES)
    block = proof.block
    storage_root, code_hash = _account(block.state_root, contract, proof.account_proof)
    if keccak(deployed_code(owner, origin_hash, proof.chain)) != code_hash:
        raise ProofError(
            "the contract has other code than this owner's for this log on this chain",
            hint="only a contract that `phloem anchor deploy` made refuses to go back",
        )
    size = int.from_bytes(_stored(storage_root, SIZE_SLOT, proof.size_proof, "the size"), "big")
    root = _stored(storage_root, ROOT_SLOT, proof.root_proof, "the root").rjust(HASH_BYTES, b"\0")
    if not 0 < size <= LARGEST_SIZE:
        raise ProofError(f"the contract holds no checkpoint: its size is {size}")
    details: dict[str, str | int] = {
        "chain": proof.chain,
        "contract": proof.contract,
        "owner": proof.owner,
        "block": block.number,
        "block_hash": hexed(block.hash),
    }
    return Anchored(EVM, origin_hash, size, root, block.time, block.time, details)


def believe(proof: EvmProof, trust: Trust) -> None:
    """Nothing, if the reader believes the proof's block.

    Raises:
        ProofError: the block or the contract is another one. NotFoundError: the reader does not say which block it is.
    """
    block = proof.block
    if trust.contract is not None and proof.contract != hexed(trust.contract):
        raise ProofError(f"the anchor is of the contract {proof.contract}, not of {hexed(trust.contract)}")
    if trust.block_hash is None:
        raise NotFoundError(
            f"whether block {block.number} of chain {proof.chain} is {hexed(block.hash)} is not known",
            hint="everything else holds; look the block up and give --block-hash, or --rpc for a node to ask",
        )
    if trust.block_hash != block.hash:
        raise ProofError(
            f"the anchor is of another block {block.number} than the chain's",
            hint=f"in the proof: {hexed(block.hash)}, on the chain: {hexed(trust.block_hash)}",
        )


def _account(state_root: bytes, address: bytes, nodes: Sequence[str]) -> tuple[bytes, bytes]:
    """The root of an account's storage, and the hash of its code."""
    found = unpack_rlp(_in_trie(state_root, address, nodes, "the contract"), "the contract's account")
    if not isinstance(found, list) or len(found) != 4 or not all(isinstance(f, bytes) for f in found):
        raise FormatError("the contract's account is damaged: it has other fields than four")
    return found[2], found[3]


def _stored(storage_root: bytes, slot: int, nodes: Sequence[str], what: str) -> bytes:
    """What a slot of the storage holds, without leading zeros."""
    value = unpack_rlp(_in_trie(storage_root, slot.to_bytes(32, "big"), nodes, what), what)
    if not isinstance(value, bytes) or len(value) > HASH_BYTES:
        raise FormatError(f"{what} in the contract's storage is no word")
    return value


def _in_trie(root: bytes, key: bytes, nodes: Sequence[str], what: str) -> bytes:
    """The value under a key in the trie with this root, which holds keys by their hashes."""
    import trie

    if len(nodes) > _MOST_NODES:
        raise FormatError(f"the proof for {what} has more than {_MOST_NODES} nodes")
    decoded: list[Any] = [
        unpack_rlp(unhexed(node, f"the proof for {what}"), f"the proof for {what}") for node in nodes
    ]
    try:
        value = bytes(trie.HexaryTrie.get_from_proof(root, keccak(key), decoded))
    except Exception as error:  # whatever the library stumbles over in foreign nodes, nothing is shown
        raise ProofError(f"the proof for {what} does not fit the block") from error
    if not value:
        raise ProofError(f"the block has no such thing as {what}")
    return value
