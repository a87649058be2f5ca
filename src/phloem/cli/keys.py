"""`phloem key` and `phloem payload`: keys of members and witnesses, and what was sent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.options import DebugOption, as_called

_KEY_HELP = """Keys that sign entries, checkpoints and cosignatures.

\b
  phloem key new aachen -o aachen.key     prints the public half, for [ledger.members] or a policy
  phloem key rotate NODE-FOLDER aachen    the site changes to a new key with its next reply
"""
_PAYLOAD_HELP = """What was sent: an entry only commits to it, the run keeps it with its salt.

\b
  phloem payload open RUN 17 -o frame     the frame of entry 17, if it is what was committed to
  phloem payload erase RUN 17 --reason "asked by the patient"
      destroys frame and salt; the log stays whole, and says that and why

\b
Exit codes: 0 it is what was committed to, 1 it is not, 2 it is not here (any more), 3 the call is wrong.
"""

keys = typer.Typer(name="key", help=_KEY_HELP, no_args_is_help=True, rich_markup_mode=None)
payloads = typer.Typer(name="payload", help=_PAYLOAD_HELP, no_args_is_help=True, rich_markup_mode=None)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory.", show_default=False)]
IndexArgument = Annotated[int, typer.Argument(metavar="INDEX", help="An entry's place.", show_default=False)]


@keys.command("new")
def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where the private key goes.")],
    cosigner: Annotated[
        bool, typer.Option("--cosigner", help="A witness's key, which signs the time too.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Make a key: the private half in a file that only you can read, the public half on standard output."""
    from phloem.ledger.keys import write_key
    from phloem.tlog.keys import COSIGNATURE, NOTE, Signer

    with as_called():
        signer = Signer.new(name, COSIGNATURE if cosigner else NOTE)
    write_key(out, signer)
    typer.echo(str(signer.verifier))


@keys.command("rotate")
def rotate_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Where the site's node keeps its key.", show_default=False),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site.", show_default=False)],
    debug: DebugOption = False,
) -> None:
    """Let a site change its key: with its next reply it asks for that, signed with the old key and the new one."""
    from phloem.ledger.party import change_key

    typer.echo(str(change_key(folder, name).verifier))
    print(f"'{name}' changes to this key with its next reply", file=sys.stderr)


@payloads.command("open")
def open_command(
    run: RunArgument,
    index: IndexArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to write it.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Check that what was sent is what the entry commits to, and write it."""
    from phloem.cli.entries import open_payload, write_out

    content = open_payload(run, index)
    if out is not None:
        write_out(content, out)
    print(f"the {len(content):,} bytes of entry {index} are what was committed to", file=sys.stderr)


@payloads.command("erase")
def erase_command(
    run: RunArgument,
    index: IndexArgument,
    reason: Annotated[str, typer.Option(metavar="WORDS", help="Why; it stands in the log.")],
    debug: DebugOption = False,
) -> None:
    """Destroy what was sent and its salt, here; an entry says so."""
    from phloem.cli.entries import erase

    erase(run, index, reason)
    print(f"what entry {index} commits to has been destroyed here", file=sys.stderr)


def add_to(app: typer.Typer) -> None:
    """Gives the app these groups."""
    app.add_typer(keys)
    app.add_typer(payloads)
