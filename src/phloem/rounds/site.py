"""A site's half of the protocol: takes orders as bytes, gives replies as bytes, never touches a network.

The trunk a site trains from is the sum of the frames it decoded, bit for bit the coordinator's. What its own
frames lost stays here, in the residual.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from phloem import canonical
from phloem import feedback as ef
from phloem.errors import ConfigError, FormatError, StateError
from phloem.feedback import Residual
from phloem.kernels import backend
from phloem.ledger.exchange import Base, Sent, codec_words
from phloem.masks import Kept
from phloem.pruning import marked, pruned
from phloem.rounds import events
from phloem.rounds.carried import carried_by
from phloem.rounds.plan import LARGEST_VALUE, Choice, Plan, next_chain
from phloem.tensors import Array, Layout, State, state_digest
from phloem.wire.messages import PREFIX_BYTES, Order, Reply, Report, Status

if TYPE_CHECKING:  # a run without a ledger needs no library for signatures
    from phloem.ledger.party import Party

NOWHERE = -1
"""The round of a site that holds no state."""

_NO_RECEIPT = "no receipt of this trunk that the site's rule asks for"


Spent = Callable[[], tuple[float, float, float, float]]
"""Gives the seconds of training, of encoding until now, and of decoding; and the bytes of memory to spare."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an order asks of a site: to train from its state in this round, or only to say where it stands."""

    round: int
    train: bool
    choice: Choice
    attachment: bytes = b""


@dataclass(frozen=True)
class Position:
    """Where a site stands: how many merges it has applied, and what it holds after them.

    `digest` is the state's, where it was compared with the coordinator's; `examples` is how many the last update
    stands for, in case it or what it left has to be sent. The residual has the layout of the kept weights. `lost` is
    the share of the last update's square that its frame left out; None where it was not merged.
    """

    round: int
    chain: bytes
    state: State
    residual: Residual = field(default_factory=Residual)
    digest: str | None = None
    examples: int = 0
    lost: float | None = None


class Site:
    """One site of a run. `receive` an order, train if it says so, `reply` with the trained state."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        state: State,
        emit: events.Emit = events.ignore,
        trunks: dict[bytes, State] | None = None,
    ) -> None:
        """`trunks` are states by chain id: sites of one process that decoded the same bits keep them once."""
        self._join(name, plan, Layout.of(state), emit, trunks)
        if self.layout.digest != plan.layout or state_digest(state) != plan.initial_state:
            raise StateError(
                f"site '{name}' starts from another model than the plan",
                hint="check that every site has the same task, options, seed and library versions",
            )
        self.at = self._shared(Position(0, plan.genesis, state, digest=plan.initial_state))

    def _join(
        self, name: str, plan: Plan, layout: Layout, emit: events.Emit, trunks: dict[bytes, State] | None
    ) -> None:
        self.name, self.plan, self.emit, self.trunks = name, plan, emit, trunks
        self.layout, self.index = layout, plan.index(name)
        self.party: Party | None = None
        self._distrusts = False
        self._reports = False  # whether the order of now asks for a report
        self._owes = False  # whether it asks for what is owed, without training
        self._arrived = ""  # the digest of the last frame that the order of now brought

    @classmethod
    def without_state(cls, name: str, plan: Plan, layout: Layout, emit: events.Emit = events.ignore) -> Site:
        """A site that knows the plan and holds nothing yet: a key-frame or `load` comes first.

        Raises:
            FormatError: the layout is not the plan's.
        """
        if layout.digest != plan.layout:
            raise FormatError("the layout is not the one that the plan names")
        site = cls.__new__(cls)
        site._join(name, plan, layout, emit, None)
        site.at = Position(NOWHERE, b"", {})
        return site

    def receive(self, message: bytes, *, reuse: bool = False) -> Work:
        """Applies the order's frames and settles the update in flight.

        An order that comes once more does not train once more: the update in flight is the answer again. With `reuse`
        the site's arrays, which nobody else may hold, are overwritten where they can be: it is void after an error.

        Raises:
            FormatError: the message or a frame inside is damaged; nothing changed.
            StateError: the frames do not lead to the state that the order names; nothing changed.
            ProofError: the ledger does not vouch for the trunk; nothing changed.
        """
        order = Order.unpack(message)
        self._arrived = ""
        at = self._by_key_frame(order) if order.key_chain is not None else self._by_deltas(order, reuse)
        if at.round != order.round or at.chain[:PREFIX_BYTES] != order.chain:
            raise StateError(
                f"site '{self.name}' arrived at round {at.round}, not at the trunk of round {order.round}",
                hint="it and the coordinator follow different histories",
            )
        digest = state_digest(at.state) if order.state is not None else None
        if digest is not None and bytes.fromhex(digest)[:PREFIX_BYTES] != order.state:
            raise StateError(
                f"site '{self.name}' decoded another state than the coordinator in round {order.round}",
                hint="the two ends run different decoders: compare library and kernel versions",
            )
        choice = self._choice(order)
        if self.party is not None:
            sent, merged = self._sent(order, Base(at.chain.hex(), digest)), self._was_merged(order)
            begins = self.at.round <= 0
            self._distrusts = not self.party.admit(order.attachment, sent, merged=merged, begins=begins)
        at = self._shared(at)
        self.emit(events.StateReached(order.round, self.name, at.chain.hex(), digest))
        self.at, self._choice_of_round = replace(at, digest=digest), choice
        self._reports, self._owes = order.report, order.owed
        train = order.train and not order.owed and at.residual.sent is None and not self._distrusts
        return Work(order.round, train, choice, order.attachment)

    def reply(
        self,
        trained: State | None,
        examples: int = 0,
        attachment: bytes = b"",
        *,
        spent: Spent | None = None,
    ) -> bytes:
        """The message that answers the last order: the update since then, or only where the site stands.

        Where the order asked for what is owed, that is the update, in the name of as many examples as the last one.
        `attachment` travels with it, opaque and counted as control. `spent` measures, for the report that an order may
        ask for; without it a report says no times.

        An update with NaN or infinity is not sent: the reply says so, and the residual stays as it was.

        Raises:
            ConfigError: the trained state has other tensors than the plan's model.
        """
        at = self.at
        digest = None if at.digest is None else bytes.fromhex(at.digest)[:PREFIX_BYTES]
        chain = at.chain[:PREFIX_BYTES]
        reply = Reply(at.round, self.index, Status.SILENT, chain, digest, attachment=attachment)
        if at.residual.sent is not None and not self._distrusts:
            again = replace(reply, status=Status.UPDATE, examples=at.examples, frame=at.residual.sent)
            return self._signed(again)[0].pack()
        if self._distrusts:
            return self._worded(replace(reply, status=Status.REFUSED, reason=_NO_RECEIPT)).pack()
        if self._owes:
            trained, examples = at.state, 0 if at.residual.owed is None else at.examples
        if trained is None or examples <= 0:
            return self._worded(reply).pack()
        try:
            after = self.layout.arrays(trained)
        except ConfigError as error:
            raise ConfigError(
                f"site '{self.name}' trained a model of another shape: {error.message}"
            ) from error
        kept = self.kept
        update = self._clip(kept.gather(difference(after, self.layout.arrays(at.state))))
        reason = self._unfit(update)
        if reason is not None:
            return self._worded(replace(reply, status=Status.REFUSED, reason=reason)).pack()
        seed = self.plan.frame_seed(self.name, at.round)
        codec = self._choice_of_round.codec
        frame, residual = ef.send(at.residual, update, codec, kept.layout, into=update, seed=seed)
        made = replace(reply, status=Status.UPDATE, examples=examples, frame=frame)
        if self._reports:
            made = replace(made, report=Report(at.lost, *(spent() if spent is not None else ())))
        made, name = self._signed(made)
        message = made.pack()
        self.emit(events.UpdateSent(at.round, self.name, at.chain.hex(), name, len(message), examples))
        self.at = replace(at, residual=residual, examples=examples)
        return message

    # -- the ledger ------------------------------------------------------------------------------------------

    def _sent(self, order: Order, base: Base) -> Sent:
        """What an order carries, as the ledger has it."""
        brings = carried_by(order, self._arrived)
        raw_bytes = 4 * self.layout.size
        return Sent(
            order.round, base, brings.frame, brings.codec, raw_bytes, brings.form, sha256=brings.sha256
        )

    def _was_merged(self, order: Order) -> bool:
        """Whether an order says that this site's update of the round before was merged."""
        if not order.items or order.start + len(order.items) != order.round:
            return False
        return self.plan.in_bitmap(order.items[-1].accepted, self.name)

    def _worded(self, reply: Reply) -> Reply:
        """The reply without an update, with what the site has to say to the ledger, where there is one."""
        return reply if self.party is None else replace(reply, attachment=self.party.word())

    def _signed(self, reply: Reply) -> tuple[Reply, str]:
        """The update with its record in the ledger, where there is one, and its frame's digest."""
        if self.party is None:
            return reply, canonical.digest(reply.frame)
        codec = codec_words(self._choice_of_round.to_json())
        base = Base(self.at.chain.hex(), self.at.digest)
        raw_bytes = 4 * self.layout.size
        sent = Sent(self.at.round, base, reply.frame, codec, raw_bytes, "", reply.examples)
        return replace(reply, attachment=self.party.update(sent)), sent.digest.hex()

    def _unfit(self, update: list[Array]) -> str | None:
        """Why nobody may have this update; a diverged round must not stay in the residual for ever."""
        extent, broken = backend().ecsq_extent(update)
        if broken >= 0:
            return f"tensor '{self.layout.specs[broken].name}' holds NaN or infinity"
        if extent < LARGEST_VALUE:
            return None
        for spec, array in zip(self.layout.specs, update, strict=True):
            if np.abs(array).max(initial=0.0) >= LARGEST_VALUE:
                return f"tensor '{spec.name}' holds values beyond 2^100"
        return None

    def _clip(self, update: list[Array]) -> list[Array]:
        limit = self.plan.clip_norm
        size = ef.norm(update) if limit is not None else 0.0
        if limit is None or size <= limit or not np.isfinite(size):
            return update
        return [np.asarray(array * np.float32(limit / size)) for array in update]

    def _choice(self, order: Order) -> Choice:
        if not order.choice:
            choice = self.plan.up_in(order.round)
        else:
            asked = Choice.unpack(order.choice)
            try:
                choice = self.plan.check(asked)
            except ConfigError as error:
                raise FormatError(f"an order's choice is not in the plan: {error.message}") from error
        return choice

    @property
    def kept(self) -> Kept:
        """The weights that are not pruned: the layout of frames, and of the residual."""
        return self._kept(self.at.state, self.at.round)

    def _kept(self, state: State, number: int) -> Kept:
        return marked(self.plan.prune, state, self.layout, number)

    def _settled(
        self, at: Position, accepted: bytes, before: Kept, after: Kept, *, reuse: bool = False
    ) -> tuple[Residual, float | None]:
        """The residual once the fate of the update in flight is known, under the mask `after`.

        And the share of that update's square which its frame left out, from a sample of its values.
        """
        residual, lost = at.residual, at.lost if at.residual.sent is None else None
        taken = self.plan.in_bitmap(accepted, self.name)
        whole = ef.sampled_power(residual.owed) if residual.sent is not None and taken else 0.0
        settled = ef.resolve(residual, before.layout, accepted=taken, reuse=reuse)
        if whole:
            lost = 0.0 if settled.owed is None else ef.sampled_power(settled.owed) / whole
        if settled.owed is None:
            return settled, lost
        return replace(settled, owed=after.carry(settled.owed, before)), lost

    def _by_deltas(self, order: Order, reuse: bool) -> Position:
        at = self.at
        if at.round == NOWHERE:
            raise StateError(f"site '{self.name}' holds no state and was sent no key-frame")
        for place, item in enumerate(order.items):
            round_number = order.start + place
            if round_number < at.round:
                continue  # sent again because the coordinator missed an answer
            if round_number > at.round:
                raise StateError(
                    f"site '{self.name}' lacks the frames of rounds {at.round} to {round_number - 1}"
                )
            plan, number, kept = self.plan, at.round + 1, self._kept(at.state, at.round)
            frame = plan.admit(item.frame, kept.layout)
            if kept.any_masked:
                state = add(at.state, kept.scatter(frame.decode()))
            else:
                state = at.state if reuse else {name: array.copy() for name, array in at.state.items()}
                frame.add_to(self.layout.arrays(state), in_parts=True)
            state, after = pruned(plan.prune, state, self.layout, number, plan.seed, kept)
            self._arrived = canonical.digest(item.frame)
            chain = next_chain(at.chain, item.accepted, item.frame, bytes.fromhex(self._arrived))
            residual, lost = self._settled(at, item.accepted, kept, after, reuse=reuse)
            at = Position(number, chain, state, residual, examples=at.examples, lost=lost)
        return at

    def _by_key_frame(self, order: Order) -> Position:
        item, at = order.items[0], self.at
        if order.round <= at.round:
            return at  # sent again; the update in flight must not be taken back for it
        key = self.plan.admit(item.frame, self.layout, key_frame=True)
        assert order.key_chain is not None
        known = item.accepted if order.start == at.round else self.plan.bitmap(set())
        state = self.layout.named(key.decode())
        after = self._kept(state, order.round)
        kept = self._kept(at.state, at.round) if at.round != NOWHERE else after
        residual, lost = self._settled(at, known, kept, after)
        return Position(order.round, order.key_chain, state, residual, examples=at.examples, lost=lost)

    def _shared(self, at: Position) -> Position:
        """The same position, on the arrays that other sites of this process stand on if they hold the same bits."""
        if self.trunks is None:
            return at
        if at.chain not in self.trunks:
            self.trunks[at.chain] = {name: _read_only(array) for name, array in at.state.items()}
        known = self.trunks[at.chain]
        same = all(known[name].tobytes() == at.state[name].tobytes() for name in known)
        return replace(at, state=known) if same else at

    def owned(self) -> dict[str, Array]:
        """The residual's arrays by name; empty where nothing is owed."""
        owed = self.at.residual.owed
        return {} if owed is None else self.layout.named(owed)

    def own(self, owed: dict[str, Array]) -> None:
        """Takes the residual's arrays from where they were kept; with none, lets go of them until then."""
        arrays = tuple(self.kept.layout.arrays(owed)) if owed else None
        self.at = replace(self.at, residual=replace(self.at.residual, owed=arrays))

    def save(self) -> tuple[dict[str, Any], dict[str, Array], State]:
        """Where the site stands, as (facts, residual arrays, state), for a store."""
        residual = self.at.residual
        facts = {
            "round": self.at.round,
            "chain": self.at.chain.hex(),
            "digest": self.at.digest,
            "step": residual.step,
            "sent": None if residual.sent is None else residual.sent.hex(),
            "forgives": residual.forgives,
            "examples": self.at.examples,
            "lost": self.at.lost,
        }
        return json.loads(canonical.dumps(facts)), self.owned(), self.at.state

    def load(self, facts: dict[str, Any], owed: dict[str, Array], state: State) -> None:
        """Stands again where `save` was called."""
        kept = self._kept(state, facts["round"])
        residual = Residual(
            tuple(kept.layout.arrays(owed)) if owed else None,
            None if facts["sent"] is None else bytes.fromhex(facts["sent"]),
            facts["step"],
            facts["forgives"],
        )
        chain, digest, examples = bytes.fromhex(facts["chain"]), facts["digest"], facts["examples"]
        lost = facts.get("lost")
        self.at = self._shared(Position(facts["round"], chain, state, residual, digest, examples, lost))


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def difference(after: list[Array], before: list[Array]) -> list[Array]:
    """What was learned, tensor by tensor; an overflow becomes an infinity, without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return [np.asarray(new - old) for new, old in zip(after, before, strict=True)]


def add(state: State, arrays: list[Array]) -> State:
    """The state after a decoded step: one float32 addition per value, the same on every machine."""
    return {name: np.asarray(state[name] + step) for name, step in zip(sorted(state), arrays, strict=True)}
