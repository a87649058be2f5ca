"""Options that the commands on a repository of models share, and how they open one."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phloem.errors import ConfigError

if TYPE_CHECKING:
    from phloem.branches.repository import Repository, Sign

RepoOption = Annotated[
    str | None,
    typer.Option(
        "--repo",
        metavar="PATH|URL",
        envvar="PHLOEM_REPO",
        show_envvar=False,
        help="The repository; by default $PHLOEM_REPO, or .phloem here or in the nearest directory above.",
        show_default=False,
    ),
]
RefArgument = Annotated[
    str,
    typer.Argument(
        metavar="[REF]",
        help="A branch, a tag, the beginning of a commit, trunk~3; by default the current branch.",
        show_default=False,
    ),
]
MessageOption = Annotated[
    str | None, typer.Option("--message", "-m", metavar="WORDS", help="What to say of it.")
]
AuthorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        envvar="PHLOEM_AUTHOR",
        show_envvar=False,
        help="Who makes it; by default $PHLOEM_AUTHOR, or the user.",
        show_default=False,
    ),
]
SignOption = Annotated[
    Path | None, typer.Option(metavar="KEY", help="Sign it with this key, made by phloem key new.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
]


@contextlib.contextmanager
def repository(where: str | None) -> Iterator[Repository]:
    """The repository that a command is about, open.

    Raises:
        ConfigError: there is none.
    """
    from phloem.branches.repository import open_repo

    with open_repo(where) as repo:
        yield repo


def author(given: str | None) -> str:
    """Who makes a commit: who was named, or the user of this machine."""
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def signing(key: Path | None) -> Sign | None:
    """What signs commits, if a key was given.

    Raises:
        PhloemError: it is no key, or others may read it.
    """
    if key is None:
        return None
    try:
        from phloem.branches.signing import signing_with
        from phloem.ledger.keys import read_key
    except ImportError as error:
        raise ConfigError("signing needs another package", hint="pip install 'phloem[ledger]'") from error
    return signing_with(read_key(key))


def numbers(words: list[str] | None, option: str) -> dict[str, float]:
    """NAME=NUMBER, as often as it was given.

    Raises:
        ConfigError: a word is not of this form.
    """
    found = {}
    for word in words or ():
        name, equals, text = word.rpartition("=")
        try:
            found[name] = float(text)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ConfigError(f"{option}: expected NAME=NUMBER, found '{word:.60}'")
    return found


def adapters_of(words: tuple[str, ...]) -> dict[str, Path]:
    """NAME=DIR, as often as it was given.

    Raises:
        ConfigError: a word is not of this form.
    """
    found = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--adapter: expected NAME=DIR, found '{word:.60}'")
        found[name] = Path(path)
    return found
