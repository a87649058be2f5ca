"""Error feedback: what a codec lost stays with the sender and is added to its next update.

Source: Seide et al., 1-bit stochastic gradient descent, 2014; Karimireddy et al., Error feedback fixes signSGD,
2019, Algorithm 1. The residual never travels and the decoder never needs it.

All arithmetic is one float32 addition or subtraction per value; the kernels do it in the passes that look at the
values anyway.

An unbiased codec leaves no residual: its error has mean zero, and may be larger than the update (random-k, TernGrad),
so that fed back it would grow from frame to frame without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from phloem.codecs.base import Codec, Hints
from phloem.errors import ConfigError
from phloem.kernels import backend
from phloem.tensors import Array, Layout
from phloem.wire import frame as frames

_SAMPLE = 1 << 18


@dataclass(frozen=True, slots=True)
class Residual:
    """What a sender owes to its receivers, as explicit state.

    Attributes:
        owed: the residual; None stands for zeros.
        sent: the frame in flight, whose fate is not known yet.
        step: the quantiser step of the last frame, a good first guess for the next.
        forgives: the frame in flight is an unbiased codec's: once it is accepted nothing is owed.
    While a frame is in flight `owed` is the whole compensated update, so that a refused or lost frame costs
    nothing: what was owed is owed again.
    """

    owed: tuple[Array, ...] | None = None
    sent: bytes | None = None
    step: float | None = None
    forgives: bool = False


def send(
    state: Residual,
    update: Sequence[Array],
    codec: Codec,
    layout: Layout,
    *,
    with_layout: bool = False,
    into: Sequence[Array] | None = None,
    seed: int = 0,
    slack: float = 0.0,
) -> tuple[bytes, Residual]:
    """The frame for update + residual, and the state while it is in flight.

    The new state's arrays are `into`, which are overwritten, or new ones. `update` itself may be given there by a
    caller who does not need it any more; the arrays of `state` may not, so that an error costs nothing. `seed` is
    where the codec's random numbers come from; give every frame its own. `slack` is as in `Hints`.

    Raises:
        ConfigError: a tensor holds NaN or infinity (the state is unchanged), or a frame is still in flight.
    """
    if state.sent is not None:
        raise ConfigError("the last frame's fate is still open", hint="settle it before the next frame")
    kernels = backend()
    owed = tuple(np.empty(array.shape, np.float32) for array in update) if into is None else tuple(into)
    if state.owed is None:
        for target, array in zip(owed, update, strict=True):
            if target is not array:
                np.copyto(target, array)
        extent, broken = kernels.ecsq_extent(owed)
    else:
        extent, broken = kernels.ecsq_extent_of_sum(update, state.owed, owed)
    if broken >= 0:
        raise frames.not_finite(layout, broken)
    hints = Hints(guess=state.step, seed=seed, extent=extent, slack=slack)
    frame = frames.pack(codec, owed, layout, hints=hints, with_layout=with_layout)
    forgives = codec.unbiased and not codec.lossless
    return frame, Residual(owed, frame, frames.step_of(frame, layout) or state.step, forgives)


def settle(state: Residual, layout: Layout, *, accepted: bool) -> tuple[Residual, list[Array] | None]:
    """The state once the frame's fate is known, and what the receivers decoded if they took it.

    Accepted: the residual is what the codec lost. Refused, late or lost: all of it is owed again.
    """
    if state.sent is None or not accepted or state.owed is None:
        return resolve(state, layout, accepted=accepted), None
    decoded = frames.unpack(state.sent, layout).decode()
    if state.forgives:
        return Residual(None, None, state.step), decoded
    with np.errstate(over="ignore"):
        rest = tuple(np.asarray(owed - value) for owed, value in zip(state.owed, decoded, strict=True))
    return Residual(rest, None, state.step), decoded


def resolve(state: Residual, layout: Layout, *, accepted: bool, reuse: bool = False) -> Residual:
    """The state once the frame's fate is known, to the bit that of `settle`, mostly without decoding.

    With `reuse` the new state's arrays are those of `state`, overwritten.
    """
    if state.sent is None:
        return state
    if not accepted or state.owed is None:
        return Residual(state.owed, None, state.step)
    if state.forgives:
        return Residual(None, None, state.step)
    rest = state.owed if reuse else tuple(array.copy() for array in state.owed)
    frames.unpack(state.sent, layout).subtract_from_sender(rest)
    return Residual(rest, None, state.step)


def norm(arrays: Iterable[Array] | None) -> float:
    """The Euclidean norm over all tensors, summed in float64."""
    if arrays is None:
        return 0.0
    return float(np.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays)))


def sampled_power(arrays: Sequence[Array] | None) -> float:
    """The sum of squares over every n-th value, about a quarter of a million of them; all where there are fewer."""
    if arrays is None:
        return 0.0
    stride = max(1, sum(array.size for array in arrays) // _SAMPLE)
    sampled = (array.reshape(-1)[::stride] for array in arrays)
    return sum(float(np.square(values, dtype=np.float64).sum()) for values in sampled)


def nmse(wanted: Sequence[Array], decoded: Sequence[Array]) -> float:
    """Σ(wanted − decoded)² ÷ Σ wanted², 0 for an exact copy (and for zeros sent as zeros)."""
    power = norm(wanted)
    lost = norm(w - d for w, d in zip(wanted, decoded, strict=True))  # one tensor's difference at a time
    return 0.0 if lost == 0 else (lost / power) ** 2 if power else float("inf")
