"""Where gradients are coded: by the GPU that holds them, if what is owed has room there; else by the processor."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phloem.engines.torch import balance, gpu
from phloem.errors import ConfigError


class There:
    """A parameter in the memory of a GPU that this machine need not have."""

    device = torch.device("cuda", 0)

    def __init__(self, count: int) -> None:
        self.count = count

    def numel(self) -> int:
        return self.count


@pytest.mark.parametrize(("free", "stays"), [(32_000, True), (31_999, False), (0, False)])
def test_gradients_stay_where_what_is_owed_takes_a_quarter_of_the_free_memory_at_most(
    free: int, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 40))
    parameters: Any = [There(600), There(400)]
    assert gpu.stays(parameters, None) is stays
    assert gpu.stays(parameters, True) is True
    assert gpu.stays(parameters, False) is False


def test_a_model_on_the_processor_is_coded_there_and_not_asked_for_on_a_gpu() -> None:
    parameters: list[Any] = [torch.zeros(4), There(4)]
    for some in (parameters[:1], parameters, []):
        assert gpu.stays(some, None) is False
        assert gpu.stays(some, False) is False
        with pytest.raises(ConfigError, match="the model is not there"):
            gpu.stays(some, True)


@pytest.mark.parametrize("failure", [ImportError("there is none"), RuntimeError("no compiler"), None])
def test_where_triton_fails_or_sums_wrongly_torch_adds_up_the_products(
    failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(*given: torch.Tensor) -> None:
        if failure is not None:
            raise failure

    monkeypatch.setitem(sys.modules, "phloem.kernels.triton", SimpleNamespace(split=split))
    monkeypatch.setattr("phloem.kernels.triton", sys.modules["phloem.kernels.triton"], raising=False)
    gpu.split.cache_clear()
    try:
        assert gpu.split(torch.device("cpu")) is gpu.split_by_passes
    finally:
        gpu.split.cache_clear()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_a_gpu_scales_and_looks_to_the_bits_of_the_processor(shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    means = [
        torch.from_numpy(
            np.asarray(rng.standard_normal(shape) * np.exp2(rng.integers(-30, 30, shape)), np.float32)
        )
        for _ in range(3)
    ]

    def found(there: bool) -> list[bytes]:
        with pytest.MonkeyPatch.context() as patch:
            if there:
                patch.setattr(balance, "on_host", lambda tensor: False)
            scales, told = balance.Balance(), []
            for mean in means:
                copy = mean.clone()
                scales.look(["w"], [copy])
                scales.divide(["w"], [copy])
                told.append(copy.numpy().tobytes())
                scales.multiply(["w"], [copy])
                assert torch.equal(copy, mean)
            return told + [part.tobytes() for part in scales.squares.get("w", ())]

    assert found(there=True) == found(there=False)
