"""A task that is told which weights are kept, and reports how many they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.tiny import Blobs

from phloem.tasks.base import Keep, Memory
from phloem.tensors import State


class Keeping(Blobs):
    """`Blobs` whose metrics count the kept weights; a mask of another shape than its tensor fails."""

    def train(
        self, state: State, shard: dict[str, Any], memory: Memory, seed: int, *, keep: Keep | None = None
    ) -> tuple[State, Memory, int, Mapping[str, float]]:
        trained, memory, examples, metrics = super().train(state, shard, memory, seed)
        kept = sum(array.size for array in state.values())
        for name, mask in (keep or {}).items():
            trained[name][~mask] = 0.0
            kept -= int((~mask).sum())
        return trained, memory, examples, {**metrics, "kept": float(kept)}
