"""The coordinator's half of the protocol: orders out, replies in, one frame down per round.

It separates the *exchange* (frames, who is where, what was accepted) from the *merge* (weights, server step),
which an engine may replace. Updates are folded one by one in sorted site order, whatever order they came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phloem import canonical
from phloem import feedback as ef
from phloem.codecs.lossless import Lossless
from phloem.codecs.model import Model
from phloem.errors import ConfigError, FormatError, ProofError, StateError
from phloem.feedback import Residual
from phloem.ledger.exchange import Base, Merged, codec_words
from phloem.masks import everything
from phloem.pruning import marked, pruned
from phloem.rounds import events
from phloem.rounds.carried import carried_by
from phloem.rounds.choose import DOWN, Choose, FixedChoice
from phloem.rounds.merge import Merge, WeightedMerge
from phloem.rounds.plan import LARGEST_VALUE, Choice, Plan, next_chain
from phloem.rounds.result import Received, RoundResult
from phloem.rounds.site import NOWHERE, add
from phloem.tensors import Array, Layout, State, state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import MOST_EXAMPLES, PREFIX_BYTES, Item, Order, Reply, Report, Status

if TYPE_CHECKING:  # a run without a ledger needs no library for signatures
    from phloem.ledger.book import Book

DIVERGED = "holds another state than the trunk"
ALONE = "what is owed is merged from all sites that owe, or not yet: a share of it has another mean"


@dataclass
class Coordinator:
    """One run's coordinator. For every round: `orders`, `receive` each reply, `close`.

    With a `book` everything is in the ledger before it takes effect, and what the ledger does not know is refused.
    """

    plan: Plan
    state: State
    emit: events.Emit = events.ignore
    choose: Choose | None = None
    merge: Merge | None = None
    book: Book | None = None
    begins: bool = True  # else `load` follows

    def __post_init__(self) -> None:
        self.layout = Layout.of(self.state)
        begins_there = not self.begins or state_digest(self.state) == self.plan.initial_state
        if self.layout.digest != self.plan.layout or not begins_there:
            raise StateError("the coordinator starts from another model than the plan")
        self.chooser: Choose = self.choose or FixedChoice(self.plan)
        self.merger: Merge = self.merge or WeightedMerge(self.plan.merge)
        self.round = 0
        self.chain = self.plan.genesis
        self.kept = everything(self.layout)  # the weights that are not pruned; frames carry only these
        self.residual = Residual()
        self.digest: str | None = self.plan.initial_state
        self.positions = dict.fromkeys(self.plan.sites, 0)
        self.prefixes = [self.chain[:PREFIX_BYTES]]  # of every round's chain id
        self.bitmaps: list[bytes] = []  # who was merged in every round
        self.recent: list[bytes] = []  # the newest delta frames, as many as are cheaper than a key-frame
        self._newest = ""  # the digest of the newest of them, where it is known
        self._updates: dict[str, Received] = {}
        self._refused: dict[str, str] = {}
        self._asked: set[str] = set()
        self._attachments: dict[str, bytes] = {}
        self._reports: dict[str, Report] = {}
        self._key_frame: bytes | None = None

    def place(self, site: str, position: int) -> None:
        """From now on `site` holds the state of round `position` (NOWHERE: none): it came, came back, or lost it.

        Raises:
            ConfigError: the position lies ahead of the trunk.
        """
        if position > self.round:
            raise ConfigError(f"site '{site}' cannot be in round {position}, the trunk is in {self.round}")
        self.positions[site] = position

    # -- down ------------------------------------------------------------------------------------------------

    def orders(
        self, reachable: set[str], train: set[str], attachments: Mapping[str, bytes] | None = None
    ) -> dict[str, bytes]:
        """One order for each reachable site, which brings it to the trunk's head; those in `train` train.

        `attachments` travel with the orders, opaque and counted as control; with a book they are its own.
        """
        asked = train & reachable
        self.emit(events.RoundOpened(self.round, tuple(sorted(asked))))
        if asked:
            self.chooser.opened(self.round, sorted(asked), self.kept.size)
        orders = {site: self._order(site, train=site in asked) for site in sorted(reachable)}
        if self.book is not None:
            attachments = self._noticed(self.book, orders)
        messages: dict[str, bytes] = {}
        packed: dict[Order, bytes] = {}  # equal orders are the same bytes: key-frames would fill the memory
        for site, order in orders.items():
            order = replace(order, attachment=(attachments or {}).get(site, b""))
            if order not in packed:
                packed[order] = order.pack()
            message = packed[order]
            digests = tuple(canonical.digest(item.frame) for item in order.items)
            self.emit(events.OrderSent(self.round, site, len(message), order.frame_bytes, digests))
            messages[site] = message
        self._asked = asked
        return messages

    def _noticed(self, book: Book, orders: Mapping[str, Order]) -> dict[str, bytes]:
        """What the ledger says with each of these orders."""
        default = self.plan.up_in(self.round)
        choices = {
            site: Choice.unpack(order.choice) if order.choice else default
            for site, order in orders.items()
            if order.train
        }
        codecs = {site: codec_words(choice.to_json()) for site, choice in choices.items()}
        carried = {site: carried_by(order, self._newest) for site, order in orders.items()}
        return book.opened(self.round, Base(self.chain.hex(), self.digest), codecs, carried)

    def _order(self, site: str, *, train: bool) -> Order:
        start = max(self.positions[site], 0)
        missing = self.round - start
        state = None
        if self.plan.compares_state_in(self.round):
            assert self.digest is not None
            state = bytes.fromhex(self.digest)[:PREFIX_BYTES]
        choice = b""
        if train:
            chosen = self.plan.check(self.chooser(site, self.round))
            choice = b"" if chosen == self.plan.up_in(self.round) else chosen.pack()
        items: tuple[Item, ...]
        key_chain = None
        deltas = self.recent[len(self.recent) - missing :]
        if self.positions[site] == NOWHERE:
            items, key_chain = (Item(self.plan.bitmap(set()), self.key_frame()),), self.chain
        elif missing <= len(self.recent) and self._are_fewer_bytes(deltas):
            items = tuple(Item(self.bitmaps[start + n], frame) for n, frame in enumerate(deltas))
        else:
            items, key_chain = (Item(self.bitmaps[start], self.key_frame()),), self.chain
        asks = train and self.chooser.reports, train and self.chooser.owed
        return Order(self.round, train, self.prefixes[-1], state, start, items, key_chain, choice, b"", *asks)

    def _are_fewer_bytes(self, deltas: list[bytes]) -> bool:
        """Whether a site catches up by these deltas; a site that lacks one round always does.

        A key-frame is packed for the comparison only where the deltas could lose: states that were trained take
        more than half of their float32.
        """
        size = sum(map(len, deltas))
        return len(deltas) < 2 or size <= 2 * self.kept.size or size <= len(self.key_frame())

    def key_frame(self) -> bytes:
        """The trunk's state in one frame, for sites that hold none or an old one."""
        if self._key_frame is None:
            arrays = self.layout.arrays(self.state)
            codec = Model() if self.kept.any_masked else Lossless()
            self._key_frame = frames.pack(codec, arrays, self.layout, key_frame=True)
        return self._key_frame

    # -- up --------------------------------------------------------------------------------------------------

    def receive(self, site: str, message: bytes) -> str | None:
        """Takes a reply in; gives the reason if its update is refused, None otherwise.

        Nothing that a site sends raises: a damaged, late, foreign or lying reply is refused by name, and the
        round goes on without it. (A reason that begins with DIVERGED means that an honest site and the
        coordinator decode differently; the engine decides whether that ends the run.) A site's number of
        examples is taken at its word.
        """
        try:
            reply = Reply.unpack(message)
        except FormatError as error:
            return self._refuse(site, f"damaged reply: {error}")
        if site not in self.positions or reply.site != self.plan.index(site):
            return self._refuse(site, "the reply names another site")
        if reply.round > self.round or self.prefixes[reply.round] != reply.chain:
            return self._refuse(site, "trained on another trunk than ours")
        if reply.attachment:
            self._attachments[site] = reply.attachment
        if reply.report is not None and reply.round == self.round:
            self._reports[site] = reply.report
        reason, received = self._check(site, reply)
        digest = canonical.digest(reply.frame) if reply.status is Status.UPDATE else ""
        if self.book is not None:
            reason = self._written(self.book, site, reply, reason, digest)
        if reason is not None:
            self._refuse(site, reason)
        elif received is not None:
            self.emit(events.UpdateReceived(self.round, site, digest, len(message), len(received.frame)))
            self._updates[site] = received
            self._refused.pop(site, None)
        self.positions[site] = max(self.positions[site], reply.round)
        return reason

    def _written(self, book: Book, site: str, reply: Reply, reason: str | None, digest: str) -> str | None:
        """Why a reply is refused, once the ledger has it; what the ledger cannot take is refused, too."""
        try:
            book.heard(site, reply.attachment)
        except (FormatError, ProofError) as error:
            reason = reason or error.message
        if reply.status is not Status.UPDATE:
            return reason
        frame, examples, said = reply.frame, reply.examples, reply.attachment
        return book.received(site, reply.round, said, frame, examples, reason, digest)

    def _refuse(self, site: str, reason: str) -> str:
        self.emit(events.UpdateRefused(self.round, site, reason))
        if site in self._asked and site not in self._updates:  # what follows an update cannot take it back
            self._refused[site] = reason
        return reason

    def _check(self, site: str, reply: Reply) -> tuple[str | None, Received | None]:
        if reply.round < self.round:
            return f"late by {self.round - reply.round} round(s)", None
        mine = bytes.fromhex(self.digest)[:PREFIX_BYTES] if self.digest is not None else None
        if reply.state is not None and mine is not None and reply.state != mine:
            return f"{DIVERGED} in round {self.round}", None
        if reply.status is Status.REFUSED:
            return f"refused by the site itself: {reply.reason}", None
        if reply.status is Status.SILENT:
            return None, None
        if site not in self._asked:
            return "sent an update without being asked to train", None
        if site in self._updates:
            return "sent a second update in one round", None
        if not 0 < reply.examples < MOST_EXAMPLES:
            return "the update's number of examples is outside the plan", None
        try:
            self.plan.admit(reply.frame, self.kept.layout)
        except FormatError as error:
            return f"damaged frame: {error}", None
        return None, Received(site, reply.examples, reply.frame)

    # -- the merge -------------------------------------------------------------------------------------------

    def close(self, choice: Choice | None = None) -> RoundResult:
        """Merges the round's updates, encodes the trunk's step, and takes it; `choice` is the step's codec if given.

        Raises:
            ConfigError: the merged step is not finite (a diverged server optimiser); the trunk has not moved.
        """
        folded: list[Received] = []
        refused = dict(self._refused)
        if self.chooser.owed and not self._asked <= self._updates.keys():
            updates, self._updates = self._updates, {}
            refused |= {site: self._refuse(site, ALONE) for site in sorted(updates)}
        before = self.merger.save()
        try:
            return self._close(folded, refused, choice or self.chooser(DOWN, self.round))
        except BaseException:
            self.merger.load(before)
            raise

    def _close(self, folded: list[Received], refused: dict[str, str], choice: Choice) -> RoundResult:
        kept = self.kept
        step = self.merger.step(self.layout, self._decoded(folded, refused))
        wanted = (
            kept.gather(step)
            if step is not None
            else [np.zeros(spec.shape, np.float32) for spec in kept.layout.specs]
        )
        codec = self.plan.check(choice).codec
        try:
            seed = self.plan.frame_seed(DOWN, self.round)
            frame, in_flight = ef.send(self.residual, wanted, codec, kept.layout, into=wanted, seed=seed)
        except ConfigError as error:
            raise ConfigError(
                f"the merged step of round {self.round} is not finite: {error.message}",
                hint="lower the server's learning rate or set [rounds] clip_norm",
            ) from error
        residual, decoded = ef.settle(in_flight, kept.layout, accepted=True)
        assert in_flight.owed is not None
        assert decoded is not None
        state = add(self.state, kept.scatter(decoded))
        state, after = pruned(self.plan.prune, state, self.layout, self.round + 1, self.plan.seed, kept)
        if residual.owed is not None:
            residual = replace(residual, owed=after.carry(residual.owed, kept))
        accepted = self.plan.bitmap({update.site for update in folded})
        name = canonical.digest(frame)
        chain = next_chain(self.chain, accepted, frame, bytes.fromhex(name))
        digest = state_digest(state) if self.plan.compares_state_in(self.round + 1) else None
        names = tuple(update.site for update in folded)
        coded = choice.to_json().decode()
        self.emit(events.TrunkMoved(self.round, names, name, len(frame), chain.hex(), digest, coded))
        if self.book is not None:
            merged = [Merged(update.site, update.examples) for update in folded]
            rule = canonical.digest(canonical.dumps(self.plan.merge))
            self.book.merged(self.round, rule, merged, refused, Base(chain.hex(), digest))
        result = RoundResult(
            self.round,
            tuple(folded),
            refused,
            frame,
            chain,
            digest,
            ef.nmse(in_flight.owed, decoded),
            self._attachments,
            choice,
            ef.norm(in_flight.owed) if self.chooser.reports else 0.0,
            self._reports,
        )
        self.state, self.residual, self.chain, self.digest = state, residual, chain, digest
        self.kept = after
        self.round += 1
        self.prefixes.append(chain[:PREFIX_BYTES])
        self.bitmaps.append(accepted)
        self.recent.append(frame)
        self._newest = name
        self._trim()
        self._updates, self._refused, self._asked, self._key_frame = {}, {}, set(), None
        self._attachments, self._reports = {}, {}
        return result

    def _decoded(
        self, folded: list[Received], refused: dict[str, str]
    ) -> Iterator[tuple[float, list[Array]]]:
        for site in sorted(self._updates):
            update = self._updates[site]
            try:
                arrays = self.kept.scatter(frames.unpack(update.frame, self.kept.layout).decode())
            except FormatError as error:
                reason = f"damaged frame: {error}"
            else:
                if all(np.abs(array).max(initial=0.0) < LARGEST_VALUE for array in arrays):
                    folded.append(update)
                    yield float(update.examples), arrays
                    continue
                reason = "values beyond 2^100"
            self.emit(events.UpdateRefused(self.round, site, reason))
            refused[site] = reason

    def _trim(self) -> None:
        """Forgets delta frames that together cost more than any key-frame (a mask taken as a bit per weight)."""
        budget = 4 * self.kept.size + (self.layout.size // 8 if self.kept.any_masked else 0)
        while len(self.recent) > 1 and sum(map(len, self.recent)) > budget:
            self.recent.pop(0)

    def merge_again(
        self, number: int, updates: Iterable[Received], choice: Choice | None = None
    ) -> RoundResult:
        """The result of round `number`, from the updates that were merged in it: a replay, without sites.

        `choice` is the codec of the round's frame, where it was not the plan's.

        Raises:
            StateError: it is not the round that comes next. ConfigError: as `close`.
        """
        if number != self.round:
            raise StateError(f"round {number} cannot be merged after {self.round} rounds")
        self._updates = {update.site: update for update in updates}
        return self.close(choice)

    # -- saved and restored ----------------------------------------------------------------------------------

    def save(self) -> tuple[dict[str, Any], dict[str, Array], State]:
        """Everything between two rounds, as (facts, arrays, state), for a store."""
        facts = {
            "round": self.round,
            "chain": self.chain.hex(),
            "state": self.digest,
            "step": self.residual.step,
            "positions": self.positions,
            "prefixes": [prefix.hex() for prefix in self.prefixes],
            "bitmaps": [bitmap.hex() for bitmap in self.bitmaps],
            "recent": [len(frame) for frame in self.recent],
            "chooser": self.chooser.save(),
        }
        arrays = {f"merge/{name}": array for name, array in self.merger.save().items()}
        if self.residual.owed is not None:
            arrays |= {f"owed/{name}": a for name, a in self.layout.named(self.residual.owed).items()}
        return facts, arrays, self.state

    def load(
        self, facts: dict[str, Any], arrays: dict[str, Array], state: State, recent: list[bytes]
    ) -> None:
        """Stands again where `save` was called; `recent` are the frames that it counted."""
        self.round, self.chain = facts["round"], bytes.fromhex(facts["chain"])
        self.digest, self.state = facts["state"], state
        owed = {name[5:]: array for name, array in arrays.items() if name.startswith("owed/")}
        self.kept = marked(self.plan.prune, state, self.layout, self.round)
        self.residual = Residual(tuple(self.kept.layout.arrays(owed)) if owed else None, None, facts["step"])
        self.merger.load({name[6:]: array for name, array in arrays.items() if name.startswith("merge/")})
        self.positions = dict(facts["positions"])
        self.prefixes = [bytes.fromhex(prefix) for prefix in facts["prefixes"]]
        self.bitmaps = [bytes.fromhex(bitmap) for bitmap in facts["bitmaps"]]
        self.recent = recent
        self.chooser.load(facts.get("chooser", {}))
