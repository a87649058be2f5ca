"""`phloem flower`: a Flower deployment over several machines, for the coordinator and for each site."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phloem.cli.options import DebugOption
from phloem.errors import ConfigError

if TYPE_CHECKING:
    from phloem.engines.flower.processes import SuperNode

_LOOK_SECONDS = 0.2
_AGAIN_SECONDS = 5.0

_GROUP_HELP = """Train over the internet with Flower: one coordinator, a node at every site, TLS and keys on.

\b
Three terminals, here on one machine:
  phloem flower new clinic --recipe examples/hospitals.toml --sites north,south
  phloem flower coordinator clinic
  phloem flower site clinic/sites/north
  phloem flower site clinic/sites/south

\b
Over several machines: `new --host NAME:PORT` names the coordinator's address, `coordinator --bind 0.0.0.0` lets
others reach it, and every site gets its own folder of sites/, by a way that you trust.
"""
_NEW_HELP = """Make a Flower app from a recipe, with keys for the coordinator and a kit for every site.

\b
DIR/recipe.toml      what is built
DIR/sites/NAME/      a site's kit: hand it over, keep no copy of its node.key
DIR/secrets/         the coordinator's certificate and key
DIR/ledger/          the log and its keys, where the recipe has [ledger]; every kit has its policy
DIR/README.md        what to type at which machine
"""
_COORDINATOR_HELP = """Start the coordinator of DIR, wait for its sites, and build the model.

It runs Flower's SuperLink (TLS, node authentication, no telemetry), lets the keys in DIR/sites in, starts the app
and shows its rounds. Ended before the run is (Ctrl-C, a crash), the same command goes on after the last whole round.

\b
Exit codes: 0 done, 1 the run failed, 2 the call is wrong, 130 interrupted.
"""
_SITE_HELP = """Start the node of one site, with the kit that the coordinator gave it, until Ctrl-C.

It runs Flower's SuperNode. Data stay here: KIT/site.toml says where they lie.
"""
_WARM_HELP = """Run COMMAND, one of Flower's such as flower-supernode, with warm starts for the app's processes.

Flower starts a process for every message, and each imports Flower, the app and what the app needs. With warm starts
it is a fork of one that has imported them already (on Linux). `phloem flower site` does
so by itself; this is for a SuperNode that you start yourself.

\b
  phloem flower warm flower-supernode --superlink example.org:9092 --root-certificates ca.crt

Exit code: the command's.
"""


def _check_installed() -> None:
    """Nothing, if Flower is there.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("flwr") is None:
        raise ConfigError("Flower is not installed", hint="pip install 'phloem[flower]'")


group = typer.Typer(
    name="flower",
    help=_GROUP_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@group.command("new", help=_NEW_HELP)
def new_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The app's directory, new or empty.")],
    recipe: Annotated[Path, typer.Option(metavar="RECIPE.toml", help="What is to be built.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
    ] = None,
    sites: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,…", help="Who takes part; by default the recipe's sites.", show_default=False
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where sites will reach the coordinator.")
    ] = "127.0.0.1:8000",
    debug: DebugOption = False,
) -> None:
    """Make a Flower app from a recipe."""
    _check_installed()
    from phloem.cli.build import make_importable
    from phloem.engines.flower.project import (
        host_of,
        make_ledger,
        write_app,
        write_kit,
        write_readme,
        write_secrets,
    )
    from phloem.recipe import load_recipe

    make_importable(recipe)
    loaded = load_recipe(recipe, tuple(set_ or ())).timed(measured=True)
    if sites is not None:
        loaded = loaded.with_sites([name.strip() for name in sites.split(",")])
    name, _ = host_of(host)
    write_app(directory, loaded, host)
    authority = write_secrets(directory, sorted({name, "127.0.0.1", "localhost"}))
    policy = make_ledger(directory, loaded)
    for site in loaded.sites.all:
        write_kit(directory, site, host, authority, policy)
    write_readme(directory, loaded, host)
    first = loaded.sites.all[0]
    print(f"{directory}: {loaded.name}, {len(loaded.sites.all)} sites, coordinator at {host}")
    print("next, each in a terminal of its own:")
    print(f"  phloem flower coordinator {directory}")
    print(f"  phloem flower site {directory}/sites/{first}    (and the others in {directory}/sites)")


@group.command("coordinator", help=_COORDINATOR_HELP)
def coordinator_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `phloem flower new` made.")],
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run's directory; by default DIR/runs/NAME.")
    ] = None,
    bind: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on; 0.0.0.0 for every interface.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="The port to listen on; by default that of the kits.", show_default=False),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print summary.json on standard output.")] = False,
    debug: DebugOption = False,
) -> None:
    """Start the coordinator and build the model."""
    _check_installed()
    from rich.console import Console

    from phloem.cli.build import display_on, how_to_go_on, make_importable, print_json
    from phloem.engines.flower.certificates import make_authority
    from phloem.engines.flower.processes import FrontDoor, SuperLink
    from phloem.engines.flower.project import LEDGER, RECIPE, SECRETS, host_of, read_address, write_nodes
    from phloem.job.deployed import registered, run_on
    from phloem.recipe import load_recipe
    from phloem.ui.outcome import THIS
    from phloem.ui.report import write_report
    from phloem.ui.table import print_outcome

    make_importable(directory / RECIPE)
    recipe = load_recipe(directory / RECIPE)
    name, default_port = host_of(read_address(directory))
    root = out if out is not None else directory / "runs" / recipe.name
    authority = make_authority(directory / SECRETS, sorted({name, "127.0.0.1", "localhost"}))
    console = Console(stderr=True, highlight=False)
    link = SuperLink(directory / SECRETS / "superlink", authority)
    door = FrontDoor(link, bind, port or default_port)
    try:
        with display_on(console) as display, link:
            nodes = registered(link, directory, recipe)
            write_nodes(directory / "nodes.json", nodes)
            config = {"nodes": str((directory / "nodes.json").absolute())}
            if (directory / LEDGER).exists():
                config["ledger"] = str((directory / LEDGER).absolute())
            with door:
                display.tell(f"listening on {bind}:{door.port} for {', '.join(nodes)}")
                run = run_on(link, directory, recipe, root, display.watch(THIS), display.tell, config)
    except KeyboardInterrupt as interrupt:
        print(how_to_go_on(root, f"phloem flower coordinator {directory}"), file=sys.stderr)
        raise typer.Exit(130) from interrupt
    write_report(run.path)
    if json_:
        print_json(run.path)
    else:
        print_outcome(console, run.summary, run.path)


@group.command("site", help=_SITE_HELP)
def site_command(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The site's folder, such as DIR/sites/NAME.")],
    coordinator: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Another address than the kit's.", show_default=False),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Show all that Flower says.")] = False,
    debug: DebugOption = False,
) -> None:
    """Start the node of one site."""
    _check_installed()
    from phloem.engines.flower.processes import SuperNode
    from phloem.engines.flower.project import read_kit

    found = read_kit(kit)
    address = coordinator or found.coordinator
    node = SuperNode(kit / "node", address, found.certificate, found.key, found.config)
    print(f"{found.name}: connecting to {address}; Ctrl-C ends the node", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            with node:
                _show_until_it_ends(node, found.name, all_of_it=log)
            why = node.refusal() or f"it ended with exit code {node.exit_code}; its log is {node.log_path}"
            print(f"{found.name} is not connected: {why}", file=sys.stderr)
            print(f"trying again in {_AGAIN_SECONDS:.0f} s; is the coordinator running?", file=sys.stderr)
            time.sleep(_AGAIN_SECONDS)


@group.command(
    "warm",
    help=_WARM_HELP,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def warm_command(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…", help="The program and its arguments.")],
) -> None:
    """Run one of Flower's programs with warm starts."""
    _check_installed()
    from phloem.engines.flower import warm
    from phloem.engines.flower.programs import path_of

    folder = Path(tempfile.gettempdir()) / f"phloem-warm-{os.getpid()}-{secrets.token_hex(4)}"
    words = warm.command(path_of(command[0]), command[1:], folder)
    if len(words) == len(command):
        print("phloem: no warm starts on this system", file=sys.stderr)
    os.execv(words[0], words)


def _show_until_it_ends(node: SuperNode, name: str, *, all_of_it: bool) -> None:
    shown, connected, alive = 0, False, True
    while alive:
        alive = node.alive  # asked first: what it wrote before its end is read after
        output = node.output()
        whole = output[: output.rfind("\n") + 1]
        for line in whole[shown:].splitlines():
            level, _, words = line.partition(":")
            ours = words.strip().startswith("phloem: ")
            if line.strip() and (all_of_it or ours or level.strip() in ("WARNING", "ERROR")):
                print(words.strip().removeprefix("phloem: ") if ours else line.rstrip(), file=sys.stderr)
        shown = len(whole)
        if not connected and node.node_id() is not None:
            connected = True
            print(f"{name} is connected", file=sys.stderr)
        time.sleep(_LOOK_SECONDS)


def add_to(app: typer.Typer) -> None:
    """Gives the app this group."""
    app.add_typer(group)
