"""Ranks as threads of this process: for arithmetic, which needs no network."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from phloem.engines.torch.peers import Peers, Traffic
from phloem.errors import StateError
from phloem.tensors import Array

Result = TypeVar("Result")


class Letters:
    """What is on its way, by (tag, from, to)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: defaultdict[tuple[int, int, int], queue.SimpleQueue[bytes]] = defaultdict(
            queue.SimpleQueue
        )

    def of(self, tag: int, source: int, target: int) -> queue.SimpleQueue[bytes]:
        with self._lock:
            return self._queues[tag, source, target]


class ThreadPeers(Peers):
    """`Peers` whose messages stay in this process; `spoil` may change what is sent."""

    def __init__(
        self,
        letters: Letters,
        world: int,
        rank: int,
        spoil: Callable[[int, int, bytes], bytes] = lambda source, target, message: message,
    ) -> None:
        self.seconds, self.ranks = 20.0, list(range(world))
        self.world, self.rank, self.letters, self.spoil = world, rank, letters, spoil
        self.traffic, self._lock, self._next = Traffic(), threading.Lock(), 0

    def open(self, tag: int, most: Mapping[int, int]) -> Any:
        return _Exchange(self, tag, most)


class _Exchange:
    def __init__(self, peers: ThreadPeers, tag: int, most: Mapping[int, int]) -> None:
        self.peers, self.tag = peers, tag
        self.most = {rank: size for rank, size in most.items() if rank != peers.rank}

    def send(self, message: bytes, *ranks: int) -> None:
        peers = self.peers
        for rank in ranks:
            peers.letters.of(self.tag, peers.rank, rank).put(peers.spoil(peers.rank, rank, message))
            peers.count(len(message), 0, 0.0)

    def finish(self) -> dict[int, bytes]:
        messages = {}
        for rank, size in self.most.items():
            try:
                message = self.peers.letters.of(self.tag, rank, self.peers.rank).get(
                    timeout=self.peers.seconds
                )
            except queue.Empty:
                raise StateError(f"rank {self.peers.rank}: rank {rank} sent nothing") from None
            assert len(message) <= size, (
                f"{len(message)} bytes from rank {rank}, {size} were expected at most"
            )
            self.peers.count(0, len(message), 0.0)
            messages[rank] = message
        return messages


def together(
    world: int,
    call: Callable[[ThreadPeers], Result],
    spoil: Callable[[int, int, bytes], bytes] = lambda source, target, message: message,
) -> list[Result]:
    """What `call` gives at every rank; the first error is raised."""
    letters = Letters()
    with ThreadPoolExecutor(world) as threads:
        futures = [threads.submit(call, ThreadPeers(letters, world, rank, spoil)) for rank in range(world)]
        return [future.result() for future in futures]


def tensors(*arrays: Array) -> list[torch.Tensor]:
    """These arrays' memory as tensors."""
    return [torch.from_numpy(array) for array in arrays]
