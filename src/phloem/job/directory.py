"""A run's directory: a store that anyone may read, and a private part that only a resume needs.

run.json            which recipe, which plan, which data, which version of this layout
run.lock            held by the process that is at work here
objects/ refs/      the store: frames, commits and plan as blobs; `trunk` names the newest commit
rounds.jsonl        one line per round
decisions.jsonl     one line per round whose codecs were chosen in it: what, why, and from what
ledger/             the log of all exchanges, where the recipe asks for one; ledger/keys is private too
summary.json  report.html  model.safetensors      written at the end
private/            residuals and optimiser states of the sites: never share it
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phloem import canonical
from phloem.errors import ConfigError, ConflictError, PhloemError, StateError, StoreError
from phloem.job.record import RoundRecord
from phloem.recipe import Recipe
from phloem.rounds.plan import Plan
from phloem.store.files import Store, write_durably
from phloem.store.snapshot import load_snapshot, save_snapshot

VERSION = 0
TRUNK = "trunk"
DECISIONS = "decisions.jsonl"
_RESUME = "resume"
_MARKER = "run.json"
_LOCK = "run.lock"
_FOLDERS = ("objects", "refs", "private", "compare", "ledger")
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}")  # the names that `write_durably` gives


@dataclass(frozen=True)
class Marker:
    """What `run.json` says besides the recipe: the digests of plan and data."""

    plan: str
    data: str | None


class RunDirectory:
    """Where one run keeps what it made, and what it needs to go on after a crash."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root)

    @functools.cached_property
    def private(self) -> Store:
        """The part for this machine only; made when it is first needed, gone when the run is finished."""
        store = Store(self.root / "private")
        os.chmod(store.root, 0o700)
        return store

    @classmethod
    def create(
        cls, root: Path, recipe: Recipe, plan: Plan, data: str | None, claims: contextlib.ExitStack
    ) -> RunDirectory:
        """A new run in an empty (or not yet existing) directory, claimed until `claims` closes.

        Raises:
            ConfigError: the directory has something in it. StateError: another process is making a run there.
        """
        cls.check_free(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{root} cannot be made: {error.strerror}", hint="choose another --out"
            ) from error
        claims.enter_context(claimed(root))
        cls.check_free(root)
        marker = {"layout": VERSION, "recipe": recipe.to_json(), "plan": plan.digest, "data": data}
        _write(root / _MARKER, json.dumps(marker, indent=2).encode() + b"\n")
        return cls(root)

    @staticmethod
    def check_free(root: Path) -> None:
        """Nothing, if a run may be made in `root`.

        Raises:
            ConfigError: it has something in it.
        """
        if root.exists() and (not root.is_dir() or any(not _is_leftover(path) for path in root.iterdir())):
            is_run = (root / _MARKER).exists()
            hint = "continue it with --resume, or choose another --out" if is_run else "choose another --out"
            raise ConfigError(f"{root} is not empty", hint=hint)

    @classmethod
    def open(cls, root: Path) -> tuple[RunDirectory, Recipe, Marker]:
        """A run that is there, its recipe, and what else its marker says.

        Raises:
            ConfigError: there is no run. StateError: it was made by another version, or is damaged.
        """
        try:
            text = (root / _MARKER).read_text("utf-8")
        except FileNotFoundError as error:
            raise ConfigError(f"there is no run in {root}", hint="start one with --out") from error
        except NotADirectoryError as error:
            raise ConfigError(f"{root} is a file, not the directory of a run") from error
        except (OSError, UnicodeDecodeError) as error:
            raise StateError(f"{root / _MARKER} cannot be read: {error}") from error
        with reading(root / _MARKER):
            table = json.loads(text)
            version, plan, data = table["layout"], str(table["plan"]), table["data"]
            if version != VERSION:
                raise StateError(
                    f"{root} is a run of version {version}, this is version {VERSION}",
                    hint="resume it with the Phloem that made it",
                )
            recipe = Recipe.from_json(table["recipe"])
        for name in _FOLDERS:
            if (root / name).is_symlink():
                raise StateError(f"{root / name} is a link, and a run has none", hint="copy the run whole")
        return cls(root), recipe, Marker(plan, data)

    def sweep(self) -> None:
        """Removes what killed processes left half-written beside its place; only under a claim."""
        for part in (self.root, self.root / "private"):
            for folder in (part, *part.glob("objects/*"), part / "refs"):
                for path in folder.glob(".*"):
                    if _LEFTOVER.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Puts one of the run's own files in its place, whole or not at all."""
        _write(self.root / name, content)

    def commit(self, parent: str | None, content: dict[str, Any]) -> str:
        """Puts a commit behind `parent` at the trunk's head and gives its digest.

        A resumed run makes its last commits once more; they must come out the same.

        Raises:
            StateError: the trunk's head is neither `parent` nor this very commit.
        """
        parents = [] if parent is None else [parent]
        digest = self.store.put(canonical.dumps({**content, "parents": parents}))
        try:
            self.store.swap(TRUNK, parent, digest)
        except ConflictError as error:
            if self._is_behind_head(digest):
                return digest
            raise StateError(
                f"round {content.get('round')} was made again and came out different",
                hint="task, data, library versions or hardware changed since the run was started",
            ) from error
        return digest

    def _is_behind_head(self, digest: str) -> bool:
        head = self.store.read(TRUNK)
        while head is not None and head != digest:
            parents = canonical.loads(self.store.get(head))["parents"]
            head = parents[0] if parents else None
        return head == digest

    # -- rounds.jsonl ----------------------------------------------------------------------------------------

    def append(self, record: RoundRecord) -> None:
        """Adds one line to `rounds.jsonl`; durable when this returns, as the snapshot after it will be."""
        self._append("rounds.jsonl", record.to_json())

    def add_decision(self, line: Mapping[str, Any]) -> None:
        """Adds one line to `decisions.jsonl`, of a run whose codecs are chosen as it goes on."""
        self._append(DECISIONS, json.dumps(line, allow_nan=False))

    def _append(self, name: str, line: str) -> None:
        try:
            with (self.root / name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self.root}/{name} could not be written: {error.strerror}",
                hint="free some space and resume",
            ) from error

    def decisions(self) -> list[dict[str, Any]]:
        """The lines of `decisions.jsonl` that are whole; none where codecs were fixed."""
        try:
            lines = (self.root / DECISIONS).read_text("utf-8").split("\n")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.root}/{DECISIONS} cannot be read: {error}") from error
        with reading(self.root / DECISIONS):
            return [json.loads(line) for line in lines[:-1]]

    def records(self) -> list[RoundRecord]:
        """The lines of `rounds.jsonl` that are whole."""
        try:
            lines = (self.root / "rounds.jsonl").read_text("utf-8").split("\n")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.root}/rounds.jsonl cannot be read: {error}") from error
        with reading(self.root / "rounds.jsonl"):
            return [RoundRecord.from_json(line) for line in lines[:-1]]

    def keep_records(self, records: list[RoundRecord], decided: int = 0) -> None:
        """Cuts `rounds.jsonl` back to these, and `decisions.jsonl` to the first `decided` rounds."""
        self.write("rounds.jsonl", "".join(r.to_json() + "\n" for r in records).encode())
        decisions = [line for line in self.decisions() if line["round"] < decided]
        if (self.root / DECISIONS).exists():
            self.write(DECISIONS, "".join(json.dumps(line) + "\n" for line in decisions).encode())

    # -- what a resume starts from ---------------------------------------------------------------------------

    def save_snapshot(self, snapshot: dict[str, Any]) -> None:
        """Makes `snapshot` (facts and blob digests of the private store) the point that a resume starts from."""
        save_snapshot(self.private, _RESUME, snapshot)

    def load_snapshot(self) -> dict[str, Any] | None:
        """The last snapshot, or None before the first."""
        return load_snapshot(self.private, _RESUME)

    def finish(self) -> None:
        """Removes what only a resume needed."""
        shutil.rmtree(self.root / "private", ignore_errors=True)


@contextlib.contextmanager
def claimed(root: Path) -> Iterator[None]:
    """While this lasts no other process works on the run in `root`; the claim dies with its process.

    Raises:
        StateError: another process has it.
    """
    try:
        lock = (root / _LOCK).open("ab")
    except OSError as error:
        raise StoreError(f"{root / _LOCK} could not be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateError(
                f"another process is at work on the run in {root}", hint="wait for it, or end it"
            ) from error
        yield


@contextlib.contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """Turns whatever a damaged or hostile record makes Python say into one sentence."""
    try:
        yield
    except PhloemError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise StateError(f"{what} is damaged ({found:.200})", hint="restore it from a copy") from error


def _write(path: Path, content: bytes) -> None:
    try:
        write_durably(path, content)
    except OSError as error:
        raise StoreError(
            f"{path} could not be written: {error.strerror}", hint="free some space and resume"
        ) from error


def _is_leftover(path: Path) -> bool:
    """Whether `path` is what a killed run left before its marker was in place."""
    return path.name == _LOCK or path.name.startswith(f".{_MARKER}.")
