"""The words of `phloem init`, `status`, `log`, `branch`, `switch`, `tag` and `show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.options import DebugOption
from phloem.cli.repository_options import (
    AuthorOption,
    JsonOption,
    MessageOption,
    RefArgument,
    RepoOption,
    SignOption,
)

_INIT_HELP = """Make a repository of models here, and commit a first model to it if you name one.

It lies in .phloem. Every version in it is exact; most cost a hundredth of a copy.

\b
Examples:
  phloem init base.safetensors
  phloem branch clinic
  phloem commit tuned.safetensors --branch clinic --bits 0.5
  phloem log --graph --all
"""
_BRANCH_HELP = """List branches, make one, or remove one.

A branch is a name for a commit: making one costs a line.

\b
Examples:
  phloem branch
  phloem branch clinic             from where the current branch stands
  phloem branch old trunk~10
  phloem branch --delete old
"""
_LOG_HELP = """Show the history of a branch, newest first.

\b
Examples:
  phloem log
  phloem log --graph --all
  phloem log clinic -n 20
"""
_TAG_HELP = """List tags, or give a commit a name that does not move.

\b
Examples:
  phloem tag v1
  phloem tag v1 clinic~2
"""


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("init", help=_INIT_HELP)(init_command)
    app.command("status")(status_command)
    app.command("log", help=_LOG_HELP)(log_command)
    app.command("branch", help=_BRANCH_HELP)(branch_command)
    app.command("switch")(switch_command)
    app.command("tag", help=_TAG_HELP)(tag_command)
    app.command("show")(show_command)


def init_command(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="The model to start from.", show_default=False),
    ] = None,
    message: MessageOption = None,
    author: AuthorOption = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="A LoRA adapter that the model has as well; repeatable."),
    ] = None,
    sign: SignOption = None,
    directory: Annotated[
        Path, typer.Option("--in", metavar="DIR", help="Where, if not here.", show_default=False)
    ] = Path(),
    debug: DebugOption = False,
) -> None:
    """Make a repository of models here."""
    from phloem.cli.looking import run_init

    run_init(directory, model, message, author, tuple(adapter or ()), sign)


def status_command(repo: RepoOption = None, json_: JsonOption = False, debug: DebugOption = False) -> None:
    """Show the current branch, where it stands against its remote, and how large the repository is."""
    from phloem.cli.looking import run_status

    run_status(repo, as_json=json_)


def log_command(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF]...", help="By default the current branch.", show_default=False),
    ] = None,
    graph: Annotated[bool, typer.Option("--graph", help="Draw how branches part and meet.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="The history of every name.")] = False,
    count: Annotated[
        int | None, typer.Option("-n", metavar="N", min=0, help="At most so many commits.")
    ] = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the history of a branch, newest first."""
    from phloem.cli.looking import run_log

    run_log(tuple(refs or ()), count, repo, graph=graph, everything=everything, as_json=json_)


def branch_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The branch to make.", show_default=False)
    ] = None,
    start: Annotated[
        str | None,
        typer.Argument(metavar="[REF]", help="Where it starts; by default the current.", show_default=False),
    ] = None,
    delete: Annotated[
        str | None, typer.Option("--delete", "-d", metavar="NAME", help="Remove the name of a branch.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", "-f", help="Move one that is there; remove one whose commits nobody else has."
        ),
    ] = False,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List branches, make one, or remove one."""
    from phloem.cli.looking import run_branch

    run_branch(name, start, delete, repo, force=force, as_json=json_)


def switch_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The branch.", show_default=False)],
    repo: RepoOption = None,
    debug: DebugOption = False,
) -> None:
    """Make a branch the current one: the one that commands take when none is named."""
    from phloem.cli.looking import run_switch

    run_switch(name, repo)


def tag_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The tag.", show_default=False)] = None,
    ref: Annotated[str, typer.Argument(metavar="[REF]", help="What it names.", show_default=False)] = "@",
    delete: Annotated[
        str | None, typer.Option("--delete", "-d", metavar="NAME", help="Remove a tag.")
    ] = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List tags, or give a commit a name that does not move."""
    from phloem.cli.looking import run_tag

    run_tag(name, ref, delete, repo, as_json=json_)


def show_command(
    ref: RefArgument = "@", repo: RepoOption = None, json_: JsonOption = False, debug: DebugOption = False
) -> None:
    """Show a commit: who, when, from what, how it was coded, what that lost, and how it is stored."""
    from phloem.cli.looking import run_show

    run_show(ref, repo, as_json=json_)
