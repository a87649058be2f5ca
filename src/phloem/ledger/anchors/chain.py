"""Talking to a node of an EVM chain: deploying the contract, anchoring, and taking the proof that stays.

A node is believed as little as can be: the proof that it hands out is checked as a reader will check it before it is
kept, and what it asks for gas has a limit. Which blocks the chain has, it is asked again when a proof is verified.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, ProofError, StoreError
from phloem.ledger.anchors import contract, evm
from phloem.ledger.anchors.base import EVM, VERSION, Trust, compare, hash_of_origin, hexed, unhexed
from phloem.ledger.anchors.evm import EvmProof
from phloem.ledger.anchors.headers import HASH_BYTES, pack_header
from phloem.ledger.anchors.senders import Sender
from phloem.ledger.anchors.servers import host_of
from phloem.tlog.checkpoint import Checkpoint

ANSWER_SECONDS = 30.0
BLOCK_SECONDS = 300.0
MOST_GWEI = 1000.0
_WEI_PER_GWEI = 10**9
_LATEST = "latest"


@dataclass(frozen=True)
class Deployed:
    """A new contract, who owns it, on which chain, and what it cost."""

    contract: str
    owner: str
    chain: int
    transaction: str
    gas: int


class Node:
    """A node of a chain, behind the JSON-RPC interface at a URL."""

    def __init__(self, url: str, block_seconds: float = BLOCK_SECONDS, most_gwei: float = MOST_GWEI) -> None:
        """`block_seconds` is how long a transaction may take until a block has it.

        `most_gwei` is the most that a unit of gas may cost. It is the node that says what it costs, and a dishonest
        one could have the whole account spent on it.

        Raises:
            ConfigError: `url` is no address.
        """
        from web3 import HTTPProvider, Web3
        from web3.middleware import ExtraDataToPOAMiddleware

        self.host = host_of(url, "a node")
        self._block_seconds = block_seconds
        self._most_wei = int(most_gwei * _WEI_PER_GWEI)
        options = {"timeout": ANSWER_SECONDS}
        provider = HTTPProvider(url, request_kwargs=options, exception_retry_configuration=None)
        self._web3 = Web3(provider)
        self._web3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)  # chains of a consortium

    # -- asked ---------------------------------------------------------------------------------------------------

    def ask(self, method: str, *words: Any) -> Any:
        """What the node answers, as it stands in its JSON.

        Raises:
            StoreError: it cannot be reached, or answers with an error.
        """
        with self._in_words():
            answer = self._web3.provider.make_request(method, list(words))
        if not isinstance(answer, dict) or "result" not in answer:
            raise StoreError(f"the node at {self.host} refused {method}: {_said(answer)!r:.200}")
        return answer["result"]

    def chain(self) -> int:
        """The chain's number."""
        return self._number(self.ask("eth_chainId"))

    def block(self, block: int | str) -> dict[str, Any]:
        """A block without its transactions, by its number or by a name such as `finalized`.

        Raises:
            NotFoundError: there is none.
        """
        found = self.ask("eth_getBlockByNumber", hex(block) if isinstance(block, int) else block, False)
        if not isinstance(found, dict):
            raise NotFoundError(f"the node at {self.host} has no block {block}")
        return found

    def block_hash(self, number: int) -> bytes:
        """The hash of the block with this number, which is what a node is trusted for."""
        return self._bytes(self.block(number).get("hash"))

    def is_final(self, number: int) -> bool | None:
        """Whether the chain can no longer replace the block with this number; None where the node does not say."""
        try:
            return number <= self._number(self.block("finalized").get("number"))
        except StoreError:
            return None

    def fixed_values(self, address: bytes) -> tuple[bytes, bytes, int]:
        """The owner, the origin's digest and the chain of the contract at an address.

        Raises:
            ConfigError: there is no contract of ours.
        """
        code = unhexed(str(self.ask("eth_getCode", hexed(address), _LATEST)), "the contract's code")
        found = contract.fixed_values(code)
        if found is None:
            raise ConfigError(
                f"there is no anchor contract at {hexed(address)} on this chain",
                hint="`phloem anchor deploy` makes one",
            )
        return found

    def newest(self, address: bytes) -> tuple[int, bytes]:
        """The size and the root that the contract holds now; size 0 before the first."""
        size, root = (
            self._bytes(self.ask("eth_getStorageAt", hexed(address), _slot(slot), _LATEST))
            for slot in (contract.SIZE_SLOT, contract.ROOT_SLOT)
        )
        return int.from_bytes(size, "big"), root.rjust(HASH_BYTES, b"\0")

    def proof(self, address: bytes, number: int, transaction: str | None) -> EvmProof:
        """The proof of what the contract holds after the block with this number, as the node gives it.

        Raises:
            FormatError: its parts are not there, or not of the form that they have everywhere.
        """
        owner, origin_hash, chain = self.fixed_values(address)
        slots = [_slot(contract.SIZE_SLOT), _slot(contract.ROOT_SLOT)]
        found = self.ask("eth_getProof", hexed(address), slots, hex(number))
        try:
            size, root = (part["proof"] for part in found["storageProof"])
            account, size, root = (
                [str(node).lower() for node in nodes] for nodes in (found["accountProof"], size, root)
            )
        except (TypeError, KeyError, ValueError) as error:
            raise FormatError(f"the node at {self.host} answered eth_getProof with something else") from error
        return EvmProof(
            kind=EVM,
            version=VERSION,
            chain=chain,
            contract=hexed(address),
            owner=hexed(owner),
            origin_hash=hexed(origin_hash),
            header=hexed(pack_header(self.block(number))),
            account_proof=account,
            size_proof=size,
            root_proof=root,
            transaction=transaction,
        )

    # -- sent ----------------------------------------------------------------------------------------------------

    def deploy(self, origin: str, sender: Sender) -> Deployed:
        """A new contract for the log `origin`, owned by the sender; in a block when this returns."""
        code = hexed(contract.creation_code())
        with self._in_words():
            made = self._web3.eth.contract(abi=contract.interface(), bytecode=code)
            call = made.constructor(hash_of_origin(origin))
        receipt = self._sent(call, sender)
        address = str(receipt["contractAddress"]).lower()
        self.fixed_values(unhexed(address, "the contract's address", contract.ADDRESS_BYTES))
        gas = int(receipt["gasUsed"])
        return Deployed(
            address, sender.address.lower(), self.chain(), hexed(bytes(receipt["transactionHash"])), gas
        )

    def anchor(self, address: bytes, checkpoint: Checkpoint, sender: Sender) -> tuple[EvmProof, int]:
        """The proof that the contract holds this checkpoint, which it is given first if need be, and the gas of that.

        Raises:
            ConfigError: the contract is another log's or another owner's.
            ProofError: it holds a later checkpoint, or another one of the same size.
            StoreError: the node cannot be reached, or no block had the transaction in time.
        """
        owner, origin_hash, _ = self.fixed_values(address)
        if origin_hash != hash_of_origin(checkpoint.origin):
            raise ConfigError(
                f"the contract at {hexed(address)} is of another log than '{checkpoint.origin}'"
            )
        size, root = self.newest(address)
        if size > checkpoint.size:
            raise ProofError(
                f"the contract already holds a checkpoint of {size} entries; this one has {checkpoint.size}",
                hint="it never goes back: anchor the log's newest checkpoint",
            )
        if size == checkpoint.size and root != checkpoint.root:
            raise ProofError(
                f"the contract holds another root for {size} entries: the log showed two histories",
                hint=f"anchored: {root.hex()}, in the checkpoint: {checkpoint.root.hex()}",
            )
        number, transaction, gas = self._number(self.ask("eth_blockNumber")), None, 0
        if size < checkpoint.size:
            if sender.address.lower() != hexed(owner):
                raise ConfigError(f"the contract's owner is {hexed(owner)}, not {sender.address.lower()}")
            with self._in_words():
                made = self._web3.eth.contract(
                    self._web3.to_checksum_address(address), abi=contract.interface()
                )
                call = made.functions.anchor(checkpoint.size, checkpoint.root)
            receipt = self._sent(call, sender)
            number, gas = int(receipt["blockNumber"]), int(receipt["gasUsed"])
            transaction = hexed(bytes(receipt["transactionHash"]))
        proof = self.proof(address, number, transaction)
        compare(evm.shown(proof), checkpoint)
        evm.believe(proof, Trust(block_hash=self.block_hash(number), contract=address))
        return proof, gas

    def _sent(self, call: Any, sender: Sender) -> Any:
        """The receipt of a transaction, once a block has it."""
        eth = self._web3.eth
        try:
            with self._in_words():
                fields = {"from": sender.address, "nonce": eth.get_transaction_count(sender.address)}
                if sender.signs:
                    made = call.build_transaction(fields | {"chainId": eth.chain_id})
                    self._check_fee(made)
                    transaction = eth.send_raw_transaction(sender.signed(made))
                else:
                    transaction = call.transact(fields)
        except StoreError as error:
            raise StoreError(error.message, hint=f"the account that pays is {sender.address}") from None
        from web3.exceptions import TimeExhausted

        try:
            with self._in_words():
                receipt = eth.wait_for_transaction_receipt(transaction, self._block_seconds, 0.2)
        except TimeExhausted as error:
            raise StoreError(
                f"no block has the transaction {hexed(bytes(transaction))} after {self._block_seconds:g} s",
                hint="it may still come; then the same command takes the proof without a second one",
            ) from error
        if receipt["status"] != 1:
            raise ProofError(f"the chain refused the transaction {hexed(bytes(transaction))}")
        return receipt

    def _check_fee(self, transaction: Mapping[str, Any]) -> None:
        wei = int(transaction.get("maxFeePerGas", transaction.get("gasPrice", 0)))
        if wei > self._most_wei:
            raise ConfigError(
                f"the node at {self.host} asks {wei / _WEI_PER_GWEI:,.0f} gwei for a unit of gas, more than "
                f"{self._most_wei / _WEI_PER_GWEI:,.0f}",
                hint="wait, or allow more with --max-fee GWEI",
            )

    # -- in words ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """The errors of the libraries in ours. Theirs may name the URL, with what is secret in it, and end here."""
        import requests
        from web3.exceptions import ContractLogicError, TimeExhausted, Web3Exception, Web3RPCError

        try:
            yield
        except (PhloemError, TimeExhausted):
            raise
        except ContractLogicError as error:
            raise ProofError(f"the contract refuses: {error.message!r:.200}") from None
        except Web3RPCError as error:
            raise StoreError(f"the node at {self.host} refused: {_said(error.rpc_response)!r:.200}") from None
        except requests.HTTPError as error:
            status = getattr(error.response, "status_code", "unknown")
            raise StoreError(f"the node at {self.host} answered with HTTP status {status}") from None
        except requests.RequestException as error:
            raise StoreError(f"the node at {self.host} cannot be reached: {type(error).__name__}") from None
        except (Web3Exception, ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"the node at {self.host} answered in a way that is not understood: {type(error).__name__}"
            ) from None

    def _number(self, text: Any) -> int:
        try:
            return int(text, 16)
        except (TypeError, ValueError):
            raise StoreError(
                f"the node at {self.host} answered {text!r:.80} where a number belongs"
            ) from None

    def _bytes(self, text: Any) -> bytes:
        return unhexed(str(text), f"an answer of the node at {self.host}", HASH_BYTES)


def _said(answer: Any) -> Any:
    """What a node says is wrong, in its own words."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return error.get("message") if isinstance(error, dict) else error


def _slot(slot: int) -> str:
    """A slot as nodes want it: all of its 32 bytes."""
    return hexed(slot.to_bytes(HASH_BYTES, "big"))
