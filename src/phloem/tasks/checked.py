"""A task whose answers are checked: what a user's class gives wrong is one sentence with the task, call and site.

Answers are also put in one form, so that a run does not depend on where it was interrupted: a memory holds
little-endian NumPy arrays, whether it comes from the last training or from a snapshot. An exception that the task
itself raises goes through as it is.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from phloem.errors import ConfigError
from phloem.tasks.base import Keep, Memory, Metric, Part, Task
from phloem.tensors import Layout, State, as_float32
from phloem.wire.messages import MOST_EXAMPLES

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_STORABLE = frozenset(("bool", *_INTEGERS, "float16", "float32", "float64", "complex64"))
_RESERVED = "__metadata__"  # safetensors keeps its own entry under this name
_SEAM = "train() gives (state, memory, examples, metrics); phloem.tasks.Task describes them"
_ARRAYS = "give NumPy arrays, such as np.array(3); text and objects cannot be kept"


class CheckedTask:
    """`task` with the same calls and attributes; what its calls give is checked and put in one form."""

    def __init__(self, task: Task, name: str) -> None:
        self._task, self._name = task, name
        metric: Any = task.metric
        if not isinstance(metric, Metric):
            raise ConfigError(
                f"task '{name}' has as its metric {_seen(metric)}, not a phloem.tasks.Metric",
                hint="for example metric = Metric('accuracy')",
            )
        self.metric: Metric = metric
        self._takes_keep = "keep" in inspect.signature(task.train).parameters

    def __getattr__(self, name: str) -> Any:
        if name == "_task":  # not there yet: do not look for it in itself
            raise AttributeError(name)
        return getattr(self._task, name)

    def initial_state(self, seed: int) -> State:
        """As `Task.initial_state`.

        Raises:
            ConfigError: it is no mapping of names to float arrays, or an empty one.
        """
        where = f"task '{self._name}': initial_state()"
        state = _state(self._task.initial_state(seed), where)
        if not state:
            raise ConfigError(f"{where} gave no tensors", hint="give float arrays by name")
        try:
            Layout.of(state)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
        return state

    def shard(self, site: str) -> object:
        """As `Task.shard`."""
        return self._task.shard(site)

    def train(
        self,
        state: State,
        shard: Any,
        memory: Memory,
        seed: int,
        *,
        site: str | None = None,
        keep: Keep | None = None,
    ) -> tuple[State, Memory, int, dict[str, float]]:
        """As `Task.train`; `site` is for messages, `keep` reaches a task that takes it.

        A memory's torch tensors become NumPy arrays (bfloat16 has none, so it is refused), and so do NumPy's
        scalars. Shapes are compared with the model's where the update is made.

        Raises:
            ConfigError: not four values, or one of them is not what `Task.train` describes.
        """
        at = f" at site '{site}'" if site is not None else ""
        where = f"task '{self._name}': train(){at}"
        pruned = {"keep": keep} if keep is not None and self._takes_keep else {}
        answer: Any = self._task.train(state, shard, memory, seed, **pruned)
        if not isinstance(answer, tuple | list):
            raise ConfigError(f"{where} gave {_seen(answer)}, not four values", hint=_SEAM)
        if len(answer) != 4:
            raise ConfigError(f"{where} gave {_count(len(answer))}, not four", hint=_SEAM)
        trained, kept, examples, metrics = answer
        return (
            _state(trained, where),
            _memory(kept, where),
            _examples(examples, where),
            _figures(metrics, f"{where}: its metrics"),
        )

    def evaluate(self, state: State, part: Part) -> dict[str, float]:
        """As `Task.evaluate`.

        Raises:
            ConfigError: it is no mapping of texts to numbers, or the metric's name is not in it.
        """
        where = f"task '{self._name}': evaluate() on part '{part}'"
        figures = _figures(self._task.evaluate(state, part), where)
        if self.metric.name not in figures:
            raise ConfigError(
                f"{where} gave no '{self.metric.name}', the metric the task is judged by",
                hint=f"it gave {', '.join(sorted(figures)) or 'nothing'}",
            )
        return figures


def _state(state: Any, where: str) -> State:
    tensors = {}
    for name, tensor in _items(state, f"{where}: the state", "float arrays"):
        what = f"{where}: tensor '{name}' of the state"
        if not (hasattr(tensor, "dtype") and hasattr(tensor, "shape")):
            raise ConfigError(f"{what} is {_seen(tensor)}, not an array of floats")
        try:
            tensors[name] = as_float32(tensor, name)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
        except (TypeError, ValueError, RuntimeError) as error:  # torch: sparse, without data, of 8 bits
            raise ConfigError(f"{what} cannot be read: {_line(error)}") from error
    return tensors


def _memory(memory: Any, where: str) -> Memory:
    arrays = {}
    for name, value in _items(memory, f"{where}: the memory", "NumPy arrays"):
        what = f"{where}: '{name}' in the memory"
        given = value
        if hasattr(value, "detach"):  # a torch tensor, without importing torch
            try:
                given = value.detach().cpu().numpy()
            except (TypeError, ValueError, RuntimeError) as error:
                raise ConfigError(f"{what} is of {value.dtype}, which NumPy does not have") from error
        if not isinstance(given, np.ndarray | np.generic):
            raise ConfigError(f"{what} is {_seen(value)}, not a NumPy array", hint=_ARRAYS)
        array = np.asarray(given)
        if array.dtype.name not in _STORABLE:
            raise ConfigError(f"{what} is of type {array.dtype}, which cannot be stored", hint=_ARRAYS)
        arrays[name] = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return arrays


def _examples(examples: Any, where: str) -> int:
    try:
        if isinstance(examples, bool | np.bool_):
            raise TypeError
        count = operator.index(examples)
    except TypeError as error:
        raise ConfigError(
            f"{where}: the number of examples is {_seen(examples)}, not a whole number", hint=_SEAM
        ) from error
    if not 0 <= count < MOST_EXAMPLES:
        raise ConfigError(f"{where}: the number of examples must be at least 0 and below 2^40, found {count}")
    return count


def _figures(figures: Any, where: str) -> dict[str, float]:
    return {name: _number(value, f"{where}: '{name}'") for name, value in _items(figures, where, "numbers")}


def _number(value: Any, what: str) -> float:
    plain = value.detach() if hasattr(value, "detach") else value
    try:
        if isinstance(plain, str | bytes | bytearray | bool | np.bool_) or np.shape(plain) != ():
            raise TypeError
        if np.asarray(plain).dtype.kind not in "iufO":  # O: whole numbers beyond 64 bits, fractions, decimals
            raise TypeError
        return float(plain)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ConfigError(f"{what} is {_seen(value)}, not a number") from error


def _items(value: Any, what: str, of: str) -> list[tuple[str, Any]]:
    """The entries of a mapping by text, in its order."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what} must be a dict of {of} by name, found {_seen(value)}")
    for name in value:
        if not isinstance(name, str):
            raise ConfigError(f"{what} must be named by texts, found {_seen(name)}")
        if name == _RESERVED or not _writable(name):
            raise ConfigError(f"{what} has an entry {name!r:.60}, a name that no file can hold")
    return list(value.items())


def _writable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _seen(value: Any) -> str:
    """A value in a few words: None and plain ones as they are, others by their type."""
    if isinstance(value, np.generic):
        return f"{value!s:.60}"
    if value is None or isinstance(value, bool | int | float | str):
        return f"{value!r:.60}"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _count(number: int) -> str:
    return f"{number} value{'' if number == 1 else 's'}"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
