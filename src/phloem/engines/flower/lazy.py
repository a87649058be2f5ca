"""Records whose arrays are made when they are looked at.

Those of a reply decode then, so that one decoded update is in memory at a time; those of the trunk at a node, which
holds it already, are copied then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, RecordDict

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


def lazy_record(manifest: Manifest, state: Mapping[str, Any], exact: Exact) -> ArrayRecord:
    """The app's record again, as `Manifest.join` makes it, without a copy before an array is looked at."""

    def values_of(name: str, dtype: str) -> Callable[[], npt.NDArray[Any]]:
        return lambda: exact[name] if name in exact else in_type(state[name], dtype)

    return _record(manifest, values_of)


def without_lazy(content: RecordDict) -> RecordDict:
    """The same content with arrays that can travel in place of those that decode when they are looked at."""
    for key, record in content.array_records.items():
        if any(isinstance(array, LazyArray) for array in record.values()):
            arrays = {name: Array(np.asarray(array.numpy())) for name, array in record.items()}
            content = replaced(content, str(key), ArrayRecord(arrays))
    return content


def lazy_message(
    message: Message, key: str, manifest: Manifest, exact: Exact, decode: Callable[[], State], opened: Opened
) -> Message:
    """`message` with the trained model under `key` in place of its payload."""
    who = object()

    def values_of(name: str, dtype: str) -> Callable[[], npt.NDArray[Any]]:
        if name in exact:
            return lambda: exact[name]
        return lambda: in_type(opened.state(who, decode)[name], dtype)

    out = copy.copy(message)
    out.content = replaced(message.content, key, _record(manifest, values_of))
    return out


def _record(
    manifest: Manifest, values_of: Callable[[str, str], Callable[[], npt.NDArray[Any]]]
) -> ArrayRecord:
    record = ArrayRecord()
    for name, dtype, shape in manifest.rows:
        record[name] = LazyArray(dtype, shape, values_of(name, dtype))
    return record
