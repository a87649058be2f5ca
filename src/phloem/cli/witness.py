"""`phloem witness`: a witness of transparency logs, for an institution that vouches for what a log says of itself."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phloem.cli.options import DebugOption
from phloem.errors import ConfigError, FormatError, NotFoundError, StoreError

if TYPE_CHECKING:
    from phloem.ledger.witness import Misbehaviour, WitnessDatabase
    from phloem.tlog.keys import VerifierKey
    from phloem.tlog.policy import Policy

_GROUP_HELP = """Vouch for logs: a witness cosigns a log's checkpoints, and never two that do not fit each other.

A log that shows one history to some and another to others needs cosignatures under both. With enough
independent witnesses in the policy of those who check receipts, it cannot get them.

\b
At each institution:
  phloem witness init w1 --name witness.example.org/w1
      prints the line that others put into their policy
  phloem witness serve w1 --policy policy.txt
      cosigns for the logs of the policy, on 127.0.0.1:8420
  phloem witness show w1
      what it cosigned, and what it keeps against logs that misbehaved

It speaks c2sp.org/tlog-witness, so other logs can ask it, and Phloem's logs other witnesses.
"""
_INIT_HELP = """Make a witness in DIR: its key and its database. Prints its line for a policy.

\b
DIR/key          the private key; it never leaves this machine
DIR/witness.db   what the witness must never forget

A key goes with one database, for ever. Do not run a copy of DIR elsewhere, and do not go back to a backup of it: such
a witness may vouch for two histories. When DIR is lost, make a new witness, and have its line replace the old one.

\b
Example:
  phloem witness init w1 --name witness.example.org/w1 >> policy.txt
      then put its URL behind the line, and it into the group of the policy's quorum
"""
_SERVE_HELP = """Cosign for logs until Ctrl-C.

\b
POST /add-checkpoint               what a log asks
GET  /SHA256-OF-ORIGIN/checkpoint  the newest cosigned checkpoint, for who watches the log
GET  /                             key and logs, in words

There is no TLS here and nobody is asked for a password: a log's signature is what counts. For other machines put a
web server with TLS in front; --bind 0.0.0.0 opens the port to everybody.

\b
Examples:
  phloem witness serve w1 --policy policy.txt
  phloem witness serve w1 --log example.org/log+5b1f…+AV… --port 9000

Exit code: 0 after Ctrl-C or SIGTERM.
"""
_SHOW_HELP = """Show what the witness in DIR cosigned last, and what it keeps against logs.

Two trees of one size, signed by the log, prove that it showed two histories; --json has both notes, and the evidence
that others can check. A consistency proof that did not hold proves nothing yet, since anybody can send one along with
a checkpoint: ask the log for its entries.

\b
Examples:
  phloem witness show w1
  phloem witness show w1 --json | jq -r '.misbehaviour[0].evidence' > evidence.txt
"""


def _check_installed() -> None:
    """Nothing, if the package for signatures is there.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("the package cryptography is not installed", hint="pip install 'phloem[ledger]'")


group = typer.Typer(
    name="witness",
    help=_GROUP_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The directory of the witness.", show_default=False)
]


@group.command("init", help=_INIT_HELP)
def init_command(
    directory: DirectoryArgument,
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Its name in signatures, like a URL without https://.", show_default=False
        ),
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print name and key as JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """Make a witness."""
    _check_installed()
    from phloem.ledger.witness import create_witness

    key = create_witness(directory, name)
    if json_:
        print(json.dumps({"name": name, "key": str(key)}, indent=2))
    else:
        print(f"witness {name} {key}")
    print(f"{directory}: a new witness; the line above is for policies, its URL goes behind", file=sys.stderr)
    print(f"next: phloem witness serve {directory} --policy FILE", file=sys.stderr)


@group.command("serve", help=_SERVE_HELP)
def serve_command(
    directory: DirectoryArgument,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A policy, whose logs are cosigned.", show_default=False),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="VKEY", help="The public key of a log that is cosigned; repeatable."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 is any that is free.")
    ] = 8420,
    bind: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on; 0.0.0.0 for every interface.")
    ] = "127.0.0.1",
    debug: DebugOption = False,
) -> None:
    """Cosign for logs until Ctrl-C."""
    _check_installed()
    from phloem.ledger.witness import open_witness
    from phloem.ledger.witness_server import WitnessServer

    named = None if policy is None else _policy(policy)
    logs = _logs([] if named is None else named.logs, log or [])
    with open_witness(directory, logs) as witness:
        if named is not None and witness.signer.verifier not in named.witnesses.values():
            _tell(
                f"note: {policy} does not name this witness: who goes by it does not count its cosignatures"
            )
        server = WitnessServer(witness, bind, port, tell=_tell)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt), server:
            names = ", ".join(witness.logs)
            _tell(f"{witness.signer.name} listens on {server.url} for {names}; Ctrl-C ends it")
            server.wait()
    _tell("ended")


@group.command("show", help=_SHOW_HELP)
def show_command(
    directory: DirectoryArgument,
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON, with the notes.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show what a witness cosigned."""
    _check_installed()
    from phloem.ledger.witness import DATABASE, WitnessDatabase

    with WitnessDatabase(directory / DATABASE) as database:
        if json_:
            print(json.dumps(_as_json(database), indent=2, ensure_ascii=False))
            return
        print(f"witness {database.key}")
        for found in database.logs():
            print(f"{found.origin}: {found.size} entries cosigned")
        kept = database.misbehaviour()
    for one in kept:
        first, second = (_size(note) for note in (one.kept, one.shown))
        what = (
            f"TWO TREES of {first} entries, both signed by the log: it showed two histories"
            if one.proof
            else f"{second} entries were not shown to continue the {first} that were cosigned (proves nothing yet)"
        )
        print(f"{one.origin}: {what}")
    if not kept:
        print("nothing is kept against a log", file=sys.stderr)


def _logs(named: Sequence[VerifierKey], keys: Sequence[str]) -> list[VerifierKey]:
    """The keys of the logs that a policy and a call name."""
    from phloem.tlog.keys import VerifierKey

    found = list(named)
    for text in keys:
        try:
            found.append(VerifierKey.parse(text))
        except FormatError as error:
            hint = "a log's public key is one word of the form name+id+base64"
            raise ConfigError(f"--log: {error.message}", hint=hint) from error
    if not found:
        raise ConfigError("no log is named", hint="--policy FILE, with a line 'log VKEY', or --log VKEY")
    return list(dict.fromkeys(found))


def _policy(path: Path) -> Policy:
    """The policy in a file."""
    from phloem.tlog.policy import Policy

    try:
        data = path.read_bytes()
        if b"PRIVATE+KEY+" in data:  # a complaint about a line repeats it
            raise FormatError("it holds a private key, and is no policy")
        return Policy.parse(data)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no policy at {path}") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise FormatError(f"{path}: {error.message}") from error


def _as_json(database: WitnessDatabase) -> dict[str, Any]:
    return {
        "key": str(database.key),
        "logs": [
            {
                "origin": found.origin,
                "size": found.size,
                "root": found.root.hex(),
                "note": found.note.decode(),
            }
            for found in database.logs()
        ],
        "misbehaviour": [_kept_as_json(one) for one in database.misbehaviour()],
    }


def _kept_as_json(one: Misbehaviour) -> dict[str, Any]:
    from phloem.ledger.evidence import Evidence

    return {
        "origin": one.origin,
        "proof": one.proof,
        "time": one.time,
        "kept": one.kept.decode(),
        "shown": one.shown.decode(),
        "evidence": Evidence(one.kept, one.shown).pack().decode() if one.proof else None,
    }


def _size(note: bytes) -> int:
    from phloem.tlog.checkpoint import Checkpoint
    from phloem.tlog.note import Note

    return Checkpoint.unpack(Note.unpack(note).text).size


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def add_to(app: typer.Typer) -> None:
    """Gives the app this group."""
    app.add_typer(group)
