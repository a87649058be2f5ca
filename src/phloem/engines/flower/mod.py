"""`phloem.flower.mod()`: the client's half, as a Flower mod. It must be the first one of its app.

What arrives packed leaves here as the app's own arrays, and what the app trained leaves as one packed array. The
trunk and the residual lie on the node's disk: the process that handles a message ends with it.
"""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message
from safetensors.numpy import load_file

from phloem.engines.flower.greeting import REFUSAL, REFUSED, Answer, Greeting
from phloem.engines.flower.lazy import lazy_record, without_lazy
from phloem.engines.flower.records import KEY as OURS
from phloem.engines.flower.records import (
    Payload,
    figures_from_json,
    figures_to_json,
    is_packed,
    only_arrays,
    packed,
    replaced,
    unpacked,
)
from phloem.engines.flower.shelf import NodeShelf, Standing
from phloem.errors import ConfigError, PhloemError, StateError
from phloem.memory import spare_bytes
from phloem.rounds.site import Position, Site, Spent
from phloem.tensors import Layout, State, state_digest
from phloem.wire.messages import Order

Next = Callable[[Message, Context], Message]
Initial = Path | str | Mapping[str, Any] | Callable[[Context], Mapping[str, Any]]

STATE_KEY = "phloem-state"
"""The key of a node's own configuration that says where it keeps trunk and residual."""

_log = logging.getLogger("flwr")  # where a node's other words go


def mod(*, state: str | Path | None = None, initial: Initial | None = None) -> Callable[..., Message]:
    """The mod that lets a client take part in compressed rounds: `ClientApp(mods=[phloem.flower.mod()])`.

    Messages that do not come from a `Compressed` strategy pass through as they are. A message that cannot be taken
    (damaged, of another version, for a state that this node does not hold) is answered with an error in words.

    Args:
        state: the directory for what the node keeps between messages, about twice the model's size; by default the
            node's own configuration (`phloem-state="/path"`), else `~/.phloem/flower`.
        initial: the model that the node already has, such as the checkpoint that everybody starts from: arrays by
            name, a safetensors file, or a function of the context. If it is the run's first model, to the bit, no
            model travels.
    """

    def phloem_mod(message: Message, context: Context, call_next: Next) -> Message:
        if not message.has_content():
            return call_next(message, context)
        root = Path(state).expanduser() if state is not None else state_root(context)
        node = _Node(NodeShelf(root, context.node_id), context, initial)
        try:
            return node.handle(message, call_next)
        except PhloemError as error:
            _log.warning("phloem: %s", error)
            return Message(Error(REFUSAL, f"{REFUSED}{error}"), reply_to=message)

    return phloem_mod


def state_root(context: Context) -> Path:
    """Where a node keeps what outlives a message: as its own configuration says, else in the home directory.

    A node of a simulation is gone with its run, and so is what it kept.
    """
    configured = context.node_config.get(STATE_KEY)
    if configured is None and "partition-id" in context.node_config and "ray" in sys.modules:
        return simulated_root(context.run_id)
    return Path(str(configured or Path.home() / ".phloem" / "flower")).expanduser()


def simulated_root(run_id: int) -> Path:
    """Where the nodes of one simulation keep what outlives a message, until its strategy has ended."""
    return Path(tempfile.gettempdir()) / f"phloem-simulation-{run_id}"


class _Node:
    """One message at one node."""

    def __init__(self, shelf: NodeShelf, context: Context, initial: Initial | None) -> None:
        self.shelf, self.context, self.initial = shelf, context, initial

    def handle(self, message: Message, call_next: Next) -> Message:
        """The reply to any message.

        Raises:
            PhloemError: it is ours, and cannot be taken; what the node holds is as before.
        """
        greeting = Greeting.read(message.content)
        if greeting is not None:
            return Message(self._greet(greeting).records(), reply_to=message)
        found = only_arrays(message.content)
        if found is None or not is_packed(found[1]):
            return call_next(message, self.context)
        key, record = found
        payload = Payload.unpack(unpacked(record))
        token = payload.token.hex()
        asked = Order.unpack(payload.message).train
        standing = self.shelf.open(token, b"" if asked else payload.message)
        if standing is None:
            raise StateError("this node holds nothing of the run", hint="it has to be greeted again")
        exact = standing.manifest.unpack_exact(payload.exact)
        began = time.perf_counter()
        work = standing.site.receive(payload.message, reuse=True)
        received = time.perf_counter()
        if asked and not work.train and standing.answered:
            return self._answer_again(token, standing, message)
        inner = copy.copy(message)
        arrays = lazy_record(standing.manifest, standing.site.at.state, exact)
        inner.content = replaced(message.content, key, arrays)
        out = call_next(inner, self.context)
        if out.has_error():
            self.shelf.save(token, standing, payload.message)
            return out
        trained = time.perf_counter()

        def spent() -> tuple[float, float, float, float]:
            return trained - received, time.perf_counter() - trained, received - began, spare_bytes()

        return self._pack(payload, standing, out, spent, train=work.train)

    def _pack(
        self, asked: Payload, standing: Standing, out: Message, spent: Spent, *, train: bool
    ) -> Message:
        """The app's reply with its arrays packed; without arrays, with the word that the frames were taken.

        Raises:
            ConfigError: the app trained another model, or replied with more than one.
        """
        found = only_arrays(out.content) if train else None
        if train and found is None and len(out.content.array_records) > 1:
            raise ConfigError(
                f"the app replied with {len(out.content.array_records)} array records, expected one"
            )
        if found is None:
            reply, exact, figures, key = standing.site.reply(None), b"", without_lazy(out.content), OURS
        else:
            key, record = found
            trained, counters = standing.manifest.split(record)
            exact = standing.manifest.pack_exact(counters)
            figures = replaced(out.content, key, None)
            reply = standing.site.reply(trained, 1, spent=spent)
            standing.answered = {"key": key, "exact": exact.hex(), "figures": figures_to_json(figures)}
        self.shelf.save(asked.token.hex(), standing, asked.message)
        out = copy.copy(out)
        out.content = replaced(figures, key, packed(Payload(asked.token, reply, exact).pack()))
        return out

    def _answer_again(self, token: str, standing: Standing, message: Message) -> Message:
        """The reply in flight once more: the strategy that it was for has been started again."""
        assert standing.answered is not None
        _log.info("phloem: this round was trained before; its update is sent again")
        exact = bytes.fromhex(standing.answered["exact"])
        payload = Payload(bytes.fromhex(token), standing.site.reply(None), exact).pack()
        figures = figures_from_json(standing.answered["figures"])
        return Message(replaced(figures, standing.answered["key"], packed(payload)), reply_to=message)

    def _greet(self, greeting: Greeting) -> Answer:
        """Where this node stands in the strategy's run, which it now knows."""
        token = greeting.token
        standing = self.shelf.open(token)
        if standing is None or not _may_go_on(standing, greeting):
            site = Site.without_state(str(greeting.site), greeting.plan, greeting.manifest.layout)
            standing = Standing(site, greeting.plan, greeting.manifest)
            site.at = self._known(greeting) or site.at
            self.shelf.save(token, standing)
        self.shelf.forget_others(token)
        at = standing.site.at
        return Answer(at.round, at.chain.hex()) if at.chain else Answer()

    def _known(self, greeting: Greeting) -> Position | None:
        """Where this node can start from: the trunk of now or of the run's beginning, if it has one of them."""
        now, first = greeting.state, greeting.plan.initial_state
        state = self.shelf.find(now, greeting.manifest)
        digest = now
        if state is None and self.initial is not None:
            state = self._initial(greeting.manifest.layout)
            digest = "" if state is None else state_digest(state)
        if state is not None and digest == now:
            return Position(greeting.round, bytes.fromhex(greeting.chain), state, digest=now)
        if state is not None and digest == first:
            return Position(0, greeting.plan.genesis, state, digest=first)
        if state is not None:
            _log.warning(
                "phloem: `initial` is not the model that the strategy starts from; the model is sent"
            )
        return None

    def _initial(self, layout: Layout) -> State | None:
        """The model that the node says it has; None, with a warning, where it is no such model."""
        try:
            initial = self.initial(self.context) if callable(self.initial) else self.initial
            tensors = load_file(initial) if isinstance(initial, (str, Path)) else (initial or {})
            return layout.named(layout.arrays({n: tensors[n] for n in layout.names if n in tensors}))
        except Exception as error:  # the user's own function among them
            _log.warning("phloem: `initial` cannot be used, the model is sent: %s", error)
            return None


def _may_go_on(standing: Standing, greeting: Greeting) -> bool:
    """Whether a node is what the strategy takes it for, and neither past the trunk nor beside it.

    It is past the trunk where the strategy was put back to an earlier round. Whether it stands on the trunk's way
    where it is behind, the strategy sees from its answer.
    """
    site = standing.site
    if site.name != str(greeting.site) or standing.plan != greeting.plan:
        return False
    if site.at.round < greeting.round:
        return True
    return site.at.chain.hex() == greeting.chain and state_digest(site.at.state) == greeting.state
