"""Merges of branches: what is merged, how, and the same again from what was written down.

A merge's *recipe* is part of its commit. It names the common base, the commits that were merged with their weights, the
method with all its options, what was drawn or decided on the way, and the tensors that stayed the branch's own.
With the states of those commits anyone gets the same bits: that is what `verify --replay` does, and what makes a
merge without one contribution possible later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from phloem import canonical
from phloem.branches import methods
from phloem.branches.committing import check_same
from phloem.branches.objects import Objects
from phloem.branches.records import check_digest
from phloem.branches.restore import Restored
from phloem.branches.spill import OneTensor, Spilled, groups
from phloem.errors import ConfigError, FormatError, ProofError
from phloem.files.dtypes import CODED, Raw, rounded
from phloem.files.sources import matching
from phloem.files.tensorfile import Progress, TensorFileWriter, bytes_of
from phloem.tensors import TensorSpec

#: The scales that a search tries: beyond them task vectors of fine-tuned models fall apart.
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: Gives a number for the model in a safetensors file: the more, the better.
Score = Callable[[Path], float]


@dataclass(frozen=True)
class Merged:
    """One commit that is merged.

    Attributes:
        commit: its digest.
        name: what it was called: a branch's name.
        weight: how much it counts; what that means is the method's business.
    """

    commit: str
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """How a merge was made; with the states that it names, everything that a replay needs.

    Attributes:
        base: the commit that changes are counted from.
        into: the commit that the branch had before: tensors that are kept, or that cannot be merged, are its own.
        branches: what was merged.
        method: with all its options.
        resolved: what the method decided from the models (`Method.resolve`).
        key: where its random masks come from.
        keep_local: a regular expression, for people to read: tensors in whose names it was found stay those of `into`.
        local: the names of those tensors; what counts.
        excluded: names that were left out of a merge that was made again.
        again: the merge that this one repeats without them.
        search: the scales that were tried, and the score of each.
    """

    base: str
    into: str
    branches: tuple[Merged, ...]
    method: Mapping[str, Any]
    resolved: Mapping[str, Any] = field(default_factory=dict)
    key: int = 0
    keep_local: str | None = None
    local: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    again: str | None = None
    search: tuple[tuple[float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The recipe as a commit has it."""
        plain: dict[str, Any] = canonical.plain(self)
        return plain

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """The recipe that a commit has.

        Raises:
            FormatError: it is none.
        """
        if set(said) != {f.name for f in fields(cls)}:
            raise FormatError("expected the recipe of a merge, found other keys than one has")
        try:
            branches = tuple(Merged(**row) for row in said["branches"])
            for digest in (said["base"], said["into"], *(row.commit for row in branches)):
                check_digest(digest)
            methods.from_json(said["method"])
            weights = [row.weight for row in branches]
            if not all(type(w) in (int, float) for w in weights) or type(said["key"]) is not int:
                raise FormatError("expected the weights and the key of a merge as numbers")
            rest: dict[str, Any] = {
                "branches": branches,
                "local": tuple(said["local"]),
                "excluded": tuple(said["excluded"]),
                "search": tuple((float(scale), float(score)) for scale, score in said["search"]),
            }
            names = [*(row.name for row in branches), *rest["local"], *rest["excluded"]]
            names += [said[key] for key in ("keep_local", "again") if said[key] is not None]
            if not all(isinstance(name, str) for name in names) or not isinstance(said["resolved"], dict):
                raise FormatError("expected the names in a merge's recipe as texts")
        except (TypeError, KeyError, ValueError, OverflowError, RecursionError) as error:
            raise FormatError(f"expected the recipe of a merge: {error}") from error
        return cls(**{**said, **rest})

    @property
    def commits(self) -> set[str]:
        """Every commit that it names as a part of the merge."""
        return {self.base, self.into, *(row.commit for row in self.branches)}

    def without(self, names: Sequence[str], again: str) -> Recipe:
        """The recipe of the same merge without some of its contributions.

        Raises:
            ConfigError: one of them took no part, or none is left.
        """
        known = [row.name for row in self.branches]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"'{name}' took no part in that merge", hint=f"those did: {', '.join(known)}"
                )
        left = tuple(row for row in self.branches if row.name not in names)
        if not left:
            raise ConfigError("without them nothing is left to merge")
        excluded = (*self.excluded, *names)
        pattern = self.keep_local if self.local else None
        return replace(
            self, branches=left, excluded=excluded, again=again, resolved={}, search=(), keep_local=pattern
        )


@dataclass(frozen=True)
class Outcome:
    """What a merge gave, in a file.

    Attributes:
        recipe: with what was decided on the way.
        kept: tensors that are the branch's own because they are no floating-point values, and differ.
    """

    recipe: Recipe
    kept: tuple[str, ...]


def merge_to(
    path: Path, recipe: Recipe, objects: Objects, scratch: Path, progress: Progress, *, again: bool = False
) -> Outcome:
    """Writes the model that a recipe gives to a safetensors file; memory is bounded by a few tensors.

    With `again` it is a replay: what the method decides on must be what the recipe says, and the recipe's own numbers,
    whose last bits no other machine need have, are used.

    Raises:
        ConfigError: the models do not fit each other or the method, or hold NaN. FormatError: something is damaged.
        ProofError: the recipe says that the method decided otherwise than it does.
    """
    method = methods.from_json(recipe.method)
    weights = [row.weight for row in recipe.branches]
    method.check(weights)
    into = _restored(objects, recipe.into, "the branch that is merged into")
    states = [_restored(objects, row.commit, row.name) for row in recipe.branches]
    base = _restored(objects, recipe.base, "the base")
    for state in (base, *states):
        _check(state, into)
    labels = [row.name for row in recipe.branches]
    if len(set(labels)) != len(labels):
        raise ConfigError("a merge takes every branch once", hint=f"found {', '.join(labels)}")
    if recipe.keep_local is not None and not recipe.local and not again:
        recipe = replace(recipe, local=local_names(recipe.keep_local, into))
    driver = _Driver(method, recipe, weights, labels, [into, base, *states], scratch, progress)
    resolved = dict(method.resolve(driver.survey() if method.needs_survey else None, weights))
    if not again:
        recipe = replace(recipe, resolved=resolved)
    elif not _agree(recipe.resolved, resolved):
        raise ProofError(f"the recipe says that {method.name} decided otherwise than it does")
    kept = driver.write(path, recipe)
    return Outcome(recipe, kept)


def search(
    path: Path,
    recipe: Recipe,
    objects: Objects,
    scratch: Path,
    progress: Progress,
    score: Score,
    scales: Sequence[float] = SCALES,
) -> Outcome:
    """The merge at the scale with the best score (of equal ones the smaller), with all scores in its recipe.

    Raises:
        ConfigError: the method has no scale; or as `merge_to`.
    """
    if "scale" not in methods.to_json(methods.from_json(recipe.method)):
        raise ConfigError(f"merge method '{recipe.method['name']}' has no scale to search for")
    best: tuple[float, Outcome] | None = None
    tried: list[tuple[float, float]] = []
    candidate = scratch / "candidate.safetensors"
    for scale in scales:
        at = replace(recipe, method={**recipe.method, "scale": scale})
        outcome = merge_to(candidate, at, objects, scratch, progress)
        found = float(score(candidate))
        tried.append((scale, found))
        if found == found and (best is None or found > best[0]):
            best = (found, outcome)
            candidate.replace(path)
    if best is None:
        raise ConfigError("no scale got a score that is a number", hint="look at what the evaluation prints")
    return replace(best[1], recipe=replace(best[1].recipe, search=tuple(tried)))


@dataclass
class _Driver:
    """One merge: the states are [into, base, branches…]."""

    method: methods.Method
    recipe: Recipe
    weights: list[float]
    labels: list[str]
    states: list[Restored]
    scratch: Path
    progress: Progress

    def __post_init__(self) -> None:
        self.into = self.states[0]
        self.places = range(2, len(self.states))
        self.local = set(self.recipe.local)

    def survey(self) -> Any:
        """The method's statistic of the whole model."""
        total: Any = None
        for spilled, specs in self._groups("comparing branches"):
            for spec in specs:
                if spec.name in self.local or spec.dtype not in CODED:
                    continue
                base = spilled.values(1, spec)
                found = self.method.survey(spec.name, base, self._tensor(spilled, spec))
                total = found if total is None else total + found
        return total

    def write(self, path: Path, recipe: Recipe) -> tuple[str, ...]:
        """Writes the merged model; gives the names of tensors that could not be merged."""
        kept: list[str] = []
        with path.open("w+b") as file:
            writer = TensorFileWriter(file, self.into.contents)
            for spilled, specs in self._groups("merging"):
                for spec in specs:
                    writer.write(spec, self._merged(spilled, spec, recipe, kept))
        return tuple(sorted(kept))

    def _merged(self, spilled: Spilled, spec: TensorSpec, recipe: Recipe, kept: list[str]) -> Raw:
        if spec.name in self.local:
            return spilled.raw(0, spec)
        digests = {self.states[place].digests[spec.name] for place in self.places}
        if spec.dtype not in CODED or spec.dtype == "float64":
            if len(digests) == 1:
                return spilled.raw(2, spec)
            if spec.dtype == "float64":
                raise ConfigError(
                    f"tensor '{spec.name}' is float64, and merges work in float32",
                    hint="leave it out with --keep-local, or commit the models in float32",
                )
            kept.append(spec.name)
            return spilled.raw(0, spec)
        base = spilled.values(1, spec)
        values = self.method.tensor(
            spec.name, base, self._tensor(spilled, spec), self.weights, recipe.resolved, recipe.key
        )
        return rounded(values.reshape(-1), spec.dtype)

    def _tensor(self, spilled: Spilled, spec: TensorSpec) -> OneTensor:
        return OneTensor(spilled, spec, self.places, self.labels)

    def _groups(self, what: str) -> Iterator[tuple[Spilled, list[TensorSpec]]]:
        done = 0
        for specs in groups(self.into):
            spilled = Spilled(self.scratch / "group", self.states, specs)
            try:
                yield spilled, specs
            finally:
                spilled.close()
            done += sum(map(bytes_of, specs))
            self.progress(what, done, self.into.size_bytes)


def local_names(pattern: str, state: Restored) -> tuple[str, ...]:
    """The tensors in whose names a regular expression is found.

    Raises:
        ConfigError: it is no regular expression, or is found in none.
    """
    try:
        found = matching(state.contents, pattern)
    except ConfigError as error:
        raise ConfigError(error.message.replace("only:", "keep-local:"), hint=error.hint) from error
    return tuple(spec.name for spec in found.specs)


def _agree(said: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether two machines decided alike: choices are the same, and numbers as near as sums in another order give."""
    if set(said) != set(found):
        return False
    for key, value in found.items():
        one, other = said[key], value
        if key == "chosen":
            if one != other:
                return False
            continue
        if not isinstance(one, list) or len(one) != len(other):
            return False
        for mine, theirs in zip(one, other, strict=True):
            numbers = all(type(v) in (int, float) for v in (mine, theirs))
            if mine != theirs and not (numbers and math.isclose(mine, theirs, rel_tol=1e-6, abs_tol=1e-7)):
                return False
    return True


def _restored(objects: Objects, commit: str, name: str) -> Restored:
    return Restored(objects, objects.entry(commit).state, name=name)


def _check(state: Restored, into: Restored) -> None:
    try:
        check_same(state, into)
    except ConfigError as error:
        raise ConfigError(
            error.message,
            hint="merged branches have the same tensors: the same architecture, and the same vocabulary",
        ) from error
