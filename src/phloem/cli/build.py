"""`phloem build`: a run at a terminal, in a log file or in a script, over `phloem.build`."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from phloem import canonical, kernels
from phloem.branches.refs import TRUNK
from phloem.cli.ranks import as_rank
from phloem.cli.repository_options import author
from phloem.errors import ConfigError, StoreError
from phloem.job.build import build, free_directory
from phloem.job.directory import RunDirectory
from phloem.job.runner import Run
from phloem.recipe import Recipe, load_recipe
from phloem.ui.outcome import LABELS, THIS
from phloem.ui.progress import Display, LiveDisplay, PlainDisplay
from phloem.ui.separately import print_branches
from phloem.ui.table import print_outcome


@dataclass(frozen=True)
class BuildCall:
    """The words of one `phloem build`."""

    recipe: Path | None
    changes: tuple[str, ...]
    out: Path | None
    resume: Path | None
    compare: bool
    json: bool
    kernels: Any
    engine: str = "local"
    branch: str | None = None
    start_from: str | None = None
    repo: str | None = None
    timeout_seconds: float = 600.0


@dataclass(frozen=True)
class BranchesCall:
    """What `phloem build --branches` says of its branches."""

    method: str
    cycles: int
    keep_local: str | None


def run_build(call: BuildCall) -> None:
    """Does what the call asks; words and progress go to standard error.

    Raises:
        PhloemError: as `phloem.build`. KeyboardInterrupt: with a note that says how to go on.
    """
    if call.engine == "torch":
        with as_rank(call.timeout_seconds) as rank:
            _run_as(call, rank)
        return
    _check(call)
    logging.basicConfig(format="note: %(message)s", stream=sys.stderr)
    kernels.use(call.kernels)
    make_importable(call.recipe)
    recipe, root = _recipe_and_root(call)
    was_finished = (root / "summary.json").exists()
    with display_on(Console(stderr=True, highlight=False)) as display:
        try:
            run = _built(call, recipe, None if call.resume else root, display)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(_how_to_go_on(root, call))
            raise
    _show(call, run, was_finished=was_finished)


def _run_as(call: BuildCall, rank: int) -> None:
    """One rank's part; the words are rank 0's."""
    _check(call)
    level = logging.WARNING if rank == 0 else logging.ERROR
    logging.basicConfig(format="note: %(message)s", stream=sys.stderr, level=level)
    kernels.use(call.kernels)
    make_importable(call.recipe)
    if rank > 0:
        build(call.recipe, changes=call.changes, engine="torch", timeout_seconds=call.timeout_seconds)
        return
    was_finished = call.resume is not None and (call.resume / "summary.json").exists()
    with display_on(Console(stderr=True, highlight=False)) as display:
        run = _built(call, call.recipe, call.out, display)
    _show(call, run, was_finished=was_finished)


def _built(call: BuildCall, recipe: Recipe | Path | None, out: Path | None, display: Display) -> Run:
    return build(
        recipe,
        changes=() if isinstance(recipe, Recipe) else call.changes,
        out=out,
        resume=call.resume,
        compare=call.compare,
        watch=display.watch(THIS),
        watch_baseline=lambda name: display.watch(LABELS[name]),
        engine=call.engine,
        tell=display.tell,
        branch=call.branch,
        repo=call.repo,
        start_from=call.start_from,
        author=author(None),
        timeout_seconds=call.timeout_seconds,
    )


def _show(call: BuildCall, run: Run, *, was_finished: bool) -> None:
    if was_finished:
        print(f"note: {run.path} was finished before; nothing of it was trained again", file=sys.stderr)
    if call.json:
        print_json(run.path)
    else:
        print_outcome(Console(stderr=True, highlight=False), run.summary, run.path)


def run_branches(call: BuildCall, how: BranchesCall) -> None:
    """Trains a branch per site and merges them, and says what that gave.

    Raises:
        PhloemError: as `phloem.job.separately.build_branches`.
    """
    from phloem.job.separately import build_branches

    if call.recipe is None or call.resume is not None or call.compare or call.engine != "local":
        raise ConfigError(
            "--branches takes a recipe, and trains here", hint="leave out --resume, --compare, --engine"
        )
    logging.basicConfig(format="note: %(message)s", stream=sys.stderr)
    kernels.use(call.kernels)
    make_importable(call.recipe)
    built = build_branches(
        load_recipe(call.recipe, call.changes),
        repo=call.repo,
        into=call.branch or TRUNK,
        method={"name": how.method},
        cycles=how.cycles,
        keep_local=how.keep_local,
        out=call.out,
        author=author(None),
        tell=lambda words: print(words, file=sys.stderr, flush=True),
    )
    if call.json:
        print(json.dumps(canonical.plain(built), indent=2))
        return
    print_branches(Console(stderr=True, highlight=False), built, call.branch or TRUNK)
    print(built.trunk)


def _check(call: BuildCall) -> None:
    if call.recipe is None and call.resume is None:
        raise ConfigError(
            "there is neither a recipe nor a run to go on with",
            hint="phloem build RECIPE.toml, or phloem build --resume RUN",
        )
    if call.out is not None and call.resume is not None:
        raise ConfigError("--out starts a run and --resume goes on with one", hint="give one of the two")
    if call.start_from is not None and call.branch is None:
        raise ConfigError("--from says where a new branch starts", hint="name it with --branch")


def _recipe_and_root(call: BuildCall) -> tuple[Recipe, Path]:
    if call.resume is not None:
        source = call.recipe or RunDirectory.open(call.resume)[1]
        return load_recipe(source, call.changes), call.resume
    assert call.recipe is not None
    recipe = load_recipe(call.recipe, call.changes)
    return recipe, call.out if call.out is not None else free_directory(recipe.name)


def make_importable(recipe: Path | None) -> None:
    """Lets a `package.module:Class` be found here and beside the recipe; installed packages come first."""
    for folder in (Path.cwd(), *([recipe.resolve().parent] if recipe else [])):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def display_on(console: Console) -> Display:
    """The live view on a terminal, lines elsewhere."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console)
    return PlainDisplay(lambda line: print(line, file=sys.stderr, flush=True))


def _how_to_go_on(root: Path, call: BuildCall) -> str:
    more = ["--compare"] if call.compare else []
    more += ["--engine", call.engine] if call.engine != "local" else []
    return how_to_go_on(root, shlex.join(["phloem", "build", "--resume", str(root), *more]))


def how_to_go_on(root: Path, command: str) -> str:
    """What to say after Ctrl-C; `command` goes on with the run in `root`."""
    if not (root / "run.json").exists():
        return "interrupted before the first round; nothing was written"
    return f"interrupted; go on with: {command}"


def print_json(root: Path) -> None:
    """Writes a finished run's summary on standard output."""
    try:
        sys.stdout.write((root / "summary.json").read_text("utf-8"))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough; no second complaint when Python closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise StoreError(f"{root}/summary.json cannot be read: {error.strerror}") from error
