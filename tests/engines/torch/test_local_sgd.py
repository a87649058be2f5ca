"""Local SGD: every rank trains alone, then all merge; against the same arithmetic done by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.engines.torch import small
from tests.engines.torch.ranks import KILLED, Here, Start
from torch import nn

from phloem.errors import ConfigError
from phloem.rounds.merge import ServerOptimizer
from phloem.tasks.torch_task import state_of
from phloem.tensors import state_digest
from phloem.torch import LocalSGD

EVERY = 3


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


class ByHand:
    """All ranks' rounds, in this process and in float64 between the steps."""

    def __init__(self, kind: str, world: int, *, nesterov: bool = False, division: float = 1.0) -> None:
        self.models = [small.built(kind) for _ in range(world)]
        self.optimizers = [sgd(model) for model in self.models]
        self.trunk = self.state_of(0)
        self.loaded = dict(self.trunk)
        self.velocity = {name: np.zeros(array.shape) for name, array in self.trunk.items()}
        self.nesterov, self.division, self.steps = nesterov, division, 0

    def state_of(self, rank: int) -> dict[str, Any]:
        return {name: np.float64(array) for name, array in state_of(self.models[rank]).items()}

    def round(self, without: int = -1) -> None:
        """Steps of every rank, and the merge; `without` the update of one."""
        for _ in range(EVERY):
            for rank, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
                optimizer.zero_grad()
                small.loss_of(model, rank, self.steps).backward()
                optimizer.step()
            self.steps += 1
        took_part = [rank for rank in range(len(self.models)) if rank != without]
        states = [self.state_of(rank) for rank in took_part]
        for name, before in list(self.trunk.items()):
            updates = [state[name] - self.loaded[name] for state in states]
            senders = sum(update != 0 for update in updates) if self.division else len(states)
            step = np.asarray(sum(updates)) / np.maximum(senders, 1)
            if self.nesterov:
                self.velocity[name] = 0.9 * self.velocity[name] + step
                step = 0.7 * (step + 0.9 * self.velocity[name])
            self.trunk[name] = before + step
        for model in self.models:
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(torch.tensor(self.trunk[name]))
        self.loaded = self.state_of(0)
        if without >= 0:
            self.optimizers[without].state.clear()

    def off(self, model: nn.Module) -> float:
        found = state_of(model)
        return max(float(np.abs(found[name] - wanted).max()) for name, wanted in self.trunk.items())


def merges(
    here: Here, *, kind: str = "plain", rounds: int = 3, seeds: bool = False, nan: int = -1, **options: Any
) -> None:
    """Rounds of local steps beside the same by hand; in the second round rank `nan` breaks its weights."""
    here.begin()
    model = small.built(kind, seed=7 + here.rank * seeds)
    division = options.get("division", 1.0)
    hand = ByHand(kind, here.world, nesterov=options.get("outer") == "nesterov", division=division)
    optimizer = sgd(model)
    local = LocalSGD(model, optimizer, every=EVERY, **{"codec": "none", **options})
    here.say(starts=small.digest(model.parameters()))
    for step in range(rounds * EVERY):
        optimizer.zero_grad()
        small.loss_of(model, here.rank, step).backward()
        optimizer.step()
        if here.rank == nan and step == 2 * EVERY - 1:
            with torch.no_grad():
                next(model.parameters())[0, 0] = math.nan
        merged = local.step()
        assert (merged is None) == ((step + 1) % EVERY != 0)
        if merged is not None:
            hand.round(without=nan if merged.round == 2 else -1)
            whole = all(tensor.dtype == torch.float32 for tensor in model.parameters())
            here.say(
                **{
                    f"round {merged.round}": {
                        "off": hand.off(model),
                        "workers": merged.workers,
                        "refused": {str(worker): reason for worker, reason in merged.refused.items()},
                        "state": merged.state,
                        "as said": not whole or merged.state == state_digest(state_of(model)),
                        "model": small.digest(
                            t for t in model.state_dict().values() if t.is_floating_point()
                        ),
                    }
                }
            )
            assert merged.sent > 0
            assert merged.seconds > 0
            assert merged.received > 0
    counts = [int(t) for t in model.state_dict().values() if not t.is_floating_point()]
    here.say(counts=counts, moments=len(optimizer.state), sent=local.traffic.sent)
    dist.destroy_process_group()


def merged(ranks: Start, count: int, **options: Any) -> list[dict[str, Any]]:
    """What came of every round, the same at every rank."""
    said = [one.said for one in ranks(count, merges, **options)]
    names = [name for name in said[0] if name.startswith(("round", "starts"))]
    for one in said:
        assert {name: one[name] for name in names} == {name: said[0][name] for name in names}
    found: list[dict[str, Any]] = [said[0][name] for name in names if name != "starts"]
    assert all(one["as said"] for one in found)
    return found


def test_without_compression_a_round_is_the_mean_of_the_updates_from_rank_0s_model(ranks: Start) -> None:
    for one in merged(ranks, 3, seeds=True):
        assert one["off"] < 1e-6
        assert one["workers"] == [0, 1, 2]
        assert one["refused"] == {}


@pytest.mark.slow
def test_divided_by_all_ranks_it_is_the_plain_mean(ranks: Start) -> None:
    assert all(one["off"] < 1e-6 for one in merged(ranks, 3, division=0.0))


@pytest.mark.slow
def test_nesterov_is_dilocos_outer_step(ranks: Start) -> None:
    for one in merged(ranks, 2, outer="nesterov", rounds=4, division=0.0):
        assert one["off"] < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 0.5},
        {"bits": 1.0, "effort": "balanced", "division": 0.0},
        {"codec": {"codec": "topk", "fraction": 0.05}, "outer": {"name": "momentum", "learning_rate": 0.5}},
        {"codec": "int8", "kind": "bf16"},
        {"bits": 0.5, "kind": "norm", "clip_norm": 0.1},
    ],
)
def test_all_ranks_hold_the_same_bits_whatever_the_frames(ranks: Start, options: dict[str, Any]) -> None:
    options = {"codec": None, **options}
    assert all(1e-7 < one["off"] < 1.0 for one in merged(ranks, 3, seeds=True, **options))


@pytest.mark.slow
def test_buffers_of_batch_norm_are_merged_and_its_counters_stay(ranks: Start) -> None:
    assert max(one["off"] for one in merged(ranks, 2, kind="norm")) < 2e-6
    ended = ranks(2, merges, kind="norm", rounds=2)
    assert [one.said["counts"] for one in ended] == [[6], [6]]


@pytest.mark.slow
def test_a_model_in_bfloat16_keeps_what_its_steps_changed(ranks: Start) -> None:
    for one in merged(ranks, 2, kind="bf16", rounds=4):
        assert one["off"] < 0.01, "the trunk is finer than the model"


@pytest.mark.slow
def test_a_rank_with_nan_is_left_out_and_goes_on_from_the_trunk(ranks: Start) -> None:
    first, second, third = merged(ranks, 3, nan=1)
    assert (first["workers"], second["workers"], third["workers"]) == ([0, 1, 2], [0, 2], [0, 1, 2])
    assert list(second["refused"]) == ["1"]
    assert "'0.weight' holds NaN" in second["refused"]["1"]
    assert max(one["off"] for one in (first, second, third)) < 1e-6


@pytest.mark.slow
def test_clipped_updates_are_as_long_as_allowed(ranks: Start) -> None:
    for one in ranks(2, clips):
        assert one.said["length"] == pytest.approx(0.05, rel=1e-4)


def clips(here: Here) -> None:
    here.begin()
    model = small.built("one")
    local = LocalSGD(model, sgd(model), codec="none", clip_norm=0.05)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1.0
    local.merge()
    here.say(length=float((model[0].weight.detach() - before).norm()))
    dist.destroy_process_group()


# -- faults ------------------------------------------------------------------------------------------------------

DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"every": 31}, "every is 31 at rank 1, 30 at rank 0"),
    ({"bits": 0.1}, "the codec is"),
    ({"codec": "topk"}, "the codec is"),
    ({"outer": "nesterov"}, "the merge is"),
    ({"division": 0.5}, "the merge is"),
    ({"clip_norm": 1.0}, "clip_norm is 1.0 at rank 1, None at rank 0"),
    ({"seed": 2}, "seed is 2 at rank 1, 0 at rank 0"),
]


def disagrees(here: Here) -> None:
    here.begin()
    model = small.built()
    for options, _ in DIFFERENCES:
        try:
            LocalSGD(model, sgd(model), timeout_seconds=20, **(options if here.rank == 1 else {}))
        except ConfigError as error:
            here.say(message=str(error))
        else:
            here.say(message="nothing")
    model = small.built("norm" if here.rank == 1 else "plain")
    LocalSGD(model, sgd(model), timeout_seconds=20)


def test_ranks_that_disagree_say_about_what_at_every_rank(ranks: Start) -> None:
    for one in ranks(2, disagrees):
        for row, (_, words) in zip(one.rows, DIFFERENCES, strict=False):
            assert row["message"].startswith("the ranks disagree about local SGD: ")
            assert words in row["message"]
        assert one.error.startswith("ConfigError: the ranks disagree about local SGD: the model is")


def fails(here: Here, *, how: str) -> None:
    """The last rank dies or falls silent in the second round."""
    here.begin()
    model = small.built()
    optimizer = sgd(model)
    local = LocalSGD(model, optimizer, every=EVERY, bits=0.5, timeout_seconds=3 if how == "silent" else 60)
    for step in range(4 * EVERY):
        if here.rank == here.world - 1 and step == EVERY + 1:
            if how == "silent":
                here.fall_silent()
            here.die()
        optimizer.zero_grad()
        small.loss_of(model, here.rank, step).backward()
        optimizer.step()
        local.step()


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_in_seconds_and_by_name(ranks: Start) -> None:
    *others, dead = ranks(3, fails, how="dies")
    assert dead.code == KILLED
    for one in others:
        assert one.error.startswith("StateError: rank ")
        assert "is gone" in one.error
        assert one.heard["failed"] - dead.heard["died"] < 20.0
    assert any("rank 2 is gone" in one.error for one in others)


@pytest.mark.slow
def test_a_silent_rank_ends_the_others_once_its_time_is_over(ranks: Start) -> None:
    ended = ranks(2, fails, how="silent", silent=[1])
    assert ended[0].error.startswith("StateError: rank 0: rank 1 sent nothing (3.")


# -- one rank, in this process -----------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """This process is the only rank."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_options_that_do_not_fit_are_refused_before_anything_is_sent() -> None:
    model = small.built()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"every": 0}, "'every' must be a whole number of steps, 1 or more, found 0"),
        ({"every": 2.0}, "'every' must be"),
        ({"bits": 1.0, "codec": "topk"}, "say both"),
        ({"codec": "topq"}, "did you mean 'topk'"),
        ({"bits": 0.0}, "bits"),
        ({"effort": "worst"}, "effort"),
        ({"outer": "nestrov"}, "there is no server optimizer 'nestrov'"),
        ({"outer": {"name": "sgd", "rate": 1.0}}, "rate"),
        ({"outer": ServerOptimizer("sgd"), "division": 0.3}, "multiple of 1/16"),
    ]
    for options, words in wrong:
        with pytest.raises(ConfigError, match=words):
            LocalSGD(model, sgd(model), **options)
    with pytest.raises(ConfigError, match="give the module inside"):
        LocalSGD(nn.parallel.DistributedDataParallel(model), sgd(model))
    with pytest.raises(ConfigError, match="a parameter that the model has not"):
        LocalSGD(model, sgd(copy.deepcopy(model)))
    with torch.no_grad():
        model[2].bias[3] = math.inf
    with pytest.raises(ConfigError, match=r"'2.bias' holds NaN or infinity before the first step"):
        LocalSGD(model, sgd(model))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan])
def test_updates_are_not_clipped_to_less_than_nothing(clip_norm: float) -> None:
    model = small.built("one")
    with pytest.raises(ConfigError, match="clip_norm"):
        LocalSGD(model, sgd(model), clip_norm=clip_norm)


@pytest.mark.usefixtures("alone")
def test_updates_that_frames_lose_come_with_the_next_ones() -> None:
    model = small.built("one")
    local = LocalSGD(model, sgd(model), codec={"codec": "topk", "fraction": 0.3})
    weight = model[0].weight
    wanted = weight.detach().clone() + torch.linspace(-1.0, 1.0, weight.numel()).reshape(weight.shape)
    with torch.no_grad():
        weight.copy_(wanted)
    for number in range(4):
        assert local.round == number
        local.merge()
    torch.testing.assert_close(weight.detach(), wanted)


def decays(here: Here, *, decay: float) -> None:
    here.begin()
    model = small.built()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    local = LocalSGD(model, optimizer, every=1, bits=0.3, decay=decay)
    small.loss_of(model, here.rank, 0).backward()
    optimizer.step()
    local.step()
    owed = [torch.from_numpy(array).flatten() for array in local._site.at.residual.owed or ()]
    here.say(owed=float(torch.cat(owed).norm()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_of_a_residual_only_so_much_is_left_after_a_merge(ranks: Start) -> None:
    whole, half = ([one.said["owed"] for one in ranks(2, decays, decay=decay)] for decay in (1.0, 0.5))
    assert half == pytest.approx([0.5 * size for size in whole], rel=1e-6)
    assert min(whole) > 0.0
