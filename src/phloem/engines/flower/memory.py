"""What a strategy remembers from round to round (moments, a clipping norm that adapts), so that a run can go on.

Flower's strategies keep it in their attributes. Arrays are saved; numbers only if they moved since the strategy was
made, so that a setting that the user changes for the rest of a run is not set back; and what a privacy accountant has
counted.

An array's path is that of its attribute, and where the attribute holds several, what they are in (`/` a dict, `@` an
ArrayRecord, `#` a list), the place there, and the name if it has one: `strategy.m_t/0:weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from phloem.errors import ConfigError

_KINDS: dict[type[Any], str] = {dict: "/", ArrayRecord: "@", list: "#"}
_SET_ANEW = "current_arrays"  # in every configure_train; as large as the model

Numbers = dict[str, float]
Arrays = dict[str, npt.NDArray[Any]]
Ledgers = dict[str, Any]


def numbers_of(strategy: Strategy) -> Numbers:
    """The numbers among the attributes, by path."""
    return {path: float(value) for path, _, _, value in _attributes(strategy) if _is_number(value)}


def arrays_of(strategy: Strategy) -> Arrays:
    """The arrays among the attributes, by path."""
    found: Arrays = {}
    for path, _, _, value in _attributes(strategy):
        if _is_number(value):
            continue
        if _is_array(value):
            found[path] = np.asarray(value)
            continue
        for place, (name, array) in enumerate(_members(value)):
            found[f"{path}{_KINDS[type(value)]}{place}:{name}"] = np.asarray(array)
    return found


def ledgers_of(strategy: Strategy) -> Ledgers:
    """What privacy accountants have counted, by path."""
    return {path: value.state_dict() for path, _, _, value in _attributes(strategy) if _is_accountant(value)}


def restore(strategy: Strategy, numbers: Numbers, arrays: Mapping[str, Any], ledgers: Ledgers) -> None:
    """Puts back what `arrays_of` and `ledgers_of` found, and the numbers given.

    Raises:
        ConfigError: they are of another strategy; nothing was put back.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for path, array in arrays.items():
        owner, kind, member = re.fullmatch(r"([^/@#]+)([/@#]?)(.*)", path, re.DOTALL).groups()  # type: ignore[union-attr]
        groups.setdefault((owner, kind), {})[member] = np.array(array)
    places = {path: (owner, name, value) for path, owner, name, value in _attributes(strategy)}
    for path in sorted({*(path for path, _ in groups), *numbers, *ledgers}):
        if path not in places:
            raise ConfigError(
                f"the record is of a run with another strategy: this one has no '{path}'",
                hint="choose another `state` directory, or start with the strategy that the run was started with",
            )
    for (path, kind), group in groups.items():
        owner, name, _ = places[path]
        setattr(owner, name, _rebuilt(kind, group))
    for path, number in numbers.items():
        owner, name, value = places[path]
        setattr(owner, name, type(value)(number) if _is_number(value) else number)
    for path, state in ledgers.items():
        places[path][2].load_state_dict(state)


def _members(value: Any) -> list[tuple[str, Any]]:
    """(name, array) of all that an attribute holds, in order; none where it holds anything else too."""
    if isinstance(value, ArrayRecord):
        return [(name, array.numpy()) for name, array in value.items()]
    if type(value) is dict and all(isinstance(n, str) and _is_array(a) for n, a in value.items()):
        return list(value.items())
    if type(value) is list and all(map(_is_array, value)):
        return [("", array) for array in value]
    return []


def _rebuilt(kind: str, group: dict[str, Any]) -> Any:
    if not kind:
        return group[""]
    places = sorted((int(member.partition(":")[0]), member) for member in group)
    members = {member.partition(":")[2]: group[member] for _, member in places}
    if kind == "#":
        return [group[member] for _, member in places]
    return members if kind == "/" else ArrayRecord({name: Array(array) for name, array in members.items()})


def _attributes(strategy: Strategy, prefix: str = "") -> Iterator[tuple[str, Strategy, str, Any]]:
    """(path, owner, name, value) of every attribute, those of wrapped strategies too."""
    for name, value in sorted(vars(strategy).items()):
        if isinstance(value, Strategy):
            yield from _attributes(value, f"{prefix}{name}.")
        elif name != _SET_ANEW:
            yield f"{prefix}{name}", strategy, name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_array(value: Any) -> bool:
    """Also a NumPy scalar, which is what arithmetic on arrays of no dimension gives."""
    return isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf"


def _is_accountant(value: Any) -> bool:
    return all(
        callable(getattr(value, name, None))
        for name in ("get_privacy_spent", "load_state_dict", "state_dict")
    )
