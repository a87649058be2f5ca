"""What ranks owe, saved and restored: to the bit with as many ranks, without a loss with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tests.engines.torch import small
from tests.engines.torch.ranks import Here, Start
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from phloem.engines.torch import owing
from phloem.engines.torch.choosing import Trial
from phloem.engines.torch.ddp import Compressed
from phloem.errors import ConfigError, StateError
from phloem.torch import compress_ddp


def trains(
    here: Here,
    *,
    steps: list[int],
    ddp: dict[str, Any],
    how: str = "folder",
    save: str | None = None,
    load: str | None = None,
    saved_by: int = 0,
    scaled: bool = False,
    kind: str = "plain",
    way: int | None = None,
    **options: Any,
) -> None:
    """The steps from one number to the next, and what a checkpoint needs before and after them.

    `way` is the number of the one that a free choice has taken.
    """
    here.begin()
    model = DistributedDataParallel(small.built(kind), **ddp)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10_000) if scaled else None
    compressed = compress_ddp(model, **{"dense_below": 0, "matrix_rank": 0, **options}, scaler=scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if load is not None:
        model.module.load_state_dict(load_file(here.folder / f"{load}.safetensors"))
        if how == "folder":
            assert compressed.load(here.folder / load) == steps[0]
        elif how == "own":
            compressed.load_state_dict(kept(here.folder / f"{load}.{here.rank}"))
        else:
            paths = [here.folder / f"{load}.{rank}" for rank in range(saved_by)]
            compressed.load_state_dict(kept(path) for path in paths)
    if way is not None:
        compressed._trial = Trial(compressed.settings.ways, now=way, begins=1000)
    here.say(found=mean_owed(compressed, model))
    for step in range(*steps):
        optimizer.zero_grad()
        loss = small.loss_of(model, here.rank, step)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    if save is not None:
        if here.rank == 0:
            save_file(dict(model.module.state_dict()), here.folder / f"{save}.safetensors")
        if how == "folder":
            compressed.save(here.folder / save)
        else:
            keep(compressed.state_dict(), here.folder / f"{save}.{here.rank}")
    owed = compressed.state_dict()["own"]
    here.say(
        left=mean_owed(compressed, model),
        parameters=small.digest(model.parameters()),
        owed=small.digest(owed[name] for name in sorted(owed)),
        step=compressed.step,
    )
    dist.barrier()
    dist.destroy_process_group()


def keep(state: dict[str, Any], path: Path) -> None:
    """Writes a state in the caller's own way: it holds nothing but tensors and JSON's values."""
    parts = {key: value for key, value in state.items() if isinstance(value, dict) and key != "steps"}
    facts = {key: value for key, value in state.items() if key not in parts}
    tensors = {f"{part}/{name}": tensor for part, found in parts.items() for name, tensor in found.items()}
    save_file(tensors, f"{path}.safetensors")
    Path(f"{path}.json").write_text(json.dumps({"parts": list(parts), **facts}))


def kept(path: Path) -> dict[str, Any]:
    """What `keep` wrote."""
    state: dict[str, Any] = json.loads(Path(f"{path}.json").read_text())
    state |= {part: {} for part in state.pop("parts")}
    for key, tensor in load_file(f"{path}.safetensors").items():
        part, _, name = key.partition("/")
        state[part][name] = tensor
    return state


def mean_owed(compressed: Compressed, model: DistributedDataParallel) -> list[float]:
    """A few values of the mean of what all ranks owe, and its size."""
    own = compressed.state_dict()["own"]
    parts = []
    for name, parameter in sorted(model.module.named_parameters()):
        part = own[name].double() if name in own else torch.zeros(parameter.shape, dtype=torch.float64)
        dist.all_reduce(part)
        parts.append(part.flatten() / dist.get_world_size())
    whole = torch.cat(parts)
    return [*whole[::500].tolist(), float(whole.norm())]


#: DDP makes its buckets anew after the first step of a process, and frames are made of buckets; but not with this.
ONE_LAYOUT: dict[str, Any] = {"ddp": {"find_unused_parameters": True}}
UNINTERRUPTED: dict[str, dict[str, Any]] = {
    "bits": {"bits": 0.7, **ONE_LAYOUT},
    "thin": {"bits": 2.0, "matrix_rank": 4, "how": "own", **ONE_LAYOUT},
    "topk": {"codec": {"codec": "topk", "fraction": 0.1}, **ONE_LAYOUT},
    "qsgd": {"codec": "qsgd", **ONE_LAYOUT},
    "warmup": {"bits": 0.7, "warmup": 2, **ONE_LAYOUT},
    "scaler": {"bits": 0.7, "scaled": True, **ONE_LAYOUT},
    "free": {"matrix_rank": None, "way": 2, "kind": "square", **ONE_LAYOUT},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(UNINTERRUPTED))
def test_as_many_ranks_go_on_to_the_bit_as_if_they_had_not_stopped(ranks: Start, name: str) -> None:
    options = {"ddp": {}, **UNINTERRUPTED[name]}
    whole = [one.said for one in ranks(2, trains, steps=[0, 7], **options)]
    before = [one.said for one in ranks(2, trains, steps=[0, 4], save="half", **options)]
    after = [one.said for one in ranks(2, trains, steps=[4, 7], load="half", **options)]
    for rank in range(2):
        assert after[rank]["found"] == before[rank]["left"]
        assert after[rank]["step"] == 7
        assert after[rank]["parameters"] == whole[rank]["parameters"]
        assert after[rank]["owed"] == whole[rank]["owed"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(3, 2), (2, 3)])
@pytest.mark.parametrize("how", ["folder", "all"])
def test_other_ranks_owe_on_average_what_those_before_them_owed(
    ranks: Start, first: int, then: int, how: str
) -> None:
    options: dict[str, Any] = {"ddp": {}, "how": how, "bits": 0.7}
    before = [one.said for one in ranks(first, trains, steps=[0, 3], save="half", **options)]
    after = [
        one.said
        for one in ranks(then, trains, steps=[3, 6], load="half", save="more", saved_by=first, **options)
    ]
    assert before[0]["left"][-1] > 0.01
    assert after[0]["found"] == pytest.approx(before[0]["left"], rel=1e-5, abs=1e-8)
    assert len({one["parameters"] for one in after}) == 1
    assert after[0]["step"] == 6
    again = [one.said for one in ranks(first, trains, steps=[6, 7], load="more", saved_by=then, **options)]
    assert again[0]["found"] == pytest.approx(after[0]["left"], rel=1e-5, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 2), (2, 0)])
def test_what_was_owed_in_one_way_is_owed_in_another(
    ranks: Start, first: int, then: int, before: int, after: int
) -> None:
    options: dict[str, Any] = {"ddp": {}, "kind": "square", "matrix_rank": None}
    saved = [one.said for one in ranks(first, trains, steps=[0, 3], save="half", way=before, **options)]
    loaded = [one.said for one in ranks(then, trains, steps=[3, 6], load="half", way=after, **options)]
    assert saved[0]["left"][-1] > 1e-3
    assert loaded[0]["found"] == pytest.approx(saved[0]["left"], rel=1e-5, abs=1e-8)
    assert (loaded[0]["left"][-1] == 0.0) == (after == 0)
    assert len({one["parameters"] for one in loaded}) == 1


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """This process is the only rank."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def of_one_rank(**options: Any) -> tuple[DistributedDataParallel, Compressed]:
    model = DistributedDataParallel(small.built())
    return model, compress_ddp(model, **{"bits": 1.0, **options})


@pytest.mark.usefixtures("alone")
def test_states_of_others_are_refused_and_nothing_changes() -> None:
    model, compressed = of_one_rank()
    compressed.step = 5
    right = {**compressed.state_dict(), "own": {"0.bias": torch.ones(96)}, "step": 9}
    refused: list[tuple[Any, type[Exception], str]] = [
        ({**right, "ranks": 3, "rank": 2}, ConfigError, "what rank 2 of 3 owed, loaded at rank 0 of 1"),
        ([{**right, "ranks": 3, "rank": 2}], StateError, "found 1 of 3"),
        ({**right, "version": owing.VERSION + 1}, StateError, f"residuals of version {owing.VERSION + 1}"),
        ({**right, "own": {"1.bias": torch.ones(96)}}, StateError, "'1.bias' belongs to another model"),
        ({**right, "own": {"0.bias": torch.ones(95)}}, StateError, r"'0.bias' has the shape \(95,\)"),
        (model.state_dict(), ConfigError, "expected what state_dict"),
        ({}, ConfigError, "expected what state_dict"),
        ([], StateError, "found none"),
    ]
    for state, error, words in refused:
        with pytest.raises(error, match=words):
            compressed.load_state_dict(state)
        assert compressed.step == 5
        assert compressed.state_dict()["own"] == {}
    compressed.load_state_dict(right)
    assert compressed.step == 9
    assert torch.equal(compressed.state_dict()["own"]["0.bias"], torch.ones(96))
    compressed.close()


@pytest.mark.usefixtures("alone")
def test_directions_of_another_model_are_refused_as_well() -> None:
    _, compressed = of_one_rank()
    state = compressed.state_dict()
    with pytest.raises(StateError, match=r"belongs? to another model|has the shape"):
        compressed.load_state_dict({**state, "right": {"0.weight": torch.ones(7, 16)}})
    with pytest.raises(StateError, match=r"directions of '0\.weight' belong to another model"):
        compressed.load_state_dict({**state, "right": {"0.weight": torch.ones(small.INPUTS)}})
    squares = {"rows/0.weight": torch.ones(7), "columns/0.weight": torch.ones(3)}
    with pytest.raises(StateError, match=r"belongs? to another model|has the shape"):
        compressed.load_state_dict({**state, "squares": squares})
    compressed.close()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("columns", [8, 16, 24])
def test_as_many_of_the_saved_directions_are_taken_as_there_are_columns(columns: int) -> None:
    _, compressed = of_one_rank(matrix_rank=columns)
    saved = torch.randn(small.INPUTS, 16, generator=torch.Generator().manual_seed(3))
    compressed.load_state_dict({**compressed.state_dict(), "right": {"0.weight": saved}})
    found = compressed.state_dict()["right"]["0.weight"]
    assert torch.equal(found[:, :16], saved[:, :columns])
    assert found.shape == (small.INPUTS, columns)
    assert not found[:, 16:].any(), "to be looked for"
    compressed.close()


@pytest.mark.usefixtures("alone")
def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    _, compressed = of_one_rank()
    with pytest.raises(StateError, match="nowhere, found none"):
        compressed.load(tmp_path / "nowhere")
    compressed.close()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("step", [0, 1, 5, 12, 16, 500])
def test_the_free_choice_is_made_after_a_checkpoint_of_any_step(step: int) -> None:
    model, compressed = of_one_rank(bits=None)
    compressed.load_state_dict({**compressed.state_dict(), "step": step})
    for number in range(40):
        small.loss_of(model, 0, number).backward()
    assert [choice.step for choice in compressed.choices] == [step + 16]
    compressed.close()


@pytest.mark.usefixtures("alone")
def test_only_a_ddp_model_is_compressed_and_options_are_checked() -> None:
    module: Any = nn.Linear(3, 3)
    with pytest.raises(ConfigError, match=r"found a Linear.*wrap it first"):
        compress_ddp(module)
    model = DistributedDataParallel(module)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"bits": 1.0, "codec": "topk"}, "say both"),
        ({"down_bits": 1.0}, "goes with 'bits'"),
        ({"codec": "topq"}, "did you mean 'topk'"),
        ({"codec": {"codec": "topk", "fractions": 0.1}}, "fraction"),
        ({"bits": -1.0}, "bits"),
        ({"effort": "worst", "bits": 1.0}, "effort"),
        ({"matrix_rank": -1}, "'matrix_rank' must be a whole number, from 0 to 256, found -1"),
        ({"matrix_rank": 2.5}, "'matrix_rank' must be"),
        ({"warmup": True}, "'warmup' must be"),
        ({"dense_below": -3}, "'dense_below' must be"),
        ({"check_every": 1.5}, "'check_every' must be"),
        ({"optimizer": "lion"}, "'adam' or 'sgd', found 'lion'"),
    ]
    for options, words in wrong:
        with pytest.raises(ConfigError, match=words):
            compress_ddp(model, **options)
    compress_ddp(model, bits=1.0).close()
