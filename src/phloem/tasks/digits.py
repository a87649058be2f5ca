"""Handwritten digits at label-skewed sites: the small real task that everything is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from phloem.seeds import generator
from phloem.tasks import datasets, digits_cnn
from phloem.tasks.base import Keep, Memory, Metric, Part, check_part, check_range, check_site
from phloem.tasks.datasets import Examples
from phloem.tasks.partition import MINIMUM, dirichlet_partition, split_parts
from phloem.tensors import State

STOP, TEST = 240, 360
"""Samples held out. A fifth is for the final figure (one image is 0.28 points); 240 decide when to stop,
since 97 % is then 233 of 240 and a lucky round is rare; the other 1,197 are as many as the learning prototype
trained on."""


class Digits:
    """A CNN of 151,306 parameters on 1,797 images of 8×8 pixels.

    The task's seed fixes the three parts and each site's share; the run's other seeds fix the start and the
    order of samples. Momentum starts from zero every round, so nothing is kept in memory.

    Options:
        alpha: label skew of the sites (`dirichlet_partition`); smaller is more skewed.
        epochs, batch_size, learning_rate, momentum: of the local SGD.
    """

    metric: ClassVar[Metric] = Metric("accuracy")

    def __init__(
        self,
        sites: Sequence[str],
        seed: int,
        *,
        alpha: float = 0.3,
        epochs: int = 1,
        batch_size: int = 16,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
    ) -> None:
        check_range("epochs", epochs, 1)
        check_range("batch_size", batch_size, 1)
        check_range("learning_rate", learning_rate, 0, above=True)
        check_range("momentum", momentum, 0, 0.9999)
        self.sites, self.epochs, self.batch_size = list(sites), epochs, batch_size
        self.learning_rate, self.momentum = learning_rate, momentum
        self._examples = datasets.digits()
        self.data_digest = self._examples.digest
        labels = self._examples.labels
        self.parts = split_parts(labels, STOP, TEST, generator(seed, "digits", "parts"))
        shares = dirichlet_partition(
            labels[self.parts.train], self.sites, alpha, generator(seed, "digits", "sites")
        )
        self.shares = {site: self.parts.train[share] for site, share in shares.items()}
        self._held_out = {
            "stop": self._examples.at(self.parts.stop),
            "test": self._examples.at(self.parts.test),
        }

    def initial_state(self, seed: int) -> State:
        """A fresh CNN."""
        return digits_cnn.initial(seed)

    def shard(self, site: str) -> Examples:
        """The site's images and labels; may be empty."""
        check_site(site, self.sites)
        return self._examples.at(self.shares[site])

    def train(
        self, state: State, shard: Examples, memory: Memory, seed: int, *, keep: Keep | None = None
    ) -> tuple[State, Memory, int, dict[str, float]]:
        """The state after the local epochs; memory stays empty, pruned weights stay zero."""
        if len(shard) < MINIMUM:
            return state, memory, 0, {}
        trained, loss = digits_cnn.sgd(
            state,
            shard,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            seed=seed,
            keep=keep,
        )
        return trained, memory, len(shard), {"loss": loss}

    def evaluate(self, state: State, part: Part) -> dict[str, float]:
        """Accuracy and loss on the held-out part."""
        check_part(part)
        return digits_cnn.measure(state, self._held_out[part])
