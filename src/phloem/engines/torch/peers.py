"""The other ranks: messages of bytes between them, over a gloo group of their own, each wait with a time limit.

Messages go from rank to rank under a tag, so several threads may exchange at once and in any order. A message says
its own length: nobody announces sizes beforehand. All of it is in the memory of processors, also where the model's
own group is NCCL's.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from phloem.errors import ConfigError, StateError

_LENGTH = 8  # bytes before every message
_TAGS = 1 << 30  # gloo counts tags in 32 bits; one bit is ours to spare
LARGEST_AGREEMENT = 1 << 16
#: The time limit of NCCL's own collectives, which nobody has complained about being too short.
TIMEOUT_SECONDS = 600.0


@dataclass
class Traffic:
    """What crossed this rank's line, in bytes as handed to and taken from the group, lengths included.

    Attributes:
        sent, received: all of it.
        messages: how many were sent.
        wait_seconds: how long threads waited for messages, together.
    """

    sent: int = 0
    received: int = 0
    messages: int = 0
    wait_seconds: float = 0.0


class Peers:
    """The ranks of a group, this one among them.

    >>> from phloem.engines.torch.peers import (
    ...     Peers,
    ... )  # every rank: peers = Peers(); peers.gather(b"hello", 100)
    """

    def __init__(self, group: dist.ProcessGroup | None = None, seconds: float = TIMEOUT_SECONDS) -> None:
        """Every rank of `group` (all ranks without one) calls this at the same place of its program.

        `seconds` is the longest that a message may take, the slowest rank's work before it included.

        Raises:
            ConfigError: torch.distributed was not started here. StateError: the others did not come in time.
        """
        if not dist.is_available() or not dist.is_initialized():
            raise ConfigError(
                "torch.distributed is not started", hint="call torch.distributed.init_process_group first"
            )
        self.seconds = seconds
        self.ranks = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
        self.world, self.rank = len(self.ranks), self.ranks.index(dist.get_rank())
        self.traffic = Traffic()
        self._lock, self._next = threading.Lock(), 0
        if self.world == 1:
            return
        limit = datetime.timedelta(seconds=seconds)
        try:
            self.group = dist.new_group(
                self.ranks, timeout=limit, backend="gloo", use_local_synchronization=True
            )
        except RuntimeError as error:
            raise StateError(
                f"rank {self.rank}: no group of {self.world} ranks came about in {seconds:.0f} s",
                hint=f"every rank must get here, at the same place of its program ({_said(error)})",
            ) from error

    def tag(self) -> int:
        """The next tag. Every rank must ask for its tags in the same order."""
        with self._lock:
            self._next = (self._next + 1) % _TAGS
            return self._next

    def open(self, tag: int, most: Mapping[int, int]) -> Exchange:
        """An exchange in which the ranks in `most` send a message of at most so many bytes each.

        So much is allocated for each, and touched only as far as it is used.
        """
        return Exchange(self, tag, most)

    def gather(self, message: bytes, most: int, tag: int | None = None) -> list[bytes]:
        """Every rank's message, in the order of ranks; each has at most `most` bytes.

        Raises:
            StateError: as `Exchange.finish`. ConfigError: the own message is longer.
        """
        if len(message) > most:  # gloo would end the receiver's process
            raise ConfigError(f"a message of {len(message)} bytes, where {most} are the most")
        others = [rank for rank in range(self.world) if rank != self.rank]
        tag = self.tag() if tag is None else tag
        exchange = self.open(tag, dict.fromkeys(others, most))
        exchange.send(message, *others)
        messages = exchange.finish()
        messages[self.rank] = message
        return [messages[rank] for rank in range(self.world)]

    def agree(self, what: str, facts: Mapping[str, Any]) -> None:
        """Nothing, if every rank has the same `facts` (JSON values).

        Raises:
            ConfigError: one has others; the first rank, fact and both values are named, alike at every rank.
        """
        told = self.gather(json.dumps(dict(facts), sort_keys=True).encode(), LARGEST_AGREEMENT)
        tables = [json.loads(text) for text in told]
        for rank, table in enumerate(tables):
            for fact in sorted(tables[0].keys() | table.keys()):
                mine, theirs = tables[0].get(fact), table.get(fact)
                if mine != theirs:
                    raise ConfigError(
                        f"the ranks disagree about {what}: {fact} is {theirs!r:.200} at rank {rank}, "
                        f"{mine!r:.200} at rank 0",
                        hint="start every rank with the same program and settings",
                    )

    def gone(self, seconds: float = 5.0) -> list[int]:
        """The ranks that do not answer a word in so many seconds; asked by all who are left, at the end."""
        until = time.monotonic() + seconds
        asked: list[tuple[int, Exchange]] = []
        missing = []
        for rank in range(self.world):
            if rank != self.rank:
                try:
                    asked.append((rank, self.open(_TAGS, {rank: 1})))
                    asked[-1][1].send(b"?", rank)
                except StateError:
                    missing.append(rank)
        for rank, exchange in asked:
            if rank not in missing:
                try:
                    exchange.finish(max(0.001, until - time.monotonic()))
                except StateError:
                    missing.append(rank)
        return sorted(missing)

    def close(self) -> None:
        """Lets go of the group; every rank does so once it needs the others no more."""
        if self.world > 1:
            dist.destroy_process_group(self.group)

    def lost(self, rank: int, error: RuntimeError, waited: float) -> StateError:
        """What to say of a rank that did not answer."""
        what = "sent nothing" if waited >= 0.95 * self.seconds else "is gone"
        return StateError(
            f"rank {self.rank}: rank {rank} {what} ({waited:.1f} s waited)",
            hint=f"see its own output; if it is only slow, raise timeout_seconds. {_said(error)}",
        )

    def count(self, sent: int, received: int, seconds: float) -> None:
        """Adds to the traffic."""
        with self._lock:
            self.traffic.sent += sent
            self.traffic.received += received
            self.traffic.messages += sent > 0
            self.traffic.wait_seconds += seconds


class Exchange:
    """Messages under one tag: `send` each, then `finish`. Everything is awaited before the messages are sent."""

    def __init__(self, peers: Peers, tag: int, most: Mapping[int, int]) -> None:
        self._peers, self._tag = peers, tag
        self._arriving = {
            rank: torch.empty(size + _LENGTH, dtype=torch.uint8)
            for rank, size in most.items()
            if rank != peers.rank
        }
        self._waits = [
            (rank, self._work(dist.irecv, buffer, rank)) for rank, buffer in self._arriving.items()
        ]

    def _work(self, call: Any, buffer: torch.Tensor, rank: int) -> Any:
        """What to wait for, with the buffer, which must live as long."""
        try:
            return call(buffer, self._peers.ranks[rank], self._peers.group, self._tag), buffer
        except RuntimeError as error:  # the connection is closed already
            raise self._peers.lost(rank, error, 0.0) from error

    def send(self, message: bytes, *ranks: int) -> None:
        """Hands a message over for each of these ranks; it leaves while this rank goes on.

        Raises:
            StateError: a rank is gone.
        """
        packed = _packed(message)
        for rank in ranks:
            self._waits.append((rank, self._work(dist.isend, packed, rank)))
            self._peers.count(_LENGTH + len(message), 0, 0.0)

    def finish(self, seconds: float | None = None) -> dict[int, bytes]:
        """The other ranks' messages, once all have come and all of this rank's have left; waits so long at most.

        Raises:
            StateError: a rank is gone, or did not send in time; it is named.
        """
        started = time.perf_counter()
        for rank, (work, _) in self._waits:
            left = max(0.001, (seconds or self._peers.seconds) - (time.perf_counter() - started))
            try:
                work.wait(datetime.timedelta(seconds=left))
            except RuntimeError as error:
                raise self._peers.lost(rank, error, time.perf_counter() - started) from error
        messages = {rank: _unpacked(rank, buffer) for rank, buffer in self._arriving.items()}
        received = sum(len(message) + _LENGTH for message in messages.values())
        self._peers.count(0, received, time.perf_counter() - started)
        return messages


def _packed(message: bytes) -> torch.Tensor:
    array = np.empty(_LENGTH + len(message), np.uint8)
    array[:_LENGTH] = np.frombuffer(len(message).to_bytes(_LENGTH, "little"), np.uint8)
    array[_LENGTH:] = np.frombuffer(message, np.uint8)
    return torch.from_numpy(array)


def _unpacked(rank: int, buffer: torch.Tensor) -> bytes:
    view = buffer.numpy()
    size = int.from_bytes(view[:_LENGTH].tobytes(), "little")
    if size > len(view) - _LENGTH:
        raise StateError(f"rank {rank} sent {size} bytes where {len(view) - _LENGTH} were the most")
    return view[_LENGTH : _LENGTH + size].tobytes()


def _said(error: BaseException) -> str:
    """What gloo says, without the place in its own source, as one line that ends with a word."""
    line = re.sub(r"^\[[^]]*\] ", "", str(error).strip().split("\n")[0])
    return line if len(line) <= 160 else line[:160].rpartition(" ")[0] + " …"
