"""A run's ledger: RUN/ledger, or the folder that the recipe names, opened for the coordinator.

RUN/ledger/run.json     the run's name in the log, and where the log is
"""

from __future__ import annotations

import json
import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from phloem.errors import ConfigError, FormatError, NotFoundError, StateError
from phloem.store.files import Store

if TYPE_CHECKING:  # who only verifies needs no NumPy
    from phloem.job.directory import RunDirectory
    from phloem.ledger.audit import Opening
    from phloem.ledger.book import Book
    from phloem.ledger.folder import LedgerFolder
    from phloem.recipe import Recipe
    from phloem.rounds.plan import Plan

LEDGER = "ledger"
_RUN = f"{LEDGER}/run.json"


def open_book(directory: RunDirectory, recipe: Recipe, plan: Plan, parameters: int) -> Book | None:
    """The ledger of a run that begins or goes on; None where the recipe has none.

    Raises:
        ConfigError: what signs is not installed. StateError: the ledger is another run's, or somebody writes to it.
    """
    if recipe.ledger is None:
        return None
    from phloem.engines.host import software

    try:
        from phloem.ledger.book import Book
        from phloem.ledger.folder import LedgerFolder
    except ImportError as error:
        raise ConfigError(f"[ledger] cannot be used: {error}", hint="pip install cryptography") from error

    place = directory.root / _RUN
    if not place.exists():
        run = f"{recipe.name}-{secrets.token_hex(4)}"
        place.parent.mkdir(exist_ok=True)
        named = str(Path(recipe.ledger.folder).absolute()) if recipe.ledger.folder else ""
        directory.write(_RUN, json.dumps({"run": run, "folder": named}).encode() + b"\n")
    run, root = _where(directory.root)
    folder = LedgerFolder(root)
    if not recipe.ledger.folder and not folder.exists:
        folder = LedgerFolder.create(root, f"phloem/{run}", recipe.ledger)
    say = logging.getLogger("phloem").warning
    return Book(folder, recipe.ledger, run, plan.digest, 4 * parameters, software(), say=say)


def ledger_of(root: Path) -> tuple[LedgerFolder, str]:
    """The ledger of the run in `root`, and the run's name in it.

    Raises:
        ConfigError: the run has none.
    """
    from phloem.ledger.folder import LedgerFolder

    if not (root / _RUN).exists():
        raise ConfigError(f"the run in {root} kept no ledger", hint="a recipe with [ledger] keeps one")
    run, folder = _where(root)
    return LedgerFolder(folder), run


def _where(root: Path) -> tuple[str, Path]:
    place = root / _RUN
    try:
        table = json.loads(place.read_bytes())
        return str(table["run"]), Path(table["folder"]) if table["folder"] else root / LEDGER
    except OSError as error:
        raise StateError(f"{place} cannot be read: {error.strerror}") from error
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise StateError(f"{place} is damaged ({found:.200})", hint="restore it from a copy") from error


class Payloads:
    """What opens the commitments of a run: its salts, and its frames."""

    def __init__(self, folder: LedgerFolder, root: Path) -> None:
        from phloem.ledger.folder import SALTS
        from phloem.ledger.salts import Salts

        self.salts = Salts(folder.root / SALTS)
        self.store = Store(root)

    def __call__(self, commit: str) -> Opening:
        """Salt and content of a commitment, as far as they are here."""
        from phloem.ledger.audit import Opening

        salt = self.salts.get(commit)
        if salt is None:
            return Opening(None, None)
        try:
            return Opening(salt.salt, self.store.get(salt.content))
        except NotFoundError:
            return Opening(salt.salt, None)
        except FormatError:  # bit rot, or somebody's hand: another content under this name
            return Opening(salt.salt, b"")
