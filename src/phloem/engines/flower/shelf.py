"""What a node keeps on its disk: the trunk that it holds, what it owes, and its last reply until that is settled.

    ROOT/NODE/TOKEN/    one run: blobs, and a reference `site` to the newest snapshot

Everything is in place before a reply leaves the process, and a snapshot replaces the one before it as a whole, so a
process that is killed anywhere has either not begun with a message or is done with it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import save as save_tensors

from phloem.engines.flower.greeting import plan_from_json, plan_to_json
from phloem.engines.flower.records import Manifest
from phloem.engines.shelf import read_tensors
from phloem.errors import FormatError, NotFoundError, StateError, StoreError
from phloem.rounds.plan import OpenPlan
from phloem.rounds.site import NOWHERE, Position, Site
from phloem.store.files import Store
from phloem.store.snapshot import load_snapshot, save_snapshot
from phloem.tensors import State, state_digest

_SITE = "site"
_KEPT_SECONDS = 7 * 86_400.0  # since a run was saved last; its trunk may be what the next run starts from


@dataclass
class Standing:
    """One node's part in one run.

    Attributes:
        answered: what the reply in flight had besides the update.
    """

    site: Site
    plan: OpenPlan
    manifest: Manifest
    answered: dict[str, Any] | None = None
    blobs: tuple[Position | None, dict[str, str]] = (
        None,
        {},
    )  # which arrays the disk has, under which digests


class NodeShelf:
    """The runs of one node."""

    def __init__(self, root: Path, node: int) -> None:
        self.folder = root / str(node)

    def open(self, token: str) -> Standing | None:
        """Where the node stands in the run `token`; None where it holds nothing of it, or what it held is damaged.

        Raises:
            StoreError: the disk refuses.
        """
        try:
            if not (self.folder / token / "refs" / _SITE).exists():
                return None
            store = Store(self.folder / token)
            facts = load_snapshot(store, _SITE)
            return None if facts is None else _stand(store, facts)
        except (FormatError, KeyError, NotFoundError, StateError, TypeError, ValueError):
            return None
        except PermissionError as error:
            raise StoreError(f"{self.folder} cannot be read: {error.strerror}") from error

    def save(self, token: str, standing: Standing) -> None:
        """Makes `standing` what the node holds; durable when this returns.

        Raises:
            StoreError: the disk is full or refuses; the node holds what it held before.
        """
        store = private_store(self.folder, token)
        facts, owed, state = standing.site.save()
        before, blobs = standing.blobs
        if before is None or before.state is not state:
            blobs = {**blobs, "state": store.put(save_tensors(state))}
        if before is None or before.residual.owed is not standing.site.at.residual.owed:
            blobs = {**blobs, "owed": store.put(save_tensors(owed))}
        standing.blobs = (standing.site.at, blobs)
        plan, manifest = plan_to_json(standing.plan), standing.manifest.to_json()
        snapshot = {"site": facts, "name": standing.site.name, "plan": plan, "manifest": manifest, **blobs}
        save_snapshot(store, _SITE, {**snapshot, "answered": standing.answered})

    def find(self, digest: str, manifest: Manifest) -> State | None:
        """The state of that digest, from any run that the node still has."""
        for folder in self._runs():
            standing = self.open(folder.name)
            if standing is None or standing.site.layout != manifest.layout:
                continue
            if standing.site.at.round != NOWHERE and state_digest(standing.site.at.state) == digest:
                return standing.site.at.state
        return None

    def forget_others(self, token: str) -> None:
        """Removes runs that nobody has gone on with for a week, but not `token`."""
        forget_old(self.folder, token)

    def _runs(self) -> list[Path]:
        """The folders of all runs, the newest first."""
        if not self.folder.exists():
            return []
        return sorted(self.folder.iterdir(), key=_last_used, reverse=True)


def private_store(folder: Path, token: str) -> Store:
    """The store of one run in a node's folder, which nobody else may read.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be made: {error.strerror}",
            hint='say where this node may write, as in phloem-state="/path"',
        ) from error
    return Store(folder / token)


def forget_run(folder: Path, token: str) -> None:
    """Removes what a node holds of a run."""
    shutil.rmtree(folder / token, ignore_errors=True)


def forget_old(folder: Path, token: str) -> None:
    """Removes the runs in a node's folder that nobody has gone on with for a week, but not `token`."""
    for run in folder.iterdir():
        if run.name != token and time.time() - _last_used(run) > _KEPT_SECONDS:
            forget_run(folder, run.name)


def _last_used(folder: Path) -> float:
    """When a run was saved last."""
    for path in (folder / "refs" / _SITE, folder):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _stand(store: Store, facts: dict[str, Any]) -> Standing:
    plan, manifest = plan_from_json(facts["plan"]), Manifest.from_json(facts["manifest"])
    site = Site.without_state(facts["name"], plan, manifest.layout)
    if facts["site"]["round"] != NOWHERE:
        owed, state = read_tensors(store, facts["owed"]), read_tensors(store, facts["state"])
        site.load(facts["site"], owed, {name: state[name] for name in manifest.layout.names})
    blobs = {key: facts[key] for key in ("state", "owed")}
    return Standing(site, plan, manifest, facts["answered"], (site.at, blobs))
