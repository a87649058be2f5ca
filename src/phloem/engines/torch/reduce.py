"""The mean of tensors over all ranks, in compressed frames, with as many bytes per rank however many ranks.

Every rank owns a shard of the tensors. It sends each other owner a frame of that shard; its own goes to nobody and is
exact. An owner decodes the frames, takes the mean, and sends one frame of it to everybody. All ranks decode the same
frames and so hold the same bits. A rank and parameter cost one frame's bits up and one frame's bits down, less the
rank's own share, whatever the number of ranks.

What is lost on the way somebody keeps: of a frame up, its sender; of the mean, its owner, as many times as there are
ranks, so that the mean of what all ranks keep is what the mean lacks.

A rank whose tensors hold NaN or infinity sends a word in place of a frame. Then nobody's residual changes, and all
ranks get NaN, as they would from a sum.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from phloem import feedback as ef
from phloem.codecs.base import Codec
from phloem.codecs.ecsq import Ecsq
from phloem.engines.torch.buffers import host, on_host
from phloem.engines.torch.cutting import Shard, cut, shards_of
from phloem.engines.torch.peers import Exchange, Peers
from phloem.errors import ConfigError, FormatError
from phloem.feedback import Residual
from phloem.kernels import backend
from phloem.rounds.plan import limits_for
from phloem.seeds import seed_for
from phloem.tensors import Array
from phloem.wire import frame as frames

_BROKEN = b"\0"  # the first byte of a message that is no frame; frames begin with 0xB1
#: A frame that misses its size by no more than this share is sent, in one encode; the next one's step makes up for it.
SLACK = 0.5
#: The next step is this one times (size ÷ wanted)^0.3. One encode alone would want 0.5, but a coarser step leaves a
#: larger residual, which makes the next frame larger: at 0.5 sizes swing by a fifth from frame to frame.
_DAMPED = 0.3
_SMALLEST = 24.0
_LONGEST_WORDS = 1000


@dataclass(frozen=True)
class Pair:
    """The codecs of both legs."""

    up: Codec
    down: Codec


@dataclass(frozen=True)
class Tensors:
    """What is reduced together, cut into shards.

    Attributes:
        names: of the tensors, in the order in which arrays are given.
        shards: by owner.
    """

    names: tuple[str, ...]
    shards: dict[int, Shard]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], ranks: int, whole: Collection[str] = ()) -> Tensors:
        """These tensors among so many ranks; those named as `whole` are not cut."""
        return cls(tuple(shapes), shards_of(tuple(shapes), cut(shapes, ranks, whole)))


@dataclass(frozen=True)
class Legs:
    """The messages of one exchange, up and down; `number` is that of no other."""

    up: Exchange
    down: Exchange
    number: int


class ShardedMean:
    """Reduces tensors after tensors; several threads may do so at once, each with tags of its own."""

    def __init__(self, peers: Peers, seed: int = 0) -> None:
        self.peers, self.seed = peers, seed
        self.steps: dict[str, float] = {}  # of the last frames: a first guess for the next
        self.codec_seconds = 0.0

    def open(self, tensors: Tensors, tags: Sequence[int], number: int) -> Legs:
        """Both legs of an exchange, ready to take what the others send: the earlier, the sooner they may send.

        gloo asks the receiver first, which costs a round trip where nothing waits for the message yet. Takes two
        `tags`, the same at every rank, and of nobody else. What was opened must be used. `number` is where random
        numbers come from: that of no other exchange.
        """
        rank, world = self.peers.rank, self.peers.world
        mine = tensors.shards.get(rank)
        others = [other for other in range(world) if other != rank] if mine else []
        up = self.peers.open(tags[0], {other: _most(mine) for other in others} if mine else {})
        owners = {owner: _most(shard) for owner, shard in tensors.shards.items() if owner != rank}
        return Legs(up, self.peers.open(tags[1], owners), number)

    def mean(
        self,
        tensors: Tensors,
        arrays: Sequence[Array],
        owed: Sequence[Array] | None,
        pair: Pair,
        legs: Legs,
        keep: Callable[[Sequence[Array]], None] | None,
    ) -> str | None:
        """Overwrites `arrays` with the mean of arrays + owed over all ranks; None, or why there is none.

        In that case all values are NaN at every rank. Otherwise `keep` is given what this rank has to keep of what
        was lost, in arrays that are used again afterwards; without it, nobody computes that.

        Raises:
            StateError: a rank is gone, or did not answer in time.
        """
        return _Exchange(self, tensors, arrays, owed, pair, legs).run(keep)


class _Exchange:
    """One exchange's way through both legs."""

    def __init__(
        self,
        mean: ShardedMean,
        tensors: Tensors,
        arrays: Sequence[Array],
        owed: Sequence[Array] | None,
        pair: Pair,
        legs: Legs,
    ) -> None:
        self.mean, self.shards, self.arrays, self.owed = mean, tensors.shards, arrays, owed
        self.pair, self.legs, self.peers = pair, legs, mean.peers
        self.rank = mean.peers.rank
        self.mine = self.shards.get(self.rank)
        self.others = [rank for rank in range(self.peers.world) if rank != self.rank]

    def run(self, keep: Callable[[Sequence[Array]], None] | None) -> str | None:
        """Both legs, and the residuals once every frame of both is known to be whole."""
        mine, rank = self.mine, self.rank
        up, down = self.legs.up, self.legs.down
        flying: dict[int, Residual] = {}
        for owner in [*range(rank + 1, self.peers.world), *range(rank)]:  # not all to rank 0 first
            if owner in self.shards:
                message, flying[owner] = self._up(self.shards[owner])
                up.send(message, owner)
        own = self._own(mine) if mine else None
        messages = up.finish()
        message, in_flight = b"", Residual()
        if mine:
            message, in_flight = self._down(mine, own, messages)
            down.send(message, *self.others)
        with self._timed():
            decoded = self._decoded(mine, in_flight) if mine else []
            if keep is not None:
                self._lose(flying, in_flight, decoded)
        means = down.finish()
        broken = [words[1:].decode() for words in (message, *means.values()) if words[:1] == _BROKEN]
        if broken:
            for array in self.arrays:
                array.fill(math.nan)
            return broken[0]
        with self._timed():
            if keep is not None:
                keep(self.arrays)
            self._take(means, decoded)
        return None

    def _timed(self) -> _Timed:
        return _Timed(self.mean)

    # -- up --------------------------------------------------------------------------------------------------

    def _up(self, shard: Shard) -> tuple[bytes, Residual]:
        """This rank's message to the owner of a shard. The arrays' memory then holds what it is a frame of."""
        with self._timed():
            owed = None if self.owed is None else tuple(self._part(shard, self.owed))
            try:
                return self._send("up", self.pair.up, owed, self._part(shard, self.arrays), shard)
            except ConfigError as error:
                return self._words(error.message), Residual()

    def _own(self, shard: Shard) -> str | None:
        """Adds what is owed of the own shard, exactly; why that is no number, or None."""
        with self._timed():
            part = self._part(shard, self.arrays)
            if self.owed is None:
                broken = backend().ecsq_extent(part)[1]
            else:
                broken = backend().ecsq_extent_of_sum(part, self._part(shard, self.owed), part)[1]
        return None if broken < 0 else frames.not_finite(shard.layout, broken).message

    def _send(
        self, leg: str, codec: Codec, owed: tuple[Array, ...] | None, update: list[Array], shard: Shard
    ) -> tuple[bytes, Residual]:
        key = f"{leg}/{shard.owner}/{shard.layout.digest:.16}"
        state = Residual(owed, None, self.mean.steps.get(key))
        seed = seed_for(self.mean.seed, key, self.rank, self.legs.number)
        frame, state = ef.send(state, update, codec, shard.layout, into=update, seed=seed, slack=SLACK)
        if isinstance(codec, Ecsq) and codec.bits is not None and state.step is not None:
            wanted = max(codec.bits * shard.layout.size / 8.0, _SMALLEST)
            self.mean.steps[key] = state.step * min(2.0, max(0.5, (len(frame) / wanted) ** _DAMPED))
        return frame, replace(state, forgives=codec.unbiased and not codec.lossless)

    def _words(self, message: str) -> bytes:
        return _BROKEN + f"rank {self.rank}: {message}"[:_LONGEST_WORDS].encode()

    # -- the owner's -----------------------------------------------------------------------------------------

    def _down(self, shard: Shard, own: str | None, messages: Mapping[int, bytes]) -> tuple[bytes, Residual]:
        """The message with the mean of a shard: the own part first, then frames in the order of ranks."""
        with self._timed():
            sums = self._part(shard, self.arrays)
            for rank, message in sorted(messages.items()):
                if message[:1] == _BROKEN:
                    return message, Residual()
                try:
                    frames.unpack(message, shard.layout).add_to(sums)
                except FormatError as error:
                    return self._words(f"the frame of rank {rank} is damaged: {error.message}"), Residual()
            if own is not None:
                return self._words(own), Residual()
            for array in sums:
                np.multiply(array, np.float32(1.0 / self.peers.world), out=array)
            try:
                return self._send("down", self.pair.down, None, sums, shard)
            except ConfigError as error:
                return self._words(f"the mean is beyond float32: {error.message}"), Residual()

    # -- the end ---------------------------------------------------------------------------------------------

    def _decoded(self, shard: Shard, state: Residual) -> list[Array]:
        """The mean of the own shard, as everybody decodes it."""
        found = [np.zeros(array.shape, np.float32) for array in self._part(shard, self.arrays)]
        if state.sent is not None:
            frames.unpack(state.sent, shard.layout).add_to(found)
        return found

    def _lose(self, flying: Mapping[int, Residual], mean: Residual, decoded: Sequence[Array]) -> None:
        """Leaves in the arrays what frames in flight lose, of the own shard's mean as many times as there are ranks."""
        for owner, state in flying.items():
            if state.sent is None or state.forgives:
                for array in self._part(self.shards[owner], self.arrays):
                    array.fill(0.0)
            else:
                ef.resolve(state, self.shards[owner].layout, accepted=True, reuse=True)
        forgiven = mean.sent is None or mean.forgives
        for array, value in zip(self._own_part(), decoded, strict=True):
            if forgiven:
                array.fill(0.0)
            else:
                np.subtract(array, value, out=array)
                np.multiply(array, np.float32(self.peers.world), out=array)

    def _take(self, means: Mapping[int, bytes], decoded: Sequence[Array]) -> None:
        """Overwrites the arrays with the means: the others' messages, and the own one as it was decoded."""
        for array, value in zip(self._own_part(), decoded, strict=True):
            np.copyto(array, value)
        for owner, message in means.items():
            part = self._part(self.shards[owner], self.arrays)
            for array in part:
                array.fill(0.0)
            frames.unpack(message, self.shards[owner].layout).add_to(part)

    def _own_part(self) -> list[Array]:
        return self._part(self.mine, self.arrays) if self.mine else []

    @staticmethod
    def _part(shard: Shard, arrays: Sequence[Array]) -> list[Array]:
        """The shard's rows of arrays."""
        rows = zip(shard.places, shard.pieces, strict=True)
        return [
            arrays[place][piece.first : piece.last] if piece.shape else arrays[place] for place, piece in rows
        ]


class _Timed:
    """Adds to the codec's seconds."""

    def __init__(self, mean: ShardedMean) -> None:
        self.mean = mean

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.mean.codec_seconds += time.perf_counter() - self.started


def _most(shard: Shard) -> int:
    """More bytes than any message about a shard takes."""
    return 2 * limits_for(shard.layout)["max_frame_bytes"] + (1 << 17)


class PlainMean:
    """Reduces buckets as they are, with what is owed."""

    def __init__(
        self, peers: Peers, shapes: Mapping[str, tuple[int, ...]], pair: Pair, seed: int = 0
    ) -> None:
        self.shapes, self.pair = dict(shapes), pair
        self.sharded = ShardedMean(peers, seed)
        self.right: dict[str, Array] = {}
        self._buckets: dict[tuple[str, ...], Tensors] = {}

    def mean(
        self,
        names: tuple[str, ...],
        tensors: Sequence[torch.Tensor],
        owed: Sequence[torch.Tensor],
        tags: Sequence[int],
        number: int,
    ) -> str | None:
        """Overwrites `tensors` with the mean of tensors + owed, `owed` with what this rank then owes; or says why not.

        Where it says so, all values of `tensors` are NaN at every rank and `owed` is nothing to go on with. Takes two
        tags, and a number of its own. The processor codes them, wherever they lie.

        Raises:
            StateError: a rank is gone, or did not answer in time.
        """
        if names not in self._buckets:
            shapes = {name: self.shapes[name] for name in names}
            self._buckets[names] = Tensors.of(shapes, self.sharded.peers.world)

        def keep(lost: Sequence[Array]) -> None:
            for tensor, less in zip(owed, lost, strict=True):
                tensor.copy_(torch.from_numpy(less))

        bucket = self._buckets[names]
        legs = self.sharded.open(bucket, tags, number)
        arrays = [host(tensor) for tensor in tensors]
        own = [host(tensor) for tensor in owed]
        broken = self.sharded.mean(bucket, arrays, own, self.pair, legs, keep)
        for tensor, array in zip(tensors, arrays, strict=True):
            if not on_host(tensor):
                tensor.copy_(torch.from_numpy(array))
        return broken
