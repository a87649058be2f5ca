"""A coordinator and its sites without an engine: a test carries every message itself, and may alter it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from phloem.rounds import events
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.merge import MergeRule
from phloem.rounds.plan import Plan, limits_for
from phloem.rounds.result import RoundResult
from phloem.rounds.site import Site
from phloem.seeds import generator
from phloem.tensors import Layout, State, state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import Order

INT8 = {"codec": "int8", "block": 16}
NONE = {"codec": "none"}


def first_state(size: int = 40) -> State:
    """A matrix, a vector, a 0-d tensor and an empty one."""
    draw = generator(0, "first state")
    return {
        "bias": draw.normal(size=3).astype(np.float32),
        "empty": np.zeros((2, 0), np.float32),
        "scale": np.array(0.5, np.float32),
        "weight": draw.normal(size=(size // 4, 4)).astype(np.float32),
    }


def plan_of(state: State, sites: tuple[str, ...], up: Any = INT8, down: Any = INT8, **more: Any) -> Plan:
    """A plan over `state` that allows every simple codec."""
    layout = Layout.of(state)
    return Plan(
        run="test",
        seed=0,
        sites=sites,
        layout=layout.digest,
        initial_state=state_digest(state),
        up=up,
        down=down,
        codecs=(
            "bf16",
            "chain",
            "eden",
            "int8",
            "linear",
            "lossless",
            "none",
            "qsgd",
            "randomk",
            "sign",
            "topk",
        ),
        **{**limits_for(layout), **more},
    )


class Exchange:
    """One run in memory."""

    def __init__(
        self,
        sites: tuple[str, ...] = ("ant", "bee", "cat"),
        size: int = 40,
        emit: events.Emit = events.ignore,
        rule: MergeRule | None = None,
        **plan: Any,
    ) -> None:
        self.state = first_state(size)
        self.plan = plan_of(self.state, sites, **({"merge": rule} if rule else {}), **plan)
        self.layout = Layout.of(self.state)
        self.coordinator = Coordinator(self.plan, self.state, emit)
        self.sites = {name: Site(name, self.plan, self.state, emit) for name in sites}

    def update(self, site: str) -> State:
        """What `site` would learn now: drawn from its name and its round."""
        at = self.sites[site].at
        draw = generator(1, site, at.round)
        return {
            name: np.asarray(array + 0.1 * draw.normal(size=array.shape).astype(np.float32))
            for name, array in at.state.items()
        }

    def orders(self, reachable: set[str] | None = None, train: set[str] | None = None) -> dict[str, bytes]:
        reachable = set(self.sites) if reachable is None else reachable
        return self.coordinator.orders(reachable, reachable if train is None else train)

    def reply(self, site: str, order: bytes, examples: int = 10) -> bytes:
        """The site's answer, trained if the order says so."""
        work = self.sites[site].receive(order)
        return self.sites[site].reply(self.update(site) if work.train else None, examples)

    def round(
        self,
        reachable: set[str] | None = None,
        train: set[str] | None = None,
        tamper: Callable[[str, bytes], bytes | None] = lambda site, message: message,
        examples: int = 10,
    ) -> RoundResult:
        """A whole round; `tamper` may change a reply on its way, or lose it (None)."""
        for site, order in self.orders(reachable, train).items():
            message = tamper(site, self.reply(site, order, examples))
            if message is not None:
                self.coordinator.receive(site, message)
        return self.coordinator.close()

    def agree(self, site: str) -> bool:
        """Brings `site` to the trunk; whether it then holds the coordinator's very state."""
        self.sites[site].receive(self.orders({site}, set())[site])
        at = self.sites[site].at
        same = state_digest(at.state) == state_digest(self.coordinator.state)
        return same and (at.round, at.chain) == (self.coordinator.round, self.coordinator.chain)


def sent_frames(order: bytes) -> list[bool]:
    """For every frame in the order, whether it is a key-frame."""
    return [bool(item.frame[1] & 0x40) for item in Order.unpack(order).items]


def reframed(frame: bytes, layout: Layout, body: bytes) -> bytes:
    """`frame` with another body and a checksum that fits: what an enemy can make."""
    head = frame[:2] + body
    return head + frames._checksum(head, layout.digest)
