"""The words of `phloem push`, `pull`, `clone` and `remote`: repositories at other places."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phloem.cli.options import DebugOption
from phloem.cli.repository_options import JsonOption, RepoOption

_PUSH_HELP = """Bring branches to another place: a directory, or a bucket such as s3://BUCKET/PREFIX.

Only what the place lacks is sent. It is made if there is none; a push that was cut off is gone on with. Of two
who push to one branch at the same time one is told to pull and merge first; nobody's commits are lost.

\b
Examples:
  phloem push /mnt/share/models
  phloem remote add origin s3://consortium/models
  phloem push origin clinic-a --tag v1
"""
_PULL_HELP = """Bring what another place has, and let branches here go on where that is all that happens.

Branches that have commits on both sides stay as they are; merge PLACE/BRANCH into them.

\b
Examples:
  phloem pull
  phloem pull origin clinic-b
"""
_CLONE_HELP = """Make a repository here with all that another one has.

\b
Examples:
  phloem clone s3://consortium/models
  phloem clone /mnt/share/models --in ./models
"""
_REMOTE_HELP = """Names of other places.

\b
  phloem remote add origin s3://consortium/models
  phloem remote list
  phloem remote remove origin
"""

remote = typer.Typer(name="remote", help=_REMOTE_HELP, no_args_is_help=True, rich_markup_mode=None)

PlaceArgument = Annotated[
    str,
    typer.Argument(metavar="[PLACE]", help="A remote's name, a directory or a URL.", show_default="origin"),
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("push", help=_PUSH_HELP)(push_command)
    app.command("pull", help=_PULL_HELP)(pull_command)
    app.command("clone", help=_CLONE_HELP)(clone_command)
    app.add_typer(remote)


def push_command(
    place: PlaceArgument = "origin",
    branches: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BRANCH]...", help="By default the current one.", show_default=False),
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME", help="Bring this tag, too; repeatable.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Even if commits there get lost from the branch.")
    ] = False,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Nobody else pushes there: stores that keep no two apart will do."),
    ] = False,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring branches to another place."""
    from phloem.cli.exchanging import run_push

    run_push(place, branches, tuple(tags or ()), repo, force=force, alone=alone, as_json=json_)


def pull_command(
    place: PlaceArgument = "origin",
    branches: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BRANCH]...", help="By default all.", show_default=False),
    ] = None,
    repo: RepoOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Bring what another place has."""
    from phloem.cli.exchanging import run_pull

    run_pull(place, branches, repo, as_json=json_)


def clone_command(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="A directory or a URL.", show_default=False)],
    directory: Annotated[
        Path, typer.Option("--in", metavar="DIR", help="Where, if not here.", show_default=False)
    ] = Path(),
    debug: DebugOption = False,
) -> None:
    """Make a repository here with all that another one has."""
    from phloem.cli.exchanging import run_clone

    run_clone(place, directory)


@remote.command("add")
def add_command(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="URL", help="Or a directory.", show_default=False)],
    repo: RepoOption = None,
    debug: DebugOption = False,
) -> None:
    """Give a place a name."""
    from phloem.branches.places import add_remote
    from phloem.cli.repository_options import repository

    with repository(repo) as opened:
        add_remote(opened, name, url)


@remote.command("list")
def list_command(repo: RepoOption = None, json_: JsonOption = False, debug: DebugOption = False) -> None:
    """Print names and places."""
    from phloem.branches.places import remotes
    from phloem.cli.printing import print_json
    from phloem.cli.repository_options import repository

    with repository(repo) as opened:
        known = remotes(opened)
    if json_:
        print_json(known)
        return
    for name, url in sorted(known.items()):
        typer.echo(f"{name}\t{url}")


@remote.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    repo: RepoOption = None,
    debug: DebugOption = False,
) -> None:
    """Forget a place."""
    from phloem.branches.places import remove_remote
    from phloem.cli.repository_options import repository

    with repository(repo) as opened:
        remove_remote(opened, name)
