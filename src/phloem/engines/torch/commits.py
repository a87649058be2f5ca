"""What a worker keeps between rounds, on its own disk, and how workers agree where to go on.

    FOLDER/worker-3/    number 3's: where the trunk stands, what it owes, its optimizer's moments

A worker's number is its name: it has it back after a restart, at whatever rank. Before its update leaves, the worker
writes it down; after the merge, where the trunk stands. So whatever dies when, the newest trunk on any disk tells every
worker whether its last update is part of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as unpack_tensors
from safetensors.numpy import save as pack_tensors

from phloem import canonical
from phloem.engines.torch.peers import Peers
from phloem.errors import FormatError, NotFoundError, PhloemError, StateError
from phloem.store.files import Store
from phloem.store.snapshot import load_snapshot, save_snapshot
from phloem.tensors import Array, State

VERSION = 1
_TRUNK, _OWN = "trunk", "own"
_MOST_LISTED = 1 << 20


@dataclass(frozen=True)
class Trunk:
    """Where the trunk stands: `facts` and arrays of its coordinator, its state, the frames that led here last."""

    plan: dict[str, Any]
    facts: dict[str, Any]
    arrays: dict[str, Array]
    state: State
    recent: tuple[bytes, ...]

    @property
    def round(self) -> int:
        """How many merges it has had."""
        return int(self.facts["round"])

    def pack(self) -> bytes:
        """As one message."""
        parts = [pack_tensors(self.arrays), pack_tensors(self.state), *self.recent]
        head = canonical.dumps(
            {"plan": self.plan, "facts": self.facts, "parts": [len(part) for part in parts]}
        )
        return len(head).to_bytes(8, "little") + head + b"".join(parts)

    @classmethod
    def unpack(cls, message: bytes) -> Trunk:
        """From what `pack` gave, by another rank of the same run."""
        start = 8 + int.from_bytes(message[:8], "little")
        head = canonical.loads(message[8:start])
        parts = []
        for size in head["parts"]:
            parts.append(message[start : start + size])
            start += size
        arrays, state = unpack_tensors(parts[0]), unpack_tensors(parts[1])
        return cls(head["plan"], head["facts"], dict(arrays), dict(state), tuple(parts[2:]))


@dataclass(frozen=True)
class Own:
    """What is one worker's alone: where its site stands, what it owes, what its optimizer remembers."""

    facts: dict[str, Any]
    owed: dict[str, Array]
    state: State
    memory: dict[str, np.typing.NDArray[Any]]


class Worker:
    """One worker's place on the disk."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._trunks = Store(folder / f"worker-{number}" / _TRUNK)
        self._own = Store(folder / f"worker-{number}" / _OWN)

    def keep_own(self, own: Own) -> None:
        """Writes down what only this worker knows, its update in flight included.

        Raises:
            StoreError: the disk failed.
        """
        put = self._own.put
        save_snapshot(
            self._own,
            _OWN,
            {
                "version": VERSION,
                "facts": own.facts,
                "owed": put(pack_tensors(own.owed)),
                "state": put(pack_tensors(own.state)),
                "memory": put(pack_tensors(own.memory)),
            },
        )

    def keep_trunk(self, trunk: Trunk) -> None:
        """Writes down where the trunk stands.

        Raises:
            StoreError: the disk failed.
        """
        put = self._trunks.put
        save_snapshot(
            self._trunks,
            _TRUNK,
            {
                "version": VERSION,
                "plan": trunk.plan,
                "facts": trunk.facts,
                "arrays": put(pack_tensors(trunk.arrays)),
                "state": put(pack_tensors(trunk.state)),
                "recent": [put(frame) for frame in trunk.recent],
            },
        )

    def own(self) -> Own | None:
        """What `keep_own` wrote last.

        Raises:
            StateError: it is damaged, or of another version.
        """
        found = _snapshot(self._own, _OWN)
        if found is None:
            return None
        keys = ("owed", "state", "memory")
        tensors = {key: _tensors(self._own, found[key]) for key in keys}
        return Own(found["facts"], tensors["owed"], tensors["state"], tensors["memory"])

    def trunk(self) -> Trunk | None:
        """What `keep_trunk` wrote last.

        Raises:
            StateError: it is damaged, or of another version.
        """
        found = _snapshot(self._trunks, _TRUNK)
        if found is None:
            return None
        arrays, state = (_tensors(self._trunks, found[key]) for key in ("arrays", "state"))
        recent = tuple(_blob(self._trunks, digest) for digest in found["recent"])
        return Trunk(found["plan"], found["facts"], arrays, state, recent)

    def round(self) -> int | None:
        """The round of the trunk here, without reading it."""
        found = _snapshot(self._trunks, _TRUNK)
        return None if found is None else int(found["facts"]["round"])


def _snapshot(store: Store, name: str) -> dict[str, Any] | None:
    try:
        found = load_snapshot(store, name)
    except (FormatError, NotFoundError) as error:
        raise _damaged(store, error) from error
    if found is not None and found.get("version") != VERSION:
        raise StateError(
            f"the commit in {store.root} is of version {found.get('version')!r}, and this is version {VERSION}",
            hint="go on with the version of phloem that began the run",
        )
    return found


def _blob(store: Store, digest: str) -> bytes:
    try:
        return store.get(digest)
    except (FormatError, NotFoundError) as error:
        raise _damaged(store, error) from error


def _tensors(store: Store, digest: str) -> dict[str, Any]:
    try:
        return dict(unpack_tensors(_blob(store, digest)))
    except SafetensorError as error:
        raise StateError(f"the commit in {store.root} is damaged: {error}") from error


def _damaged(store: Store, error: PhloemError) -> StateError:
    hint = f"without {store.root.parent} the worker takes over another's model, and owes nothing"
    return StateError(f"the commit in {store.root} is damaged: {error.message}", hint=hint)


def numbers_in(folder: Path | None) -> list[int]:
    """The workers that have been here."""
    if folder is None or not folder.is_dir():
        return []
    found = [re.fullmatch(r"worker-(\d+)", path.name) for path in folder.iterdir()]
    return sorted(int(match[1]) for match in found if match)


def numbers_for(known: Sequence[Sequence[int]]) -> list[int]:
    """Every rank's number, from the numbers that each rank's folder knows: as at every other rank.

    A rank is number `rank` if that was here, else another that was here, else a new one: `rank` where that was nowhere.

    >>> numbers_for([[0, 1, 2], [0, 1, 2], [], [5]])
    [0, 1, 3, 5]
    """
    taken = {rank for rank, numbers in enumerate(known) if rank in numbers}
    chosen: dict[int, int] = {rank: rank for rank in taken}
    everywhere = {number for numbers in known for number in numbers}
    for rank, numbers in enumerate(known):
        free = [number for number in numbers if number not in taken]
        if rank not in chosen and free:
            chosen[rank] = free[0]
            taken.add(free[0])
    for rank in range(len(known)):
        if rank not in chosen:
            fresh = (n for n in (rank, *range(len(known) + len(everywhere))) if n not in taken | everywhere)
            chosen[rank] = next(fresh)
            taken.add(chosen[rank])
    return [chosen[rank] for rank in range(len(known))]


def meet(peers: Peers, folder: Path | None) -> tuple[int, list[int], Trunk | None]:
    """This worker's number, those of all ranks, and the newest trunk that any of them has; None at a first start.

    Raises:
        StateError: two trunks of one round differ, or a commit is damaged.
    """
    told = _gathered(peers, numbers_in(folder))
    numbers = numbers_for(told)
    mine = numbers[peers.rank]
    here = [] if folder is None else [Worker(folder, number) for number in numbers_in(folder)]
    best = max(
        ((worker.round() or 0, -n) for n, worker in enumerate(here) if worker.round() is not None),
        default=None,
    )
    rounds: list[int | None] = _gathered(peers, None if best is None else best[0])
    newest = max((number for number in rounds if number is not None), default=None)
    if newest is None:
        return mine, numbers, None
    holder = rounds.index(newest)
    trunk = here[-best[1]].trunk() if best is not None and best[0] == newest else None
    lacking = [rank for rank, number in enumerate(rounds) if number != newest]
    message = trunk.pack() if trunk is not None and peers.rank == holder and lacking else b""
    size = max(_gathered(peers, len(message)))
    if size:
        tag = peers.tag()
        exchange = peers.open(tag, {holder: size} if peers.rank in lacking else {})
        if peers.rank == holder:
            exchange.send(message, *lacking)
        arrived = exchange.finish()
        if peers.rank in lacking:
            trunk = Trunk.unpack(arrived[holder])
    assert trunk is not None
    peers.agree(
        "the commit to go on from",
        {
            "round": trunk.round,
            "chain": trunk.facts["chain"],
            "plan": canonical.digest(canonical.dumps(trunk.plan)),
        },
    )
    return mine, numbers, trunk


def _gathered(peers: Peers, value: Any) -> list[Any]:
    return [json.loads(text) for text in peers.gather(json.dumps(value).encode(), _MOST_LISTED)]


def shared_start(peers: Peers, state: Mapping[str, Array], digest: str) -> State:
    """Rank 0's first state, which the others take over if theirs is another, as DDP does."""
    digests = _gathered(peers, digest)
    others = [rank for rank, theirs in enumerate(digests) if theirs != digests[0]]
    if not others:
        return dict(state)
    message = pack_tensors(dict(state)) if peers.rank == 0 else b""
    size = max(_gathered(peers, len(message)))
    exchange = peers.open(peers.tag(), {0: size} if peers.rank in others else {})
    if peers.rank == 0:
        exchange.send(message, *others)
    arrived = exchange.finish()
    return dict(unpack_tensors(arrived[0])) if peers.rank in others else dict(state)
