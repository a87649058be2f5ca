"""The Flower engine of `phloem build`: orders go out over a grid, and what the sites' apps answer comes back.

The coordinator runs inside Flower's ServerApp and the sites inside its ClientApps. What crosses is the same to the byte
as in the local engine, so the run ends with the same state.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

import phloem
from phloem.engines.base import Answer, Failure
from phloem.engines.flower.greeting import PROTOCOL, REFUSED, cleaned
from phloem.engines.flower.prompt import exchanged
from phloem.engines.flower.records import KEY, TOKEN_BYTES, Payload, is_packed, only_arrays, packed, unpacked
from phloem.errors import ConfigError, FormatError, StateError
from phloem.store.files import Store

WHO, SITE, LOST = "who", "site", "lost"
TIMES = "phloem-times"
TRAIN_SECONDS, CODEC_SECONDS = "train-seconds", "codec-seconds"
_POLL_SECONDS = 0.2
_ASK_AGAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Patience:
    """How long the engine waits, in seconds: for sites to connect, and for their answers in a round."""

    connect: float = 600.0
    answer: float = 3600.0


class FlowerEngine:
    """Carries orders to the sites' nodes and brings their answers back.

    `nodes` says which node is which site, as it was registered; without it the nodes are asked, and believed.
    """

    trusted = False

    def __init__(
        self,
        grid: Grid,
        sites: Iterable[str],
        nodes: Mapping[str, int] | None = None,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.grid, self.sites, self.registered = grid, tuple(sites), nodes
        unknown = [site for site in self.sites if nodes is not None and site not in nodes]
        if unknown:
            raise ConfigError(f"nobody says which node is site '{unknown[0]}'", hint="add it to nodes.json")
        self.patience, self.say = patience or Patience(), say
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self.failures: dict[str, Failure] = {}
        self.nodes: dict[str, int] = {}  # of the sites that answered to their names

    def deliver(self, orders: dict[str, bytes]) -> dict[str, Answer]:
        """The answers of the sites that gave one; `failures` says of the others why not."""
        self.failures = {}
        if not self.nodes:
            self._meet()
        online = set(self.grid.get_node_ids())
        messages: dict[str, Message] = {}
        for site in sorted(orders):
            node = self.nodes.get(site)
            if node is None or node not in online:
                node = self._found_again(site, online)
            if node is None:
                self.failures[site] = Failure("its node is not connected")
                continue
            content = RecordDict({KEY: packed(Payload(self.token, orders[site]).pack())})
            messages[site] = Message(content, node, MessageType.TRAIN)
        waited: dict[str, float] = {}
        replies = self._exchange(messages, self.patience.answer, waited)
        answers = {}
        for site in messages:
            try:
                answers[site] = replace(self._answer(replies.get(site)), turnaround_seconds=waited.get(site))
            except StateError as error:
                self.failures[site] = Failure(error.message, lost=error.hint == LOST)
            except FormatError as error:
                self.failures[site] = Failure(error.message)
        return answers

    def _answer(self, reply: Message | None) -> Answer:
        if reply is None:
            raise StateError(f"no answer within {self.patience.answer:.0f} s")
        if reply.has_error():
            reason = cleaned(str(reply.error.reason))
            lost = LOST if f"({LOST})" in reason else None
            raise StateError(reason.removeprefix(REFUSED).replace(f" ({LOST})", ""), hint=lost)
        found = only_arrays(reply.content)
        if found is None or not is_packed(found[1]):
            raise FormatError("the node's app is another one: its answer is not packed")
        payload = Payload.unpack(unpacked(found[1]))
        if payload.token != self.token:
            raise FormatError("the node answered for another run")
        facts = reply.content.config_records.get(TIMES, ConfigRecord())
        train, codec = (_seconds(facts.get(key)) for key in (TRAIN_SECONDS, CODEC_SECONDS))
        return Answer(payload.message, train, codec, {})

    # -- who is who ------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Waits until every site is connected and has said its name."""
        started, tell_at = time.monotonic(), 0.0
        known: dict[int, float] = {}  # when a node was asked last
        while missing := [site for site in self.sites if site not in self.nodes]:
            now = time.monotonic()
            recent = {node for node, asked in known.items() if now - asked < _ASK_AGAIN_SECONDS}
            online = self._candidates(missing) - recent - set(self.nodes.values())
            if online:
                self._ask(online, known)
                continue
            waited = time.monotonic() - started
            if waited > self.patience.connect:
                raise StateError(
                    f"after {waited:.0f} s these sites are not connected: {', '.join(missing)}",
                    hint="start their nodes, then resume; connect-seconds in pyproject.toml sets how long to wait",
                )
            if waited >= tell_at:
                self.say(f"waiting for {', '.join(missing)}")
                tell_at = max(10.0, 2 * waited)
            time.sleep(_POLL_SECONDS)

    def _candidates(self, missing: Iterable[str]) -> set[int]:
        online = set(self.grid.get_node_ids())
        return online if self.registered is None else online & {self.registered[site] for site in missing}

    def _ask(self, nodes: Iterable[int], known: dict[int, float]) -> None:
        """Asks nodes for their names."""
        question = ConfigRecord({WHO: PROTOCOL, "phloem": phloem.__version__})
        letters = {str(n): Message(RecordDict({KEY: question}), n, MessageType.TRAIN) for n in sorted(nodes)}
        for place, reply in self._exchange(letters, self.patience.connect).items():
            node = int(place)
            known[node] = time.monotonic()
            if reply.has_error():
                self.say(
                    f"node {node} cannot take part: {cleaned(str(reply.error.reason)).removeprefix(REFUSED)}"
                )
                continue
            site = cleaned(str(reply.content.config_records.get(KEY, ConfigRecord()).get(SITE, "")))
            reason = self._wrong_name(site, node)
            if reason is not None:
                self.say(f"node {node} cannot take part: {reason}")
                continue
            self.nodes[site] = node
            self.say(f"{site} is connected")

    def _wrong_name(self, site: str, node: int) -> str | None:
        if site not in self.sites:
            return f"the recipe has no site '{site:.40}'"
        if self.registered is not None and self.registered[site] != node:
            return f"it calls itself '{site}', and is registered as another site"
        if site in self.nodes and self.nodes[site] in set(self.grid.get_node_ids()):
            return f"another node is '{site}' already"
        return None

    def _found_again(self, site: str, online: set[int]) -> int | None:
        """The node of a site that was away, or came back as another node where nobody registered them."""
        if self.registered is None:
            strange = online - set(self.nodes.values())
            if strange:
                self._ask(strange, {})
        node = self.nodes.get(site)
        return node if node in online else None

    def _exchange(
        self, messages: Mapping[str, Message], timeout: float, waited: dict[str, float] | None = None
    ) -> dict[str, Message]:
        """The replies that came in time, under the keys of their messages; `waited` is given how long each took."""
        names = list(messages)
        seconds: dict[int, float] = {}
        found = exchanged(self.grid, [messages[name] for name in names], timeout, seconds)
        if waited is not None:
            waited |= {names[place]: value for place, value in seconds.items()}
        return {names[place]: reply for place, reply in found.items()}

    # -- as any engine ---------------------------------------------------------------------------------------

    def join_ledger(self, folder: Path) -> None:
        """Nothing: nodes read the recipe, and keep their keys on their own disks."""

    def spill_to(self, store: Store) -> None:
        """Nothing: nodes keep what they own on their own disks."""

    def save(self, store: Store) -> dict[str, dict[str, Any]]:
        """What a resumed coordinator needs to be known again; the sites keep the rest."""
        return {site: {"token": self.token.hex()} for site in self.sites}

    def load(self, store: Store, saved: dict[str, dict[str, Any]]) -> None:
        """Goes on with the run that `save` was called in."""
        tokens = {facts["token"] for facts in saved.values()}
        if len(tokens) != 1:
            raise ConfigError(
                "this run was not made with Flower", hint="resume it with the engine that it began with"
            )
        self.token = bytes.fromhex(tokens.pop())

    def close(self) -> None:
        """Nothing: the nodes are not ours."""


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e9 else 0.0
