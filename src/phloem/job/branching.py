"""A run's rounds as commits on a branch of a repository, while it goes on; and such commits replayed.

The run's own directory has all that is needed: its frames and what was merged in each round. So rounds are brought over
from there, in order, those that the branch does not have yet. Whoever was killed in between just goes on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from phloem import canonical
from phloem.branches import chains, packs
from phloem.branches.committing import store_model
from phloem.branches.drafts import Draft
from phloem.branches.records import Commit, now
from phloem.branches.refs import check_name
from phloem.branches.repository import Repository, Sign, open_repo, silent
from phloem.branches.restore import Restored
from phloem.engines.host import plan_for
from phloem.errors import ConfigError, StateError
from phloem.files.dtypes import floats
from phloem.files.encoding import encode_file
from phloem.files.tensorfile import TensorFile, TensorFileWriter
from phloem.job.directory import TRUNK, RunDirectory, reading
from phloem.job.ledger import ledger_of
from phloem.job.record import RoundRecord
from phloem.job.watch import Watcher
from phloem.masks import Kept
from phloem.pruning import marked, pruned
from phloem.recipe import Recipe
from phloem.rounds.site import add
from phloem.store.files import Store, write_durably
from phloem.tasks.base import Metric
from phloem.tensors import Layout, State, state_record, tensor_digest
from phloem.wire import frame as frames
from phloem.wire.contents import Contents

MARKER = "branch.json"


class Publisher:
    """Brings the rounds of one run to one branch."""

    def __init__(
        self, repo: Repository, branch: str, root: Path, author: str, sign: Sign | None = None
    ) -> None:
        """Finds out which rounds the branch has; nothing is written yet.

        Raises:
            StateError: the branch has moved on with something else than this run.
        """
        self.repo, self.branch, self.root, self.author, self.sign = repo, branch, root, author, sign
        self.store = Store(root)
        rows = list(_commits(self.store, self.store.read(TRUNK), None))
        if not rows:
            raise StateError(f"the run in {root} has no beginning")
        digest, first = rows[-1]
        self.run = digest
        with reading(f"the run in {root}"):
            self.layout = Layout.from_json(self.store.get(first["layout"]))
            arrays = frames.unpack(self.store.get(first["frame"]), self.layout).decode()
            recipe = Recipe.from_json(canonical.loads(self.store.get(first["recipe"])))
        self.name = recipe.name
        self.state = self.layout.named(arrays)
        self.plan = plan_for(recipe, self.state)
        self.kept: Kept = marked(self.plan.prune, self.state, self.layout, 0)
        self.round = 0
        self.seen = digest
        self.head: str | None = repo.refs.branches.get(branch)
        self._first = first
        self._find_place()

    def catch_up(self) -> int:
        """Commits the rounds that are in the run's directory and not on the branch; gives how many those were."""
        if self.head is None or not self._begun:
            self._begin()
        rows = list(_commits(self.store, self.store.read(TRUNK), self.seen))
        for digest, row in reversed(rows):
            self._commit_round(digest, row)
        return len(rows)

    def _find_place(self) -> None:
        """Goes on where the branch stands, if it stands in this run."""
        here = self.head
        self._begun = False
        if here is None:
            return
        commit = self.repo.objects.commit(here)
        said = commit.recipe.get("run") if commit.kind == "round" else None
        if said == self.run:
            self._begun = True
            self.round, self.seen = int(commit.recipe["round"]) + 1, str(commit.recipe["commit"])
            self.state = read_state(Restored(self.repo.objects, commit.state))
            self.kept = marked(self.plan.prune, self.state, self.layout, self.round)
        elif commit.state == self.plan.initial_state:
            self._begun = True
        else:
            raise StateError(
                f"branch '{self.branch}' is at {here[:12]}, which is neither this run's start nor one of its rounds",
                hint="give the run a branch of its own",
            )

    def _begin(self) -> None:
        """The run's first state as the first commit of a branch of its own."""
        self.head = import_state(
            self.repo,
            self.branch,
            self.head,
            self.state,
            message=f"{self.name}: the state that the run starts from",
            author=self.author,
            sign=self.sign,
        )
        self._begun = True

    def _commit_round(self, digest: str, row: Mapping[str, Any]) -> None:
        frame = self.store.get(row["frame"])
        before, base = self.state, self._state_id
        decoded = frames.unpack(frame, self.kept.layout).decode()
        plain = not self.kept.any_masked
        after = add(before, self.kept.scatter(decoded))
        after, kept = pruned(self.plan.prune, after, self.layout, self.round + 1, self.plan.seed, self.kept)
        plain = plain and not kept.any_masked
        record = record_of(after, self.layout)
        state = canonical.digest(record)
        if row["state"] not in (None, state):
            raise StateError(
                f"round {row['round']} of the run in {self.root} does not give the state that it names"
            )
        with self.repo.folder.scratch() as scratch:
            draft = Draft(self.repo.folder, self.repo.objects, scratch)
            inputs = [self._input(draft, one) for one in row["inputs"]]
            recipe = {
                "run": self.run,
                "commit": digest,
                "round": row["round"],
                "chain": row["chain"],
                "plan": draft.add(packs.FILE, canonical.dumps(self.plan)),
                "recipe": draft.add(packs.FILE, self.store.get(self._first["recipe"])),
                "inputs": inputs,
                "refused": row["refused"],
            }
            if state != base:
                draft.add(packs.STATE, record)
                if plain:
                    self._add_frame(draft, frame, state, base, after)
                else:  # the frame carries only weights that are kept
                    self._add_exact(draft, after, scratch)
            metric = row.get("metric")
            commit = Commit(
                kind="round",
                parents=(self.head,) if self.head else (),
                state=state,
                author=self.author,
                time=now(),
                message=f"{self.name}: round {row['round']}, {len(inputs)} of {len(self.plan.sites)} sites",
                coding=dict(row.get("down") or self.plan.down_in(self.round).config),
                recipe=recipe,
                metrics={} if metric is None else {"metric": float(metric)},
                examples=sum(one["examples"] for one in inputs) or None,
            )
            self.head = self.repo.publish(draft, commit, self.branch, self.head, self.sign)
        self.state, self.kept, self.seen, self.round = after, kept, digest, self.round + 1

    @property
    def _state_id(self) -> str:
        assert self.head is not None
        return self.repo.objects.entry(self.head).state

    def _input(self, draft: Draft, one: Mapping[str, Any]) -> dict[str, Any]:
        draft.add_blob(self.store.get(one["frame"]))
        return {"site": one["site"], "examples": one["examples"], "frame": one["frame"]}

    def _add_frame(self, draft: Draft, frame: bytes, state: str, base: str, after: State) -> None:
        """The run's own frame as the encoding; a key-frame as well where restoring becomes slow."""
        effort = self.plan.down_in(self.round).config.get("effort")
        codec = "/".join(filter(None, (frames.codec_name(frame), effort)))
        encoding = draft.add_frame(frame, state, base, "wire", codec)
        size = chains.Size(self.layout.size, 4 * self.layout.size)
        chain = chains.cheapest(base, size, self.repo.objects.encodings)
        if chains.times_reading([*chain, encoding], size) > chains.MOST_TIMES:
            add_key_frame(draft, after, self.layout, state)

    def _add_exact(self, draft: Draft, after: State, scratch: Path) -> None:
        path = scratch / "pruned.safetensors"
        write_arrays(path, after, self.layout)
        with TensorFile.open(path) as model:
            store_model(
                draft,
                model,
                Restored(self.repo.objects, self._state_id),
                {"codec": "lossless"},
                progress=silent,
            )


class Publishing:
    """A watcher that brings every finished round to the branch, then tells the one that it stands before."""

    def __init__(self, inner: Watcher, make: Callable[[], Publisher]) -> None:
        self.inner, self._make = inner, make
        self.publisher: Publisher | None = None

    def started(self, recipe: Recipe, metric: Metric, parameters: int, done: Sequence[RoundRecord]) -> None:
        """The run begins; its directory may not be there yet."""
        self.inner.started(recipe, metric, parameters, done)

    def round(self, record: RoundRecord) -> None:
        """A round is over."""
        self._catch_up()
        self.inner.round(record)

    def finished(self, summary: dict[str, Any]) -> None:
        """The run is over."""
        self._catch_up()
        self.inner.finished(summary)

    def _catch_up(self) -> None:
        if self.publisher is None:
            self.publisher = self._make()
        self.publisher.catch_up()


@dataclass(frozen=True)
class Target:
    """Where a run's rounds go: a repository (None: the one of this directory) and a branch."""

    repository: str | None
    branch: str
    resumed: bool


def target_of(root: Path, branch: str | None, where: str | Path | None, *, resumed: bool) -> Target | None:
    """Where the rounds of the run in `root` go, as the call says, or as the run's directory remembers."""
    if branch is not None:
        return Target(None if where is None else str(where), branch, resumed)
    known = remembered(root) if resumed else None
    return None if known is None else Target(*known, resumed)


def on_branch(
    recipe: Recipe,
    watch: Watcher,
    root: Path,
    target: Target,
    author: str,
    claims: contextlib.ExitStack,
    start_from: str | None = None,
) -> tuple[Recipe, Watcher]:
    """The recipe that starts where the branch stands, and a watcher that brings the rounds there.

    Raises:
        ConfigError: there is no repository, or the run keeps no frames.
    """
    if not recipe.run.keep_updates:
        raise ConfigError(
            "a run that keeps no frames cannot be committed to a branch", hint="--set run.keep_updates=true"
        )
    repo = claims.enter_context(open_repo(target.repository))
    check_name(target.branch)
    if target.resumed:
        recipe = replace(recipe, start=RunDirectory.open(root)[1].start)
    else:
        if start_from is not None:
            repo.branch(target.branch, start_from)
        head = repo.refs.branches.get(target.branch)
        if head is not None:
            recipe = replace(recipe, start=f"{repo.folder.root.absolute()}#{head}")

    def make() -> Publisher:
        remember(root, str(repo.folder.root.absolute()), target.branch)
        return Publisher(repo, target.branch, root, author, signing_of(root))

    return recipe, Publishing(watch, make)


def signing_of(root: Path) -> Sign | None:
    """What signs a run's commits: its coordinator's key, where it keeps a ledger."""
    if not (root / "ledger" / "run.json").exists():
        return None
    from phloem.branches.signing import signing_with

    return signing_with(ledger_of(root)[0].coordinator_key)


def import_state(
    repo: Repository,
    branch: str,
    head: str | None,
    state: State,
    *,
    message: str,
    author: str,
    sign: Sign | None = None,
) -> str:
    """Commits a state of float32 arrays exactly, as a beginning; gives the commit."""
    layout = Layout.of(state)
    record = record_of(state, layout)
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        digest = draft.add(packs.STATE, record)
        if not repo.objects.encodings(digest):
            add_key_frame(draft, state, layout, digest)
        commit = Commit("import", () if head is None else (head,), digest, author, now(), message)
        return repo.publish(draft, commit, branch, head, sign)


def add_key_frame(draft: Draft, state: State, layout: Layout, digest: str) -> None:
    """Adds a state as it is to a draft, as a frame in sections: those are decoded side by side."""
    path, frame = draft.scratch / "key.safetensors", draft.scratch / "key.phl"
    write_arrays(path, state, layout)
    encode_file(path, frame, lossless=True, progress=silent)
    draft.add_frame(frame, digest, None, "file", "lossless")


def record_of(state: State, layout: Layout) -> bytes:
    """The record of a state."""
    return state_record((spec, tensor_digest(state[spec.name])) for spec in layout.specs)


def read_state(restored: Restored) -> State:
    """A state in memory.

    Raises:
        ConfigError: it has tensors that are no float32.
    """
    found: State = {}
    for spec, raw in restored.iterate():
        if spec.dtype != "float32":
            raise ConfigError(
                f"tensor '{spec.name}' is {spec.dtype}, and runs train float32",
                hint="check it out with --dtype fp32, and commit that with --change-dtype",
            )
        found[spec.name] = np.array(floats(raw, spec.dtype).reshape(spec.shape))
    return found


def write_arrays(path: Path, state: State, layout: Layout) -> None:
    """Writes float32 arrays to a safetensors file."""
    with path.open("w+b") as file:
        writer = TensorFileWriter(file, Contents(layout.specs))
        for spec in layout.specs:
            writer.write(spec, np.ascontiguousarray(state[spec.name], "<f4").reshape(-1).view(np.uint8))


def remember(root: Path, where: str, branch: str) -> None:
    """Writes down in a run's directory to which branch its rounds go."""
    write_durably(root / MARKER, json.dumps({"repository": where, "branch": branch}).encode() + b"\n")


def remembered(root: Path) -> tuple[str, str] | None:
    """The repository and the branch to which a run's rounds go, if they go to one."""
    try:
        said = json.loads((root / MARKER).read_bytes())
        return str(said["repository"]), str(said["branch"])
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise StateError(f"{root / MARKER} is damaged: {error}") from error


def _commits(store: Store, head: str | None, until: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The run's commits from its newest back to `until`, which is left out, or to its first."""
    while head != until:
        if head is None:
            raise StateError(
                f"the history of the run in {store.root} does not lead back to {str(until)[:12]}"
            )
        row: dict[str, Any] = canonical.loads(store.get(head))
        yield head, row
        head = row["parents"][0] if row["parents"] else None
