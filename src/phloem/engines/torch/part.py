"""A rank's part of a run: the sites that live here, and this rank's side of what all ranks do together."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from phloem.engines.base import Answer
from phloem.engines.host import Host
from phloem.engines.torch.ranks import Ranks, Said
from phloem.errors import ConfigError, PhloemError, StateError
from phloem.recipe import Recipe
from phloem.rounds import events
from phloem.store.files import Store
from phloem.wire.messages import Reply

Facts = dict[str, Any]


class Part:
    """The sites of one rank. Every method is called at all ranks, at the same place."""

    def __init__(self, ranks: Ranks, recipe: Recipe, emit: events.Emit = events.ignore) -> None:
        """Gives this rank's sites their data.

        Raises:
            PhloemError: a rank cannot, or they come to different plans; alike at every rank.
        """
        self.ranks, names = ranks, recipe.sites.all
        self.sites = [names[rank :: ranks.world] for rank in range(ranks.world)]

        def opened() -> Said:
            self.host = Host(recipe, self.sites[ranks.rank], emit)
            return Said({})

        ranks.together(opened)
        data = getattr(self.host.task, "data_digest", None)
        data = data if isinstance(data, str) else None
        ranks.agree("the plan", {"the plan's digest": self.host.plan.digest, "the data's digest": data})
        self._replies: dict[str, bytes] = {}

    # -- rounds ----------------------------------------------------------------------------------------------

    def deliver(self, orders: Mapping[str, bytes], problem: PhloemError | None = None) -> dict[str, Answer]:
        """The answers of all ranks' sites to their orders.

        With a `problem` this rank's sites are asked nothing, and every rank raises it.
        """

        def answered() -> Said:
            if problem is not None:
                raise problem
            rows, messages = [], []
            for site in self.host.sites:
                if site in orders:
                    one = self.host.deliver(site, orders[site])
                    messages.append(one.message)
                    size = len(one.message)
                    rows.append((site, size, one.train_seconds, one.codec_seconds, one.metrics))
            return Said({"answers": rows}, b"".join(messages))

        answers = {}
        for said in self.ranks.together(answered):
            at = 0
            for site, size, train, codec, metrics in said.head["answers"]:
                answers[site] = Answer(said.payload[at : at + size], train, codec, metrics)
                at += size
        self._replies = {site: one.message for site, one in answers.items()}
        return dict(sorted(answers.items()))

    # -- what sites own --------------------------------------------------------------------------------------

    def join_ledger(self, folder: Path) -> None:
        """From now on the sites sign what they send, with keys in `folder`.

        Raises:
            ConfigError: a site's key is at another rank's machine.
        """
        named = sorted(site for sites in self.sites for site in sites)

        def found() -> Said:
            return Said({"keys": [site for site in named if (folder / f"{site}.key").exists()]})

        keys = [set(said.head["keys"]) for said in self.ranks.together(found)]

        def joined() -> Said:
            for rank, sites in enumerate(self.sites):
                for site in sorted(set(sites) & set().union(*keys) - keys[rank]):
                    other = next(n for n, here in enumerate(keys) if site in here)
                    raise ConfigError(
                        f"site '{site}' is at rank {rank} now, and its key is at rank {other}",
                        hint=f"bring {folder}/{site}.* to the machine of rank {rank}; keys do not travel",
                    )
            self.host.join_ledger(folder)
            return Said({})

        self.ranks.together(joined)

    def spill_to(self, store: Path) -> None:
        """From now on what sites own besides the trunk lies in `store` while they are not at work."""

        def spilled() -> Said:
            self.host.spill_to(private(store))
            return Said({})

        self.ranks.together(spilled)

    def save(self, path: Path) -> dict[str, Facts]:
        """What every site needs to stand again where it is, at rank 0; elsewhere only this rank's."""
        own: dict[str, Facts] = {}

        def saved() -> Said:
            own.update(self.host.save(private(path)))
            thin = {site: self._thin(site, facts) for site, facts in own.items()}
            return Said({}, json.dumps(thin).encode())

        found = own
        for said in self.ranks.collect(saved)[1:]:
            thin: dict[str, Facts] = json.loads(said.payload)
            found = found | {site: self._whole(site, facts) for site, facts in thin.items()}
        return dict(sorted(found.items()))

    def _thin(self, site: str, facts: Facts) -> Facts:
        """The facts without the frame in flight, where every rank has it as the site's last reply."""
        sent, reply = facts["sent"], self._replies.get(site)
        if self.ranks.rank == 0 or sent is None or reply is None or Reply.unpack(reply).frame.hex() != sent:
            return facts
        return {**facts, "sent": True}

    def _whole(self, site: str, facts: Facts) -> Facts:
        if facts["sent"] is not True:
            return facts
        return {**facts, "sent": Reply.unpack(self._replies[site]).frame.hex()}

    def fetch(self, path: Path, needed: Iterable[str]) -> None:
        """Brings the blobs in `needed` to this rank's store from wherever they are.

        Raises:
            StateError: one is at no rank.
        """
        store = private(path)
        lacking = sorted(digest for digest in set(needed) if digest not in store)
        lacks = [s.head["lacks"] for s in self.ranks.together(lambda: Said({"lacks": lacking}))]
        wanted = sorted(set().union(*lacks))
        if not wanted:
            return
        have = [digest for digest in wanted if digest in store]
        has = [set(said.head["has"]) for said in self.ranks.together(lambda: Said({"has": have}))]
        holder = {digest: next((r for r, at in enumerate(has) if digest in at), None) for digest in wanted}

        def packed() -> Said:
            lost = [digest for digest in wanted if holder[digest] is None]
            if lost:
                raise StateError(
                    f"blob {lost[0][:12]} of the snapshot is at no rank",
                    hint=f"it lies in {path} at a machine where a rank ran before: bring that one in again",
                )
            mine = {digest: store.get(digest) for digest in wanted if holder[digest] == self.ranks.rank}
            for rank in self.ranks.others:
                blobs = [mine[digest] for digest in lacks[rank] if digest in mine]
                if blobs:
                    messages[rank] = Said({"sizes": [len(blob) for blob in blobs]}, b"".join(blobs)).pack()
            return Said({})

        messages: dict[int, bytes] = {}
        self.ranks.together(packed)
        senders = {rank for digest in lacking if (rank := holder[digest]) is not None}
        found = self.ranks.swap(messages, sorted(senders))

        def put() -> Said:
            for message in found.values():
                said, at = Said.unpack(message), 0
                for size in said.head["sizes"]:
                    store.put(said.payload[at : at + size])
                    at += size
            return Said({})

        self.ranks.together(put)


def private(path: Path) -> Store:
    """The store at `path`, which is for this machine only."""
    store = Store(path)
    os.chmod(path, 0o700)
    return store
