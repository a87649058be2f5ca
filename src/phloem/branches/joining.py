"""`merge`: branches joined in a repository, by a commit that says how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phloem.branches import history, keeping, merging, methods
from phloem.branches.committing import LOSSLESS, commit_of, store_model
from phloem.branches.drafts import Draft
from phloem.branches.merging import Merged, Outcome, Recipe, Score
from phloem.branches.records import check_author, now
from phloem.branches.refs import Refs
from phloem.branches.restore import Restored
from phloem.errors import ConfigError, ConflictError
from phloem.files.tensorfile import Progress, TensorFile, silent

if TYPE_CHECKING:
    from phloem.branches.repository import Repository, Sign


@dataclass(frozen=True)
class MergeResult:
    """What a merge did.

    Attributes:
        commit: where the branch is now.
        kind: "merge", "fast-forward" (the branch had nothing of its own), or "nothing" (it has all of it already).
        recipe: how it was made; None unless it is a merge.
        kept: tensors that could not be merged and are the branch's own.
        bytes: what the repository took up for it.
        state: the id of its state.
    """

    commit: str
    branch: str
    kind: str
    state: str
    recipe: Recipe | None = None
    kept: tuple[str, ...] = ()
    bytes: int = 0


def merge(
    repo: Repository,
    names: Sequence[str],
    *,
    into: str | None = None,
    method: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | str = "equal",
    scale: float | str | None = None,
    score: Score | None = None,
    keep_local: str | None = None,
    without: Sequence[str] = (),
    base: str | None = None,
    key: int = 0,
    bits: float | None = None,
    message: str | None = None,
    author: str = "unknown",
    sign: Sign | None = None,
    progress: Progress = silent,
) -> MergeResult:
    """Merges branches into `into` (by default the current one), as one commit with all of them as parents.

    Changes are counted from `base`, by default the newest commit that all have in common. If `into` has moved since,
    it takes part like the others.

    Args:
        repo: the repository.
        names: what to merge; with none, the merge at the head of `into` is made again, `without` some.
        into: the branch that takes them in.
        method: {"name": "ties", "density": 0.2}; by default {"name": "mean"}.
        weights: "equal", "examples" (those that the commits say), or a number for each name.
        scale: of the method; "search" tries several and takes the one with the best `score`.
        score: scores the model in a safetensors file: the more, the better.
        keep_local: a regular expression: tensors in whose names it is found stay those of `into`.
        without: names to leave out.
        base: what changes are counted from, if not from there.
        key: where random masks come from.
        bits: code the result against `into` with so many bits per parameter; exact by default.
        message: what to say of it.
        author: who makes it.
        sign: signs the commit.
        progress: told what is being done, and how far it is.

    Raises:
        ConfigError: the branches have nothing in common, or other tensors, or the method does not fit.
        ConflictError: `into` moved meanwhile.
    """
    check_author(author)
    refs = repo.refs
    target = into or refs.current
    if target not in refs.branches:
        raise ConfigError(f"there is no branch '{target}'", hint=f"phloem branch {target}")
    head = refs.branches[target]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError("expected the names of branches as texts, one after another")
    method = dict(method or {"name": "mean"})
    methods.from_json(method)  # its words are checked before anything else
    if not names:
        recipe = _again(repo, head, without, refs)
        message = message or f"Merge again, without {', '.join(without)}"
        parents: tuple[str, ...] = (head,)
    else:
        left = [name for name in names if name not in without]
        unknown = sorted(set(without) - set(names))
        if unknown:
            raise ConfigError(f"'{unknown[0]}' is not among the branches to merge")
        commits = {name: history.resolve(name, refs, repo.objects) for name in left}
        done = _without_merging(repo, target, head, commits, keep_local)
        if done is not None:
            return done
        if len(set(commits.values())) < len(commits):
            raise ConfigError("two of these names stand for one commit", hint="name every branch once")
        recipe = _recipe(repo, target, head, commits, method, weights, base)
        recipe = replace(recipe, keep_local=keep_local, key=key, excluded=tuple(without))
        message = message or f"Merge {', '.join(left)} into {target}"
        parents = tuple(dict.fromkeys((head, *commits.values())))
    if scale is not None and scale != "search":
        recipe = replace(recipe, method={**recipe.method, "scale": float(scale)})
    methods.from_json(recipe.method)  # with its scale
    with repo.folder.scratch() as scratch:
        outcome = _made(repo, recipe, scratch, scale, score, progress)
        draft = Draft(repo.folder, repo.objects, scratch)
        coding = LOSSLESS if bits is None else {"codec": "ecsq", "bits": bits, "effort": "fast"}
        before = Restored(repo.objects, repo.objects.entry(head).state)
        with TensorFile.open(scratch / "merged.safetensors") as model:
            stored = store_model(draft, model, before, coding, progress=progress)
        commit = commit_of(
            stored,
            coding,
            kind="merge",
            parents=parents,
            author=author,
            time=now(),
            message=message,
            recipe=outcome.recipe.to_json(),
            examples=_examples(repo, [row.commit for row in outcome.recipe.branches]),
            files=repo.objects.commit(head).files,
            metadata=repo.objects.commit(head).metadata,
        )
        digest = repo.publish(draft, commit, target, head, sign)
    return MergeResult(digest, target, "merge", stored.state, outcome.recipe, outcome.kept, draft.frame_bytes)


def _made(
    repo: Repository,
    recipe: Recipe,
    scratch: Path,
    scale: float | str | None,
    score: Score | None,
    progress: Progress,
) -> Outcome:
    path = scratch / "merged.safetensors"
    if scale != "search":
        return merging.merge_to(path, recipe, repo.objects, scratch, progress)
    if score is None:
        raise ConfigError(
            "a search for the scale needs something that scores a model",
            hint="--eval 'COMMAND {}', or score=... in Python",
        )
    return merging.search(path, recipe, repo.objects, scratch, progress, score)


def _recipe(
    repo: Repository,
    target: str,
    head: str,
    named: Mapping[str, str],
    method: Mapping[str, Any],
    weights: Mapping[str, float] | str,
    base: str | None,
) -> Recipe:
    commits = repo.objects.catalog.commits()
    heads = [head, *named.values()]
    root = history.resolve(base, repo.refs, repo.objects) if base else history.merge_base(heads, commits)
    rows = dict(named)
    if head not in (root, *named.values()) and not any(
        history.is_ancestor(head, one, commits) for one in named.values()
    ):
        rows = {target: head, **named}  # it has moved since, and takes part
    factors = _weights(repo, rows, weights)
    if weights == "examples" and "normalize" in methods.to_json(methods.from_json(method)):
        method = {"normalize": True, **method}  # numbers of examples are shares, not factors
    branches = tuple(Merged(commit, name, factors[name]) for name, commit in rows.items())
    options = methods.to_json(methods.from_json(method))
    return Recipe(base=root, into=head, branches=branches, method=options)


def _weights(
    repo: Repository, rows: Mapping[str, str], weights: Mapping[str, float] | str
) -> dict[str, float]:
    if weights == "equal":
        return dict.fromkeys(rows, 1.0)
    if weights == "examples":
        found = {name: repo.objects.commit(commit).examples for name, commit in rows.items()}
        missing = [name for name, count in found.items() if not count]
        if missing:
            raise ConfigError(
                f"the commit of '{missing[0]}' does not say how many examples it was trained on",
                hint="commit with --examples N, or give the weights: --weight NAME=NUMBER",
            )
        return {name: float(count or 0) for name, count in found.items()}
    if isinstance(weights, str):
        raise ConfigError(f"weights: expected equal, examples or a number for each, found '{weights:.40}'")
    unknown = sorted(set(weights) - set(rows))
    if unknown:
        raise ConfigError(f"weights: '{unknown[0]}' is not among the branches to merge")
    return {name: float(weights.get(name, 1.0)) for name in rows}


def _without_merging(
    repo: Repository, target: str, head: str, named: Mapping[str, str], keep_local: str | None
) -> MergeResult | None:
    """What needs no merge: all is there already, or the branch only has to move forward."""
    commits = repo.objects.catalog.commits()
    if not named:
        raise ConfigError("there is nothing left to merge")
    news = [name for name, commit in named.items() if not history.is_ancestor(commit, head, commits)]
    if not news:
        return MergeResult(head, target, "nothing", commits[head].state)
    if len(named) > 1 or keep_local is not None:
        return None
    commit = named[news[0]]
    if not history.is_ancestor(head, commit, commits):
        return None

    def change(refs: Refs) -> Refs:
        if refs.branches.get(target) != head:
            raise ConflictError(f"branch '{target}' moved meanwhile", hint="merge again")
        return refs.with_branch(target, commit)

    repo.folder.move(keeping.checked(repo.objects, change))
    return MergeResult(commit, target, "fast-forward", commits[commit].state)


def _again(repo: Repository, head: str, without: Sequence[str], refs: Refs) -> Recipe:
    if not without:
        raise ConfigError(
            "name the branches to merge", hint="or --without NAME, to make the last merge again"
        )
    commit = repo.objects.commit(head)
    if commit.kind != "merge":
        raise ConfigError(
            f"the head of the branch, {head[:12]}, is no merge, so none can be made again",
            hint="phloem branch NEW THE-MERGE; phloem merge --into NEW --without NAME",
        )
    return Recipe.from_json(commit.recipe).without(without, head)


def _examples(repo: Repository, commits: Sequence[str]) -> int | None:
    found = [repo.objects.commit(commit).examples for commit in commits]
    return sum(count for count in found if count) if all(found) else None
