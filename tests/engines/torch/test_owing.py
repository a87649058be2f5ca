"""What ranks owe survives a checkpoint, another number of ranks, a half-written folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.torch.in_threads import Letters, ThreadPeers

from phloem.engines.torch import owing, saving
from phloem.engines.torch.reduction import Reduction
from phloem.engines.torch.settings import Settings, codecs_of
from phloem.errors import ConfigError, StateError

SHAPES: dict[str, tuple[int, ...]] = {"w[odd]": (200, 300), "b": (7,)}


def state(rank: int, ranks: int, step: int = 10) -> dict[str, Any]:
    """What rank `rank` of `ranks` may owe."""
    rng = np.random.default_rng([rank, ranks, step])

    def some(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    return {
        "kind": "phloem.torch residuals",
        "version": owing.VERSION,
        "ranks": ranks,
        "rank": rank,
        "step": step,
        "own": {name: some(shape) for name, shape in SHAPES.items()},
        "right": {"w[odd]": some((300, 4))},
        "squares": {"rows/b": torch.ones(1, dtype=torch.float64), "looks/b": torch.tensor(7)},
        "steps": {"up/0": 0.125},
    }


def test_the_mean_that_is_missing_is_the_same_at_another_number_of_ranks() -> None:
    states = [state(rank, 3) for rank in range(3)]
    found = owing.merged(iter(states), SHAPES)
    for name in SHAPES:
        missing = sum(np.float64(s["own"][name].numpy()) for s in states) / 3
        np.testing.assert_allclose(found[name], missing, rtol=1e-6)


def test_a_steps_changes_count_when_it_is_through_and_not_before() -> None:
    before = {name: tensor.numpy().copy() for name, tensor in state(1, 3)["own"].items()}
    owed = owing.Owed({name: torch.from_numpy(array.copy()) for name, array in before.items()})
    for fate in (owed.discard, owed.commit):
        changed = owed.begin("b", SHAPES["b"])
        np.testing.assert_array_equal(changed, before["b"])
        changed += 1.0
        np.testing.assert_array_equal(owed.pay("w[odd]"), before["w[odd]"])
        assert owed.is_open
        fate()
        assert not owed.is_open
        if fate == owed.discard:
            assert owed.own.keys() == before.keys()
            for name, array in before.items():
                np.testing.assert_array_equal(owed.own[name], array)
    assert owed.own.keys() == {"b"}
    np.testing.assert_array_equal(owed.own["b"], before["b"] + 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(), "found 2 of 3"),
        (lambda s: s.append(s[0]), "rank 0 came twice"),
        (lambda s: s[1].update(step=11), "different step: 10 and 11"),
        (lambda s: s[1].update(version=7), "version 7"),
        (lambda s: s[2]["own"].update(c=torch.zeros(3)), "'c' belongs to another model"),
        (lambda s: s[2]["own"].update(b=torch.zeros(3)), r"shape \(3,\)"),
        (lambda s: s.clear(), "found none"),
    ],
)
def test_states_that_do_not_belong_together_are_refused_by_name(change: Any, words: str) -> None:
    states = [state(rank, 3) for rank in range(3)]
    change(states)
    with pytest.raises(StateError, match=words):
        owing.merged(states, SHAPES)


def test_a_models_own_state_is_not_taken_for_residuals() -> None:
    with pytest.raises(ConfigError, match="expected what state_dict"):
        owing.check({"b": torch.zeros(7)}, SHAPES)


def test_the_newest_complete_step_of_a_folder_is_read(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        for rank in range(3):
            saving.save(tmp_path, state(rank, 3, step))
    saving.save(tmp_path, state(0, 3, 40))  # the others died before they had written theirs
    assert len(list(tmp_path.iterdir())) == 4
    own = saving.newest(tmp_path, 3, 2)
    wanted = state(2, 3, 30)
    assert isinstance(own, dict)
    assert {k: v for k, v in own.items() if k not in ("own", "right", "squares")} == {
        k: v for k, v in wanted.items() if k not in ("own", "right", "squares")
    }
    for part in ("own", "right", "squares"):
        assert own[part].keys() == wanted[part].keys()
        for name in own[part]:
            np.testing.assert_array_equal(own[part][name], wanted[part][name].numpy())
    others = saving.newest(tmp_path, 2, 1)
    assert not isinstance(others, dict)
    assert [s["rank"] for s in others] == [0, 1, 2]


def test_a_folder_without_a_complete_step_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="found none"):
        saving.newest(tmp_path, 2, 0)
    saving.save(tmp_path, state(1, 2))
    with pytest.raises(StateError, match="only 1 incomplete"):
        saving.newest(tmp_path, 2, 0)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    saving.save(tmp_path, state(0, 1))
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StateError, match=path.name):
        saving.newest(tmp_path, 1, 0)


def test_residuals_are_float32_whatever_torch_makes_of_numbers() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert owing.Owed().begin("w", (2, 3)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_is_owed_of_a_single_number_is_saved() -> None:
    settings = Settings(*codecs_of(4.0, None, None, "fast", 4.0), 0, "adam", 0, 0, 0, False)
    parameters = {"temperature": torch.nn.Parameter(torch.ones(()))}
    reduction = Reduction(ThreadPeers(Letters(), 2, 0), parameters, settings, False, 0)
    reduction.owed.own["temperature"] = torch.tensor(0.5)
    saved = reduction.saved(2.0)["own"]["temperature"]
    assert saved.shape == ()
    assert float(saved) == 0.25
