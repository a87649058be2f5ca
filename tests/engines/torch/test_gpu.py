"""Where gradients are coded: by the GPU that holds them, if what is owed has room there; else by the processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from phloem.engines.torch import gpu
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


def test_without_a_gpu_nothing_is_waited_for() -> None:
    with gpu.working_on(torch.device("cpu"), None):
        done = torch.ones(3).sum()
    assert float(done) == 3.0
