"""The seam between a run and a task: five calls, arrays in, arrays out."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError, unknown_key
from phloem.tensors import State

Memory = dict[str, npt.NDArray[Any]]
"""What a site keeps between rounds and never sends: optimiser moments, counters, local tensors."""

Keep = Mapping[str, npt.NDArray[np.bool_]]
"""Of a pruned model: for every tensor that lost weights, where it still has them."""

Part = Literal["stop", "test"]
"""`stop` decides when a run ends; `test` is for the final figure and nothing else."""

TASKS: Mapping[str, str] = {
    "digits": "phloem.tasks.digits:Digits",
    "hospitals": "phloem.tasks.hospitals:Hospitals",
    "banks": "phloem.tasks.banks:Banks",
    "code-lm": "phloem.tasks.code_lm:CodeLM",
}
"""The tasks known by a short name, and where each lives."""

_EXTRAS = {"torch": "torch", "sklearn": "tasks"}
_KINDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True, slots=True)
class Metric:
    """The figure that a task is judged by; `Task.evaluate` has it under `name`."""

    name: str
    higher_is_better: bool = True

    def reached(self, value: float, target: float) -> bool:
        """Whether `value` is at least as good as `target`; never for a NaN.

        >>> Metric("loss", higher_is_better=False).reached(1.9, 2.0)
        True
        """
        return value >= target if self.higher_is_better else value <= target


@runtime_checkable
class Task(Protocol):
    """One learning problem spread over named sites.

    A task is built in every process as `Class(sites=[...], seed=int, **options)` and must then answer alike
    everywhere: all randomness comes from the seeds it is given, none from global state. The engine sets the
    number of threads.
    """

    metric: Metric

    def initial_state(self, seed: int) -> State:
        """The model everyone starts from: float32 arrays by name."""
        ...

    def shard(self, site: str) -> object:
        """The site's own training data; called only in the process where the site lives."""
        ...

    def train(
        self, state: State, shard: Any, memory: Memory, seed: int
    ) -> tuple[State, Memory, int, Mapping[str, float]]:
        """The trained state, the site's new memory, the samples it learned from, and metrics of one round.

        Neither `state` nor `memory` is written to. `memory` is empty at first, and is all that the next call
        gets from this one: NumPy arrays of numbers by name (torch tensors become such; bfloat16, texts and
        objects are refused). The samples are a whole number from 0 to below 2^40. A shard too small
        to learn from returns the state as it was and 0 samples.

        A `train` that also takes `keep: Keep | None = None` is told which weights a pruned model has, to hold the
        others at zero while it trains; what comes back for these is not used either way.
        """
        ...

    def evaluate(self, state: State, part: Part) -> Mapping[str, float]:
        """Figures of `state` on the held-out part, `metric.name` among them."""
        ...


def load_task(name_or_path: str, sites: Sequence[str], seed: int, options: Mapping[str, object]) -> Task:
    """The task of that name ("digits") or import path ("package.module:Class"), built for `sites`.

    Raises:
        ConfigError: no such task, a library it needs is missing, an option it does not have or of the wrong
            type, or a class that lacks one of the seam's calls.
    """
    path = TASKS.get(name_or_path, name_or_path)
    if ":" not in path:
        near = difflib.get_close_matches(path, sorted(TASKS), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "use 'package.module:Class', or " + ", ".join(TASKS)
        raise ConfigError(f"there is no task '{name_or_path}'", hint=hint)
    if not sites or len(set(sites)) != len(sites):
        raise ConfigError("a task needs at least one site, each named once", hint="check the recipe's sites")
    factory = _find_class(path)
    _check_options(factory, options, f"task '{name_or_path}'")
    task = factory(sites=list(sites), seed=seed, **options)
    missing = [
        name for name in ("metric", "initial_state", "shard", "train", "evaluate") if not hasattr(task, name)
    ]
    if missing:
        raise ConfigError(
            f"task '{name_or_path}' has no '{missing[0]}'", hint="phloem.tasks.Task lists the calls"
        )
    return cast("Task", task)


def check_range(name: str, value: float, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Nothing, if `value` lies in [low, high] (with `above`: is also more than `low`).

    Raises:
        ConfigError: it does not, or is not finite.
    """
    inside = math.isfinite(value) and (value > low if above else value >= low) and value <= high
    if not inside:
        bound = f"{'more than' if above else 'at least'} {low:g}" + (
            f" and at most {high:g}" if high < math.inf else ""
        )
        raise ConfigError(
            f"option '{name}' must be {bound}, found {value}", hint=f"change '{name}' in the recipe"
        )


def check_part(part: str) -> None:
    """Nothing, if `part` is one that a state can be measured on.

    Raises:
        ConfigError: it is not.
    """
    if part not in ("stop", "test"):
        raise ConfigError(f"a state is evaluated on part 'stop' or 'test', found '{part}'")


def check_site(site: str, sites: Sequence[str]) -> None:
    """Nothing, if `site` is one of `sites`.

    Raises:
        ConfigError: it is not.
    """
    if site not in sites:
        raise ConfigError(f"there is no site '{site}'", hint=f"the sites are {', '.join(sites)}")


def copy_state(state: Mapping[str, npt.NDArray[np.float32]]) -> State:
    """A state of its own with the same values."""
    return {name: np.array(array, dtype=np.float32, order="C") for name, array in state.items()}


def _find_class(path: str) -> Any:
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        lost = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(lost)
        hint = f"pip install 'phloem[{extra}]'" if extra else f"install it, or check the spelling of '{path}'"
        raise ConfigError(f"task '{path}' cannot be imported: {error}", hint=hint) from error
    except ValueError as error:
        raise ConfigError(f"'{path}' is not of the form 'package.module:Class'") from error
    found = getattr(module, class_name, None)
    if not callable(found):
        near = difflib.get_close_matches(class_name, dir(module), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "the part after the colon is the name of a class"
        raise ConfigError(f"module '{module_name}' has no class '{class_name}'", hint=hint)
    return found


def _check_options(factory: Any, options: Mapping[str, object], where: str) -> None:
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters
    except NameError:  # an annotation that only a type checker can resolve: names are checked, types are not
        parameters = inspect.signature(factory).parameters
    known = {name: item for name, item in parameters.items() if name not in ("sites", "seed")}
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in known.values()):
        return
    for name in ("sites", "seed"):
        if name not in parameters:
            raise ConfigError(
                f"{where} does not take '{name}'", hint="define __init__(self, sites, seed, *, …)"
            )
    for name, value in options.items():
        if name not in known:
            raise unknown_key(name, known, where)
        wanted = known[name].annotation
        if wanted not in _KINDS:
            continue
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            raise ConfigError(f"option '{name}' of {where} must be {_KINDS[wanted]}, found {value!r}")
    for name, item in known.items():
        if (
            item.default is inspect.Parameter.empty
            and name not in options
            and item.kind is not item.VAR_POSITIONAL
        ):
            raise ConfigError(
                f"{where} needs the option '{name}'", hint="add it to the recipe's task options"
            )
