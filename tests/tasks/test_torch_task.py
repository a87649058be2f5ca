from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from phloem.errors import ConfigError
from phloem.tasks.torch_task import (
    built,
    counters_of,
    load_state,
    pack_optimiser,
    sgd_epochs,
    state_of,
    unpack_optimiser,
)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def rows(count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, 4)).astype(np.float32), rng.integers(0, 3, count)


def test_building_depends_on_the_seed_alone_and_leaves_torchs_generator() -> None:
    before = torch.get_rng_state()
    one, same, other = (state_of(built(network, seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["0.weight"], other["0.weight"])


def test_integer_buffers_go_to_the_memory_and_not_to_the_state() -> None:
    module = built(network, 0)
    module(torch.ones(2, 4))
    assert "1.running_mean" in state_of(module)
    assert list(counters_of(module)) == ["counter:1.num_batches_tracked"]
    other = built(network, 1)
    load_state(other, state_of(module), counters_of(module))
    assert other.state_dict()["1.num_batches_tracked"] == 1
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), module.parameters(), strict=True))


def test_a_state_is_a_copy() -> None:
    module = built(network, 0)
    state = state_of(module)
    load_state(module, {name: array * 0 for name, array in state.items()})
    assert np.abs(state["0.weight"]).max() > 0


@pytest.mark.parametrize("change", [{"0.weight": np.zeros((2, 2), np.float32)}, {"0.weight": None}])
def test_a_state_that_does_not_fit_is_refused(change: dict[str, np.ndarray | None]) -> None:
    module = built(network, 0)
    state = {name: array for name, array in {**state_of(module), **change}.items() if array is not None}
    with pytest.raises(ConfigError, match=r"0\.weight"):
        load_state(module, state)


@pytest.mark.parametrize("fused", [False, True])
def test_a_memory_round_trip_resumes_adamw_exactly(fused: bool) -> None:
    inputs, labels = rows()

    def steps(module: nn.Module, optimiser: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad()
            functional.cross_entropy(module(torch.tensor(inputs)), torch.tensor(labels)).backward()
            optimiser.step()

    def start() -> tuple[nn.Module, torch.optim.Optimizer, list[str]]:
        module = built(network, 0)
        optimiser = torch.optim.AdamW(module.parameters(), lr=0.01, fused=fused)
        return module, optimiser, [name for name, _ in module.named_parameters()]

    through, optimiser, _ = start()
    steps(through, optimiser, 6)

    first, optimiser, names = start()
    steps(first, optimiser, 3)
    memory = {**counters_of(first), **pack_optimiser(optimiser, names)}
    second, optimiser, names = start()
    load_state(second, state_of(first), memory)
    unpack_optimiser(optimiser, names, memory)
    steps(second, optimiser, 3)

    assert all(isinstance(array, np.ndarray) for array in memory.values())
    for name, array in state_of(through).items():
        assert array.tobytes() == state_of(second)[name].tobytes(), name


def test_an_optimiser_that_remembers_more_than_tensors_is_refused() -> None:
    module = nn.Linear(4, 1)
    optimiser = torch.optim.LBFGS(module.parameters())

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = module(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with pytest.raises(ConfigError, match="only tensors can be saved"):
        pack_optimiser(optimiser, ["weight", "bias"])


def test_sgd_lowers_the_loss_and_repeats_to_the_bit() -> None:
    inputs, labels = rows()

    def run() -> tuple[float, bytes]:
        module = built(network, 0)
        loss = sgd_epochs(module, functional.cross_entropy, inputs, labels, seed=3, epochs=4)
        return loss, state_of(module)["0.weight"].tobytes()

    module = built(network, 0)
    first = sgd_epochs(module, functional.cross_entropy, inputs, labels, seed=3)
    for _ in range(20):
        last = sgd_epochs(module, functional.cross_entropy, inputs, labels, seed=3)
    assert last < first
    assert run() == run()
