"""The words of `phloem advise`, `squash`, `repack`, `gc` and `fsck`."""

from __future__ import annotations

from typing import Annotated

import typer

from phloem.cli.options import DebugOption
from phloem.cli.repository_options import AuthorOption, JsonOption, MessageOption, RepoOption, SignOption

_ADVISE_HELP = """Say whether branches should be merged, kept apart, or merged in groups, and on what evidence.

From the models alone it is a guess that says how sure it is. With a command that scores a model on each site's own
data it is measured: give one for every branch.

\b
Examples:
  phloem advise clinic-a clinic-b clinic-c
  phloem advise clinic-a clinic-b --eval 'clinic-a=python score.py a {}' --eval 'clinic-b=python score.py b {}'
"""
_SQUASH_HELP = """Make one commit of a branch's history; its state stays the same, to the bit.

\b
Examples:
  phloem squash clinic --onto trunk
  phloem squash clinic
"""
_REPACK_HELP = """Choose again how states are stored; none of them changes by a bit.

Tips of branches get cheap to restore, key-frames that nothing needs go, and small packs become one.
"""
_GC_HELP = """Remove what no name leads to, and say how many bytes that frees.

What is younger than the grace period stays, because somebody may be about to name it.

\b
Examples:
  phloem gc --dry-run
  phloem gc --grace 0          nobody else is at work here
"""
_FSCK_HELP = """Check every object of a repository; say what is damaged or missing, and put it right if asked.

\b
Examples:
  phloem fsck
  phloem fsck --deep                    decode every version and compare its digests
  phloem fsck --from s3://consortium/models    bring back what is damaged or missing here

\b
Exit codes: 0 all is well, 1 something is damaged or missing, 2 it cannot be decided, 3 the call is wrong.
"""


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("advise", help=_ADVISE_HELP)(advise_command)
    app.command("squash", help=_SQUASH_HELP)(squash_command)
    app.command("repack", help=_REPACK_HELP)(repack_command)
    app.command("gc", help=_GC_HELP)(gc_command)
    app.command("fsck", help=_FSCK_HELP)(fsck_command)


def advise_command(
    names: Annotated[list[str], typer.Argument(metavar="BRANCH...", help="Two or more.", show_default=False)],
    into: Annotated[
        str | None, typer.Option(metavar="NAME", help="The branch that they would be merged into.")
    ] = None,
    eval_: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="NAME=COMMAND",
            help="Prints how good the model in the file {} is for that branch's site: more is better.",
        ),
    ] = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say whether branches should be merged, kept apart, or merged in groups."""
    from phloem.cli.mending import run_advise

    run_advise(names, into, tuple(eval_ or ()), repo, as_json=json_)


def squash_command(
    branch: Annotated[
        str | None,
        typer.Argument(metavar="[BRANCH]", help="By default the current one.", show_default=False),
    ] = None,
    onto: Annotated[
        str | None, typer.Option(metavar="REF", help="Keep the history up to here; by default none.")
    ] = None,
    message: MessageOption = None,
    author: AuthorOption = None,
    sign: SignOption = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make one commit of a branch's history."""
    from phloem.cli.mending import run_squash

    run_squash(branch, onto, message, author, sign, repo, as_json=json_)


def repack_command(repo: RepoOption = None, json_: JsonOption = False, debug: DebugOption = False) -> None:
    """Choose again how states are stored."""
    from phloem.cli.mending import run_repack

    run_repack(repo, as_json=json_)


def gc_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace: Annotated[
        float, typer.Option(metavar="DAYS", min=0.0, help="What is younger than this stays.")
    ] = 14.0,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Remove what no name leads to."""
    from phloem.cli.mending import run_gc

    run_gc(grace, repo, dry_run=dry_run, as_json=json_)


def fsck_command(
    deep: Annotated[bool, typer.Option("--deep", help="Decode every version.")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="Put right what can be, from what is here.")] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PLACE", help="Bring back what is damaged or missing from there."),
    ] = None,
    names: Annotated[
        bool,
        typer.Option("--rebuild-names", help="Make a damaged table of branches and tags again."),
    ] = False,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check every object of a repository."""
    from phloem.cli.mending import run_fsck

    run_fsck(source, repo, deep=deep, mend=mend, names=names, as_json=json_)
