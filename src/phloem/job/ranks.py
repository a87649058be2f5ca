"""`phloem.build(engine="torch")`: rank 0 does the run as anywhere, the other ranks follow it, and all end alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from phloem import canonical, kernels
from phloem.engines.torch.engine import TorchEngine
from phloem.engines.torch.ranks import Ranks, Said, same_threads
from phloem.errors import StateError
from phloem.job import lifecycle
from phloem.job.directory import RunDirectory
from phloem.job.following import Follower
from phloem.job.record import versions
from phloem.job.runner import Run
from phloem.recipe import Recipe, load_recipe
from phloem.rounds import events

_ALIKE = ("phloem", "numpy", "torch", "scikit-learn")  # a site must train and decode the same at any rank


class Leader:
    """Rank 0 of a run, as a context: in it the other ranks follow, and however it is left, they end alike."""

    def __init__(self, ranks: Ranks, emit: events.Emit = events.ignore) -> None:
        self.ranks, self._emit = ranks, emit
        self.root: Path | None = None
        self.engine: TorchEngine | None = None

    def __enter__(self) -> None:
        """The others listen already."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Tells the others of an error, as far as they listen, and the error's reader how to go on."""
        if error is None:
            return
        self.ranks.tell_failed(error)
        started = self.root is not None and (self.root / "run.json").exists()
        if isinstance(error, KeyboardInterrupt):
            command = f"torchrun … --no-python phloem build --resume {self.root} --engine torch"
            nothing = "interrupted before the first round; nothing was written"
            error.add_note(f"interrupted; go on with: {command}" if started else nothing)
        elif isinstance(error, StateError) and started and not self.ranks.listening:
            again = f"go on with --resume {self.root} once the cause is gone"
            error.hint = again if error.hint is None else f"{again}; {error.hint}"

    def begin(self, recipe: Recipe, root: Path) -> None:
        """The ranks agree about what they do.

        Raises:
            ConfigError: they do not.
        """
        self.root = root
        self.ranks.tell(Said({"do": "begin", "recipe": recipe.to_json()}))
        self.ranks.together(lambda: Said({}))
        self.ranks.agree("the run", _facts(recipe))

    def emit(self, event: events.Event) -> None:
        """Takes note of what the coordinator merged, and passes the event on."""
        if isinstance(event, events.TrunkMoved) and self.engine is not None:
            self.engine.moved = event
        self._emit(event)

    def engine_of(self, recipe: Recipe, emit: events.Emit) -> TorchEngine:
        """The engine of all ranks."""
        assert self.root is not None
        self.engine = TorchEngine(self.ranks, recipe, emit, _standing(self.root))
        return self.engine

    def end(self, run: Run) -> Run:
        """Lets the other ranks go; the run, with what the ranks sent in its summary."""
        head = {"do": "end", "path": str(run.path), "summary": run.summary}
        self.ranks.tell(Said(head, save_tensors(run.state) if self.engine is None else b""))
        told = self.ranks.collect(lambda: _traffic(self.ranks))
        if self.engine is None:  # it was finished before
            return run
        sites = self.engine.part.sites
        return lifecycle.with_summary(
            run, ranks=[{"sites": list(own), **said.head} for own, said in zip(sites, told, strict=True)]
        )


def follow(
    ranks: Ranks, recipe: str | Path | Mapping[str, Any] | Recipe | None, changes: Sequence[str]
) -> Run:
    """The run that rank 0 does, at another rank, with no records of its rounds.

    Without a `recipe` (of a run that goes on) rank 0's is taken.

    Raises:
        PhloemError: as `Leader`.
    """
    begun = Recipe.from_json(ranks.hear().head["recipe"])

    def read() -> Said:
        nonlocal begun
        begun = begun if recipe is None else load_recipe(recipe, changes).timed(measured=False)
        return Said({})

    ranks.together(read)
    ranks.agree("the run", _facts(begun))
    follower: Follower | None = None
    with same_threads():
        while (said := ranks.hear()).head["do"] != "end":
            if follower is None:
                follower = Follower(ranks, Recipe.from_json(said.head["recipe"]))
            else:
                follower.do(said)
    ranks.collect(lambda: _traffic(ranks))
    if follower is not None:
        follower.finish()
    state = load_tensors(said.payload) if follower is None else follower.coordinator.state
    return Run(Path(said.head["path"]), state, said.head["summary"], [])


def _facts(recipe: Recipe) -> dict[str, Any]:
    found = versions()
    facts = {f"the version of {name}": found[name].split("+")[0] for name in _ALIKE if name in found}
    digest = canonical.digest(canonical.dumps(recipe.to_json()))
    return {"the recipe's digest": digest, "the kernels": kernels.backend_name(), **facts}


def _standing(root: Path) -> dict[str, Any]:
    """What of the coordinator is in the snapshot that a run goes on from; nothing, where it begins."""
    if not (root / "run.json").exists():
        return {}
    snapshot = RunDirectory(root).load_snapshot() or {}
    return {key: snapshot[key] for key in ("coordinator", "arrays", "state", "frames") if key in snapshot}


def _traffic(ranks: Ranks) -> Said:
    found = ranks.peers.traffic
    return Said(
        {
            "sent_bytes": found.sent,
            "received_bytes": found.received,
            "messages": found.messages,
            "wait_seconds": found.wait_seconds,
        }
    )
