"""NaN in a gradient: without a GradScaler an error at every rank, with one a step that every rank skips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.engines.torch import small
from tests.engines.torch.ranks import Here, Start
from torch.nn.parallel import DistributedDataParallel

from phloem.torch import compress_ddp


def scaled(
    here: Here,
    *,
    scaler: bool | None,
    bad: dict[str, int],
    steps: int = 9,
    ddp: dict[str, Any],
    **options: Any,
) -> None:
    """Trains with a loss scale; in some steps a tensor's gradient is NaN at one rank.

    `scaler` is None for none, False for one that is not enabled. `bad` is rank, step and layer.
    """
    here.begin()
    model = DistributedDataParallel(small.built(), **ddp)
    options = {"dense_below": 0, "matrix_rank": 0, **options}
    scales = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2, enabled=bool(scaler))
    compressed = compress_ddp(model, **options, scaler=None if scaler is None else scales)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found, wanted = small.Sum(), small.Sum()
    skipped = []
    now = -1

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan if now == bad["step"] and here.rank == bad["rank"] else gradient

    model.module[bad["layer"]].weight.register_hook(spoil)
    for step in range(steps):
        true = small.Sum()
        for rank in range(here.world):
            true.add(small.gradients(model.module, rank, step), 1 / here.world)
        now = step
        optimizer.zero_grad()
        before = small.digest(model.parameters())
        owed_before = owed_digest(compressed)
        scales.scale(small.loss_of(model, here.rank, step)).backward()
        scales.unscale_(optimizer)
        applied = small.applied(model.module)
        scales.step(optimizer)
        scales.update()
        if small.digest(model.parameters()) == before:
            skipped.append(step)
            here.say(owed_as_before=owed_digest(compressed) == owed_before)
        else:
            found.add(applied)
            wanted.add(true)
        here.say(**{f"scale {step}": scales.get_scale()})
    here.say(lacking=found.off(wanted))
    own = compressed.state_dict()["own"]
    for name in sorted(own):
        dist.all_reduce(own[name])
        found.add({name: own[name].double().numpy()}, 1 / here.world)
    here.say(lost=found.off(wanted), skipped=skipped, parameters=small.digest(model.parameters()))
    dist.destroy_process_group()


def owed_digest(compressed: Any) -> str:
    own = compressed.state_dict()["own"]
    return small.digest(own[name] for name in sorted(own))


def skipping(ranks: Start, bad: dict[str, int], **options: Any) -> None:
    said = [one.said for one in ranks(3, scaled, scaler=True, bad=bad, **{"ddp": {}, **options})]
    for one in said:
        assert one == said[0], (
            "all ranks have the same scales and parameters, and have skipped the same steps"
        )
        assert one["skipped"] == [bad["step"]]
        assert one["lost"] < 1e-5 < one["lacking"]
        assert one[f"scale {bad['step']}"] == 0.5 * one[f"scale {bad['step'] - 1}"]
        assert len({one[f"scale {step}"] for step in range(9)}) > 2, "it grows as well"


def test_with_a_scaler_all_ranks_skip_the_step_and_owe_what_they_owed(ranks: Start) -> None:
    skipping(ranks, {"rank": 1, "step": 4, "layer": 2}, bits=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 4])
@pytest.mark.parametrize("rank", [0, 4])
def test_with_a_scaler_a_step_is_skipped_whole_also_of_several_buckets(
    ranks: Start, layer: int, rank: int
) -> None:
    bad = {"rank": 2, "step": 4, "layer": layer}
    skipping(ranks, bad, bits=1.0, matrix_rank=rank, ddp={"bucket_cap_mb": 0.01})


@pytest.mark.slow
def test_with_a_scaler_nan_in_a_tiny_bucket_skips_the_step_whole(ranks: Start) -> None:
    bad = {"rank": 2, "step": 4, "layer": 4}
    skipping(ranks, bad, bits=1.0, dense_below=3000, ddp={"bucket_cap_mb": 0.002})


@pytest.mark.slow
@pytest.mark.parametrize("scaler", [None, False])
@pytest.mark.parametrize("layer", [0, 4])
@pytest.mark.parametrize("rank", [0, 4])
def test_without_a_scaler_every_rank_says_which_one_and_which_tensor(
    ranks: Start, scaler: bool | None, layer: int, rank: int
) -> None:
    bad = {"rank": 1, "step": 3, "layer": layer}
    for one in ranks(3, scaled, scaler=scaler, bad=bad, ddp={}, bits=1.0, matrix_rank=rank):
        assert one.error.startswith(
            "StateError: a gradient holds NaN or infinity, no rank has applied the step: rank 1"
        )
        assert f"'{layer}.weight" in one.error
        assert "scaler=" in one.error
