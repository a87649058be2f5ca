"""The codec as functions: `encode` an update, `decode` a frame, keep what was lost in a `Feedback`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from phloem import feedback as ef
from phloem.codecs.base import Codec, Hints
from phloem.codecs.registry import BY_NAME, codec_from
from phloem.errors import ConfigError
from phloem.files.decoding import decode_frame
from phloem.tensors import Array, Layout, State
from phloem.wire import frame as frames


def codec_for(
    codec: str = "ecsq",
    *,
    bits: float | None = None,
    bytes: int | None = None,
    step: float | None = None,
    nmse: float | None = None,
    effort: str = "fast",
    **options: Any,
) -> Codec:
    """The codec that a call of `encode` asks for.

    Raises:
        ConfigError: an unknown codec or option, or not exactly one of bits, bytes, step and nmse for `ecsq`.
    """
    knobs = {"bits": bits, "bytes": bytes, "step": step, "nmse": nmse}
    quality = {key: value for key, value in knobs.items() if value is not None}
    if codec == "ecsq":
        return codec_from({"codec": codec, "effort": effort, **quality, **options})
    kind = BY_NAME.get(codec)
    fields = {field.name for field in dataclasses.fields(kind)} if kind else set(quality)  # type: ignore[arg-type]
    strange = [key for key in quality if key not in fields]
    if strange:
        raise ConfigError(
            f"codec '{codec}' has no '{strange[0]}'",
            hint="of all codecs 'ecsq' has bits, bytes, step and nmse",
        )
    return codec_from({"codec": codec, **quality, **options})


def encode(
    update: Mapping[str, Any],
    *,
    bits: float | None = None,
    bytes: int | None = None,
    step: float | None = None,
    nmse: float | None = None,
    effort: str = "fast",
    codec: str = "ecsq",
    seed: int = 0,
    **options: Any,
) -> bytes:
    """The stand-alone frame of an update: a dict of NumPy arrays or torch tensors, by name.

    Args:
        update: float tensors; they are coded as float32.
        bits: the wanted bits per parameter, names and shapes not counted.
        bytes: the most bytes that the whole frame may take, names and shapes included.
        step: the quantiser step, in the update's own unit.
        nmse: the wanted Σ(error)² ÷ Σ(update)².
        effort: how hard the encoder works at equal quality.
        codec: "ecsq" (needs one of bits, bytes, step, nmse) or any other of the glossary's: "none", "bf16", "int8",
            "topk", "eden", "chain" …
        seed: where the codec's random numbers come from; give every frame its own if the codec has any.
        options: the other fields of the codec, such as `fraction` for "topk" or `stages` for "chain".

    Raises:
        ConfigError: NaN, infinity or integers in the update, or options that do not fit the codec.

    >>> import numpy as np, phloem
    >>> update = {"layer.weight": np.sin(np.arange(4096, dtype=np.float32)).reshape(64, 64)}
    >>> frame = phloem.encode(update, bits=1.0)
    >>> phloem.decode(frame)["layer.weight"].shape
    (64, 64)
    """
    layout = Layout.of(update)
    chosen = codec_for(codec, bits=bits, bytes=bytes, step=step, nmse=nmse, effort=effort, **options)
    return frames.pack(chosen, layout.arrays(update), layout, with_layout=True, hints=Hints(seed=seed))


def decode(frame: bytes, layout: Layout | None = None, *, max_parameters: int = 1 << 31) -> State:
    """The update in a frame, as float32 arrays by name.

    `layout` is needed only for frames from the wire, which leave it out. A frame of a few bytes may claim to be
    zeros without end; one of more than `max_parameters` is refused before anything is allocated. Of a frame that
    `phloem.encode_file` wrote, tensors that are not of a float type come in their own.

    Raises:
        FormatError: the frame is truncated, altered, too large, or of another version or layout.
        ConfigError: the frame carries no layout and none was given, or it has tensors that need its base.
    """
    frame = bytes(memoryview(frame))  # of a number, bytes() would make so many zeros
    if layout is None and frames.stands_alone(frame):
        return decode_frame(frame, max_parameters=max_parameters)
    parts = frames.unpack(frame, layout, max_parameters=max_parameters)
    return parts.layout.named(parts.decode())


class Feedback:
    """Error feedback for a training loop of your own: keeps the residual between calls of `encode`.

    >>> import numpy as np, phloem
    >>> feedback = phloem.Feedback()
    >>> frame = feedback.encode({"w": np.linspace(-1, 1, 1000, dtype=np.float32)}, bits=0.5)
    >>> sorted(phloem.decode(frame))
    ['w']
    """

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._state = ef.Residual()
        self._spare: tuple[Array, ...] | None = None  # the last residual's memory

    def encode(self, update: Mapping[str, Any], *, seed: int = 0, **quality: Any) -> bytes:
        """The stand-alone frame of `update` plus what earlier frames lost.

        The last frame counts as received unless `refused()` was called since. `seed` and `quality` are as for
        `encode`. Of an unbiased codec nothing is owed, because its error would grow from frame to frame.

        Raises:
            ConfigError: other tensors than last time, NaN or infinity. The residual is as before.
        """
        layout = Layout.of(update)
        if self._layout is not None and layout.digest != self._layout.digest:
            raise ConfigError("this update has other tensors than the one before", hint="use a new Feedback")
        arrays, codec = (
            layout.arrays(update),
            codec_for(**quality),
        )  # refusals first: nothing has happened yet
        self._state = ef.resolve(self._state, layout, accepted=True, reuse=True)
        frame, state = ef.send(
            self._state,
            arrays,
            codec,
            layout,
            with_layout=True,
            into=self._spare,
            seed=seed,
        )
        self._spare, self._state, self._layout = self._state.owed, state, layout
        return frame

    def refused(self) -> None:
        """Takes the last frame back: it was refused or lost, and is owed again."""
        if self._layout is not None:
            self._state = ef.resolve(self._state, self._layout, accepted=False)

    def state_dict(self) -> State:
        """The residual by name, empty where nothing is owed; save it with your own checkpoint."""
        if self._layout is None:
            return {}
        settled = ef.resolve(self._state, self._layout, accepted=True)
        if settled.owed is None:
            return {}
        return self._layout.named([array.copy() for array in settled.owed])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a residual that `state_dict` gave."""
        if not state:
            self._layout, self._state, self._spare = None, ef.Residual(), None
            return
        self._layout, self._spare = Layout.of(state), None
        self._state = ef.Residual(owed=tuple(array.copy() for array in self._layout.arrays(state)))
