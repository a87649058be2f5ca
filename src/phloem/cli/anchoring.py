"""What the commands of `phloem anchor` do, between their words and `phloem.ledger.anchors`."""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phloem.errors import ConfigError, NotFoundError, ProofError, StoreError

if TYPE_CHECKING:
    from phloem.ledger.anchors.base import Anchored
    from phloem.ledger.anchors.chain import Node
    from phloem.ledger.anchors.evm import EvmProof
    from phloem.ledger.anchors.proof import Proof
    from phloem.ledger.anchors.senders import Sender

MOST_GWEI = 1000.0
_LARGEST_FILE = 1 << 24


class Kind(StrEnum):
    """Who vouches for the time."""

    evm = "evm"
    rfc3161 = "rfc3161"


def on_chain(
    text: bytes, rpc: str | None, contract: str | None, key: Path | None, account: str | None, max_fee: float
) -> tuple[Proof, Anchored]:
    """The proof that a contract holds the checkpoint, and what it shows."""
    from phloem.ledger.anchors import evm
    from phloem.tlog.checkpoint import Checkpoint

    address = address_in(contract)
    if rpc is None or address is None:
        raise ConfigError("--kind evm needs --rpc, --contract and one of --key and --account")
    sender = sender_of(key, account)
    proof, gas = node_at(rpc, max_fee).anchor(address, Checkpoint.unpack(text), sender)
    say(f"anchored in the transaction {proof.transaction}, {gas:,} gas" if gas else "it was anchored already")
    return proof, evm.shown(proof)


def stamped(text: bytes, tsa: str | None, roots: Path | None, policy: str | None) -> tuple[Proof, Anchored]:
    """The proof that an authority stamped the checkpoint, and what it shows."""
    from phloem.ledger.anchors import timestamp
    from phloem.ledger.anchors.authority import stamp
    from phloem.ledger.anchors.base import Trust

    if tsa is None:
        raise ConfigError("--kind rfc3161 needs --tsa, the address of an authority")
    if policy is not None and roots is None:
        raise ConfigError("--tsa-policy is checked together with --tsa-roots: give both")
    check_installed(Kind.rfc3161)
    trusted = None if roots is None else content_of(roots, "root certificates")
    proof = stamp(tsa, text)
    if trusted is None:
        say("whose signature it is was not checked: give --tsa-roots, here or to `phloem anchor verify`")
    else:
        timestamp.believe(proof, Trust(tsa_roots=trusted, tsa_policy=policy))
    return proof, timestamp.shown(proof)


def block_of(proof: EvmProof, node: Node) -> bytes:
    """The hash that the node has for the block of a proof."""
    chain, block = node.chain(), proof.block
    if chain != proof.chain:
        raise ConfigError(f"the node at {node.host} is of chain {chain}, the anchor of chain {proof.chain}")
    if node.is_final(block.number) is False:
        say(f"note: block {block.number} is not final yet; the chain may still replace it")
    return node.block_hash(block.number)


def check_newest(found: Anchored, proof: EvmProof, node: Node) -> None:
    """Nothing, if what the contract holds now may have followed what was anchored."""
    size, root = node.newest(bytes.fromhex(proof.contract.removeprefix("0x")))
    if size < found.size or (size == found.size and root != found.root):
        raise ProofError(
            f"the contract holds {size} entries with the root {root.hex()} now: the chain went back",
            hint=f"anchored were {found.size} entries with the root {found.root.hex()}",
        )
    say(f"the contract holds {size} entries now")


def tell(found: Anchored, *, as_json: bool) -> None:
    """What an anchor shows: in words on standard error, as JSON on standard output."""
    by = datetime.fromtimestamp(found.when_high, UTC)
    who = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.details.items())
    say(f"a checkpoint of {found.size} entries existed by {by:%Y-%m-%d %H:%M:%S} UTC")
    say(f"says the {found.kind} anchor: {who}")
    if as_json:
        fields = {
            "kind": found.kind,
            "origin_hash": found.origin_hash.hex(),
            "size": found.size,
            "root": found.root.hex(),
            "existed_by": by.isoformat(),
            "when_low": found.when_low,
            "when_high": found.when_high,
            **found.details,
        }
        print(json.dumps(fields, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Words for people, on standard error."""
    print(text, file=sys.stderr)


def only_for(kind: Kind, others: dict[str, Any]) -> None:
    """Nothing, if no option of the other kind is given."""
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ConfigError(f"an anchor of the kind {kind} has no use for {' and '.join(given)}")


def node_at(url: str, max_fee: float = MOST_GWEI) -> Node:
    """The node behind a URL."""
    check_installed(Kind.evm)
    from phloem.ledger.anchors.chain import Node

    return Node(url, most_gwei=max_fee)


def sender_of(key: Path | None, account: str | None) -> Sender:
    """The account of a private key, or one that the node holds."""
    check_installed(Kind.evm)
    from phloem.ledger.anchors.senders import Sender

    if (key is None) == (account is None):
        raise ConfigError("who sends the transaction? Give one of --key FILE and --account ADDRESS")
    return Sender.from_file(key) if key is not None else Sender.at_node(str(account))


def address_in(text: str | None) -> bytes | None:
    """The address that was written, if one was."""
    if text is None:
        return None
    check_installed(Kind.evm)
    from phloem.ledger.anchors.senders import address_of

    return address_of(text)


def hash_in(text: str) -> bytes:
    """The bytes of a hash as a block explorer shows it."""
    try:
        found = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ConfigError(f"expected a hash of 0x and 64 hexadecimal digits, found {text!r:.80}")
    return found


def content_of(path: Path, what: str) -> bytes:
    """The content of a file.

    Raises:
        NotFoundError: there is none. StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_FILE)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {what} at {path}") from error
    except OSError as error:
        raise StoreError(f"the {what} at {path} cannot be read: {error.strerror}") from error


def check_installed(kind: Kind) -> None:
    """Nothing, if what this kind of anchor needs is there.

    Raises:
        ConfigError: it is not.
    """
    package, extra = {Kind.evm: ("web3", "evm"), Kind.rfc3161: ("rfc3161_client", "tsa")}[kind]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"the package {package} is not installed", hint=f"pip install 'phloem[ledger,{extra}]'"
        )
