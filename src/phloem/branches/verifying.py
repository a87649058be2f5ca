"""`verify`: a commit, all that it came from, and its state checked; merges made again from their recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from phloem.branches import merging
from phloem.branches.committing import LOSSLESS, store_model
from phloem.branches.drafts import Draft
from phloem.branches.merging import Recipe
from phloem.branches.records import Commit
from phloem.branches.restore import Restored
from phloem.branches.signing import check_trusted, signer_of
from phloem.errors import PhloemError, ProofError
from phloem.files.tensorfile import Progress, TensorFile, silent
from phloem.tlog.keys import VerifierKey

if TYPE_CHECKING:
    from phloem.branches.repository import Repository

#: Merges the rounds among these commits again: how many hold, what does not, what cannot be decided.
ReplayRounds = Callable[["Repository", Mapping[str, Commit]], tuple[int, list[str], list[str]]]


@dataclass(frozen=True)
class Verified:
    """What `verify` found.

    Attributes:
        commits: how many records were read and are what their digests name.
        signers: which keys signed (the name that a key gives itself, and its id), and how many commits; every one of
            the signatures holds.
        tensors: how many tensors of the state were decoded and checked.
        replayed: how many merges were computed again and gave the same bits.
        wrong: what does not hold, in words; empty if all does.
        unknown: what could not be decided here, in words.
    """

    commit: str
    commits: int
    signers: Mapping[str, int]
    tensors: int
    replayed: int
    wrong: tuple[str, ...] = ()
    unknown: tuple[str, ...] = field(default=())


def verify(
    repo: Repository,
    text: str = "@",
    *,
    replay: bool = False,
    rounds: ReplayRounds | None = None,
    trusted: Sequence[VerifierKey] | None = None,
    progress: Progress = silent,
) -> Verified:
    """Checks a commit, all that it came from, and its state; with `replay` also every merge on the way.

    A state is checked by decoding it: every tensor must have the digest that the commit names. With `trusted` keys
    every commit must be signed by one of them. `rounds` merges the rounds of runs again (`phloem.job.rounds_again`).
    """
    head = repo.resolve(text)
    wrong: list[str] = []
    unknown: list[str] = []
    commits, signers = _records(repo, head, trusted, wrong)
    tensors = 0
    try:
        for _ in repo.restored(head).iterate():
            tensors += 1
    except PhloemError as error:
        wrong.append(f"the state of {head[:12]}: {error.message}")
    replayed = 0
    if replay and any(commit.kind == "round" for commit in commits.values()):
        if rounds is None:
            unknown.append("the rounds of runs are merged again by `phloem verify --replay`")
        else:
            replayed, more, open_ = rounds(repo, commits)
            wrong += more
            unknown += open_
    todo = (
        [(digest, commit) for digest, commit in commits.items() if commit.kind == "merge"] if replay else []
    )
    for number, (digest, commit) in enumerate(todo):
        progress("merging again", number, len(todo))
        try:
            _check_named(commit, commits)
            state = replayed_state(repo, commit)
        except ProofError as error:
            wrong.append(f"the merge {digest[:12]}: {error.message}")
            continue
        except PhloemError as error:
            unknown.append(f"the merge {digest[:12]} cannot be made again: {error.message}")
            continue
        if state == commit.state:
            replayed += 1
        else:
            wrong.append(f"the merge {digest[:12]} does not give the state that it names")
    return Verified(head, len(commits), signers, tensors, replayed, tuple(wrong), tuple(unknown))


def replayed_state(repo: Repository, commit: Commit) -> str:
    """The state that a merge's recipe gives, computed again from the commits that it names.

    Raises:
        PhloemError: something that it needs is not there.
    """
    recipe = Recipe.from_json(commit.recipe)
    with repo.folder.scratch() as scratch:
        path = scratch / "merged.safetensors"
        merging.merge_to(path, recipe, repo.objects, scratch, silent, again=True)
        draft = Draft(repo.folder, repo.objects, scratch)
        before = Restored(repo.objects, repo.objects.commit(commit.parents[0]).state)
        with TensorFile.open(path) as model:
            return store_model(draft, model, before, commit.coding or LOSSLESS, progress=silent).state


def _check_named(commit: Commit, commits: Mapping[str, Commit]) -> None:
    """Nothing, if what a merge's recipe names is what its commit came from.

    Raises:
        ProofError: it names something else.
    """
    recipe = Recipe.from_json(commit.recipe)
    found: set[str] = set()
    todo = list(commit.parents)
    while todo:
        here = todo.pop()
        if here in commits and here not in found:
            found.add(here)
            todo += commits[here].parents
    if not recipe.commits <= found:
        raise ProofError("its recipe names a commit that it did not come from")
    if commit.parents[:1] != (recipe.again or recipe.into,):
        raise ProofError("its recipe names another commit as the branch's own than its first parent")


def _records(
    repo: Repository, head: str, trusted: Sequence[VerifierKey] | None, wrong: list[str]
) -> tuple[dict[str, Commit], dict[str, int]]:
    """Every commit on the way, read and checked; and who signed how many."""
    found: dict[str, Commit] = {}
    signers: dict[str, int] = {}
    todo = [head]
    while todo:
        digest = todo.pop()
        if digest in found:
            continue
        try:
            commit = found[digest] = repo.objects.commit(digest)
            repo.objects.state(commit.state)
            todo += commit.parents
            if commit.signature:
                key = signer_of(commit.unsigned(), commit.signature)
                name = f"{key.name}+{key.id.hex()}"
                signers[name] = signers.get(name, 0) + 1
                if trusted is not None:
                    check_trusted(key, trusted)
            elif trusted is not None:
                raise ProofError("it is not signed")
        except PhloemError as error:
            wrong.append(f"the commit {digest[:12]}: {error.message}")
    return found, signers
