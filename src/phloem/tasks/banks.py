"""Card fraud across banks: generated transactions, or the user's own CSV."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from phloem.errors import ConfigError
from phloem.seeds import generator
from phloem.tasks import metrics, mlp, tables, transactions
from phloem.tasks.base import Memory, Metric, Part, check_part, check_range, check_site
from phloem.tasks.datasets import Examples
from phloem.tasks.partition import MINIMUM, Indices, split_parts
from phloem.tensors import Array, State

STOP, TEST = 0.2, 0.2
"""Shares held out: of each bank's customers, or of a CSV's rows within each site and label."""

LARGEST_TO_SMALLEST = 4.0
"""How many times more transactions the first bank has than the last."""


class Banks:
    """A network that ranks transactions by how likely they are fraud, judged over all banks together.

    Without `csv`, transactions come from `phloem.tasks.transactions`, drawn from the task's seed, and the
    three parts have different customers. With `csv`, rows are dealt to the parts within each site and label;
    rows of sites that the recipe does not name are left out.

    Options:
        transactions: how many to generate, all banks together. csv, label, site, features, units: a data
        file, the names of its columns, and for each feature the agreed
            unit u in which it enters the network as asinh(x / u), a logarithm that also takes zero and
            negative amounts. Without `units`, 1 for each.
        hidden: width of the two hidden layers.
        epochs, batch_size, learning_rate, momentum, weight_decay: of the local SGD.
    """

    metric: ClassVar[Metric] = Metric("average_precision")

    def __init__(
        self,
        sites: Sequence[str],
        seed: int,
        *,
        transactions: int = 60_000,
        csv: str = "",
        label: str = "fraud",
        site: str = "bank",
        features: Sequence[str] = (),
        units: Sequence[float] = (),
        hidden: int = 128,
        epochs: int = 1,
        batch_size: int = 128,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        check_range("hidden", hidden, 1)
        check_range("epochs", epochs, 1)
        check_range("batch_size", batch_size, 1)
        check_range("learning_rate", learning_rate, 0, above=True)
        check_range("momentum", momentum, 0, 0.9999)
        check_range("weight_decay", weight_decay, 0)
        self.sites, self.hidden, self.epochs, self.batch_size = list(sites), hidden, epochs, batch_size
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        if csv:
            _check_columns(features, units)
            self.data_digest, self._shards, self._held_out = _from_csv(
                csv, list(features), label, site, units or [1.0] * len(features), self.sites, seed
            )
        else:
            check_range("transactions", transactions, 500 * len(self.sites))
            self.data_digest, self._shards, self._held_out = _generated(transactions, self.sites, seed)
        self._inputs = self._held_out["test"].inputs.shape[1]

    def initial_state(self, seed: int) -> State:
        """A fresh network."""
        widths = [self._inputs, self.hidden, self.hidden, 1]
        return mlp.initial(widths, generator(seed, "banks", "initial"))

    def shard(self, site: str) -> Examples:
        """The bank's own transactions; may be empty."""
        check_site(site, self.sites)
        return self._shards[site]

    def pooled_shard(self) -> Examples:
        """All banks' transactions together. For benchmarks only: in a deployment nobody can call this."""
        return _joined([self._shards[site] for site in self.sites])

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
        """Average precision, AUROC and loss on the held-out part of all banks together."""
        check_part(part)
        held_out = self._held_out[part]
        scores = mlp.scores(state, held_out.inputs)
        return {
            "average_precision": metrics.average_precision(held_out.labels, scores),
            "auroc": metrics.auroc(held_out.labels, scores),
            "loss": mlp.cross_entropy(held_out.labels, scores),
        }


_Loaded = tuple[str, dict[str, Examples], dict[str, Examples]]


def _generated(total: int, sites: list[str], seed: int) -> _Loaded:
    """Digest of the data, training shards, and held-out parts, from the generator."""
    sizes = LARGEST_TO_SMALLEST ** -np.linspace(0, 1, len(sites))
    shards: dict[str, Examples] = {}
    stop, test = [], []
    digest = hashlib.sha256()
    for bank, (site, share) in enumerate(zip(sites, sizes / sizes.sum(), strict=True)):
        made = transactions.generate(bank, math.floor(total * share), generator(seed, "banks", site))
        rows = Examples(made.features, made.fraud)
        digest.update(bytes.fromhex(rows.digest))
        customers = generator(seed, "banks", site, "parts").permutation(int(made.customer.max()) + 1)
        cuts = [math.floor(len(customers) * STOP), math.floor(len(customers) * (STOP + TEST))]
        stop_part, test_part, train_part = (
            rows.at(np.flatnonzero(np.isin(made.customer, chosen))) for chosen in np.split(customers, cuts)
        )
        shards[site] = train_part
        stop.append(stop_part)
        test.append(test_part)
    return digest.hexdigest(), shards, {"stop": _joined(stop), "test": _joined(test)}


def _from_csv(
    path: str, features: list[str], label: str, site: str, units: Sequence[float], sites: list[str], seed: int
) -> _Loaded:
    """Digest of the file, training shards, and held-out parts, from a CSV."""
    table = tables.read_csv(path, features=features, label=label, site=site)
    inputs: Array = np.arcsinh(table.features / np.asarray(units, np.float32)).astype(np.float32)
    rows = Examples(inputs, table.labels)
    shards: dict[str, Examples] = {}
    stop, test = [], []
    for name in sites:
        here: Indices = np.flatnonzero(table.sites == name)
        if len(here) < MINIMUM:
            found = ", ".join(sorted(set(table.sites.tolist()))[:8])
            raise ConfigError(
                f"'{path}' has {len(here)} rows of site '{name}'", hint=f"its sites are {found}"
            )
        held = (max(1, round(len(here) * STOP)), max(1, round(len(here) * TEST)))
        parts = split_parts(table.labels[here], *held, generator(seed, "banks", name, "parts"))
        shards[name] = rows.at(here[parts.train])
        stop.append(rows.at(here[parts.stop]))
        test.append(rows.at(here[parts.test]))
    held_out = {"stop": _joined(stop), "test": _joined(test)}
    for part, examples in held_out.items():
        if not examples.labels.any():
            raise ConfigError(
                f"'{path}' has too few rows with {label} = 1 for a '{part}' part", hint="add rows"
            )
    return table.digest, shards, held_out


def _check_columns(features: Sequence[str], units: Sequence[float]) -> None:
    if isinstance(features, str) or not features or not all(isinstance(name, str) for name in features):
        raise ConfigError(
            "option 'features' must list the columns to learn from", hint='features = ["amount", …]'
        )
    if units and len(units) != len(features):
        raise ConfigError(
            f"option 'units' must have one number per feature, {len(features)}, found {len(units)}"
        )
    for unit in units:
        if isinstance(unit, bool) or not isinstance(unit, int | float):
            raise ConfigError(f"option 'units' must hold numbers, found {unit!r}")
        check_range("units", unit, 0, above=True)


def _joined(pieces: list[Examples]) -> Examples:
    return Examples(np.concatenate([p.inputs for p in pieces]), np.concatenate([p.labels for p in pieces]))
