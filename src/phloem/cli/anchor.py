"""`phloem anchor`: that a log's checkpoint existed by a time, on a chain or from a time-stamping authority."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.anchoring import (
    MOST_GWEI,
    Kind,
    address_in,
    block_of,
    check_installed,
    check_newest,
    content_of,
    hash_in,
    node_at,
    on_chain,
    only_for,
    say,
    sender_of,
    stamped,
    tell,
)
from phloem.cli.options import DebugOption
from phloem.errors import ConfigError, FormatError, StoreError

_GROUP_HELP = """Show that a checkpoint existed by a time, to somebody who trusts neither the log nor its witnesses.

\b
With a time-stamping authority (RFC 3161):
  phloem anchor create checkpoint -o checkpoint.tsa.json --kind rfc3161 --tsa https://tsa.example.org
  phloem anchor verify checkpoint.tsa.json checkpoint --tsa-roots roots.pem

\b
With a contract on an EVM chain, which holds the newest checkpoint and never goes back:
  (umask 077; openssl rand -hex 32 > owner.key)
  phloem anchor deploy example.org/log --rpc https://node.example.org --key owner.key
  phloem anchor create checkpoint -o checkpoint.evm.json --kind evm \\
      --rpc https://node.example.org --contract 0x… --key owner.key
  phloem anchor verify checkpoint.evm.json checkpoint --contract 0x… --block-hash 0x…
"""
_DEPLOY_HELP = """Make the contract that holds the newest checkpoint of the log ORIGIN, and print its address.

The account of --key becomes its owner, which alone may anchor, and pays for it. Publish the address: it is what readers
compare an anchor with.

\b
  phloem anchor deploy example.org/log --rpc https://node.example.org --key owner.key

\b
Exit codes: 0 done, 1 the chain refused, 2 the node cannot be reached, 3 the call is wrong.
"""
_CREATE_HELP = """Anchor CHECKPOINT, a signed note, and write the proof to FILE.

Of the kind evm, the contract stores its size and root, and the proof leads from them to the hash of a block; if the
contract holds them already, only the proof is taken and nothing is paid. Of the kind rfc3161, an authority signs the
SHA-256 of the note's text; cosignatures may be added to the note later.

\b
  phloem anchor create checkpoint -o anchor.json --kind evm --rpc URL --contract 0x… --key owner.key
  phloem anchor create checkpoint -o anchor.json --kind rfc3161 --tsa URL --tsa-roots roots.pem

\b
Exit codes: 0 done, 1 the anchor was refused, 2 a server cannot be reached, 3 the call is wrong.
"""
_VERIFY_HELP = """Check that the proof in FILE shows CHECKPOINT to have existed by a time.

Nothing is asked of a network, but with --rpc: then a node says which block the chain has, and what the contract holds
now. The signatures on the note are not looked at.

\b
  phloem anchor verify anchor.json checkpoint --contract 0x… --block-hash 0x…
      the hash of the block as a block explorer or a node of yours shows it
  phloem anchor verify anchor.json checkpoint --contract 0x… --rpc https://node.example.org
  phloem anchor verify anchor.json checkpoint --tsa-roots roots.pem

\b
A time stamp can be checked with OpenSSL as well:
  jq -r .response anchor.json | cut -c3- | xxd -r -p > stamp.tsr
  jq -j .text anchor.json > text
  openssl ts -verify -in stamp.tsr -data text -CAfile roots.pem

\b
Exit codes: 0 it does, 1 it does not, 2 it cannot be decided (something is missing), 3 the call is wrong.
"""


RpcOption = Annotated[
    str | None, typer.Option(metavar="URL", help="A node of the chain, by its JSON-RPC.", show_default=False)
]
ContractOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="The log's contract.", show_default=False)
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The owner's private key: a file with 64 hexadecimal digits, closed to others.",
        show_default=False,
    ),
]
AccountOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Instead of a key: an account that the node signs for.", show_default=False
    ),
]
FeeOption = Annotated[
    float,
    typer.Option("--max-fee", metavar="GWEI", help="The most that a unit of gas may cost.", min=0.0),
]
RootsOption = Annotated[
    Path | None,
    typer.Option(metavar="PEM", help="The authorities' root certificates.", show_default=False),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        metavar="OID", help="The policy that a time stamp must have been made under.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what was found on standard output.")]
CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A signed note, as the log writes it.")
]

group = typer.Typer(
    name="anchor",
    help=_GROUP_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@group.command("deploy", help=_DEPLOY_HELP)
def deploy_command(
    origin: Annotated[
        str, typer.Argument(metavar="ORIGIN", help="The log's name, the first line of its checkpoints.")
    ],
    rpc: Annotated[str, typer.Option(metavar="URL", help="A node of the chain, by its JSON-RPC.")],
    key: KeyOption = None,
    account: AccountOption = None,
    max_fee: FeeOption = MOST_GWEI,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a contract for a log."""
    from phloem.tlog.checkpoint import Checkpoint

    try:
        Checkpoint.unpack(Checkpoint(origin, 0, bytes(32)).pack())
    except FormatError as error:
        raise ConfigError(f"{origin!r:.80} is no log's name: it is one line of text") from error
    node, sender = node_at(rpc, max_fee), sender_of(key, account)
    made = node.deploy(origin, sender)
    say(f"the contract of '{origin}' on chain {made.chain}, owned by {made.owner}; {made.gas:,} gas")
    if json_:
        print(json.dumps(dataclasses.asdict(made), indent=2))
    else:
        print(made.contract)


@group.command("create", help=_CREATE_HELP)
def create_command(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The proof, a new file.")],
    kind: Annotated[Kind, typer.Option(help="Who vouches for the time.")],
    rpc: RpcOption = None,
    contract: ContractOption = None,
    key: KeyOption = None,
    account: AccountOption = None,
    max_fee: FeeOption = MOST_GWEI,
    tsa: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The time-stamping authority.", show_default=False),
    ] = None,
    tsa_roots: RootsOption = None,
    tsa_policy: PolicyOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Anchor a checkpoint."""
    from phloem import canonical
    from phloem.store.files import write_durably
    from phloem.tlog.checkpoint import Checkpoint
    from phloem.tlog.note import Note

    for_evm = {"--rpc": rpc, "--contract": contract, "--key": key, "--account": account}
    for_tsa = {"--tsa": tsa, "--tsa-roots": tsa_roots, "--tsa-policy": tsa_policy}
    only_for(kind, for_tsa if kind is Kind.evm else for_evm)
    data = content_of(checkpoint, "checkpoint")
    note = Note.unpack(data)
    Checkpoint.unpack(note.text)  # before anybody is asked, or paid
    if out.exists() or not out.parent.is_dir():
        raise ConfigError(f"{out} exists already" if out.exists() else f"there is no directory {out.parent}")
    if kind is Kind.evm:
        proof, found = on_chain(note.text, rpc, contract, key, account, max_fee)
    else:
        proof, found = stamped(note.text, tsa, tsa_roots, tsa_policy)
    try:
        write_durably(out, canonical.dumps(proof))
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}") from error
    tell(found, as_json=json_)


@group.command("verify", help=_VERIFY_HELP)
def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The proof that `create` wrote.")],
    checkpoint: CheckpointArgument,
    block_hash: Annotated[
        str | None,
        typer.Option(
            metavar="HASH", help="The hash of the anchor's block, as the chain has it.", show_default=False
        ),
    ] = None,
    rpc: RpcOption = None,
    contract: ContractOption = None,
    tsa_roots: RootsOption = None,
    tsa_policy: PolicyOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check an anchor."""
    from phloem.ledger.anchors.base import EVM, Trust
    from phloem.ledger.anchors.evm import EvmProof
    from phloem.ledger.anchors.proof import unpack, verify_anchor

    if block_hash is not None and rpc is not None:
        raise ConfigError("who says which block the chain has? Give --block-hash or --rpc, not both")
    data, note = content_of(file, "anchor"), content_of(checkpoint, "checkpoint")
    proof = unpack(data)
    kind = Kind(proof.kind)
    for_evm = {"--block-hash": block_hash, "--rpc": rpc, "--contract": contract}
    only_for(kind, {"--tsa-roots": tsa_roots, "--tsa-policy": tsa_policy} if kind == EVM else for_evm)
    check_installed(kind)
    node = None if rpc is None else node_at(rpc)
    trusted = None if block_hash is None else hash_in(block_hash)
    if node is not None and isinstance(proof, EvmProof):
        trusted = block_of(proof, node)
    roots = None if tsa_roots is None else content_of(tsa_roots, "root certificates")
    found = verify_anchor(data, note, Trust(trusted, address_in(contract), roots, tsa_policy))
    if node is not None and isinstance(proof, EvmProof):
        check_newest(found, proof, node)
    tell(found, as_json=json_)
    if kind == EVM and contract is None:
        say("hint: is that the contract which the log publishes? --contract ADDRESS compares it")


def add_to(app: typer.Typer) -> None:
    """Gives the app this group."""
    app.add_typer(group)
