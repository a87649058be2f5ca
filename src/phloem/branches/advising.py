"""`advise`: should these branches be merged, kept apart, or merged in groups?

What counts is how well each site is served on its own data: branches that stay apart win where sites differ, and lose
where they do not, because each saw only its own few examples. There are two kinds of advice:

- With a `score` of each site, branches and merges of all or of groups are scored by the sites, and what serves them
  best on average is advised; where the scores cannot tell, the states decide.
- From the states alone: what any site would have taught moves all branches the same way, the more so the less the base
  had learnt. So they are merged if the median cosine of two changes is at least `LINE + SLOPE · (mean norm of the
  changes ÷ norm of the base)`. That cannot tell what is a site's own from the noise of few examples.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phloem.branches import history
from phloem.branches.arithmetic import Doubles
from phloem.branches.comparing import layer_of
from phloem.branches.merging import Merged, Recipe, Score, merge_to
from phloem.branches.methods import from_json, to_json
from phloem.branches.records import Commit
from phloem.branches.restore import Restored
from phloem.branches.spill import OneTensor, Spilled, groups
from phloem.errors import ConfigError
from phloem.files.dtypes import CODED
from phloem.files.tensorfile import Progress, bytes_of, silent

if TYPE_CHECKING:
    from phloem.branches.repository import Repository

#: What fits best to the digits CNN with four trunks, seeds 100 to 104 (`benchmarks/merging.py advice --fit`).
LINE, SLOPE = 0.17, 0.2
NEAR = 0.05  # to the line: there the states say little
GROUPED = 0.25  # cosines within groups above those between them; and then no branch may be left alone
STEPS = (1.5, 2.0, 3.0)  # of task arithmetic, in times the mean change: scored besides the mean
APART, MERGE, GROUPS = "keep apart", "merge", "groups"
Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Branch:
    """‖change‖ ÷ ‖base‖ (None for a base of zeros), and its cosine with the mean change of the others."""

    name: str
    moved: float | None
    others: float


@dataclass(frozen=True)
class Pair:
    """Two changes: their cosine, how many of the values that moved in both went the same way, ‖second‖ ÷ ‖first‖.

    Coding with loss takes from a cosine; the one here is that before coding, too large where they are much alike.
    """

    first: str
    second: str
    cosine: float
    signs: float
    norms: float


@dataclass(frozen=True)
class Layer:
    """The changes of all branches in one layer, or in all of them.

    Attributes:
        moved: the mean norm of the changes ÷ the norm of the base; None where that is 0.
        cosine, signs: means over the pairs.
        left: the norm of the mean change ÷ the mean of the norms: what averaging does not cancel.
    """

    name: str
    parameters: int
    moved: float | None
    cosine: float
    signs: float
    left: float

    @classmethod
    def of(cls, name: str, sums: Doubles) -> Layer:
        """The layer with these sums (see `sums_of`)."""
        norms, pairs = np.sqrt(np.diag(sums[0])), np.triu_indices(sums.shape[1] - 1, 1)
        same, both = (float(one[1:, 1:][pairs].sum()) for one in sums[1:])
        moved = float(norms[1:].mean() / norms[0]) if norms[0] else None
        cosine, signs = (
            float(cosines(sums)[1:, 1:][pairs].mean()),
            (both + same) / (2 * both) if both else 0.5,
        )
        left = math.sqrt(max(0.0, float(sums[0, 1:, 1:].mean()))) / float(norms[1:].mean())
        return cls(name, int(sums[2, 0, 0]), moved, cosine, signs, left)


@dataclass(frozen=True)
class Trial:
    """What each site's score said of what it would be served with."""

    what: str
    scores: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean over the sites."""
        return statistics.fmean(self.scores.values())


@dataclass(frozen=True)
class Evidence:
    """What an advice rests on.

    Attributes:
        base: the commit that changes are counted from; None if there is none.
        obstacles: why a branch cannot be merged at all, by its name.
        total: all layers as one; None with fewer than two branches that can be merged.
        cosine, line: the median over the pairs, and what it was compared with.
        trials, noise: what was scored, first every branch alone; the standard error of the best one's gain over that.
    """

    base: str | None = None
    obstacles: Mapping[str, str] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    pairs: tuple[Pair, ...] = ()
    layers: tuple[Layer, ...] = ()
    total: Layer | None = None
    cosine: float | None = None
    line: float = LINE
    trials: tuple[Trial, ...] = ()
    noise: float | None = None


@dataclass(frozen=True)
class Advice:
    """What to do with branches.

    Attributes:
        verdict: "merge", "keep apart" or "groups".
        groups: the branches, by what they would be merged with.
        words: what speaks for it, and how sure it is; a sentence each.
    """

    verdict: str
    groups: Groups
    evidence: Evidence
    words: tuple[str, ...]


def advise(
    repo: Repository,
    names: Sequence[str],
    into: str | None = None,
    *,
    score: Mapping[str, Score] | None = None,
    progress: Progress = silent,
) -> Advice:
    """Whether to merge these branches; nothing changes.

    Args:
        repo: the repository.
        names: two or more branches.
        into: a branch that they would be merged into; what it has done since takes no part.
        score: by name, how good a model file is on the site's own held-out data: the more, the better, in one unit.
        progress: told what is being done, and how far it is.

    Raises:
        ConfigError: fewer than two names, one twice, or other scores. FormatError: what is stored is damaged.
    """
    if len(set(names)) != len(names) or len(names) < 2:
        raise ConfigError("advice is on two or more branches, each named once", hint="phloem advise A B C")
    if score is not None and (odd := set(score) ^ set(names)):
        raise ConfigError(f"every branch needs a score of its own, and nothing else does: see '{min(odd)}'")
    commits = {name: repo.resolve(name) for name in names}
    heads = [*commits.values(), *([repo.resolve(into)] if into else [])]
    try:
        base = history.merge_base(heads, repo.objects.catalog.commits())
    except ConfigError as error:
        evidence = Evidence(obstacles=dict.fromkeys(names, error.message))
        return _all_or_none(names, evidence, (error.message,), merge=False)
    with repo.folder.scratch() as scratch:
        evidence = _evidence(repo, base, commits, scratch, progress)
        able, lost = [branch.name for branch in evidence.branches], evidence.obstacles
        why = tuple(f"{name} cannot take part: {said}" for name, said in lost.items())
        if not able:
            return _all_or_none(names, evidence, why, merge=False)
        found = by_states(able, evidence)
        if score is not None:
            found = by_scores(able, found, _trials(repo, commits, evidence, score, scratch, progress))
    verdict = GROUPS if lost and found.verdict == MERGE else found.verdict
    groups = (*found.groups, *((name,) for name in lost))
    return replace(found, verdict=verdict, groups=groups, words=found.words + why)


def _evidence(
    repo: Repository, base: str, commits: Mapping[str, str], scratch: Path, progress: Progress
) -> Evidence:
    """What the states say."""
    states = {name: Restored(repo.objects, repo.objects.entry(commits[name]).state) for name in commits}
    start = Restored(repo.objects, repo.objects.entry(base).state)
    obstacles = {name: why for name, state in states.items() if (why := _obstacle(state, start))}
    able = [name for name in states if name not in obstacles]
    layers = sums_of(start, [states[name] for name in able], scratch, progress)
    sums = sum(layers.values(), np.zeros((3, len(able) + 1, len(able) + 1)))
    for name, norm in zip(able, np.diag(sums[0])[1:], strict=True):
        if not 0 < norm < math.inf:
            still, wrong = "it has changed nothing since the base", "it or the base has NaN or infinities"
            obstacles[name] = wrong if norm else still
    places = [0, *(n for n, name in enumerate(able, start=1) if name not in obstacles)]
    able = [name for name in able if name not in obstacles]
    if len(able) < 2:
        return Evidence(base, obstacles)
    pick = np.ix_(range(3), places, places)
    rows = tuple(Layer.of(name, one[pick]) for name, one in layers.items() if one[pick][0, 1:, 1:].any())
    kept = {name: _kept(repo.objects.commit(commits[name]), base) for name in able}
    return described(kept, Evidence(base, obstacles, layers=rows), sums[pick])


def _kept(commit: Commit, base: str) -> float:
    """What coding leaves of a change's length: √(1 − NMSE); of many commits only the last one's loss is left."""
    lost = commit.drift.relative if commit.drift and commit.parents == (base,) else 0.0
    return math.sqrt(max(0.1, 1 - lost**2))


def _trials(
    repo: Repository, commits: Mapping[str, str], evidence: Evidence, score: Mapping[str, Score], *rest: Any
) -> list[Trial]:
    """What the sites' scores say; `rest` is the scratch directory and what is told of the progress."""
    names = [branch.name for branch in evidence.branches]
    path, base = rest[0] / "candidate.safetensors", evidence.base or ""

    def merged(group: Sequence[str], weights: Sequence[float] = (), **method: Any) -> dict[str, float]:
        factors = weights or [1.0] * len(group)
        rows = tuple(Merged(commits[n], n, w) for n, w in zip(group, factors, strict=True))
        recipe = Recipe(base, base, rows, to_json(from_json(method or {"name": "mean"})))
        merge_to(path, recipe, repo.objects, *rest)
        found = {name: float(score[name](path)) for name in group}
        if odd := [name for name, value in found.items() if not math.isfinite(value)]:
            raise ConfigError(f"the score of '{odd[0]}' is {found[odd[0]]}, not a number")
        return found

    trials = [Trial("apart", {name: merged([name])[name] for name in names}), Trial("mean", merged(names))]
    counts = [float(repo.objects.commit(commits[name]).examples or 0) for name in names]
    if all(counts) and len(set(counts)) > 1:
        trials.append(Trial("mean by examples", merged(names, counts)))
    for scale in (round(step / len(names), 4) for step in STEPS):
        what = f"task-arithmetic at scale {scale:g}"
        trials.append(Trial(what, merged(names, name="task-arithmetic", scale=scale)))
    if 1 < len(several := grouped(names, evidence)) < len(names):
        served = [merged(group) for group in several]
        trials.append(Trial(GROUPS, {name: one[name] for one in served for name in one}))
    return trials


def _obstacle(state: Restored, base: Restored) -> str | None:
    """Why a state cannot be merged with others of this base, if so."""
    mine, theirs = ({spec.name: spec for spec in one.contents.specs} for one in (state, base))
    if other := sorted(set(theirs) ^ set(mine)):
        return f"the tensor '{other[0]}' is " + ("missing" if other[0] in theirs else "not in the base")
    for name, spec in mine.items():
        was, said = theirs[name], f"the tensor '{name}' is {spec.dtype} {list(spec.shape)}"
        if (spec.shape, spec.dtype) != (was.shape, was.dtype):
            rows = " (another vocabulary?)" * (len(spec.shape) == 2 and spec.shape[1:] == was.shape[1:])
            return f"{said}, and {was.dtype} {list(was.shape)} in the base{rows}"
        if spec.dtype == "float64" and state.digests[name] != base.digests[name]:
            return f"{said}, and merges work in float32"
    return None


def sums_of(
    base: Restored, states: Sequence[Restored], scratch: Path, progress: Progress
) -> dict[str, Doubles]:
    """By layer, three matrices over the base (place 0) and the changes of the states: everything follows from them.

    Their inner products; of the values that moved in both of two, how many went the same way less the others; and how
    many there are (at 0, 0: all values). A state that holds NaN or infinities has NaN there.
    """
    found: dict[str, Doubles] = {}
    places, done = range(len(states) + 1), 0
    for specs in groups(base):
        with closing(Spilled(scratch / "compared", [base, *states], specs)) as spilled:
            for spec in specs if states else ():
                total = found.setdefault(layer_of(spec.name), np.zeros((3, len(places), len(places))))
                for _, part in OneTensor(spilled, spec, places, ()).chunks() if spec.dtype in CODED else ():
                    with np.errstate(invalid="ignore", over="ignore"):
                        total += _sums(part.astype(np.float64))
        done += sum(map(bytes_of, specs))
        progress("comparing branches", done, base.size_bytes)
    return found


def _sums(values: Doubles) -> Doubles:
    values[1:] -= values[0]
    signs = np.sign(values)
    signs[0] = 1.0
    moved = np.abs(signs)
    return np.stack([values @ values.T, signs @ signs.T, moved @ moved.T])


def cosines(sums: Doubles) -> Doubles:
    """The cosines of all pairs; 0 where one did not move."""
    lengths = np.sqrt(np.outer(np.diag(sums[0]), np.diag(sums[0])))
    found: Doubles = np.divide(sums[0], lengths, out=np.zeros_like(lengths), where=lengths > 0).clip(-1, 1)
    return found


def described(kept: Mapping[str, float], evidence: Evidence, sums: Doubles) -> Evidence:
    """The evidence, with what the sums over all layers say of branches that have moved."""
    norms, near, total = np.sqrt(np.diag(sums[0])), cosines(sums), Layer.of("", sums)
    names, rows, pairs = list(kept), [], []
    for i, name in enumerate(names, start=1):
        rest = np.ones(len(norms))
        rest[[0, i]] = 0.0
        length = norms[i] * math.sqrt(max(0.0, rest @ sums[0] @ rest))
        along = float(sums[0, i] @ rest / length) if length else 0.0
        rows.append(Branch(name, float(norms[i] / norms[0]) if norms[0] else None, along))
        for j in range(i + 1, len(norms)):
            cosine = min(1.0, float(near[i, j]) / kept[name] / kept[names[j - 1]])
            signs = float((sums[2, i, j] + sums[1, i, j]) / (2 * sums[2, i, j])) if sums[2, i, j] else 0.5
            pairs.append(Pair(name, names[j - 1], cosine, signs, float(norms[j] / norms[i])))
    evidence = replace(evidence, branches=tuple(rows), pairs=tuple(pairs), total=total)
    line = LINE + SLOPE * (total.moved or 0.0)
    return replace(evidence, cosine=statistics.median(pair.cosine for pair in pairs), line=line)


def grouped(names: Sequence[str], evidence: Evidence) -> Groups:
    """Branches by whose changes they share: joined by mean cosine, as long as that reaches the line."""
    near = {frozenset((pair.first, pair.second)): pair.cosine for pair in evidence.pairs}
    found: list[tuple[str, ...]] = [(name,) for name in names]
    while len(found) > 1:
        means = {
            (i, j): statistics.fmean(near[frozenset((a, b))] for a in found[i] for b in found[j])
            for j in range(len(found))
            for i in range(j)
        }
        i, j = max(means, key=lambda pair: means[pair])
        if means[i, j] < evidence.line:
            break
        found[i] += found.pop(j)
    return tuple(found)


def by_states(names: Sequence[str], evidence: Evidence) -> Advice:
    """The advice from the states alone."""
    assert evidence.total is not None
    several, cosine, line = grouped(names, evidence), evidence.cosine or 0.0, evidence.line
    home = {name: group for group in several for name in group}
    within = [pair.cosine for pair in evidence.pairs if home[pair.first] == home[pair.second]]
    between = [pair.cosine for pair in evidence.pairs if home[pair.first] != home[pair.second]]
    both = within + between
    sure = "hardly more than a guess" if abs(cosine - line) < NEAR else "likely, not known"
    words = (
        f"two changes have a median cosine of {cosine:.2f} ({min(both):.2f} to {max(both):.2f}); those of this size "
        f"are worth merging from {line:.2f} on; averaging leaves {100 * evidence.total.left:.0f} % of their length",
        f"from the states alone, this is {sure}: let the sites score it",
    )
    pairs = all(len(group) > 1 for group in several) and within and between
    if pairs and statistics.fmean(within) - statistics.fmean(between) >= GROUPED:
        return Advice(GROUPS, several, evidence, words)
    return _all_or_none(names, evidence, words, merge=cosine >= line)


def by_scores(names: Sequence[str], free: Advice, trials: Sequence[Trial]) -> Advice:
    """The advice from the sites' scores; where they cannot tell, that from the states."""
    apart, best = trials[0], max((one for one in trials[1:] if one.what != GROUPS), key=lambda one: one.mean)
    if trials[-1].what == GROUPS and operator.gt(*_gain(trials[-1], best)):
        best = trials[-1]
    gain, noise = _gain(best, apart)
    evidence = replace(free.evidence, trials=tuple(trials), noise=noise)
    losing = ", ".join(name for name in names if best.scores[name] < apart.scores[name]) or "nobody"
    words = (
        f"the sites' mean score is {apart.mean:.4g} apart and {best.mean:.4g} by the best merge ({best.what}): "
        f"{gain:+.2g}, with a standard error of {noise:.2g}",
        f"with that merge, worse off than alone: {losing}",
    )
    if abs(gain) <= noise / 2:
        why = "that is within the noise, so the states decide"
        return replace(free, evidence=evidence, words=(*words, why, *free.words))
    if gain > 0 and best.what == GROUPS:
        return Advice(GROUPS, grouped(names, evidence), evidence, words)
    return _all_or_none(names, evidence, words, merge=gain > 0)


def _gain(one: Trial, other: Trial) -> tuple[float, float]:
    """How much more the sites have of one than of the other, on average, and its standard error."""
    gains = [one.scores[name] - other.scores[name] for name in one.scores]
    return statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))


def _all_or_none(names: Sequence[str], evidence: Evidence, words: tuple[str, ...], *, merge: bool) -> Advice:
    groups = (tuple(names),) if merge else tuple((name,) for name in names)
    return Advice(MERGE if merge else APART, groups, evidence, words)
