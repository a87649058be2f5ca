"""What a call says of frames, checked, as what all ranks must have alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError

#: Under DDP where nobody says otherwise: columns of thin matrices, wire bits per value of these and leg. See
#: benchmarks/README.md, "torch.distributed".
DEFAULT_BITS = 4.0
DEFAULT_MATRIX_RANK = 32
_OPTIMIZERS = ("adam", "sgd")
_LARGEST_RANK = 256


@dataclass(frozen=True)
class Settings:
    """Of compressed DDP. `free`: whether steps are compressed is decided by their duration."""

    up: dict[str, Any]
    down: dict[str, Any]
    matrix_rank: int
    optimizer: str
    warmup: int
    dense_below: int
    check_every: int
    free: bool

    def __post_init__(self) -> None:
        if self.optimizer not in _OPTIMIZERS:
            raise ConfigError(f"'optimizer' must be 'adam' or 'sgd', found {self.optimizer!r:.60}")
        for name, most in (
            ("warmup", None),
            ("dense_below", None),
            ("check_every", None),
            ("matrix_rank", _LARGEST_RANK),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < 0 or (most is not None and value > most):
                upto = "0 or more" if most is None else f"from 0 to {most}"
                raise ConfigError(f"'{name}' must be a whole number, {upto}, found {value!r}")


def codecs_of(
    bits: float | None,
    down_bits: float | None,
    codec: str | Mapping[str, Any] | None,
    effort: str,
    default_bits: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of the codecs up and down.

    Raises:
        ConfigError: they contradict each other, or there is no such codec or option.
    """
    if bits is not None and codec is not None:
        raise ConfigError("'bits' and 'codec' say both what frames are like", hint="give one of the two")
    if down_bits is not None and bits is None:
        raise ConfigError("'down_bits' goes with 'bits'")
    if codec is None:
        wanted = default_bits if bits is None else bits
        up: dict[str, Any] = {"codec": "ecsq", "bits": wanted, "effort": effort}
        down = {**up, "bits": wanted if down_bits is None else down_bits}
    else:
        up = {"codec": codec} if isinstance(codec, str) else dict(codec)
        down = dict(up)
    codec_from(up)
    codec_from(down)  # refused before anything was begun
    return up, down
