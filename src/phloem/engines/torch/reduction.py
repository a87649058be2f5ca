"""How one model's gradients are reduced, and all that a rank remembers of it from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from phloem.codecs.registry import codec_from
from phloem.engines.torch.balance import Balance
from phloem.engines.torch.buffers import host, in_memory, in_order, values_of
from phloem.engines.torch.owing import Owed
from phloem.engines.torch.peers import Peers
from phloem.engines.torch.reduce import Pair, PlainMean
from phloem.engines.torch.settings import Settings
from phloem.engines.torch.thin import ThinMean
from phloem.tensors import Array


class Reduction:
    """The means of buckets, with what is owed of them."""

    def __init__(
        self,
        peers: Peers,
        parameters: Mapping[str, torch.nn.Parameter],
        settings: Settings,
        skips_unused: bool,
        seed: int,
    ) -> None:
        """`skips_unused`: DDP does not apply the mean of a parameter that no rank has used."""
        self.shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self.owed = Owed()
        self._parameters, self._skips_unused = dict(parameters), skips_unused
        self._balance = Balance() if settings.optimizer == "adam" else None
        self._means: dict[int, PlainMean | ThinMean] = {}
        for number, way in enumerate(settings.ways):
            if way.up:
                pair = Pair(codec_from(way.up), codec_from(way.down))
                self._means[number] = (
                    ThinMean(peers, self.shapes, way.matrix_rank, pair, pair, seed)
                    if way.matrix_rank
                    else PlainMean(peers, self.shapes, pair, seed)
                )
        self._mean = next(iter(self._means.values()))

    def take(self, number: int) -> None:
        """Compressed buckets go way `number` of the settings from now on; between two steps.

        What is owed and how large values are stays; a way has its own quantiser steps. Of the directions to look in, a
        coarser way takes the first ones, which carry most, and a finer one finds the rest.
        """
        mean = self._means[number]
        if mean is not self._mean:
            mean.right, self._mean.right = _fitted(self._mean.right, mean), {}
            self._mean = mean

    @property
    def codec_seconds(self) -> float:
        """What encoding and decoding took, all lanes together."""
        return sum(mean.sharded.codec_seconds for mean in self._means.values())

    def mean(
        self,
        names: tuple[str, ...],
        tensors: Sequence[torch.Tensor],
        owed: Sequence[torch.Tensor],
        tags: Sequence[int],
        number: int,
    ) -> str | None:
        """Overwrites `tensors` with the mean of tensors + owed, and `owed` with what is owed then; or says why not.

        All are float32 and contiguous, in the processor's memory or a GPU's; every rank has the same bits in the end.
        Frames are made of gradient ÷ scale where the optimizer divides by it, too. Tags and number as in `PlainMean`.

        Raises:
            StateError: a rank is gone, or did not answer in time.
        """
        # Who has not used a parameter pays nothing for it this time: perhaps nobody has, and the mean is lost.
        idle = [n for n, tensor in enumerate(tensors) if self._skips_unused and not bool(tensor.any())]
        waits = {n: owed[n].clone() for n in idle}
        for n in idle:
            owed[n].zero_()
        if self._balance is not None:
            self._balance.divide(names, tensors, owed)
        broken = self._mean.mean(names, tensors, owed, tags, number)
        if self._balance is not None:
            self._balance.multiply(names, tensors, owed)
            if broken is None:
                self._balance.look(names, tensors)
        for n, tensor in waits.items():
            owed[n] += tensor
        return broken

    def rescale(self, factor: float) -> None:
        """Gradients are `factor` times as large from now on. What is divided by their size stays as it is."""
        self.owed.scale(factor)
        if self._balance is not None:
            self._balance.scale(factor)
        else:
            for sharded in (mean.sharded for mean in self._means.values()):
                sharded.steps = {key: step * factor for key, step in sharded.steps.items()}

    def saved(self, scale: float) -> dict[str, Any]:
        """What there is to remember, of gradients before a loss scale: tensors and plain values."""
        inverse = np.float32(1.0 / scale)
        plain = np.float32(1.0) if self._balance is not None else inverse
        own = {name: in_order(tensor, self._parameters[name]) for name, tensor in self.owed.own.items()}
        return {
            "own": {
                name: torch.from_numpy(np.asarray(host(tensor) * inverse)) for name, tensor in own.items()
            },
            "right": {name: torch.from_numpy(array * plain) for name, array in self._mean.right.items()},
            "squares": {} if self._balance is None else self._balance.saved(float(inverse)),
            "steps": {key: step * float(plain) for key, step in self._mean.sharded.steps.items()},
        }

    def load(self, own: Mapping[str, Array], saved: Mapping[str, Any], scale: float) -> None:
        """Continues from what `saved` gave, in whichever way, with the residual `own`."""
        self.owed.own = {
            name: in_memory(torch.from_numpy(array), self._parameters[name]) for name, array in own.items()
        }
        plain = np.float32(1.0 if self._balance is not None else scale)
        right = {name: array * plain for name, array in arrays_of(saved["right"]).items()}
        self._mean = next(iter(self._means.values()))  # the finest: no direction is cut off
        self._mean.right = _fitted(right, self._mean)
        for mean in self._means.values():
            mean.sharded.steps = dict(saved["steps"])  # by frame; of another way's, a first guess
        if self._balance is not None:
            self._balance.load(saved["squares"], 1.0)
        self.rescale(scale)


def arrays_of(tensors: Mapping[str, Any]) -> dict[str, Array]:
    """Copies of tensors or arrays, by name."""
    return {name: values_of(tensor, np.float32) for name, tensor in tensors.items()}


def _fitted(right: Mapping[str, Array], mean: PlainMean | ThinMean) -> dict[str, Array]:
    """Directions with as many columns as `mean` has: the first ones, or with columns of zeros, which it fills anew."""
    if isinstance(mean, PlainMean):
        return {}
    fitted = {}
    for name, array in right.items():
        fitted[name] = np.zeros((len(array), mean.rank), np.float32)
        fitted[name][:, : array.shape[1]] = array[:, : mean.rank]
    return fitted
