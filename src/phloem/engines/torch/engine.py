"""The engine of `phloem build --engine torch` under torchrun: every rank trains some of the sites.

Replies travel from every rank to every other; each rank merges them with a coordinator of its own, so nothing of the
trunk travels down. Rank 0 has this engine and the run's directory; `phloem.job.following` is the other ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from phloem import canonical
from phloem.engines.base import Answer, Failure
from phloem.engines.torch.part import Part
from phloem.engines.torch.ranks import Ranks, Said
from phloem.recipe import Recipe
from phloem.rounds import events
from phloem.store.files import Store
from phloem.wire.messages import Order


class TorchEngine:
    """Rank 0's engine: tells the other ranks what comes next, and does its own part of it."""

    trusted = True
    failures: Mapping[str, Failure] = MappingProxyType({})  # a rank that fails ends the run

    def __init__(
        self,
        ranks: Ranks,
        recipe: Recipe,
        emit: events.Emit = events.ignore,
        standing: Mapping[str, Any] | None = None,
    ) -> None:
        """`standing` are the coordinator's facts and blobs in the snapshot that the run goes on from."""
        self.ranks, self.standing = ranks, dict(standing or {})
        self.moved: events.TrunkMoved | None = None  # what the coordinator made of the last round
        self._trunks: list[str] = []
        ranks.tell(Said({"do": "open", "recipe": recipe.to_json()}))
        self.part = Part(ranks, recipe, emit)

    def deliver(self, orders: dict[str, bytes]) -> dict[str, Answer]:
        """Every site's answer to its order."""
        trains, owed, attachments, choices = False, False, dict[str, bytes](), dict[str, str]()
        for site, message in orders.items():  # one by one: each may hold a whole model
            order = Order.unpack(message)
            trains, owed, attachments[site] = trains or order.train, owed or order.owed, order.attachment
            choices |= {site: order.choice.hex()} if order.train else {}
        head = {
            "do": "deliver",
            # only a result that nobody trains from is brought to sites without asking one of them
            "last": bool(orders) and not trains,
            "merged": None if self.moved is None else self.moved.accepted,
            "chain": None if self.moved is None else self.moved.chain,
            "codec": None if self.moved is None else self.moved.codec,
            "choices": choices,
            "owed": owed,
            "trunks": self._trunks,
        }
        told = []
        for sites in self.part.sites:
            own = [site for site in sites if site in orders]
            words = [(site, len(attachments[site])) for site in own]
            payload = b"".join(attachments[site] for site in own)
            told.append(Said({**head, "orders": digest_of(orders, own), "attachments": words}, payload))
        self.ranks.tell(*told)
        return self.part.deliver(orders)

    def join_ledger(self, folder: Path) -> None:
        """From now on sites sign what they send, with keys in `folder` at each rank's machine."""
        self.ranks.tell(Said({"do": "ledger", "folder": str(folder)}))
        self.part.join_ledger(folder)

    def spill_to(self, store: Store) -> None:
        """From now on what sites own besides the trunk lies in `store` while they are not at work."""
        self.ranks.tell(Said({"do": "spill", "store": str(store.root)}))
        self.part.spill_to(store.root)

    def save(self, store: Store) -> dict[str, dict[str, Any]]:
        """What every site needs to stand again where it is, as digests in the `store` of its rank."""
        self.ranks.tell(Said({"do": "save", "store": str(store.root)}))
        saved = self.part.save(store.root)
        self._trunks = sorted({facts["state"] for facts in saved.values()})
        return saved

    def load(self, store: Store, saved: dict[str, dict[str, Any]]) -> None:
        """Puts every site where `save` found it, whichever rank it was at."""
        own = [{site: saved[site] for site in sites} for sites in self.part.sites]
        needed = blobs_of(own[0])
        head = {"do": "load", "store": str(store.root), "standing": self.standing}
        self.ranks.tell(*(Said({**head, "saved": facts}) for facts in own))
        self.part.fetch(store.root, needed)

        def loaded() -> Said:
            self.part.host.load(store, own[0])
            return Said({})

        self.ranks.together(loaded)

    def close(self) -> None:
        """Nothing: the other ranks are told how the run ended by whoever began it."""


def digest_of(orders: Mapping[str, bytes], sites: list[str]) -> str:
    """What stands for these sites' orders where they are compared."""
    return canonical.digest(canonical.dumps({site: canonical.digest(orders[site]) for site in sites}))


def blobs_of(saved: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The blobs that sites need to be loaded."""
    return {facts[key] for facts in saved.values() for key in ("state", "owns")}
