"""The two apps of `phloem build` on Flower: a site answers orders with its recipe's task, a coordinator gives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

import phloem
from phloem.engines.base import Answer
from phloem.engines.flower.engine import CODEC_SECONDS, LOST, SITE, TIMES, TRAIN_SECONDS, WHO
from phloem.engines.flower.greeting import PROTOCOL, REFUSAL, REFUSED
from phloem.engines.flower.mod import state_root
from phloem.engines.flower.records import KEY, Payload, packed, unpacked
from phloem.engines.flower.shelf import forget_old, forget_run, private_store
from phloem.engines.host import Host
from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, StateError
from phloem.recipe import Recipe, load_recipe
from phloem.store.snapshot import load_snapshot, save_snapshot
from phloem.wire.messages import Order, Reply, Status

Source = str | Path | Mapping[str, Any]

OPTION = "task-"
"""What a key of a node's own configuration begins with that sets an option of the task: `task-csv="/data/own.csv"`."""

SIMULATED_STATE = "simulated-state"
"""The key of a run's configuration that says where simulated nodes keep what they own."""

POLICY = "phloem-policy"
"""The key of a node's own configuration that names the policy by which it judges the log."""

_NAME = "site"
_log = logging.getLogger("flwr")  # where a node's other words go


def site_app(recipe: Source) -> ClientApp:
    """The ClientApp of a site: trains when an order asks for it, on data that stay at its node.

    The node's own configuration names the site (`site="aachen"`), where it keeps trunk and residual
    (`phloem-state="/path"`), and the task's options that hold for it alone (`task-csv="/data/own.csv"`).
    """
    app = ClientApp()

    @app.train()
    def deliver(message: Message, context: Context) -> Message:
        try:
            return Message(_delivered(load_recipe(recipe), message.content, context), reply_to=message)
        except PhloemError as error:
            lost = f" ({LOST})" if isinstance(error, StateError) else ""
            return Message(Error(REFUSAL, f"{REFUSED}{error}{lost}"), reply_to=message)

    return app


def server_app(main: Callable[[Grid, Mapping[str, Any]], None]) -> ServerApp:
    """A ServerApp that calls `main` with the grid and the run's configuration."""
    app = ServerApp()

    @app.main()
    def run(grid: Grid, context: Context) -> None:
        main(grid, dict(context.run_config))

    return app


def _delivered(recipe: Recipe, content: RecordDict, context: Context) -> RecordDict:
    """What a site answers to one message of the coordinator."""
    site = _site_of(recipe, context)
    question = content.config_records.get(KEY, ConfigRecord()).get(WHO)
    if question is not None:
        if question != PROTOCOL:
            raise ConfigError(
                f"the coordinator speaks protocol {question!r:.20}, expected {PROTOCOL} "
                f"(phloem {phloem.__version__})",
                hint="install the same release of phloem everywhere",
            )
        return RecordDict({KEY: ConfigRecord({SITE: site, "phloem": phloem.__version__})})
    record = content.array_records.get(KEY)
    if record is None:
        raise FormatError("expected a message of phloem's coordinator, found another one")
    payload = Payload.unpack(unpacked(record))
    answer = _answered(recipe, site, payload, context)
    facts = ConfigRecord({TRAIN_SECONDS: answer.train_seconds, CODEC_SECONDS: answer.codec_seconds})
    return RecordDict({KEY: packed(Payload(payload.token, answer.message).pack()), TIMES: facts})


def _answered(recipe: Recipe, site: str, payload: Payload, context: Context) -> Answer:
    config = context.node_config
    options = {key.removeprefix(OPTION): value for key, value in config.items() if key.startswith(OPTION)}
    host = Host(recipe, [site], options=options)
    runs = _root(context) / site
    if recipe.ledger is not None:
        policy = config.get(POLICY)
        host.join_ledger(runs / "ledger", None if policy is None else Path(str(policy)))
    store = private_store(runs, payload.token.hex())
    try:
        saved = load_snapshot(store, _NAME)
        if saved is not None:
            host.load(store, saved)
        answer = host.deliver(site, payload.message)
    except (FormatError, NotFoundError, StateError) as error:
        forget_run(
            runs, payload.token.hex()
        )  # it begins again with the first state, as the coordinator is told
        raise StateError(error.message, hint=error.hint) from error
    save_snapshot(store, _NAME, host.save(store))
    forget_old(runs, payload.token.hex())
    _log.info("phloem: %s", _words(site, payload.message, answer))
    return answer


def _words(site: str, order: bytes, answer: Answer) -> str:
    """What a site did, in a line."""
    asked, reply = Order.unpack(order), Reply.unpack(answer.message)
    start = f"{site}, round {asked.round + 1}: received {len(order):,} bytes"
    if reply.status is Status.UPDATE:
        return f"{start}, trained for {answer.train_seconds:.1f} s, sent {len(answer.message):,} bytes"
    return f"{start}, {f'sends nothing: {reply.reason}' if reply.reason else 'up to date'}"


def _site_of(recipe: Recipe, context: Context) -> str:
    """The site that this node is."""
    config, sites = context.node_config, recipe.sites.all
    name = config.get("site")
    if name is None and isinstance(config.get("partition-id"), int):  # a node of Flower's simulation
        return sites[int(config["partition-id"]) % len(sites)]
    if name not in sites:
        raise ConfigError(
            f"this node's configuration names no site of the recipe (site={name!r:.60})",
            hint=f"start it with --node-config 'site=\"{sites[0]}\"' or another of: {', '.join(sites[:20])}",
        )
    return str(name)


def _root(context: Context) -> Path:
    simulated = context.run_config.get(SIMULATED_STATE)
    if "partition-id" in context.node_config and isinstance(simulated, str) and simulated:
        return Path(simulated)
    return state_root(context)
