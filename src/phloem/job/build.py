"""`phloem.build`: a recipe in, a finished run out; the command line is a face of this function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phloem.engines.base import Engine
from phloem.engines.local import LocalEngine
from phloem.errors import ConfigError, nearest
from phloem.job import lifecycle
from phloem.job.branching import on_branch, target_of
from phloem.job.directory import RunDirectory
from phloem.job.runner import Run
from phloem.job.watch import Unwatched, Watcher
from phloem.planner.settings import MEASURED
from phloem.recipe import Recipe, load_recipe
from phloem.rounds import events
from phloem.ui.report import write_report

if TYPE_CHECKING:  # loads torch
    from phloem.engines.torch.ranks import Ranks
    from phloem.job.ranks import Leader

ENGINES = ("local", "torch", "flower", "flower-simulation")
BASELINES: Mapping[str, dict[str, Any]] = {"fp32": {"codec": "none"}, "bf16": {"codec": "bf16"}}


def build(
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    resume: str | Path | None = None,
    compare: bool = False,
    watch: Watcher | None = None,
    watch_baseline: Callable[[str], Watcher] | None = None,
    emit: events.Emit = events.ignore,
    engine: str = "local",
    tell: Callable[[str], None] = lambda words: None,
    branch: str | None = None,
    repo: str | Path | None = None,
    start_from: str | None = None,
    author: str = "unknown",
    timeout_seconds: float = 600.0,
) -> Run:
    """Trains a model from branches at many sites, as a recipe says; gives the finished run.

    Args:
        recipe: a TOML file, a mapping with a recipe's keys, or a `Recipe`; may be left out with `resume`, since
            a run holds its recipe.
        changes: "rounds.max=10" and the like, as on the command line.
        out: the directory of the run; by default the first free `runs/NAME`, `runs/NAME-2`, …
        resume: the directory of an interrupted run, to be continued (instead of `out`).
        compare: also run the recipe uncompressed (fp32 and bf16) and report all three.
        watch: told about the start, every round, and the end.
        watch_baseline: gives the watcher for "fp32" and "bf16".
        emit: told about every exchange before it takes effect ("local" only: elsewhere it happens in other processes).
        engine: "local"; or "torch", where every rank of torch.distributed's default group makes this same call and
            trains some of the sites (rank 0 writes the run; at the others there are no `records`); or on this machine
            "flower" (a SuperLink and a SuperNode per site, with TLS and node authentication) or "flower-simulation".
            The result is the same to the bit.
        tell: told in a line what is being started, where that takes a while.
        branch: commits every round to this branch of a repository. Where the branch is there already, the run starts
            from its head, otherwise from the task's own first state.
        start_from: makes that branch, from this commit.
        repo: that repository; by default the one of this directory.
        author: who makes the commits.
        timeout_seconds: how long a rank may let the others wait ("torch" only), its sites' training included.

    Raises:
        ConfigError: the recipe or a directory is not as it must be; nothing was done.
        StateError: the run disagrees with its own record. StoreError: the disk failed; the run can be resumed.

    >>> import phloem, tempfile
    >>> run = phloem.build("examples/hospitals.toml", changes=["rounds.max=2"], out=tempfile.mkdtemp())
    >>> run.summary["rounds"]
    2
    """
    watch = watch or Unwatched()
    led: Alone | Leader = Alone(emit)
    if engine == "torch":
        ranks = _ranks(timeout_seconds)
        from phloem.job.ranks import Leader, follow

        if ranks.rank > 0:
            return follow(ranks, recipe, changes)
        led = Leader(ranks, emit)
    with contextlib.ExitStack() as claims:
        with led:
            resolved = _resolved(recipe, changes, resume).timed(measured=engine == "flower")
            _check_clock(resolved, engine)
            root = Path(resume or out or free_directory(resolved.name))
            for name in BASELINES if compare else ():
                baseline(resolved, name)  # a wrong [compare] is found before the run, not after it
            led.begin(resolved, root)
            target = target_of(root, branch, repo, resumed=resume is not None)
            if target is not None:
                resolved, watch = on_branch(resolved, watch, root, target, author, claims, start_from)
            if engine not in ("local", "torch"):
                run = _elsewhere(engine, resolved, root, watch, tell, resumed=resume is not None)
            elif resume is not None:
                run = lifecycle.resume(root, watch, claims, led.emit, resolved, led.engine_of)
            else:
                run = lifecycle.start(resolved, root, watch, claims, led.emit, led.engine_of)
            run = led.end(run)
        if compare:
            run = _compare(run, resolved, watch_baseline or (lambda name: Unwatched()), claims)
        write_report(run.path)
    return run


class Alone:
    """What `Leader` is among ranks, for a process that has none beside it."""

    def __init__(self, emit: events.Emit) -> None:
        self.emit = emit

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, *error: object) -> None:
        """Nothing."""

    def engine_of(self, recipe: Recipe, emit: events.Emit) -> Engine:
        """The engine of this process."""
        return LocalEngine(recipe, emit)

    def begin(self, recipe: Recipe, root: Path) -> None:
        """Nothing."""

    def end(self, run: Run) -> Run:
        """The run as it is."""
        return run


def _ranks(seconds: float) -> Ranks:
    """The ranks that this process is one of.

    Raises:
        ConfigError: it is none, or torch is not installed.
    """
    try:
        from phloem.engines.torch.ranks import meet
    except ImportError as error:
        raise ConfigError(
            f"engine 'torch' cannot be used: {error}", hint="pip install 'phloem[torch]'"
        ) from error
    return meet(seconds)


def _resolved(
    recipe: str | Path | Mapping[str, Any] | Recipe | None,
    changes: Sequence[str],
    resume: str | Path | None,
) -> Recipe:
    """The recipe that is built; a run that goes on has its own."""
    if recipe is None:
        if resume is None:
            raise ConfigError(
                "there is neither a recipe nor a run to go on with", hint="name a recipe's TOML file"
            )
        recipe = RunDirectory.open(Path(resume))[1]
    return load_recipe(recipe, changes)


def _check_clock(recipe: Recipe, engine: str) -> None:
    """Nothing, if the engine can measure what the recipe has measured."""
    if recipe.adapts and recipe.adapt.clock == MEASURED and engine in ("local", "torch"):
        raise ConfigError(
            f"[adapt]: with engine '{engine}' no transfer is measured",
            hint="leave out 'clock', or use --engine flower",
        )


def _elsewhere(
    engine: str,
    recipe: Recipe,
    root: Path,
    watch: Watcher,
    tell: Callable[[str], None],
    *,
    resumed: bool,
) -> Run:
    """The run on another engine than this process."""
    if engine not in ENGINES:
        near = nearest(engine, ENGINES)
        hint = f"did you mean '{near}'?" if near else f"known: {', '.join(ENGINES)}"
        raise ConfigError(f"there is no engine '{engine}'", hint=hint)
    try:
        from phloem.job.deployed import build_here
    except ImportError as error:
        raise ConfigError(
            f"engine '{engine}' cannot be used: {error}", hint="pip install 'phloem[flower]'"
        ) from error
    if resumed:
        lifecycle.check_same(root, recipe)
    else:
        RunDirectory.check_free(root)
    return build_here(recipe, root, watch, tell, simulation=engine == "flower-simulation")


def baseline(recipe: Recipe, name: str) -> Recipe:
    """The recipe without compression: fp32 or bf16 both ways, FedAvg's division, and `[compare]`'s changes."""
    table = recipe.to_json()
    table |= {
        "up": BASELINES[name],
        "down": BASELINES[name],
        "compare": {},
        "later": [],
        "compress": "fixed",
        "adapt": {},
        "prune": None,
        "ledger": None,
    }
    table["rounds"] = table["rounds"] | {"division": 0.0}
    table["run"] = table["run"] | {"keep_updates": False}
    if recipe.adapts:  # the clock counts what coding takes there as it does here
        table["device"] = {"speed": recipe.device.speed or 1.0}
    for section, changes in recipe.compare.items():
        table[section] = {**table.get(section, {}), **changes} if isinstance(changes, dict) else changes
    return Recipe.from_json(table)


def _compare(run: Run, recipe: Recipe, watch: Callable[[str], Watcher], claims: contextlib.ExitStack) -> Run:
    found: dict[str, Any] = {}
    for name in BASELINES:
        root = run.path / "compare" / name
        other = baseline(recipe, name)
        resumable = (root / "run.json").exists()
        one = (
            lifecycle.resume(root, watch(name), claims, expect=other)
            if resumable
            else lifecycle.start(other, root, watch(name), claims)
        )
        found[name] = one.summary
    return lifecycle.with_summary(run, compare=found)


def free_directory(name: str) -> Path:
    """The first of `runs/NAME`, `runs/NAME-2`, … that is not there."""
    for number in range(1, 10_000):
        root = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not root.exists():
            return root
    raise ConfigError(f"runs/{name} to runs/{name}-9999 are all there", hint="name a directory with --out")
