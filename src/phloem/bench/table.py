"""A row for every codec and setting: size, loss and speed on one update, through the same frames as on the wire."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from phloem import feedback as ef
from phloem.bench.choices import choices, config_of
from phloem.codecs.base import Codec
from phloem.errors import ConfigError
from phloem.tensors import Array, Layout
from phloem.wire import frame as frames

Made = TypeVar("Made")
Progress = Callable[[str], None]

LEAST_RUNS, MOST_RUNS = 3, 25


@dataclass(frozen=True, slots=True)
class Row:
    """One codec at one setting.

    Attributes:
        label, config: for people, and as a recipe has it.
        bytes, bits: of the frame on the wire, where both ends know names and shapes; bits per parameter.
        nmse: Σ(error)² ÷ Σ(update)², from the decoded frame.
        encode, decode: parameters per second, medians; `encode` starts cold, without an earlier step.
        unbiased: the error averages out over many senders, so that a larger `nmse` is not worse.
        lossless: every bit comes back.
        refused: why the codec does not take this update, and then the figures are zero; or None.
    """

    label: str
    config: dict[str, Any]
    bytes: int = 0
    bits: float = 0.0
    nmse: float = 0.0
    encode: float = 0.0
    decode: float = 0.0
    unbiased: bool = False
    lossless: bool = False
    refused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as a dict."""
        return asdict(self)


def bench_codecs(
    update: Mapping[str, Any],
    *,
    names: Sequence[str] = (),
    seconds: float = 0.2,
    progress: Progress = lambda label: None,
) -> list[Row]:
    """Every codec of this version on `update`, at the settings of `phloem.bench.choices`.

    Args:
        update: float tensors by name; they are coded as float32. `cut` makes a large one small enough.
        names: only these codecs.
        seconds: about how long each encoder and each decoder is timed, three runs at least.
        progress: told each label before its codec starts.

    Raises:
        ConfigError: the update is empty, all zero, or not finite; or there is no such codec.
    """
    layout = Layout.of(update)
    arrays = layout.arrays(update)
    broken = layout.first_non_finite(arrays)
    if broken is not None:
        raise ConfigError(f"tensor '{broken}' holds NaN or infinity")
    rms = ef.norm(arrays) / math.sqrt(max(layout.size, 1))
    if rms == 0:
        raise ConfigError("the update has no value but zero", hint="give the difference of two checkpoints")
    rows = []
    for label, codec in choices(rms, names):
        progress(label)
        rows.append(row_of(label, codec, arrays, layout, seconds))
    return rows


def row_of(label: str, codec: Codec, arrays: Sequence[Array], layout: Layout, seconds: float) -> Row:
    """The row of one codec."""
    config = config_of(codec)
    try:
        frame, encoding = timed(lambda: frames.pack(codec, arrays, layout), seconds)
    except ConfigError as error:
        return Row(label, config, refused=str(error))
    decoded, decoding = timed(lambda: frames.unpack(frame, layout).decode(), seconds)
    return Row(
        label,
        config,
        len(frame),
        8 * len(frame) / layout.size,
        ef.nmse(arrays, decoded),
        layout.size / encoding,
        layout.size / decoding,
        codec.unbiased,
        codec.lossless,
    )


def timed(work: Callable[[], Made], seconds: float) -> tuple[Made, float]:
    """What `work` gives, and its median time; at least three runs, then until `seconds` are spent."""
    times: list[float] = []
    while True:
        started = time.perf_counter()
        made = work()
        times.append(time.perf_counter() - started)
        if len(times) >= LEAST_RUNS and (sum(times) >= seconds or len(times) >= MOST_RUNS):
            return made, max(statistics.median(times), 1e-9)


def lines(rows: Sequence[Row]) -> list[str]:
    """The table as text, in order of bits; codecs that refused come last.

    >>> for line in lines([Row("none", {}, 4000, 32.0, 0.0, 1e9, 2e9, lossless=True)]):
    ...     print(line)
    codec    bits/parameter      NMSE   encode M/s   decode M/s
    none            32.000         0        1,000        2,000
    """
    done = sorted((row for row in rows if not row.refused), key=lambda row: row.bits)
    width = max((len(row.label) for row in rows), default=5)
    text = [
        f"{'codec':{width}s}  {'bits/parameter':>16s}  {'NMSE':>8s}  {'encode M/s':>11s}  {'decode M/s':>11s}"
    ]
    for row in done:
        bits = f"{row.bits:.3f}" if row.bits >= 0.1 else f"{row.bits:.4f}"
        figures = f"{bits:>16s}  {row.nmse:8.3g}  {_speed(row.encode)}  {_speed(row.decode)}"
        text.append(
            f"{row.label:{width}s}  {figures}{'  unbiased' if row.unbiased and not row.lossless else ''}"
        )
    text += [f"{row.label:{width}s}  {row.refused}" for row in rows if row.refused]
    return text


def _speed(rate: float) -> str:
    millions = rate / 1e6
    return f"{millions:11,.0f}" if millions >= 100 else f"{millions:11.3g}"
