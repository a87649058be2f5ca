"""Breast-cancer diagnosis at unequal hospitals, on the real Wisconsin records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from phloem.seeds import generator
from phloem.tasks import datasets, metrics, mlp
from phloem.tasks.base import Memory, Metric, Part, check_part, check_range, check_site
from phloem.tasks.datasets import Examples
from phloem.tasks.partition import MINIMUM, dirichlet_partition, split_parts
from phloem.tensors import Array, State

STOP, TEST = 114, 171
"""Patients held out: a fifth to stop on, three tenths (64 malignant) to test on, half to train on."""

LARGEST_TO_SMALLEST = 8.0
"""How many times more patients the largest hospital has than the smallest, before the draw."""

UNITS: dict[str, tuple[float, float]] = {
    "mean radius": (15, 5),
    "mean texture": (20, 5),
    "mean perimeter": (100, 30),
    "mean area": (600, 400),
    "mean smoothness": (0.1, 0.02),
    "mean compactness": (0.1, 0.05),
    "mean concavity": (0.1, 0.1),
    "mean concave points": (0.05, 0.05),
    "mean symmetry": (0.2, 0.05),
    "mean fractal dimension": (0.06, 0.01),
    "radius error": (0.5, 0.5),
    "texture error": (1, 0.5),
    "perimeter error": (3, 3),
    "area error": (40, 40),
    "smoothness error": (0.01, 0.005),
    "compactness error": (0.02, 0.02),
    "concavity error": (0.03, 0.03),
    "concave points error": (0.01, 0.01),
    "symmetry error": (0.02, 0.01),
    "fractal dimension error": (0.005, 0.005),
    "worst radius": (20, 5),
    "worst texture": (25, 5),
    "worst perimeter": (100, 30),
    "worst area": (1000, 500),
    "worst smoothness": (0.1, 0.02),
    "worst compactness": (0.3, 0.2),
    "worst concavity": (0.3, 0.2),
    "worst concave points": (0.1, 0.05),
    "worst symmetry": (0.3, 0.1),
    "worst fractal dimension": (0.1, 0.02),
}
"""Per measurement a typical value and a typical spread, as the hospitals would agree them before anyone looks
at pooled data: round numbers of the right order of magnitude (lengths in pixels of the microscope's image,
areas their squares). No mean or deviation of anybody's records goes into the scaling."""


class Hospitals:
    """A network of 30→32→1 (1,025 parameters) that tells malignant from benign tumours by 30 measurements.

    The task's seed fixes the three parts and each hospital's share. Hospitals differ in size by about
    `LARGEST_TO_SMALLEST` in the order they are listed, and in how many of their patients are malignant.

    Options:
        alpha: label skew of the hospitals (`dirichlet_partition`); smaller is more skewed.
        hidden: width of the hidden layer.
        epochs, batch_size, learning_rate, momentum, weight_decay: of the local SGD.
    """

    metric: ClassVar[Metric] = Metric("auroc")

    def __init__(
        self,
        sites: Sequence[str],
        seed: int,
        *,
        alpha: float = 1.0,
        hidden: int = 32,
        epochs: int = 2,
        batch_size: int = 16,
        learning_rate: float = 0.02,
        momentum: float = 0.9,
        weight_decay: float = 0.001,
    ) -> None:
        check_range("hidden", hidden, 1)
        check_range("epochs", epochs, 1)
        check_range("batch_size", batch_size, 1)
        check_range("learning_rate", learning_rate, 0, above=True)
        check_range("momentum", momentum, 0, 0.9999)
        check_range("weight_decay", weight_decay, 0)
        self.sites, self.hidden, self.epochs, self.batch_size = list(sites), hidden, epochs, batch_size
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        records = datasets.breast_cancer()
        self.data_digest = records.digest
        self._records = Examples(scaled(records.inputs), records.labels)
        self.parts = split_parts(records.labels, STOP, TEST, generator(seed, "hospitals", "parts"))
        sizes = LARGEST_TO_SMALLEST ** -np.linspace(0, 1, len(self.sites))
        rng = generator(seed, "hospitals", "sites")
        shares = dirichlet_partition(records.labels[self.parts.train], self.sites, alpha, rng, sizes.tolist())
        self.shares = {site: self.parts.train[share] for site, share in shares.items()}
        self._held_out = {
            "stop": self._records.at(self.parts.stop),
            "test": self._records.at(self.parts.test),
        }

    def initial_state(self, seed: int) -> State:
        """A fresh network."""
        return mlp.initial([len(UNITS), self.hidden, 1], generator(seed, "hospitals", "initial"))

    def shard(self, site: str) -> Examples:
        """The hospital's scaled measurements and diagnoses; may be empty."""
        check_site(site, self.sites)
        return self._records.at(self.shares[site])

    def pooled_shard(self) -> Examples:
        """All hospitals' patients together. For benchmarks only: in a deployment nobody can call this."""
        return self._records.at(self.parts.train)

    def train(
        self, state: State, shard: Examples, memory: Memory, seed: int
    ) -> tuple[State, Memory, int, dict[str, float]]:
        """The state after the local epochs; memory stays empty."""
        if len(shard) < MINIMUM:
            return state, memory, 0, {}
        trained, loss = mlp.sgd(
            state,
            shard,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            seed=seed,
        )
        return trained, memory, len(shard), {"loss": loss}

    def evaluate(self, state: State, part: Part) -> dict[str, float]:
        """AUROC, accuracy at even odds, and loss on the held-out part."""
        check_part(part)
        patients = self._held_out[part]
        scores = mlp.scores(state, patients.inputs)
        return {
            "auroc": metrics.auroc(patients.labels, scores),
            "accuracy": float(np.mean((scores > 0) == patients.labels)),
            "loss": mlp.cross_entropy(patients.labels, scores),
        }


def scaled(measured: Array) -> Array:
    """Measurements (n, 30) in the agreed units, cut off at ±5 so that one odd record cannot rule a batch."""
    typical, spread = np.array(list(UNITS.values()), np.float32).T  # (30,) each
    result: Array = np.clip((measured - typical) / spread, -5, 5).astype(np.float32)
    return result
