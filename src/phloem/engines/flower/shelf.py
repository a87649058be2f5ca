"""What a node keeps on its disk: the trunk that it holds, what it owes, and its last reply until that is settled.

    ROOT/NODE/TOKEN/    one run: blobs, and a reference `site` to the newest snapshot

Everything is in place before a reply leaves the process, and a snapshot replaces the one before it as a whole, so a
process that is killed anywhere has either not begun with a message or is done with it.

Trunk and residual are two models. The trunk is kept as it once was, with the orders since, which the next process
goes through again, until they are many. The residual is written when the node trained; what an order without training
does to it is done again from that order, too.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import save as save_tensors

from phloem import canonical
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
_MOST_ORDERS = 4  # that are kept: each takes a pass over the model, to write the trunk about eight
_SMALL = 32  # how many times smaller than the model an order that is kept must be
_KEPT_SECONDS = 7 * 86_400.0  # since a run was saved last; its trunk may be what the next run starts from


@dataclass
class Standing:
    """One node's part in one run.

    Attributes:
        answered: what the reply in flight had besides the update.
        kept: what the disk has of it.
        whole: false where only the trunk was looked for: the residual is not in `site`, and stays as the disk has it.
    """

    site: Site
    plan: OpenPlan
    manifest: Manifest
    answered: dict[str, Any] | None = None
    kept: _Kept = field(default_factory=lambda: _Kept())
    whole: bool = True


@dataclass(frozen=True)
class _Kept:
    """The newest snapshot, and where the site stood when its residual was written: what is the same stays.

    A snapshot has the trunk's blob with its round and chain (`from`), the orders from there to `site`, and those that
    came `since`, when the residual was not touched.
    """

    snapshot: dict[str, Any] = field(default_factory=dict)
    at: Position | None = None
    chain: bytes = b""  # after all orders

    @property
    def orders(self) -> list[str]:
        """All orders since the trunk was written."""
        return [*self.snapshot["orders"], *self.snapshot["since"]]


class NodeShelf:
    """The runs of one node."""

    def __init__(self, root: Path, node: int) -> None:
        self.folder = root / str(node)

    def open(self, token: str, order: bytes = b"") -> Standing | None:
        """Where the node stands in the run `token`; None where it holds nothing of it, or what it held is damaged.

        For an `order` that does not ask for training the residual may be left where it is.

        Raises:
            StoreError: the disk refuses.
        """
        try:
            if not (self.folder / token / "refs" / _SITE).exists():
                return None
            store = Store(self.folder / token)
            snapshot = load_snapshot(store, _SITE)
            return None if snapshot is None else _stand(store, snapshot, order)
        except (FormatError, KeyError, NotFoundError, StateError, TypeError, ValueError):
            return None
        except PermissionError as error:
            raise StoreError(f"{self.folder} cannot be read: {error.strerror}") from error

    def save(self, token: str, standing: Standing, order: bytes = b"") -> None:
        """Makes `standing`, reached by `order`, what the node holds; durable when this returns.

        Raises:
            StoreError: the disk is full or refuses; the node holds what it held before.
        """
        store, kept = private_store(self.folder, token), standing.kept
        at, before = standing.site.at, kept.at
        moved = kept.chain != at.chain
        if not standing.whole:
            if moved:
                since = [*kept.snapshot["since"], store.put(order)]
                save_snapshot(store, _SITE, {**kept.snapshot, "since": since})
            return
        facts, owed, state = standing.site.save()
        snapshot = {**kept.snapshot, "site": facts, "name": standing.site.name, "answered": standing.answered}
        if before is None:
            run = {"plan": plan_to_json(standing.plan), "manifest": standing.manifest.to_json()}
            snapshot["run"] = store.put(canonical.dumps(run))
        if before is None or before.residual is not at.residual:
            snapshot["owed"] = store.put(save_tensors(owed))
        many = before is None or before.round == NOWHERE or len(kept.orders) >= _MOST_ORDERS
        if before is None or (moved and (many or not _small(order, standing))):
            snapshot |= {
                "state": store.put(save_tensors(state)),
                "from": [at.round, at.chain.hex()],
                "orders": [],
            }
        else:
            snapshot["orders"] = [*kept.orders, *([store.put(order)] if moved else [])]
        snapshot["since"] = []
        save_snapshot(store, _SITE, snapshot)
        standing.kept = _Kept(snapshot, at, at.chain)

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
        """Removes runs that nobody has gone on with for a week, but not `token`; also those of the root's other nodes.

        A node that registered anew has another number, and would leave what it held under the old one for ever.
        """
        for node in self.folder.parent.iterdir():
            if node.name.isdecimal() and node.is_dir():
                forget_old(node, token)

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


def _small(order: bytes, standing: Standing) -> bool:
    return len(order) <= 4 * standing.site.layout.size // _SMALL


def _stand(store: Store, snapshot: dict[str, Any], order: bytes) -> Standing:
    run = canonical.loads(store.get(snapshot["run"]))
    plan, manifest = plan_from_json(run["plan"]), Manifest.from_json(run["manifest"])
    site = Site.without_state(snapshot["name"], plan, manifest.layout)
    standing = Standing(site, plan, manifest, snapshot["answered"], _Kept(snapshot))
    standing.whole = not order or not _small(order, standing) or len(standing.kept.orders) >= _MOST_ORDERS
    number, chain = snapshot["from"]
    if number != NOWHERE:
        state = read_tensors(store, snapshot["state"])
        site.at = Position(
            number, bytes.fromhex(chain), {name: state[name] for name in manifest.layout.names}
        )
        for digest in snapshot["orders"]:
            site.receive(store.get(digest), reuse=True)
        if site.at.chain.hex() != snapshot["site"]["chain"]:
            raise StateError("the orders that were kept lead elsewhere")
        site.load(
            snapshot["site"], read_tensors(store, snapshot["owed"]) if standing.whole else {}, site.at.state
        )
    at = site.at
    for digest in snapshot["since"]:
        site.receive(store.get(digest), reuse=True)
    standing.kept = _Kept(snapshot, at, site.at.chain)
    return standing
