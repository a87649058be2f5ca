"""DDP with compressed gradients, at ranks that are processes: what is applied, what is owed, what is refused."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.engines.torch import small
from tests.engines.torch.ranks import KILLED, Here, Start
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from phloem.engines.torch.choosing import Trial
from phloem.engines.torch.ddp import Compressed
from phloem.errors import ConfigError
from phloem.torch import compress_ddp

TOPK = {"codec": "topk", "fraction": 0.1}
#: A share of the largest gradient: float32 sums; and bfloat16 sums, which steps without compression are.
EXACT, BFLOAT16 = 1e-5, 0.02


def compressing(model: DistributedDataParallel, **options: Any) -> Compressed:
    """Small buckets too, and matrices as they are, where a test says nothing else."""
    return compress_ddp(model, **{"dense_below": 0, "matrix_rank": 0, **options})


def owed_by_all(compressed: Compressed) -> dict[str, Any]:
    """The mean over all ranks of what they owe."""
    own = compressed.state_dict()["own"]
    mean = {}
    for name, shape in sorted((n, p.shape) for n, p in named(compressed)):
        mean[name] = own[name].double() if name in own else torch.zeros(shape, dtype=torch.float64)
        dist.all_reduce(mean[name])
        mean[name] /= compressed.peers.world
    return mean


def named(compressed: Compressed) -> list[tuple[str, torch.Tensor]]:
    return [(name, torch.empty(shape)) for name, shape in compressed._reduction.shapes.items()]


@dataclass
class Told(Trial):
    """A trial whose durations are told, not measured."""

    told: Iterator[Sequence[float]] = field(default_factory=lambda: iter(()))

    def medians(self) -> tuple[float, float]:
        seconds, exposed = next(self.told)
        return seconds, exposed


def follows(
    here: Here,
    *,
    kind: str = "plain",
    steps: int = 5,
    ddp: dict[str, Any],
    ways: list[list[list[int]]] | None = None,
    dense_in_float32: bool = False,
    autocast: bool = False,
    trials: list[list[list[float]]] | None = None,
    again: int = 8,
    **options: Any,
) -> None:
    """Trains, and compares what is applied with what plain DDP would have applied.

    `ways` are those that a model of branches takes, by step and rank. `trials` are the seconds of a step and those that
    it waits, by rank and way timed, that a free choice is told: of each way it tries two steps.
    """
    here.begin()
    model = DistributedDataParallel(small.built(kind), **ddp)
    compressed = compressing(model, **options)
    if dense_in_float32:
        compressed._wide = torch.float32
    if trials is not None:
        ways_to_go = compressed.settings.ways
        compressed._trial = Told(ways_to_go, each=1, again=again, told=iter(trials[here.rank]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found, wanted, grads = small.Sum(), small.Sum(), []
    off = 0.0
    for step in range(steps):
        used = ways[step % len(ways)] if ways else [[]] * here.world
        true = small.Sum()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for rank in range(here.world):
                true.add(small.gradients(model.module, rank, step, *used[rank]), 1 / here.world)
            loss = small.loss_of(model, here.rank, step, *used[here.rank])
        loss.backward()
        applied = small.applied(model.module)
        off = max(off, small.Sum(applied).off(true))
        found.add(applied)
        wanted.add(true)
        grads.append(small.digest(p.grad for p in model.parameters() if p.grad is not None))
        optimizer.step()
    owed = owed_by_all(compressed)
    here.say(lacking=found.off(wanted))
    found.add(owed)
    here.say(
        off=off,
        lost=found.off(wanted),
        grads=grads,
        parameters=small.digest(model.parameters()),
        dense=compressed.dense_steps,
        choices=[str(choice) for choice in compressed.choices],
        way=compressed.way,
        sent=compressed.traffic.sent,
    )
    dist.destroy_process_group()


def followed(ranks: Start, count: int, **options: Any) -> dict[str, Any]:
    """What rank 0 said after every rank was seen to hold the same bits."""
    said = [one.said for one in ranks(count, follows, **{"ddp": {}, **options})]
    for one in said:
        assert one["grads"] == said[0]["grads"]
        assert one["parameters"] == said[0]["parameters"]
        assert one["choices"] == said[0]["choices"]
        assert abs(one["lost"] - said[0]["lost"]) < 1e-9
    return said[0]


def test_without_compression_every_rank_applies_the_mean_gradient(ranks: Start) -> None:
    said = followed(ranks, 3, codec="none")
    assert said["off"] < EXACT
    assert said["lost"] < EXACT
    assert said["dense"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qsgd", "eden"])
def test_ranks_hold_the_same_bits_under_an_unbiased_codec(ranks: Start, name: str) -> None:
    said = followed(ranks, 3, codec=name)
    assert said["off"] > 100 * EXACT


@pytest.mark.slow
def test_without_compression_and_cut_matrices_every_rank_applies_the_mean_gradient(ranks: Start) -> None:
    assert followed(ranks, 4, codec="none", kind="wide", steps=3)["off"] < EXACT


LOSSY: dict[str, dict[str, Any]] = {
    "bits": {"bits": 0.7},
    "wide": {"bits": 1.0, "kind": "wide", "steps": 3},
    "down_bits": {"bits": 0.5, "down_bits": 2.0},
    "balanced": {"bits": 1.0, "effort": "balanced"},
    "sgd": {"bits": 0.7, "optimizer": "sgd"},
    "thin-sgd": {"bits": 2.0, "matrix_rank": 4, "optimizer": "sgd"},
    "defaults": {"bits": 3.0, "matrix_rank": 16, "kind": "wide"},
    "thin": {"bits": 2.0, "matrix_rank": 4},
    "thin-none": {"codec": "none", "matrix_rank": 2},
    "topk": {"codec": TOPK},
    "int8": {"codec": {"codec": "int8"}},
    "buckets": {"bits": 0.7, "ddp": {"bucket_cap_mb": 0.01}},
    "thin-buckets": {"bits": 2.0, "matrix_rank": 2, "ddp": {"bucket_cap_mb": 0.01}},
    "views": {"bits": 0.7, "ddp": {"gradient_as_bucket_view": True}},
    "static": {"bits": 0.7, "ddp": {"static_graph": True}},
    "autocast": {"bits": 0.7, "autocast": True},
    "warmup": {"bits": 0.7, "warmup": 2, "dense_in_float32": True},
    "warmup-thin-buckets": {
        "bits": 2.0,
        "matrix_rank": 2,
        "warmup": 2,
        "dense_in_float32": True,
        "ddp": {"bucket_cap_mb": 0.01},
    },
    "tiny-buckets": {"bits": 0.7, "dense_below": 3000, "ddp": {"bucket_cap_mb": 0.002}},
    "channels_last": {"bits": 0.7, "kind": "conv"},
    "channels_last-thin": {"bits": 2.0, "kind": "conv", "matrix_rank": 2},
    "channels_last-views": {"bits": 0.7, "kind": "conv", "ddp": {"gradient_as_bucket_view": True}},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "bits" else pytest.mark.slow) for name in LOSSY]
)
def test_what_is_not_applied_is_owed_and_all_ranks_hold_the_same_bits(ranks: Start, name: str) -> None:
    said = followed(ranks, 3, **LOSSY[name])
    assert said["lost"] < EXACT
    assert said["lacking"] > 100 * EXACT or name == "int8", "then it tests nothing"


@pytest.mark.slow
def test_what_is_owed_by_a_bucket_too_small_to_compress_is_paid(ranks: Start) -> None:
    """DDP has one bucket in its first step and several afterwards."""
    said = [one.said for one in ranks(2, settles)]
    assert said[0]["first"]["4.weight"] > 0
    assert said[0]["second"].get("4.weight", 0.0) == 0
    assert said[0]["second"]["0.weight"] > 0


def settles(here: Here) -> None:
    here.begin()
    model = DistributedDataParallel(small.built(), bucket_cap_mb=0.002)
    compressed = compressing(model, bits=0.7, dense_below=3000)
    for step, name in enumerate(["first", "second"]):
        small.loss_of(model, here.rank, step).backward()
        owed = compressed.state_dict()["own"]
        here.say(**{name: {key: float(tensor.abs().max()) for key, tensor in owed.items()}})
    dist.destroy_process_group()


@pytest.mark.slow
def test_steps_of_the_warmup_send_gradients_in_bfloat16(ranks: Start) -> None:
    said = followed(ranks, 3, bits=1.0, warmup=5, steps=5)
    assert said["dense"] == 5
    assert said["sent"] < 3000, "greetings only"
    assert said["off"] < BFLOAT16


@pytest.mark.slow
def test_a_model_in_bfloat16_is_trained_in_it(ranks: Start) -> None:
    said = followed(ranks, 3, codec="none", kind="bf16")
    assert said["off"] < BFLOAT16
    said = followed(ranks, 3, bits=1.0, kind="bf16")
    assert said["lost"] < BFLOAT16 < said["lacking"]


def one_each(step: int) -> list[list[int]]:
    return [[(rank + step) % 3] for rank in range(3)]


#: By step and rank. The last way of four is never taken; "by turns" leaves out others in some steps everywhere.
WAYS: dict[str, list[list[list[int]]]] = {
    "others at each rank": [one_each(step) for step in range(3)],
    "by turns": [[[0, 1]] * 3, [[1, 2]] * 3, [[2]] * 3],
}


@pytest.mark.slow
@pytest.mark.parametrize("ways", list(WAYS))
@pytest.mark.parametrize("rank", [0, 4])
def test_unused_parameters_cost_nobody_anything(ranks: Start, ways: str, rank: int) -> None:
    options = {"kind": "branches", "ways": WAYS[ways], "ddp": {"find_unused_parameters": True}, "steps": 6}
    assert followed(ranks, 3, **options, codec="none", matrix_rank=0)["off"] < EXACT
    said = followed(ranks, 3, **options, bits=1.0, matrix_rank=rank)
    assert said["lost"] < EXACT < said["lacking"]


@pytest.mark.slow
def test_a_rank_sends_hardly_more_where_there_are_more_ranks(ranks: Start) -> None:
    sent = {}
    for count in (2, 4):
        said = [one.said["sent"] for one in ranks(count, follows, kind="wide", steps=6, ddp={}, bits=2.0)]
        sent[count] = sum(said) / count
    assert 0.6 < sent[2] / (6 * 2 * 86_710 / 8) < 1.2, "two legs, of which its own half stays here"
    assert sent[4] / sent[2] < 1.5 * 1.1


@pytest.mark.slow
def test_a_free_choice_is_the_same_at_every_rank_and_what_was_owed_is_paid(ranks: Start) -> None:
    """At first every rank finds compression faster, later one of them does not."""
    dense, told = [1.0, 0.0], ([0.5, 0.5], [0.6, 1.1], [0.5, 0.7])
    trials = [[dense, [first, 0.0], dense, [then, 0.0]] for first, then in told]
    said = followed(
        ranks, 3, matrix_rank=None, kind="wide", steps=16, trials=trials, dense_in_float32=True, check_every=3
    )
    assert said["dense"] == 8, "before and in the first trial, in the second, after it"
    assert said["choices"] == [
        "gradients travel thin 32 at 4 bits: as they are 1000 ms x 1.00, thin 32 at 4 bits 600 ms x 1.05",
        "gradients travel as they are: as they are 1000 ms x 1.00, thin 32 at 4 bits 1100 ms x 1.05",
    ]
    assert said["lost"] < EXACT
    assert said["lacking"] < EXACT, "nothing is owed after a step that sent all"


#: By way that is timed, seconds of a step and what of them it waits: of a line that is slow, then faster, then fast.
SLOW = [[10.0, 9.0], [5.0, 4.0], [3.0, 2.0], [1.5, 0.5]]  # as they are, 32, 16, 8 columns
FASTER = [[10.0, 9.0], [4.0, 3.0], [3.5, 2.5]]  # as they are, 8, 32
FAST = [[1.0, 0.0], [2.0, 1.0]]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("steps", [12, 24, 32])
def test_what_is_owed_outlives_a_change_to_any_other_way(ranks: Start, optimizer: str, steps: int) -> None:
    said = followed(
        ranks,
        3,
        matrix_rank=None,
        kind="square",
        steps=steps,
        trials=[SLOW + FASTER + FAST] * 3,
        again=12,
        optimizer=optimizer,
        dense_in_float32=True,
    )
    chosen = [choice.split(":")[0].removeprefix("gradients travel ") for choice in said["choices"]]
    assert chosen == ["thin 8 at 3 bits", "thin 32 at 4 bits", "as they are"][: len(chosen)]
    assert (len(chosen), said["way"]) == (steps // 10, chosen[-1])
    assert said["lost"] < EXACT
    assert said["lacking"] > 10 * EXACT or steps == 32, "then it tests nothing"


@pytest.mark.slow
def test_a_free_choice_is_made_of_what_was_measured(ranks: Start) -> None:
    said = followed(ranks, 2, matrix_rank=None, steps=36)
    assert len(said["choices"]) == 1
    assert said["way"] in said["choices"][0]
    assert (said["way"] == "as they are") == (said["dense"] > 9)
    assert said["lost"] < BFLOAT16


@pytest.mark.slow
def test_a_way_that_is_given_is_the_only_one(ranks: Start) -> None:
    said = followed(ranks, 2, bits=3.0, matrix_rank=16, kind="square", steps=3)
    assert (said["way"], said["choices"], said["dense"]) == ("thin 16 at 3 bits", [], 0)


# -- more than one backward pass a step --------------------------------------------------------------------------


def accumulates(here: Here, **options: Any) -> None:
    here.begin()
    model = DistributedDataParallel(small.built())
    compressed = compressing(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found, wanted, off = small.Sum(), small.Sum(), 0.0
    for step in range(0, 9, 3):
        true = small.Sum()
        optimizer.zero_grad()
        for micro in range(3):
            for rank in range(here.world):
                true.add(small.gradients(model.module, rank, step + micro), 1 / here.world)
            with model.no_sync() if micro < 2 else contextlib.nullcontext():
                small.loss_of(model, here.rank, step + micro).backward()
        applied = small.applied(model.module)
        off = max(off, small.Sum(applied).off(true))
        found.add(applied)
        wanted.add(true)
        optimizer.step()
    found.add(owed_by_all(compressed))
    here.say(
        off=off, lost=found.off(wanted), parameters=small.digest(model.parameters()), steps=compressed.step
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_accumulated_without_sync_travel_once(ranks: Start) -> None:
    for options, off in (({"codec": "none"}, EXACT), ({"bits": 0.7}, 2.0)):
        said = [one.said for one in ranks(2, accumulates, **options)]
        assert said[0]["parameters"] == said[1]["parameters"]
        assert said[0]["off"] < off
        assert said[0]["lost"] < EXACT
        assert said[0]["steps"] == 3


def joins(here: Here, *, check_every: int, **options: Any) -> None:
    here.begin()
    model = DistributedDataParallel(small.built())
    compressed = compressing(model, check_every=check_every, timeout_seconds=20, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found, wanted, off = small.Sum(), small.Sum(), 0.0
    lengths = [3 + 2 * rank for rank in range(here.world)]
    with model.join():
        for step in range(lengths[here.rank]):
            true = small.Sum()
            for rank in range(here.world):
                if step < lengths[rank]:
                    true.add(small.gradients(model.module, rank, step), 1 / here.world)
            optimizer.zero_grad()
            small.loss_of(model, here.rank, step).backward()
            applied = small.applied(model.module)
            off = max(off, small.Sum(applied).off(true))
            found.add(applied)
            wanted.add(true)
            optimizer.step()
    found.add(owed_by_all(compressed))
    here.say(off=off, lost=found.off(wanted), parameters=small.digest(model.parameters()))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("check_every", [0, 1])
def test_ranks_with_fewer_batches_join_and_wait(ranks: Start, check_every: int) -> None:
    for options, off in (({"codec": "none"}, EXACT), ({"bits": 0.7}, 2.0)):
        said = [one.said for one in ranks(3, joins, check_every=check_every, **options)]
        assert len({one["parameters"] for one in said}) == 1
        assert said[2]["off"] < off
        assert said[2]["lost"] < EXACT, "the last rank has seen every step"


# -- faults of ranks ---------------------------------------------------------------------------------------------


def ends_badly(here: Here, *, how: str, steps: int = 6, **options: Any) -> None:
    """In step 3 of the last rank something happens."""
    here.begin()
    model = DistributedDataParallel(small.built())
    compressed = compressing(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    bad = here.rank == here.world - 1
    first = model.module[0].weight
    for step in range(steps):
        if bad and step == 3:
            if how == "changed":
                with torch.no_grad():
                    first[3, 3] += 1e-3
            elif how == "dies between steps":
                here.die()
            elif how == "falls silent":
                here.fall_silent()
            elif how == "dies in its backward pass":
                first.register_hook(lambda _: here.die())
            elif how == "dies between two messages":
                compressed.peers.count = lambda *_: here.die()  # once its first message is on its way
        optimizer.zero_grad()
        small.loss_of(model, here.rank, step).backward()
        optimizer.step()
    dist.destroy_process_group()


DYING: list[tuple[str, dict[str, Any]]] = [
    ("dies between steps", {"bits": 1.0}),
    ("dies between steps", {"bits": 2.0, "matrix_rank": 2}),
    ("dies between steps", {"bits": 1.0, "warmup": 99}),
    ("dies in its backward pass", {"bits": 1.0}),
    ("dies in its backward pass", {"bits": 1.0, "warmup": 99}),
    ("dies between two messages", {"bits": 1.0}),
    ("dies between two messages", {"bits": 2.0, "matrix_rank": 2}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "options"), DYING)
def test_a_killed_rank_ends_the_others_in_seconds_and_by_name(
    ranks: Start, how: str, options: dict[str, Any]
) -> None:
    *others, dead = ranks(3, ends_badly, how=how, **options)
    assert dead.code == KILLED
    for one in others:
        assert one.error.startswith("StateError: rank ")
        assert "is gone" in one.error
        assert one.heard["failed"] - dead.heard["died"] < 20.0
    assert any("rank 2 is gone" in one.error for one in others)


@pytest.mark.slow
def test_a_silent_rank_ends_the_others_once_its_time_is_over(ranks: Start) -> None:
    *others, _ = ranks(2, ends_badly, how="falls silent", bits=1.0, timeout_seconds=3, silent=[1])
    assert others[0].error.startswith("StateError: rank 0: rank 1 sent nothing (3.")


@pytest.mark.slow
def test_a_rank_whose_parameters_were_changed_by_hand_is_named(ranks: Start) -> None:
    for one in ranks(3, ends_badly, how="changed", bits=1.0, check_every=2):
        assert one.error.startswith("StateError: in step 3 rank 2 holds other parameters than rank 0")


def ignores(here: Here) -> None:
    here.begin()
    module = small.built()
    with torch.no_grad():
        module[2].weight += here.rank
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, ["2.weight"])
    model = DistributedDataParallel(module)
    compressing(model, bits=1.0, check_every=1)
    small.loss_of(model, here.rank, 0).backward()
    dist.destroy_process_group()


@pytest.mark.slow
def test_parameters_that_ddp_ignores_may_differ(ranks: Start) -> None:
    assert [(one.code, one.heard) for one in ranks(2, ignores)] == [(0, {}), (0, {})]


# -- what the ranks must have alike ------------------------------------------------------------------------------

DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"bits": 2.0}, "the codec down is"),
    ({"bits": 1.0, "optimizer": "sgd"}, "the optimizer is 'sgd' at rank 1, 'adam' at rank 0"),
    ({"bits": 1.0, "down_bits": 1.5}, "the codec down is"),
    ({"codec": "int8"}, "the codec down is"),
    ({"bits": 1.0, "effort": "best"}, "the codec down is"),
    ({"bits": 1.0, "matrix_rank": 3}, "matrix_rank is 3 at rank 1, 0 at rank 0"),
    ({"bits": 1.0, "warmup": 2}, "warmup is 2 at rank 1, 0 at rank 0"),
    ({"bits": 1.0, "dense_below": 9}, "dense_below is 9 at rank 1, 2048 at rank 0"),
    ({"bits": 1.0, "check_every": 0}, "check_every is 0 at rank 1, 100 at rank 0"),
    ({"bits": 1.0, "seed": 3}, "seed is 3 at rank 1, 0 at rank 0"),
    ({"bits": 1.0, "scaler": True}, "whether there is a scaler is True at rank 1, False at rank 0"),
    ({"matrix_rank": None}, "matrix_rank is 32 at rank 1, 0 at rank 0"),
]


def disagrees(here: Here) -> None:
    here.begin()
    model = DistributedDataParallel(small.built())
    for options, _ in DIFFERENCES:
        mine = {"matrix_rank": 0, **options} if here.rank == 1 else {"matrix_rank": 0, "bits": 1.0}
        if mine.pop("scaler", False):
            mine["scaler"] = torch.amp.GradScaler("cpu")
        try:
            compress_ddp(model, **mine, timeout_seconds=20)
        except ConfigError as error:
            here.say(message=str(error))
        else:
            here.say(message="nothing")
    named = OrderedDict((f"layer{n}", layer) for n, layer in enumerate(small.built()))
    model = DistributedDataParallel(nn.Sequential(named) if here.rank == 1 else small.built())
    compress_ddp(model, bits=1.0, timeout_seconds=20)


def test_ranks_that_disagree_say_about_what_at_every_rank(ranks: Start) -> None:
    for one in ranks(2, disagrees):
        for row, (_, words) in zip(one.rows, DIFFERENCES, strict=False):
            assert row["message"].startswith("the ranks disagree about compression: ")
            assert words in row["message"]
        assert one.error.startswith(
            "ConfigError: the ranks disagree about compression: the model is '10794 param"
        )


def comes_alone(here: Here) -> None:
    here.begin()
    model = DistributedDataParallel(small.built())
    if here.rank == 1:
        here.fall_silent()
    compress_ddp(model, bits=1.0, timeout_seconds=2)


@pytest.mark.slow
def test_a_rank_that_never_compresses_is_noticed(ranks: Start) -> None:
    ended = ranks(2, comes_alone, silent=[1])
    assert ended[0].error.startswith("StateError: rank 0: no group of 2 ranks came about in 2 s")
