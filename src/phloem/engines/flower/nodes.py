"""Who a strategy talks to: nodes with the mod, by the number that they have in the run, and nodes without it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from phloem.engines.flower.greeting import REFUSAL, REFUSED, Answer, cleaned, words_size
from phloem.errors import FormatError, PhloemError
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.site import NOWHERE
from phloem.wire.messages import PREFIX_BYTES

APP_FAILED = 2
"""Flower's error code for an app that raised (CLIENT_APP_RAISED_EXCEPTION): what an app without the mod does."""

_log = logging.getLogger("flwr")


@dataclass
class Nodes:
    """The nodes that a run has met.

    Attributes:
        sites: the number of every node with the mod that was ever met; a number is never given twice.
        ready: nodes with the mod whose standing is known.
        plain: nodes without the mod.
    """

    sites: dict[int, int] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    plain: set[int] = field(default_factory=set)

    def site(self, node: int) -> str:
        """The name of a node in orders and replies."""
        return str(self.sites[node])

    def doubt(self, node: int) -> None:
        """The node failed, or was silent: it is greeted again before it is sent anything else."""
        self.ready.discard(node)
        self.plain.discard(node)

    def greet(
        self, grid: Grid, messages: Iterable[Message], coordinator: Coordinator, greeting: Any, timeout: float
    ) -> list[tuple[int, str, int]]:
        """Meets the receivers of `messages` that are not known; `greeting(number)` gives the greeting for a node.

        What crossed comes back as (node, "down" or "up", bytes).
        """
        letters = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.ready or node in self.plain:
                continue
            number = self.sites.setdefault(node, len(self.sites))
            content = greeting(number).records()
            letters.append(Message(content, node, message.metadata.message_type))
        if not letters:
            return []
        _log.info("phloem: greeting %d nodes", len(letters))
        answers = {m.metadata.src_node_id: m for m in grid.send_and_receive(letters, timeout=timeout)}
        for letter in letters:
            node = letter.metadata.dst_node_id
            self._take(node, answers.get(node), coordinator)
        down = [(letter.metadata.dst_node_id, "down", words_size(letter.content)) for letter in letters]
        said = [m for m in answers.values() if m.has_content()]
        return down + [(m.metadata.src_node_id, "up", words_size(m.content)) for m in said]

    def _take(self, node: int, reply: Message | None, coordinator: Coordinator) -> None:
        if reply is None:
            _log.warning("phloem: node %d did not answer the greeting; this round goes on without it", node)
            return
        if reply.has_error():
            reason = cleaned(str(reply.error.reason))
            if reason.startswith(REFUSED):
                _log.warning("phloem: node %d refused the greeting: %s", node, reason.removeprefix(REFUSED))
            elif reply.error.code in (APP_FAILED, REFUSAL):  # the app, or another mod that found no arrays
                self._is_plain(node)
            else:
                _log.warning("phloem: node %d cannot be reached: %s", node, reason)
            return
        try:
            answer = Answer.read(reply.content)
            if answer is None:
                self._is_plain(node)
                return
            position = _position(answer, coordinator)
        except PhloemError as error:
            _log.warning("phloem: node %d: %s", node, error)
            return
        coordinator.place(self.site(node), position)
        self.ready.add(node)

    def _is_plain(self, node: int) -> None:
        _log.warning(
            "phloem: node %d has no phloem mod, or not as its first; it is sent whole models, uncompressed",
            node,
        )
        self.plain.add(node)

    def save(self) -> dict[str, int]:
        """The numbers given so far."""
        return {str(node): number for node, number in self.sites.items()}

    def load(self, saved: dict[str, int]) -> None:
        """Knows those numbers again; every node is greeted anew."""
        self.sites = {int(node): number for node, number in saved.items()}


def _position(answer: Answer, coordinator: Coordinator) -> int:
    """The round that a node stands in, if it is on the way of this trunk."""
    at = answer.round
    if at is None or not 0 <= at <= coordinator.round:
        return NOWHERE
    try:
        chain = bytes.fromhex(answer.chain)[:PREFIX_BYTES]
    except ValueError as error:
        raise FormatError("a node's answer names a chain id that is not hexadecimal") from error
    return at if chain == coordinator.prefixes[at] else NOWHERE
