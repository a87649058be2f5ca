"""`phloem build --engine flower`: the processes of a Flower deployment around a run, from its start to its end."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from phloem.engines.flower.limits import Line, check_line
from phloem.engines.flower.processes import SuperLink, SuperNode
from phloem.engines.flower.project import (
    public_keys,
    write_app,
    write_kit,
    write_nodes,
    write_secrets,
)
from phloem.engines.host import initial_state_of, load_task_of
from phloem.errors import ConfigError
from phloem.job import lifecycle
from phloem.job.coordinate import Report, follow
from phloem.job.directory import RunDirectory
from phloem.job.runner import Run
from phloem.job.watch import Watcher
from phloem.recipe import Recipe
from phloem.tensors import Layout

Say = Callable[[str], None]

_ASK_SECONDS = (
    20.0  # between two questions whether a run goes on whose log is silent: each costs a second of work
)


def build_here(recipe: Recipe, root: Path, watch: Watcher, say: Say, *, simulation: bool = False) -> Run:
    """The recipe with Flower, all on this machine: a SuperLink and a SuperNode per site, or Flower's simulation.

    TLS and node authentication are on, telemetry is off, everything is bound to loopback and ends with this call.

    Raises:
        PhloemError: as `phloem.build`; the programs' logs stay, and the message says where.
    """
    folder = Path(tempfile.mkdtemp(prefix="phloem-flower-"))
    try:
        write_app(folder / "app", recipe)
        authority = write_secrets(folder, ["127.0.0.1"])
        say("starting Flower's SuperLink")
        with SuperLink(folder / "superlink", authority, simulation=simulation) as link:
            config: dict[str, Any] = {}
            with contextlib.ExitStack() as nodes:
                if simulation:
                    config["simulated-state"] = str((root / "private" / "nodes").absolute())
                else:
                    say(f"starting {len(recipe.sites.all)} SuperNodes")
                    for site in recipe.sites.all:
                        write_kit(folder, site, link.address, authority)
                    config["nodes"] = str(folder / "nodes.json")
                    write_nodes(folder / "nodes.json", registered(link, folder, recipe))
                    nodes.enter_context(_nodes(link, folder, recipe, root))
                run = run_on(link, folder / "app", recipe, root, watch, say, config, simulation=simulation)
    except BaseException:
        say(f"the logs of Flower's programs are in {folder}")
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return run


def registered(link: SuperLink, folder: Path, recipe: Recipe) -> dict[str, int]:
    """Lets the sites' keys in; gives the node that each of them is."""
    return {site: link.register(key) for site, key in public_keys(folder, recipe.sites.all).items()}


@contextlib.contextmanager
def _nodes(link: SuperLink, folder: Path, recipe: Recipe, root: Path) -> Iterator[None]:
    nodes = []
    for site in recipe.sites.all:
        kit = folder / "sites" / site
        config = {"site": site, "phloem-state": str((root / "private" / "nodes").absolute())}
        nodes.append(SuperNode(kit, link.address, kit / "ca.crt", kit / "node.key", config))
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            node.ask_to_stop()
        for node in nodes:
            node.stop()


def run_on(
    link: SuperLink,
    app: Path,
    recipe: Recipe,
    root: Path,
    watch: Watcher,
    say: Say,
    config: Mapping[str, Any],
    *,
    simulation: bool = False,
) -> Run:
    """Starts the run of `app` in `root`, or goes on with the one that is there, and watches it to its end."""
    if (root / "summary.json").exists():
        return lifecycle.read(root)
    done = RunDirectory.open(root)[0].records() if (root / "run.json").exists() else []
    with contextlib.ExitStack() as restore:
        task = load_task_of(recipe, restore)
        parameters = Layout.of(initial_state_of(task, recipe)).size
        check_links(recipe, parameters)
        watch.started(recipe, task.metric, parameters, tuple(done))
    said = link.folder / "report.jsonl"
    said.unlink(missing_ok=True)
    settings = {"run": str(root.absolute()), "report": str(said), **config}
    sites = len(recipe.sites.all)
    federation = {"num-supernodes": sites, "client-resources-num-cpus": 1} if simulation else None
    number = link.run(app, settings, federation)
    asked = time.monotonic()

    def ended() -> str | None:
        nonlocal asked
        if (root / "summary.json").exists():
            return "finished"
        if not link.alive:
            return f"the SuperLink ended; its log is {link.log_path}"
        if not link.looks_finished(number) and time.monotonic() - asked < _ASK_SECONDS:
            return None
        asked = time.monotonic()
        state = link.status(number)
        return f"{state.status} {state.details}".strip() if state.finished else None

    try:
        follow(root, len(done), watch, ended, Report(said), say)
    except BaseException:
        with contextlib.suppress(Exception):
            link.stop_run(number)
        raise
    run = lifecycle.read(root)
    watch.finished(run.summary)
    return run


def check_links(recipe: Recipe, parameters: int) -> None:
    """Nothing, if a whole model and the frames can cross every site's line in Flower's time limits.

    Raises:
        ConfigError: a site's line is too slow; it is named.
    """
    for site in recipe.sites.all:
        link = recipe.link_of(site)
        try:
            check_line(Line(link.up, link.down), 4 * parameters, 3600.0)
        except ConfigError as error:
            raise ConfigError(f"site '{site}': {error.message}", hint=error.hint) from error
