"""What the ranks of a run say to each other: rank 0's words to the others, and answers that all of them hear.

A message is a head (JSON) and a payload of bytes. The ranks follow one protocol: while the others listen (`hear`)
rank 0 tells them what comes next; then all ranks answer at the same place (`together`), or the others answer rank 0
(`collect`). What goes wrong at one rank travels as its answer, so that every rank ends with the same words.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from phloem import errors
from phloem.engines.torch.peers import TIMEOUT_SECONDS, Peers
from phloem.errors import PhloemError, StateError

_LENGTH = 8
_FIRST = 1 << 16  # so much of a message travels at once; its length then says how much follows


@dataclass(frozen=True)
class Said:
    """A message."""

    head: dict[str, Any]
    payload: bytes = b""

    def pack(self) -> bytes:
        """Its bytes."""
        head = json.dumps(self.head).encode()
        return len(head).to_bytes(_LENGTH, "little") + head + self.payload

    @classmethod
    def unpack(cls, message: bytes) -> Said:
        """The message of these bytes, which a rank of this run has sent."""
        end = _LENGTH + int.from_bytes(message[:_LENGTH], "little")
        return cls(json.loads(message[_LENGTH:end]), message[end:])


class Ranks:
    """The ranks of a run, this one among them."""

    def __init__(self, peers: Peers) -> None:
        self.peers, self.rank, self.world = peers, peers.rank, peers.world
        self.others = [rank for rank in range(self.world) if rank != self.rank]
        self.listening = True  # whether the other ranks hear what rank 0 tells

    # -- rank 0 to the others --------------------------------------------------------------------------------

    def tell(self, *said: Said) -> None:
        """What rank 0 says to the others: one message for all of them, or one for each rank, its own included.

        They answer (`together`, `collect`) before they listen again.
        """
        messages = [one.pack() for one in said]
        self.listening = False
        self._exchange({rank: messages[rank if len(messages) > 1 else 0] for rank in self.others}, ())

    def hear(self) -> Said:
        """What rank 0 says.

        Raises:
            PhloemError: that the run has failed, and why.
        """
        said = Said.unpack(self._exchange({}, (0,))[0])
        if "error" in said.head:
            raise error_of(said.head)
        return said

    def tell_failed(self, error: BaseException) -> None:
        """Tells the other ranks, if they listen, that the run has ended with `error`."""
        if self.listening:
            with contextlib.suppress(PhloemError):
                self.tell(Said(words_of(error)))

    # -- all ranks -------------------------------------------------------------------------------------------

    def together(self, work: Callable[[], Said]) -> list[Said]:
        """What `work` gave at every rank; all ranks call this at the same place.

        Raises:
            PhloemError: the error with which it ended at the first such rank, alike at every rank.
        """
        with self._whole():
            mine = _tried(work)
            packed = mine.pack()
            found = self._exchange(dict.fromkeys(self.others, packed), self.others)
            said = [mine if rank == self.rank else Said.unpack(found[rank]) for rank in range(self.world)]
            _check(said)
        return said

    def collect(self, work: Callable[[], Said]) -> list[Said]:
        """What `work` gave at every rank, for rank 0; the others get nothing, and listen.

        Raises:
            PhloemError: at rank 0, the error with which it ended at the first such rank.
        """
        with self._whole():
            mine = _tried(work)
            if self.rank > 0:
                self._exchange({0: mine.pack()}, ())
                return []
            found = self._exchange({}, self.others)
        said = [mine, *(Said.unpack(found[rank]) for rank in self.others)]
        _check(said)
        return said

    def swap(self, messages: Mapping[int, bytes], senders: Iterable[int]) -> dict[int, bytes]:
        """Sends messages to some ranks and gives those of `senders`, who all know that they send."""
        with self._whole():
            return self._exchange(messages, senders)

    def agree(self, what: str, facts: Mapping[str, Any]) -> None:
        """Nothing, if every rank has the same `facts`; as `Peers.agree`."""
        with self._whole():
            if self.world > 1:
                self.peers.agree(what, facts)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """An exchange that does not come to its end leaves nobody listening: every rank ends by itself."""
        self.listening = False
        yield
        self.listening = True

    def _exchange(self, messages: Mapping[int, bytes], senders: Iterable[int]) -> dict[int, bytes]:
        first, rest = self.peers.tag(), self.peers.tag()
        heads = self.peers.open(first, dict.fromkeys(senders, _LENGTH + _FIRST))
        for rank, message in messages.items():
            heads.send(len(message).to_bytes(_LENGTH, "little") + message[:_FIRST], rank)
        found = heads.finish()
        sizes = {rank: int.from_bytes(head[:_LENGTH], "little") - _FIRST for rank, head in found.items()}
        tails = self.peers.open(rest, {rank: size for rank, size in sizes.items() if size > 0})
        for rank, message in messages.items():
            if len(message) > _FIRST:
                tails.send(message[_FIRST:], rank)
        more = tails.finish()
        return {rank: head[_LENGTH:] + more.get(rank, b"") for rank, head in found.items()}


def words_of(error: BaseException) -> dict[str, Any]:
    """An error as a message's head; one that is none of ours is rank 0's own."""
    if isinstance(error, PhloemError):
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return {"error": "StateError", "message": f"rank 0 ended: {words:.300}", "hint": "see its own output"}


def error_of(head: Mapping[str, Any], rank: int = 0) -> PhloemError:
    """The error in a message's head, with the rank that it happened at."""
    kind = getattr(errors, head["error"], StateError)
    message = str(head["message"])
    named = message if message.startswith("rank ") or rank == 0 else f"rank {rank}: {message}"
    error: PhloemError = kind(named, hint=head["hint"])
    return error


def _tried(work: Callable[[], Said]) -> Said:
    try:
        return work()
    except PhloemError as error:
        return Said(words_of(error))


def _check(said: Iterable[Said]) -> None:
    for rank, one in enumerate(said):
        if "error" in one.head:
            raise error_of(one.head, rank)


@contextlib.contextmanager
def same_threads() -> Iterator[None]:
    """After this torch has as many threads as before; tasks take one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def meet(seconds: float = TIMEOUT_SECONDS) -> Ranks:
    """The ranks of the default group. Every rank calls this at the same place of its program.

    Raises:
        ConfigError, StateError: as `Peers`.
    """
    return Ranks(Peers(seconds=seconds))


@contextlib.contextmanager
def joined(rank: int, world: int, seconds: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """While this lasts, this process is a rank of torch.distributed's default group, on processors (gloo).

    Where the ranks meet is what torch reads from the environment: MASTER_ADDR and MASTER_PORT, as torchrun sets them.

    Raises:
        StateError: the others did not come in time.
    """
    limit = datetime.timedelta(seconds=seconds)
    try:
        dist.init_process_group("gloo", "env://", timeout=limit, world_size=world, rank=rank)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise StateError(
            f"rank {rank}: {world} ranks did not come together in {seconds:.0f} s",
            hint=f"start as many, with the same address and port ({reason:.200})",
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()
