"""Every strategy of Flower's: with frames that lose nothing a run is plain Flower's, in one go and resumed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from flwr.clientapp.mod import adaptiveclipping_mod, arrays_size_mod, fixedclipping_mod, message_size_mod
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from tests.engines.flower.inside import Inside, app_with, arrays_in, floats, grid_of, plain_grid, record, same

import phloem.flower
from phloem.errors import ConfigError
from phloem.feedback import norm

pytestmark = pytest.mark.service("flower")

NONE = {"codec": "none"}
NODES = (1, 2, 3, 4, 5, 6, 7)
Make = Callable[[], Strategy]

STRATEGIES: dict[str, Make] = {
    "FedAvg": FedAvg,
    "FedProx": lambda: FedProx(proximal_mu=0.1),
    "FedAvgM": lambda: FedAvgM(server_momentum=0.9, server_learning_rate=0.7),
    "FedAdam": lambda: FedAdam(eta=0.01, tau=0.1),
    "FedYogi": lambda: FedYogi(eta=0.01, tau=0.1),
    "FedAdagrad": lambda: FedAdagrad(eta=0.01, tau=0.1),
    "QFedAvg": lambda: QFedAvg(q=0.2, client_learning_rate=0.1, train_loss_key="loss"),
    "FedMedian": FedMedian,
    "FedTrimmedAvg": lambda: FedTrimmedAvg(beta=0.2),
    "Krum": lambda: Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=4),
    "Bulyan": lambda: Bulyan(num_malicious_nodes=1),
    "server-side fixed clipping": lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 7),
    "server-side adaptive clipping": lambda: DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(), 0.1, 7),
    "client-side fixed clipping": lambda: DifferentialPrivacyClientSideFixedClipping(FedAvg(), 0.1, 1.0, 7),
    "client-side adaptive clipping": lambda: DifferentialPrivacyClientSideAdaptiveClipping(FedAvg(), 0.1, 7),
}


def mods_for(name: str) -> list[Any]:
    clips = {
        "client-side fixed clipping": fixedclipping_mod,
        "client-side adaptive clipping": adaptiveclipping_mod,
    }
    return [clips[name]] if name in clips else []


def run(strategy: Strategy, grid: Inside, rounds: int = 2, arrays: Any = None) -> dict[str, Any]:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (Flower draws its noise there)
    return arrays_in(
        strategy.start(grid, record(vectors() if arrays is None else arrays), num_rounds=rounds).arrays
    )


def vectors() -> dict[str, Any]:
    """No tensor of no dimension: Flower's clipping leaves those out, and ours then scales the rest once more."""
    return {name: array for name, array in floats().items() if array.ndim}


@pytest.mark.parametrize("name", STRATEGIES)
def test_with_frames_that_lose_nothing_the_model_is_plain_flowers(name: str, tmp_path: Path) -> None:
    plain = run(STRATEGIES[name](), plain_grid(NODES, train_mods=mods_for(name)))
    strategy = phloem.flower.Compressed(STRATEGIES[name](), up=NONE, down=NONE)
    ours = run(strategy, grid_of(tmp_path, NODES, train_mods=mods_for(name)))
    assert plain.keys() == ours.keys()
    assert not same(ours, vectors())
    for tensor in plain:
        np.testing.assert_allclose(ours[tensor], plain[tensor], rtol=1e-4, atol=1e-5)


class Seeded(Strategy):
    """The noise of every round is that round's own, as it is not after a restart."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.configure_evaluate = inner.configure_evaluate  # type: ignore[method-assign]
        self.aggregate_evaluate = inner.aggregate_evaluate  # type: ignore[method-assign]

    def summary(self) -> None: ...

    def configure_evaluate(self, *args: Any) -> Any: ...

    def aggregate_evaluate(self, *args: Any) -> Any: ...

    def configure_train(self, *args: Any) -> Any:
        return self.inner.configure_train(*args)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        np.random.seed(server_round)  # noqa: NPY002
        return self.inner.aggregate_train(server_round, replies)


@pytest.mark.parametrize(
    "name",
    [
        "FedAvg",
        "FedAvgM",
        "FedAdam",
        "FedYogi",
        "server-side adaptive clipping",
        "client-side adaptive clipping",
    ],
)
def test_a_run_in_two_processes_ends_where_one_in_a_single_process_does(name: str, tmp_path: Path) -> None:
    first = vectors() if "clipping" in name else floats()

    def strategy(folder: str) -> phloem.flower.Compressed:
        return phloem.flower.Compressed(Seeded(STRATEGIES[name]()), bits=1.0, state=tmp_path / folder)

    whole = run(
        strategy("whole"), grid_of(tmp_path / "a", NODES, train_mods=mods_for(name)), rounds=4, arrays=first
    )
    grid = grid_of(tmp_path / "b", NODES, train_mods=mods_for(name))
    half = run(strategy("halves"), grid, rounds=2, arrays=first)
    numbers: list[int] = []
    resumed = strategy("halves")
    random.seed(5)
    measured = resumed.start(
        grid, record(first), num_rounds=4, evaluate_fn=lambda number, arrays: numbers.append(number)
    )
    assert not same(half, whole)
    assert same(arrays_in(measured.arrays), whole)
    assert numbers == [2, 3, 4]
    assert sorted(measured.train_metrics_clientapp) == [3, 4]
    assert sorted(measured.evaluate_metrics_clientapp) == [3, 4]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    grid = grid_of(tmp_path / "nodes")
    first = run(phloem.flower.Compressed(FedAvg(), bits=1.0, state=tmp_path / "run"), grid)
    grid.down.clear()
    assert same(run(phloem.flower.Compressed(FedAvg(), bits=1.0, state=tmp_path / "run"), grid), first)
    assert not grid.down


def test_another_run_in_the_same_directory_is_refused_in_words(tmp_path: Path) -> None:
    run(phloem.flower.Compressed(FedAdam(), bits=1.0, state=tmp_path / "run"), grid_of(tmp_path), 1)
    others = [
        phloem.flower.Compressed(FedAdam(), bits=2.0, state=tmp_path / "run"),
        phloem.flower.Compressed(FedAdam(), bits=1.0, state=tmp_path / "run", seed=1),
        phloem.flower.Compressed(FedAdam(), bits=1.0, state=tmp_path / "run", name="other"),
    ]
    for other in others:
        with pytest.raises(ConfigError, match="holds another run"):
            run(other, grid_of(tmp_path), 2)
    again = phloem.flower.Compressed(FedAdam(), bits=1.0, state=tmp_path / "run")
    with pytest.raises(ConfigError, match="holds another run"):
        again.start(grid_of(tmp_path), record({"w": np.ones(3, np.float32)}), num_rounds=2)
    with pytest.raises(ConfigError, match="another strategy: this one has no 'm_t'"):
        run(phloem.flower.Compressed(FedAvg(), bits=1.0, state=tmp_path / "run"), grid_of(tmp_path), 2)
    assert run(phloem.flower.Compressed(FedAdam(), bits=1.0, state=tmp_path / "run"), grid_of(tmp_path), 2)


def test_a_setting_changed_for_the_rest_of_a_run_stays_changed(tmp_path: Path) -> None:
    for rounds, eta in ((1, 0.1), (2, 0.05), (3, 0.01)):
        inner = FedAdam(eta=eta)
        run(phloem.flower.Compressed(inner, bits=1.0, state=tmp_path / "run"), grid_of(tmp_path), rounds)
        assert inner.eta == eta


class Accountant:
    """Counts like Flower's, without the library that Flower's needs."""

    def __init__(self) -> None:
        from flwr.supercore.privacy_accounting import SamplingMethod

        self.config = SimpleNamespace(
            sampling_method=SamplingMethod.NO_AMPLIFICATION, population_size=3, max_epsilon=None
        )
        self.releases = 0

    def compose(self, event: object, count: int = 1) -> None:
        self.releases += count

    def get_privacy_spent(self, delta: float | None = None) -> Any:
        return SimpleNamespace(epsilon=float(self.releases), delta=1e-5, num_releases=self.releases)

    def state_dict(self) -> dict[str, object]:
        return {"releases": self.releases}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.releases = state["releases"]


def test_what_a_privacy_accountant_has_counted_outlives_a_restart(tmp_path: Path) -> None:
    spent = []
    for rounds in (2, 4):
        inner = FedAvg(weighted_by_key="loss", fraction_evaluate=0.0)
        private = DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 1.0, 3, accountant=Accountant())
        run(phloem.flower.Compressed(private, bits=1.0, state=tmp_path / "run"), grid_of(tmp_path), rounds)
        spent.append(private.privacy_spent().num_releases)
    assert spent == [2, 4]


# -- clipping ------------------------------------------------------------------------------------------------------


def test_under_client_side_clipping_no_decoded_update_exceeds_the_norm(tmp_path: Path) -> None:
    trunks: dict[int, ArrayRecord] = {}
    norms: list[float] = []

    class Measured(FedAvg):
        def configure_train(self, server_round: int, arrays: ArrayRecord, *args: Any) -> Any:
            trunks[server_round] = arrays
            return super().configure_train(server_round, arrays, *args)

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            replies = list(replies)
            for reply in replies:
                (arrays,) = reply.content.array_records.values()
                before = trunks[server_round]
                steps = [arrays[n].numpy().astype(np.float64) - before[n].numpy() for n in before]
                norms.append(float(np.sqrt(sum((step**2).sum() for step in steps))))
            return super().aggregate_train(server_round, replies)

    inner = DifferentialPrivacyClientSideFixedClipping(Measured(), 0.0, 0.5, 3)
    grid = grid_of(tmp_path, mods=[fixedclipping_mod])
    run(phloem.flower.Compressed(inner, bits=0.3), grid, rounds=6)
    assert len(norms) == 18
    assert 0.3 < max(norms) <= 0.5 * (1 + 1e-6)


def test_mods_that_measure_work_before_and_after_ours(tmp_path: Path) -> None:
    mods = [
        message_size_mod,
        arrays_size_mod,
        phloem.flower.mod(state=tmp_path),
        message_size_mod,
        arrays_size_mod,
    ]
    seen: list[Any] = []
    grid = Inside({node: app_with(*mods, seen=seen) for node in (1, 2)}, {})
    strategy = phloem.flower.Compressed(FedAvg(), bits=1.0)
    run(strategy, grid)
    assert len(seen) == 8
    assert all(transfer.compressed for transfer in strategy.traffic)


@pytest.mark.parametrize("phloem_after", [True, False])
def test_a_node_whose_first_mod_wants_arrays_is_sent_whole_models(tmp_path: Path, phloem_after: bool) -> None:
    others = [phloem.flower.mod(state=tmp_path)] if phloem_after else []
    seen: list[Any] = []
    grid = plain_grid((1, 2, 3), fixedclipping_mod, *others, seen=seen)
    inner = DifferentialPrivacyClientSideFixedClipping(FedAvg(fraction_evaluate=0.0), 0.0, 0.5, 3)
    strategy = phloem.flower.Compressed(inner, bits=1.0)
    run(strategy, grid)
    assert len(seen) == 6
    assert not any(t.compressed for t in strategy.traffic if t.phase != "greet")


def test_a_wrapped_fedavgm_stays_on_the_trunk_whatever_frames_leave_out(tmp_path: Path) -> None:
    inner = DifferentialPrivacyServerSideFixedClipping(FedAvgM(server_learning_rate=0.1), 1e-9, 50.0, 3)
    strategy = phloem.flower.Compressed(inner, bits=0.3)
    result = run(strategy, grid_of(tmp_path), rounds=25)
    residual = strategy._exchange.coordinator.residual.owed
    assert norm(residual) < 5.0  # adding it twice made it grow without end
    assert inner.strategy.current_arrays is strategy._exchange.arrays
    assert same(result, arrays_in(strategy._exchange.arrays))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -3.0, 1e300])
def test_a_weight_that_is_none_is_refused_and_the_round_goes_on(weight: float, tmp_path: Path) -> None:
    grid = grid_of(tmp_path)

    def lying(message: Message) -> Message:
        if message.metadata.src_node_id == 2 and message.has_content() and "metrics" in message.content:
            message.content["metrics"]["num-examples"] = weight
        return message

    grid.alter_up = lying
    strategy = phloem.flower.Compressed(FedAvg(), bits=1.0)
    result = run(strategy, grid, rounds=2)
    assert all(np.isfinite(array).all() for array in result.values())
