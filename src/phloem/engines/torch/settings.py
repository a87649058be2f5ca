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
#: What a free choice is made among, beside sending gradients as they are, from fine to coarse: matrix_rank, bits, and
#: how many times bfloat16's steps it takes to the same loss. These are measured on the code LM over five seeds:
#: `python benchmarks/ddp.py inflation`, which says how.
LEVELS = ((DEFAULT_MATRIX_RANK, DEFAULT_BITS, 1.05), (16, 4.0, 1.07), (8, 3.0, 1.37))
_OPTIMIZERS = ("adam", "sgd")
_LARGEST_RANK = 256


@dataclass(frozen=True)
class Way:
    """One way for gradients to travel.

    Attributes:
        matrix_rank: columns of thin matrices; 0: there are none.
        up, down: the tables of the codecs; empty where gradients travel as they are.
        inflation: its steps to some loss, as a multiple of those that gradients as they are need.
    """

    matrix_rank: int
    up: dict[str, Any]
    down: dict[str, Any]
    inflation: float = 1.0

    @property
    def name(self) -> str:
        """In words: "as they are", "thin 32 at 4 bits", "topk"."""
        if not self.up:
            return "as they are"
        rate = f"at {self.up['bits']:g} bits" if self.up.get("bits") is not None else ""
        codec = self.up["codec"] if not (rate and self.matrix_rank) else ""
        thin = f"thin {self.matrix_rank}" if self.matrix_rank else ""
        return " ".join(word for word in (thin, codec, rate) if word)

    @property
    def size(self) -> float:
        """What its thin matrices have of bits per row and column: nothing else tells levels apart."""
        return float(self.matrix_rank * (self.up.get("bits") or 0.0))


AS_THEY_ARE = Way(0, {}, {})


@dataclass(frozen=True)
class Settings:
    """Of compressed DDP. `free`: steps' durations decide how they travel; up, down and matrix_rank are the finest."""

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

    @property
    def ways(self) -> tuple[Way, ...]:
        """What there is to choose from, from fine to coarse: one way, or as they are and the levels."""
        if not self.free:
            return (Way(self.matrix_rank, self.up, self.down),)
        levels = (
            Way(rank, {**self.up, "bits": bits}, {**self.down, "bits": bits}, inflation)
            for rank, bits, inflation in LEVELS
        )
        return (AS_THEY_ARE, *levels)


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
