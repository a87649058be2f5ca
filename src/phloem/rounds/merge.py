"""How updates become the trunk's next step: the division rule and the server's optimiser, exact to the bit.

Everything here is elementwise IEEE arithmetic in a fixed order (no powers, no logarithms), so a replay on any
machine gives the same bits. An engine with a strategy of its own replaces this module and keeps the exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phloem.codecs.config import check_number
from phloem.errors import ConfigError
from phloem.tensors import Array, Layout

Doubles = npt.NDArray[np.float64]
_LARGEST = float(np.finfo(np.float32).max)
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam")


@dataclass(frozen=True)
class ServerOptimizer:
    """The server's step from the merged update (Reddi et al., Adaptive federated optimization, 2021, Algorithm 2).

    sgd: learning_rate · Δ (with 1.0: FedAvg). momentum: v ← μv + Δ, step ηv. nesterov: v ← μv + Δ, step
    η(Δ + μv) (the outer step of DiLoCo, Douillard et al. 2023). adam: with bias correction.
    """

    name: str = "sgd"
    learning_rate: float = 1.0
    momentum: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ConfigError(
                f"there is no server optimizer '{self.name}'", hint=f"known: {', '.join(OPTIMIZERS)}"
            )
        check_number("[server]", "learning_rate", self.learning_rate, 1e-9, 1e3)
        check_number("[server]", "momentum", self.momentum, 0.0, 0.9999)
        check_number("[server]", "beta2", self.beta2, 0.0, 0.999999)
        check_number("[server]", "epsilon", self.epsilon, 1e-12, 1e3)


@dataclass(frozen=True)
class MergeRule:
    """What the plan says about merging.

    Attributes:
        division: p. A coordinate becomes Σ nₖqₖ ÷ (N^(1−p) · S^p): N the weight of all merged updates, S the
            weight of those whose decoded value there is not zero. 0 is FedAvg, 1 the mean over senders. A
            multiple of 1/16, so that the power is a product of square roots.
        optimizer: the server's step.
    """

    division: float = 0.0
    optimizer: ServerOptimizer = field(default_factory=ServerOptimizer)

    def __post_init__(self) -> None:
        check_number("[rounds]", "division", self.division, 0.0, 1.0)
        if self.division * 16 != int(self.division * 16):
            raise ConfigError(f"[rounds]: 'division' must be a multiple of 1/16, found {self.division!r}")


class Merge(Protocol):
    """What the exchange needs from a merge; state goes in and out as named arrays, so that it can be saved."""

    def step(self, layout: Layout, updates: Iterable[tuple[float, Sequence[Array]]]) -> list[Array] | None:
        """The step that the trunk should take, in arrays that the caller may overwrite; None when `updates` is empty.

        `updates` yields (weight, decoded tensors) in sorted site order and is consumed as a stream.
        """
        ...

    def save(self) -> dict[str, Array]:
        """What the next step needs to remember."""
        ...

    def load(self, saved: dict[str, Array]) -> None:
        """Continues from what `save` gave."""
        ...


class WeightedMerge:
    """Our own merge: weighted division in float64, then the server's optimiser."""

    def __init__(self, rule: MergeRule) -> None:
        self.rule = rule
        self.moments: dict[str, Array] = {}
        self.steps = 0

    def step(self, layout: Layout, updates: Iterable[tuple[float, Sequence[Array]]]) -> list[Array] | None:
        """The server's step, float32; O(model) memory however many updates there are."""
        divided = self.rule.division > 0
        sums: list[Doubles] = [np.zeros(spec.shape) for spec in layout.specs]
        senders: list[Doubles] = [np.zeros(spec.shape) for spec in layout.specs] if divided else []
        total = 0.0
        for weight, arrays in updates:
            total += weight
            for place, array in enumerate(arrays):
                sums[place] += weight * array.astype(np.float64)
                if divided:
                    senders[place] += weight * (array != 0)
        if total == 0:
            return None
        means = [
            divide(sums[place], senders[place] if divided else None, total, self.rule.division)
            for place in range(len(sums))
        ]
        self.steps += 1
        return list(self._optimizer_steps(layout, means))

    def _optimizer_steps(self, layout: Layout, means: list[Doubles]) -> Iterator[Array]:
        rule = self.rule.optimizer
        rate, mu = rule.learning_rate, rule.momentum
        correction1, correction2 = 1.0 - _power(mu, self.steps), 1.0 - _power(rule.beta2, self.steps)
        for name, mean in zip(layout.names, means, strict=True):
            if rule.name == "sgd":
                yield np.asarray(rate * mean, np.float32)
                continue
            first = self.moments.get(f"first/{name}", np.zeros(mean.shape, np.float32)).astype(np.float64)
            if rule.name == "adam":
                second = self.moments.get(f"second/{name}", np.zeros(mean.shape, np.float32)).astype(
                    np.float64
                )
                first = mu * first + (1.0 - mu) * mean
                second = rule.beta2 * second + (1.0 - rule.beta2) * (mean * mean)
                self.moments[f"second/{name}"] = np.asarray(np.minimum(second, _LARGEST), np.float32)
                step = rate * (first / correction1) / (np.sqrt(second / correction2) + rule.epsilon)
            else:
                first = mu * first + mean
                step = rate * (mean + mu * first) if rule.name == "nesterov" else rate * first
            self.moments[f"first/{name}"] = np.asarray(first, np.float32)
            yield np.asarray(step, np.float32)

    def save(self) -> dict[str, Array]:
        """The moments and the number of steps."""
        return {**self.moments, "steps": np.array(self.steps, np.float32)}

    def load(self, saved: dict[str, Array]) -> None:
        """Continues from what `save` gave."""
        self.moments = {name: array for name, array in saved.items() if name != "steps"}
        self.steps = int(saved["steps"])


def divide(sums: Doubles, senders: Doubles | None, total: float, division: float) -> Doubles:
    """Σ nₖqₖ ÷ (N · (S/N)^p) per coordinate, zero where nobody sent; p = 0 needs no `senders`."""
    if senders is None or division == 0:
        return sums / total
    share = senders / total
    power = np.ones_like(share)
    root, sixteenths = share, round(division * 16)
    for bit in (16, 8, 4, 2, 1):  # share^(bit/16): the share itself, its square root, and so on
        if sixteenths & bit:
            power *= root
        root = np.sqrt(root)
    return np.divide(sums, total * power, out=np.zeros_like(sums), where=senders > 0)


def _power(base: float, exponent: int) -> float:
    result = 1.0
    for _ in range(min(exponent, 100_000)):
        result *= base
        if result < 1e-300:
            return 0.0
    return result
