"""The strategy's half of the exchange: the trunk, who holds what of it, and the messages in both directions."""

from __future__ import annotations

import copy
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from phloem.engines.flower.choosing import NodesChoice
from phloem.engines.flower.greeting import REFUSAL, REFUSED, Greeting
from phloem.engines.flower.lazy import Opened, lazy_message
from phloem.engines.flower.nodes import Nodes
from phloem.engines.flower.records import (
    TOKEN_BYTES,
    Exact,
    Manifest,
    Payload,
    is_packed,
    only_arrays,
    packed,
    payload_size,
    replaced,
    unpacked,
)
from phloem.engines.flower.wholes import unfit
from phloem.errors import ConfigError, FormatError
from phloem.feedback import norm
from phloem.planner import levels
from phloem.rounds import events
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.merge import Merge
from phloem.rounds.plan import OpenPlan, limits_for
from phloem.tensors import State, state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import MOST_EXAMPLES, Reply, Status

CLIPPING_NORM = "clipping_norm"
"""The config key under which Flower's wrappers for client-side clipping send their norm."""

_log = logging.getLogger("flwr")


@dataclass(frozen=True, slots=True)
class Transfer:
    """One message as it crossed the engine's boundary: `bytes` is the length of its payload.

    `phase` is "greet", "train" or "evaluate", `direction` "down" or "up"; `compressed` is false where whole models
    go to a node without the mod.
    """

    round: int
    phase: str
    node: int
    direction: str
    bytes: int
    compressed: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """An update that the coordinator holds: the message it came in, and what that had besides the frame."""

    message: Message
    key: str
    exact: Exact
    frame: bytes


class Exchange:
    """One run of a `Compressed` strategy."""

    def __init__(
        self,
        name: str,
        seed: int,
        up: Mapping[str, Any],
        down: Mapping[str, Any],
        arrays: ArrayRecord,
        merge: Merge,
        emit: events.Emit = events.ignore,
        *,
        auto: bool = False,
    ) -> None:
        """With `auto` codecs are chosen while the run goes on, and `up` and `down` are where it begins."""
        self.manifest = Manifest.of(arrays)
        state, self.exact = self.manifest.split(arrays)
        self.layout = self.manifest.layout
        broken = self.layout.first_non_finite(self.layout.arrays(state))
        if broken is not None:
            raise ConfigError(f"array '{broken}' holds NaN or infinity")
        limits = limits_for(self.layout)
        mine = levels.codecs() if auto else {str(up["codec"]), str(down["codec"])}
        self.plan = OpenPlan(
            run=name,
            seed=seed,
            sites=(),
            layout=self.layout.digest,
            initial_state=state_digest(state),
            up=dict(up),
            down=dict(down),
            codecs=tuple(sorted(mine | {"lossless"})),
            max_frame_bytes=limits["max_frame_bytes"],
            digest_every=limits["digest_every"],
        )
        self._listen = emit
        self.choice = NodesChoice(self.layout.size) if auto else None
        self.coordinator = Coordinator(self.plan, state, self._emit, self.choice, merge)
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self.nodes = Nodes()
        self._given = dict(arrays.items())
        self.arrays = arrays  # the trunk as the app's record, as every node has it
        if any(dtype == "float64" for _, dtype, _ in self.manifest.rows):
            self.arrays = self.manifest.join(state, self.exact)
        self._held = dict(self.arrays.items())
        self.weight_key = ""  # the metric that the strategy weights updates by
        self.traffic: list[Transfer] = []
        self.broken: dict[str, str] = {}  # updates that the merge could not decode
        self._merged: Exact = self.exact
        self._opened = Opened()
        self._sent: dict[int, Message] = {}
        self._orders: dict[str, bytes] = {}  # of the round that is trained
        self._came: dict[str, int] = {}  # the bytes of what came back
        self._packed: set[int] = set()  # nodes whose message was packed
        self._digest: tuple[int, str] | None = None

    def _emit(self, event: events.Event) -> None:
        if isinstance(event, events.UpdateRefused):
            self.broken[event.site] = event.reason
        self._listen(event)

    # -- down ------------------------------------------------------------------------------------------------

    def outgoing(
        self, number: int, phase: str, messages: Iterable[Message], grid: Grid, timeout: float
    ) -> list[Message]:
        """The strategy's messages with the trunk packed, for nodes with the mod; the others as they are.

        A node that does not answer its greeting gets none.
        """
        wanted = list(messages)
        ours = [message for message in wanted if self._carries_trunk(message)]
        carrying = {id(message) for message in ours}
        for greeted, way, size in self.nodes.greet(grid, ours, self.coordinator, self._greeting, timeout):
            self.traffic.append(Transfer(number, "greet", greeted, way, size, True))
        reachable = {
            self.nodes.site(m.metadata.dst_node_id)
            for m in ours
            if m.metadata.dst_node_id in self.nodes.ready
        }
        orders = self.coordinator.orders(reachable, reachable if phase == "train" else set())
        if phase == "train":
            self._orders, self._came = orders, {}
        exact = self.manifest.pack_exact(self.exact)
        known: dict[tuple[int, bytes], tuple[RecordDict, int]] = {}
        self._sent, self._packed, out = {}, set(), []
        for message in wanted:
            node = message.metadata.dst_node_id
            if id(message) not in carrying or node in self.nodes.plain:
                self._sent[node] = message
                out.append(message)
                self.traffic.append(Transfer(number, phase, node, "down", _size(message), False))
                continue
            if node not in self.nodes.ready:
                continue
            order = orders[self.nodes.site(node)]
            place = id(message.content), order  # who gets the same shares one record, which Flower keeps once
            if place not in known:
                found = only_arrays(message.content)
                assert found is not None
                payload = Payload(self.token, order, exact).pack()
                known[place] = replaced(message.content, found[0], packed(payload)), len(payload)
            content, size = known[place]
            self._sent[node] = Message(
                content,
                node,
                message.metadata.message_type,
                ttl=message.metadata.ttl,
                group_id=message.metadata.group_id,
            )
            self._packed.add(node)
            out.append(self._sent[node])
            self.traffic.append(Transfer(number, phase, node, "down", size, True))
        return out

    def _carries_trunk(self, message: Message) -> bool:
        """Whether what the strategy sends is the trunk, and not a model of its own making for this node."""
        found = only_arrays(message.content)
        return found is not None and _are(found[1], self._held)

    def holds(self, arrays: ArrayRecord) -> bool:
        """Whether these are the trunk's arrays, and not changed since."""
        return _are(arrays, self._held) or _are(arrays, self._given)

    def _greeting(self, site: int) -> Greeting:
        at = self.coordinator
        if self._digest is None or self._digest[0] != at.round:
            self._digest = at.round, state_digest(at.state)
        return Greeting(
            self.token.hex(), site, self.plan, self.manifest, at.round, at.chain.hex(), self._digest[1]
        )

    # -- up --------------------------------------------------------------------------------------------------

    def incoming(self, number: int, phase: str, replies: Iterable[Message]) -> list[Message | Taken]:
        """What came back: updates that the coordinator holds, and messages for the strategy as they are.

        What is refused becomes an error with the reason. They are in the order of the nodes' numbers, so that a merge
        gives the same bits whatever order they came in.
        """
        found: list[Message | Taken] = []
        silent = set(self._packed)
        for reply in replies:
            node = reply.metadata.src_node_id
            silent.discard(node)
            if reply.has_content():
                self.traffic.append(Transfer(number, phase, node, "up", _size(reply), node in self._packed))
            if node not in self._packed:
                found.append(self._checked(node, reply) if phase == "train" else reply)
            elif reply.has_error():
                self.nodes.doubt(node)
                found.append(reply)
            else:
                found.append(self._take(phase, node, reply))
        for node in silent:
            self.nodes.doubt(node)
        return sorted(found, key=_node_of)

    def _take(self, phase: str, node: int, reply: Message) -> Message | Taken:
        packs = [(k, r) for k, r in reply.content.array_records.items() if is_packed(r)]
        if len(packs) != 1:
            self.nodes.doubt(node)
            return self._refusal(node, "the reply is not packed: the mod must be the first of its app")
        key, record = packs[0]
        try:
            payload = Payload.unpack(unpacked(record))
            if payload.token != self.token:
                raise FormatError("the reply belongs to another run")
            exact = self.manifest.unpack_exact(payload.exact) if payload.exact else {}
            parsed = Reply.unpack(payload.message)
            self._check_weight(reply)
            if parsed.status is Status.UPDATE and self.exact and not exact:
                raise FormatError("the update comes without the tensors that are not floating point")
        except FormatError as error:
            self.nodes.doubt(node)
            return self._refusal(node, error.message)
        self._came[self.nodes.site(node)] = _size(reply)
        reason = self.coordinator.receive(self.nodes.site(node), payload.message)
        if reason is not None:
            if parsed.status is not Status.REFUSED:
                self.nodes.doubt(node)
            return self._refusal(node, reason)
        if parsed.status is Status.UPDATE:
            return Taken(reply, str(key), exact, parsed.frame)
        if phase == "train":
            return self._refusal(node, "the node sent no update")
        out = copy.copy(reply)
        out.content = replaced(reply.content, str(key), None)
        return out

    def _check_weight(self, reply: Message) -> None:
        """Nothing, if the reply's weight is one: a single NaN would make the whole merge one."""
        for record in reply.content.metric_records.values():
            weight = record.get(self.weight_key, 1)
            if not isinstance(weight, (int, float)) or not 0 <= weight < MOST_EXAMPLES:
                raise FormatError(f"its weight '{self.weight_key}' is {weight!r:.40}")

    def _refusal(self, node: int, reason: str) -> Message:
        _log.warning("phloem: node %d: %s", node, reason)
        return Message(Error(REFUSAL, f"{REFUSED}{reason}"), reply_to=self._sent[node])

    def _checked(self, node: int, reply: Message) -> Message:
        """A whole model from a node without the mod; a broken one is refused like any other."""
        if reply.has_error() or node not in self.nodes.plain:
            return reply
        try:
            self._check_weight(reply)
        except FormatError as error:
            return self._refusal(node, error.message)
        found = only_arrays(reply.content)
        reason = None if found is None else unfit(found[1], self.manifest)
        return reply if reason is None else self._refusal(node, reason)

    # -- the merge -------------------------------------------------------------------------------------------

    def opened(self, taken: Iterable[Message | Taken]) -> list[Message]:
        """The replies as the strategy expects them, whole models all; they decode when they are looked at."""
        opened = self._opened
        messages = []
        for item in taken:
            if isinstance(item, Message):
                messages.append(item)
                continue
            node = item.message.metadata.src_node_id
            reason = self.broken.get(self.nodes.site(node))
            if reason is not None:
                self.nodes.doubt(node)
                messages.append(self._refusal(node, reason))
                continue
            decode = self._decoder(item.frame, _clip_of(self._sent[node]))
            messages.append(lazy_message(item.message, item.key, self.manifest, item.exact, decode, opened))
        return messages

    def _decoder(self, frame: bytes, clip: float | None) -> Callable[[], State]:
        """Gives the trained model that a frame stands for: the trunk and the update, each value one addition."""
        trunk = self.coordinator.state

        def decode() -> State:
            update = frames.unpack(frame, self.layout).decode()
            size = norm(update) if clip is not None else 0.0
            if clip is not None and size > clip:
                update = [np.asarray(array * np.float32(clip / size)) for array in update]
            with np.errstate(over="ignore", invalid="ignore"):
                return {
                    name: np.asarray(trunk[name] + step)
                    for name, step in zip(self.layout.names, update, strict=True)
                }

        return decode

    def step_to(self, arrays: ArrayRecord) -> list[Any]:
        """The step from the trunk to what the strategy made.

        Raises:
            ConfigError: it made a model of other tensors, or one that is not finite.
        """
        self._opened.let_go()
        try:
            state, self._merged = self.manifest.split(arrays)
        except ConfigError as error:
            raise ConfigError(f"the strategy merged to another model: {error.message}") from error
        broken = self.layout.first_non_finite(self.layout.arrays(state))
        if broken is not None:
            raise ConfigError(
                f"the strategy merged to a model with NaN or infinity in array '{broken}'",
                hint="check its learning rate, and the metrics that weight the updates",
            )
        trunk = self.coordinator.state
        with np.errstate(over="ignore", invalid="ignore"):
            return [np.asarray(state[name] - trunk[name]) for name in self.layout.names]

    def close(self, waited: Mapping[int, float] | None = None) -> ArrayRecord:
        """Moves the trunk by the merge's step and gives it as the app's record.

        `waited` are the seconds, by node, from sending what is to be trained to having the reply.

        Raises:
            ConfigError: the step is not finite; the trunk has not moved.
        """
        self.broken, self._merged = {}, self.exact  # what was refused as it came is answered already
        result = self.coordinator.close()
        if self.choice is not None:
            took = {self.nodes.site(node): seconds for node, seconds in (waited or {}).items()}
            self.choice.observe(result, self._orders, self._came, took)
        self.exact = self._merged
        return self.set_arrays()

    def set_arrays(self) -> ArrayRecord:
        """The trunk as the app's record, made anew."""
        self.arrays = self.manifest.join(self.coordinator.state, self.exact)
        self._held, self._given = dict(self.arrays.items()), {}
        return self.arrays


def _are(record: ArrayRecord, arrays: Mapping[str, Array]) -> bool:
    return set(record) == set(arrays) and all(
        array is arrays[name] or array.data == arrays[name].data for name, array in record.items()
    )


def _size(message: Message) -> int:
    """The bytes of all arrays in a message."""
    return sum(payload_size(record) for record in message.content.array_records.values())


def _node_of(item: Message | Taken) -> int:
    """Who sent it."""
    message = item if isinstance(item, Message) else item.message
    return int(message.metadata.src_node_id)


def _clip_of(message: Message) -> float | None:
    """The norm that Flower's client-side clipping promises for replies to this message.

    A node clips what it trained; the residual that its frame carries besides could lift the update above the norm,
    so that what the strategy counts on has to be seen to here.
    """
    for record in message.content.config_records.values():
        value = record.get(CLIPPING_NORM)
        if isinstance(value, (int, float)):
            return float(value)
    return None
