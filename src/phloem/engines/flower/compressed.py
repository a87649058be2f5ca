"""`phloem.flower.Compressed(strategy, bits=…)`: any of Flower's strategies, with compressed models both ways.

The inner strategy chooses nodes and merges, on whole models as always. Around it, `phloem.rounds.Coordinator` keeps
the trunk: what goes down is the step that the strategy made, as a frame, and what the nodes decode is what this
strategy returns as the round's arrays, to the bit. What frames leave out is owed by whoever made them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from phloem.codecs.registry import codec_from
from phloem.engines.flower import choosing, saved
from phloem.engines.flower.exchange import Exchange, Taken, Transfer
from phloem.engines.flower.limits import Line, check_line
from phloem.engines.flower.mod import simulated_root
from phloem.engines.flower.prompt import PromptGrid
from phloem.errors import ConfigError
from phloem.rounds import events
from phloem.tensors import Array, Layout

_log = logging.getLogger("flwr")
DEFAULT_BITS = 0.1


class Compressed(Strategy):
    """`strategy`, with compressed models in both directions.

    Clients need `ClientApp(mods=[phloem.flower.mod()])`; one without it is sent whole models, uncompressed. Put this
    wrapper outside of all others, as in `Compressed(DifferentialPrivacy…(FedAvg()))`.

    Args:
        strategy: any strategy of Flower's Message API.
        bits: the wanted bits per parameter, in both directions; 0.1 unless told otherwise. "auto" chooses them every
            round, for each node and for what comes down, from what the rounds before took.
        down_bits: the wanted bits per parameter on the way down, if they are to differ.
        effort: how hard the encoder works: "fast", "balanced" or "best".
        up, down: a codec's whole configuration, such as {"codec": "int8"}, in place of bits and effort.
        state: a directory that the run can go on from after a crash: start the same app again, and it continues
            after the last whole round.
        line: the slowest node's line, such as "1mbit" or ("1mbit", "8mbit") up and down: a model that cannot
            cross it in Flower's time limits is refused before anything is sent.
        name, seed: what the run is called in its record, and where codecs' random numbers come from.
        emit: told about every exchange before it takes effect.

    Attributes:
        traffic: every message that crossed, with the length of its payload.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        bits: float | str | None = None,
        down_bits: float | None = None,
        effort: str | None = None,
        up: Mapping[str, Any] | None = None,
        down: Mapping[str, Any] | None = None,
        state: str | Path | None = None,
        line: str | tuple[str, str] | None = None,
        name: str = "flower",
        seed: int = 0,
        emit: events.Emit = events.ignore,
    ) -> None:
        self.strategy = strategy
        self._auto = isinstance(bits, str)
        if isinstance(bits, str):
            self.up = self.down = choosing.first(bits, down_bits=down_bits, effort=effort, up=up, down=down)
        else:
            self.up = _codec(up, DEFAULT_BITS if bits is None else bits, effort or "fast")
            self.down = _codec(down, down_bits or bits or DEFAULT_BITS, effort or "fast")
        self._grid: Grid | None = None
        self._line = Line.of(line) if line is not None else None
        self._record = None if state is None else saved.Record(Path(state))
        self._name, self._seed, self._emit = name, seed, emit
        self._exchange: Exchange | None = None
        self._merge = _StrategyMerge()
        self._done = 0  # rounds that an earlier process finished
        self._timeout = 3600.0
        self._refused: str | None = None  # why this model is not compressed

    @property
    def traffic(self) -> Sequence[Transfer]:
        """Every message of this process's rounds."""
        return () if self._exchange is None else tuple(self._exchange.traffic)

    def summary(self) -> None:
        """Logs the codecs, then the strategy's own settings."""
        chosen = "codecs are chosen every round"
        fixed = f"up {_words(self.up)} | down {_words(self.down)}"
        _log.info("\t├──> Phloem: %s", chosen if self._auto else fixed)
        self.strategy.summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """As `Strategy.start`; with a `state` directory, from where an earlier process was ended."""
        self._timeout = timeout
        if self._record is not None:
            self._record.begin(self.strategy)
        if self._record is not None and self._record.exists():
            self._exchange = self._new(initial_arrays)
            self._check_line(self._exchange)
            self._done = self._record.load(self._exchange, self.strategy)
            initial_arrays = self._exchange.arrays
            _log.info("phloem: %d rounds were done before; going on", self._done)
        shifted = None
        if evaluate_fn is not None:
            measure, done = evaluate_fn, self._done
            shifted = lambda number, arrays: measure(number + done, arrays)  # noqa: E731
        rounds = max(num_rounds - self._done, 0)
        asked = _prompt(grid, timed=self._auto)
        self._grid = asked
        try:
            result = super().start(
                asked, initial_arrays, rounds, timeout, train_config, evaluate_config, shifted
            )
        finally:
            if grid.run is not None:
                shutil.rmtree(simulated_root(grid.run.run_id), ignore_errors=True)
        if rounds == 0 or not result.arrays:
            result.arrays = initial_arrays
        for table in (result.train_metrics_clientapp, result.evaluate_metrics_clientapp):
            _renumber(table, self._done)
        _renumber(result.evaluate_metrics_serverapp, self._done)
        return result

    # -- training --------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages, with the trunk packed."""
        number, exchange = server_round + self._done, self._ready(arrays)
        if exchange is None:
            return self.strategy.configure_train(number, arrays, config, grid)
        messages = self.strategy.configure_train(number, exchange.arrays, config, grid)
        return exchange.outgoing(number, "train", messages, grid, self._timeout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the inner strategy merges, moved to what every node will decode."""
        number, exchange = server_round + self._done, self._exchange
        if exchange is None:
            return self.strategy.aggregate_train(number, replies)
        taken = exchange.incoming(number, "train", replies)
        metrics: MetricRecord | None = None
        merged: ArrayRecord | None = None

        def merge() -> list[Array] | None:
            nonlocal metrics, merged
            merged, metrics = self.strategy.aggregate_train(number, exchange.opened(taken))
            return None if merged is None else exchange.step_to(merged)

        self._merge.call = merge
        arrays = exchange.close(getattr(self._grid, "waited", {}))
        _replace(self.strategy, merged, arrays)
        if self._record is not None:
            self._record.save(exchange, self.strategy, number)
        self._say(number, taken)
        return arrays, metrics

    # -- evaluation ------------------------------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages, with the trunk packed; most nodes hold it already."""
        number, exchange = server_round + self._done, self._ready(arrays)
        if exchange is None:
            return self.strategy.configure_evaluate(number, arrays, config, grid)
        messages = self.strategy.configure_evaluate(number, exchange.arrays, config, grid)
        return exchange.outgoing(number, "evaluate", messages, grid, self._timeout)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the inner strategy does."""
        number = server_round + self._done
        if self._exchange is None:
            return self.strategy.aggregate_evaluate(number, replies)
        taken = self._exchange.incoming(number, "evaluate", replies)
        return self.strategy.aggregate_evaluate(number, [m for m in taken if isinstance(m, Message)])

    # -- inside ----------------------------------------------------------------------------------------------

    def _ready(self, arrays: ArrayRecord) -> Exchange | None:
        """The exchange whose trunk is `arrays`; None where the model is not one of floating-point arrays."""
        exchange = self._exchange
        if exchange is not None and exchange.holds(arrays):
            return exchange
        if exchange is not None:
            _log.warning(
                "phloem: the arrays are not those of the last round; every node is sent the model again"
            )
        try:
            self._exchange = self._new(arrays)
        except ConfigError as error:
            if self._refused != error.message:
                _log.warning("phloem: nothing is compressed: %s", error.message)
            self._exchange, self._refused = None, error.message
            return None
        if exchange is not None:
            self._exchange.traffic = exchange.traffic
        self._check_line(self._exchange)
        return self._exchange

    def _check_line(self, exchange: Exchange) -> None:
        if self._line is not None:
            check_line(self._line, 4 * exchange.layout.size + exchange.manifest.exact_bytes, self._timeout)

    def _new(self, arrays: ArrayRecord) -> Exchange:
        exchange = Exchange(
            self._name, self._seed, self.up, self.down, arrays, self._merge, self._emit, auto=self._auto
        )
        exchange.weight_key = _weight_key(self.strategy)
        return exchange

    def _say(self, number: int, taken: Sequence[Message | Taken]) -> None:
        rows = [row for row in self.traffic if row.round == number and row.phase == "train"]
        sums = {way: sum(row.bytes for row in rows if row.direction == way) for way in ("down", "up")}
        merged = sum(isinstance(item, Taken) for item in taken)
        _log.info(
            "phloem: round %d sent %s bytes down and %s up; %d compressed updates",
            number,
            f"{sums['down']:,}",
            f"{sums['up']:,}",
            merged,
        )


class _StrategyMerge:
    """Lets a strategy do what the coordinator's own merge would: it looks at the replies itself."""

    def __init__(self) -> None:
        self.call: Callable[[], list[Array] | None] = lambda: None

    def step(self, layout: Layout, updates: Iterable[tuple[float, Sequence[Array]]]) -> list[Array] | None:
        """The strategy's step; every update is decoded once before it, so that broken ones are known."""
        for _ in updates:
            pass
        return self.call()

    def save(self) -> dict[str, Array]:
        """Nothing: `phloem.engines.flower.memory` saves what strategies remember."""
        return {}

    def load(self, saved: dict[str, Array]) -> None:
        """Nothing."""


def _codec(config: Mapping[str, Any] | None, bits: float, effort: str) -> dict[str, Any]:
    table = dict(config) if config is not None else {"codec": "ecsq", "bits": bits, "effort": effort}
    codec_from(table)
    return table


def _prompt(grid: Grid, *, timed: bool) -> Grid:
    """The grid, looking for replies more often where it is Flower's own over HTTP, or where they are to be timed."""
    own = type(grid).__name__ == "HttpGrid" or (timed and not hasattr(grid, "waited"))
    return PromptGrid(grid) if own else grid


def _weight_key(strategy: Strategy) -> str:
    """The metric that a strategy, or the one that it wraps, weights updates by."""
    for name, value in vars(strategy).items():
        if name == "weighted_by_key" and isinstance(value, str):
            return value
        if isinstance(value, Strategy) and (found := _weight_key(value)):
            return found
    return ""


def _words(config: Mapping[str, Any]) -> str:
    rest = ", ".join(
        f"{key} {value}" for key, value in config.items() if key != "codec" and value is not None
    )
    return f"{config['codec']}{f' ({rest})' if rest else ''}"


def _renumber(table: dict[int, MetricRecord], done: int) -> None:
    """Counts a result's rounds from the run's beginning, not from this process's."""
    rows = {number + done: record for number, record in table.items()}
    table.clear()
    table.update(rows)


def _replace(strategy: Strategy, merged: ArrayRecord | None, arrays: ArrayRecord) -> None:
    """Puts the trunk where a strategy keeps what it merged to itself: FedAvgM's `current_arrays`, wrapped or not."""
    if merged is None:
        return
    for name, value in list(vars(strategy).items()):
        model = isinstance(value, ArrayRecord) and set(value) == set(arrays)
        if value is merged or (model and name == "current_arrays"):
            setattr(strategy, name, arrays)
        elif isinstance(value, Strategy):
            _replace(value, merged, arrays)
