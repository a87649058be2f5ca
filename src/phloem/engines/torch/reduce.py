"""The mean of a bucket's gradients over all ranks, in compressed frames, with as many bytes however many ranks.

Every rank owns a shard of the bucket. It sends each owner a frame of that shard and keeps what the frame lost. An
owner decodes the frames, takes their mean, and sends one frame of it to everybody; what that lost, the owner keeps.
All ranks decode the same frames and so hold the same bits. Per rank and parameter that is one frame's bits up and one
frame's bits down, less a rank's share, whatever the number of ranks.

A rank whose gradient holds NaN or infinity sends a word in place of a frame. Then nobody's residual changes, and all
ranks get NaN, as they would from a sum.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from phloem import feedback as ef
from phloem.codecs.base import Codec
from phloem.codecs.ecsq import Ecsq
from phloem.engines.torch.cutting import Shard, cut, shards_of
from phloem.engines.torch.owing import Owed
from phloem.engines.torch.peers import Peers
from phloem.errors import ConfigError, FormatError
from phloem.feedback import Residual
from phloem.rounds.plan import limits_for
from phloem.seeds import seed_for
from phloem.tensors import Array, Layout
from phloem.wire import frame as frames

_BROKEN = b"\0"  # the first byte of a message that is no frame; frames begin with 0xB1
#: A frame that misses its size by no more than this is sent: the next one's step makes up for it.
SLACK = 0.3
_SMALLEST = 24.0


class ShardedMean:
    """Reduces bucket after bucket; several threads may do so at once, each with tags of its own."""

    def __init__(
        self, peers: Peers, shapes: Mapping[str, tuple[int, ...]], up: Codec, down: Codec, seed: int = 0
    ) -> None:
        """`shapes` are those of all parameters, in the model's order."""
        self.peers, self.shapes, self.up, self.down, self.seed = peers, dict(shapes), up, down, seed
        self.owed = Owed()
        self.codec_seconds = 0.0
        self._pieces = cut(shapes, peers.world)
        self._shards: dict[tuple[str, ...], dict[int, Shard]] = {}

    def mean(self, parameters: tuple[str, ...], arrays: Sequence[Array], tags: tuple[int, int]) -> str | None:
        """Overwrites `arrays`, the gradients of `parameters`, with their mean; None, or why there is none.

        In that case all values are NaN at every rank. `tags` are the same at every rank, and of nobody else.

        Raises:
            StateError: a rank is gone, or did not answer in time.
        """
        one = _Bucket(self, self._shards_in(parameters), arrays, tags)
        broken = one.reduce()
        self.codec_seconds += one.codec_seconds
        return broken

    def _shards_in(self, parameters: tuple[str, ...]) -> dict[int, Shard]:
        if parameters not in self._shards:
            self._shards[parameters] = shards_of(parameters, self._pieces)
        return self._shards[parameters]


class _Bucket:
    """One bucket's way through the exchange."""

    def __init__(
        self, mean: ShardedMean, shards: dict[int, Shard], arrays: Sequence[Array], tags: tuple[int, int]
    ) -> None:
        self.mean, self.shards, self.arrays, self.tags = mean, shards, arrays, tags
        self.peers, self.owed = mean.peers, mean.owed
        self.others = [rank for rank in range(self.peers.world) if rank != self.peers.rank]
        self.codec_seconds = 0.0

    def reduce(self) -> str | None:
        """Both legs, and the residuals once every frame of both is known to be whole."""
        rank = self.peers.rank
        mine = self.shards.get(rank)
        up = self.peers.open(self.tags[0], dict.fromkeys(self.others, _most(mine)) if mine else {})
        flying: dict[int, Residual] = {}
        own = b""
        for owner in [*range(rank + 1, self.peers.world), *range(rank + 1)]:  # not all to rank 0 first
            if owner in self.shards:
                message, flying[owner] = self._encoded(self.shards[owner])
                if owner == rank:
                    own = message
                else:
                    up.send(owner, message)
        messages = up.finish()
        down = self.peers.open(self.tags[1], {o: _most(s) for o, s in self.shards.items() if o != rank})
        message, in_flight = b"", Residual()
        if mine:
            message, in_flight = self._merged(mine, {**messages, rank: own})
            for other in self.others:
                down.send(other, message)
        started = time.perf_counter()
        rests = {owner: self._rest(self.shards[owner], state) for owner, state in flying.items()}
        rest = self._rest(mine, in_flight) if mine else None
        self.codec_seconds += time.perf_counter() - started
        means = down.finish()
        if mine:
            means[rank] = message
        broken = [words[1:].decode() for words in means.values() if words[:1] == _BROKEN]
        if broken:
            for array in self.arrays:
                array.fill(math.nan)
            return broken[0]
        started = time.perf_counter()
        self._keep(rests, mine, rest)
        self._decode(means)
        self.codec_seconds += time.perf_counter() - started
        return None

    # -- up --------------------------------------------------------------------------------------------------

    def _encoded(self, shard: Shard) -> tuple[bytes, Residual]:
        """This rank's message to the owner of a shard. The gradient's memory then holds gradient + residual."""
        started = time.perf_counter()
        update = self._part(shard)
        owed = tuple(
            self.owed.of(piece, self.mean.shapes[piece.parameter]).reshape(piece.shape)
            for piece in shard.pieces
        )
        key, codec = f"up/{shard.owner}/{shard.layout.digest:.16}", self.mean.up
        try:
            return self._send(key, codec, owed, update, shard.layout)
        except ConfigError as error:
            words = f"rank {self.peers.rank}: {error.message}"
            return _BROKEN + words.encode(), Residual()
        finally:
            self.codec_seconds += time.perf_counter() - started

    def _send(
        self, key: str, codec: Codec, owed: tuple[Array, ...], update: list[Array], layout: Layout
    ) -> tuple[bytes, Residual]:
        guess = self.owed.steps.get(key)
        seed = seed_for(self.mean.seed, key, self.peers.rank, self.tags[0])
        keeps = not codec.unbiased and not codec.lossless
        state = Residual(owed if keeps else None, None, guess)
        frame, state = ef.send(state, update, codec, layout, into=update, seed=seed, slack=SLACK)
        if isinstance(codec, Ecsq) and codec.bits is not None and state.step is not None:
            wanted = max(codec.bits * layout.size / 8.0, _SMALLEST)
            self.owed.steps[key] = state.step * min(2.0, max(0.5, math.sqrt(len(frame) / wanted)))
        return frame, replace(state, forgives=not keeps)

    def _rest(self, shard: Shard, state: Residual) -> Sequence[Array] | None:
        """What the frame in flight loses, in the gradient's own memory; None where nothing is owed of it."""
        if state.sent is None or state.forgives:
            return None
        return ef.resolve(state, shard.layout, accepted=True, reuse=True).owed

    # -- the owner's -----------------------------------------------------------------------------------------

    def _merged(self, shard: Shard, messages: Mapping[int, bytes]) -> tuple[bytes, Residual]:
        """The message with the mean of a shard, frames taken in the order of ranks."""
        started = time.perf_counter()
        try:
            sums = [np.zeros(piece.shape, np.float32) for piece in shard.pieces]
            for rank, message in sorted(messages.items()):
                if message[:1] == _BROKEN:
                    return message, Residual()
                try:
                    frames.unpack(message, shard.layout).add_to(sums)
                except FormatError as error:
                    words = f"rank {self.peers.rank}: the frame of rank {rank} is damaged: {error.message}"
                    return _BROKEN + words.encode(), Residual()
            for array in sums:
                np.multiply(array, np.float32(1.0 / self.peers.world), out=array)
            owed = tuple(self.owed.of_mean(piece) for piece in shard.pieces)
            key = f"down/{shard.owner}/{shard.layout.digest:.16}"
            try:
                return self._send(key, self.mean.down, owed, sums, shard.layout)
            except ConfigError as error:
                words = f"rank {self.peers.rank}: the mean is beyond float32: {error.message}"
                return _BROKEN + words.encode(), Residual()
        finally:
            self.codec_seconds += time.perf_counter() - started

    # -- the end ---------------------------------------------------------------------------------------------

    def _keep(
        self,
        rests: Mapping[int, Sequence[Array] | None],
        mine: Shard | None,
        rest: Sequence[Array] | None,
    ) -> None:
        for owner, arrays in rests.items():
            for place, piece in enumerate(self.shards[owner].pieces):
                kept = self.owed.of(piece, self.mean.shapes[piece.parameter])
                if arrays is None:
                    kept.fill(0.0)
                else:
                    np.copyto(kept, arrays[place].reshape(kept.shape))
        if mine:
            for place, piece in enumerate(mine.pieces):
                kept = self.owed.of_mean(piece)
                if rest is None:
                    kept.fill(0.0)
                else:
                    np.copyto(kept, rest[place])

    def _decode(self, means: Mapping[int, bytes]) -> None:
        for owner, message in means.items():
            shard = self.shards[owner]
            part = self._part(shard)
            for array in part:
                array.fill(0.0)
            frames.unpack(message, shard.layout).add_to(part)

    def _part(self, shard: Shard) -> list[Array]:
        """The shard's rows of the bucket's arrays."""
        rows = zip(shard.places, shard.pieces, strict=True)
        return [
            self.arrays[place][piece.first : piece.last] if piece.shape else self.arrays[place]
            for place, piece in rows
        ]


def _most(shard: Shard) -> int:
    """More bytes than any message about a shard takes."""
    return 2 * limits_for(shard.layout)["max_frame_bytes"] + 4096
