"""Replies for a strategy that decode when they are looked at, so that one decoded update is in memory at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message

from phloem.engines.flower.records import Exact, Manifest, in_type, replaced
from phloem.tensors import State


class Opened:
    """The newest of the replies that were looked at; the one before is let go of."""

    def __init__(self) -> None:
        self._who: object = None
        self._state: State = {}

    def state(self, who: object, decode: Callable[[], State]) -> State:
        """What `decode` gives, kept until somebody else's is asked for."""
        if self._who is not who:
            self.let_go()  # first
            self._state = decode()
            self._who = who
        return self._state

    def let_go(self) -> None:
        """Keeps nothing: Flower's records refer to themselves, and stay until garbage is collected."""
        self._who, self._state = None, {}


class LazyArray(Array):
    """One array of a reply: its values are decoded when `numpy()` or `data` is asked for."""

    def __init__(self, dtype: str, shape: tuple[int, ...], values: Callable[[], npt.NDArray[Any]]) -> None:
        self.__dict__.update(dtype=dtype, shape=shape, stype="numpy.ndarray", _values=values)

    def numpy(self) -> npt.NDArray[Any]:
        """The values, as an array of the caller's own."""
        return np.array(self.__dict__["_values"]())

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The values in NumPy's file format."""
        buffer = BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()


def lazy_message(
    message: Message, key: str, manifest: Manifest, exact: Exact, decode: Callable[[], State], opened: Opened
) -> Message:
    """`message` with the trained model under `key` in place of its payload."""
    who = object()

    def values_of(name: str, dtype: str) -> Callable[[], npt.NDArray[Any]]:
        if name in exact:
            return lambda: exact[name]
        return lambda: in_type(opened.state(who, decode)[name], dtype)

    record = ArrayRecord()
    for name, dtype, shape in manifest.rows:
        record[name] = LazyArray(dtype, shape, values_of(name, dtype))
    out = copy.copy(message)
    out.content = replaced(message.content, key, record)
    return out
