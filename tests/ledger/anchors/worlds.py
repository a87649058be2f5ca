"""Blocks of a chain made up here, with one contract among other accounts: proofs of whatever it is to hold."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from tests.ledger.anchors.notes import ORIGIN, ROOT

from phloem import canonical
from phloem.ledger.anchors.base import Trust, hash_of_origin, hexed
from phloem.ledger.anchors.contract import ROOT_SLOT, SIZE_SLOT, deployed_code
from phloem.ledger.anchors.evm import EvmProof
from phloem.ledger.anchors.headers import keccak

OWNER = bytes(range(100, 120))
ADDRESS = bytes(range(20))
CHAIN = 31337
TIME = 1_790_000_000


@dataclass(frozen=True)
class World:
    """A proof, and what is to be trusted for it."""

    proof: EvmProof
    block_hash: bytes

    @property
    def data(self) -> bytes:
        return canonical.dumps(self.proof)

    @property
    def trust(self) -> Trust:
        return Trust(block_hash=self.block_hash)

    def changed(self, **fields: Any) -> bytes:
        return canonical.dumps(replace(self.proof, **fields))


def world(
    size: int = 21,
    root: bytes = ROOT,
    *,
    code: bytes | None = None,
    storage: dict[int, bytes] | None = None,
    origin: str = ORIGIN,
    others: int = 40,
    time: int = TIME,
    number: int = 7,
) -> World:
    """A block in which the contract holds this checkpoint, or has this code and this storage."""
    import rlp
    import trie

    slots = storage if storage is not None else {SIZE_SLOT: size.to_bytes(32, "big"), ROOT_SLOT: root}
    held = trie.HexaryTrie({})
    for slot, value in slots.items():
        if value.strip(b"\0"):
            held[keccak(slot.to_bytes(32, "big"))] = rlp.encode(value.lstrip(b"\0"))
    if code is None:
        code = deployed_code(OWNER, hash_of_origin(origin), CHAIN)
    state = trie.HexaryTrie({})
    accounts = random.Random(7)
    for _ in range(others):
        state[keccak(accounts.randbytes(20))] = rlp.encode([b"\1", b"", bytes(32), bytes(32)])
    state[keccak(ADDRESS)] = rlp.encode([b"\1", b"", held.root_hash, keccak(code)])
    header = rlp.encode(_header(state.root_hash, number, time))
    proof = EvmProof(
        kind="evm",
        version=1,
        chain=CHAIN,
        contract=hexed(ADDRESS),
        owner=hexed(OWNER),
        origin_hash=hexed(hash_of_origin(origin)),
        header=hexed(header),
        account_proof=_nodes(state, ADDRESS),
        size_proof=_nodes(held, SIZE_SLOT.to_bytes(32, "big")),
        root_proof=_nodes(held, ROOT_SLOT.to_bytes(32, "big")),
        transaction=hexed(bytes(32)),
    )
    return World(proof, keccak(header))


def _nodes(held: Any, key: bytes) -> list[str]:
    import rlp

    return [hexed(rlp.encode(node)) for node in held.get_proof(keccak(key))]


def _header(state_root: bytes, number: int, time: int) -> list[bytes]:
    def packed(value: int) -> bytes:
        return value.to_bytes((value.bit_length() + 7) // 8, "big")

    hashes = [bytes([n]) * 32 for n in range(6)]
    numbers = [b"", packed(number), packed(30_000_000), packed(21_000), packed(time)]
    return [
        *(hashes[0], hashes[1], bytes(20), state_root, hashes[2], hashes[3], bytes(256)),
        *(*numbers, b"extra", hashes[4], bytes(8)),
        *(packed(7), hashes[5]),
    ]
