"""The two apps of the benchmark: `server` runs rounds of a mode, `client` trains; see ../flower.py."""

from __future__ import annotations

import atexit
import cProfile
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_model
from bench_codecs import codec_of
from bench_strategies import strategy_of
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
_times: dict[str, float] = {"train": 0.0, "codec": 0.0, "app": 0.0}  # of this process's message


@server.main()
def run(grid: Grid, context: Context) -> None:
    """Rounds of the run's mode; what they measure is in its folder."""
    config = context.run_config
    folder = Path(str(config["folder"]))
    strategy = strategy_of(config, folder)
    arrays = ArrayRecord({name: Array(array) for name, array in bench_model.first(config).items()})

    def accuracy(number: int, found: ArrayRecord) -> MetricRecord:
        _, task = bench_model.digits(str(config["recipe"]))
        figures = task.evaluate({name: array.numpy() for name, array in found.items()}, "stop")
        strategy.marks.say("evaluated", number, **figures)
        return MetricRecord(dict(figures))

    profile = cProfile.Profile() if config["profile"] else None
    if profile:
        profile.enable()
    measure = accuracy if config["model"] == "digits" else None
    strategy.start(grid, arrays, num_rounds=int(config["rounds"]), timeout=3600, evaluate_fn=measure)
    if profile:
        profile.disable()
        profile.dump_stats(folder / "server.prof")
    strategy.marks.stop("done", 0)


def measured(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
    """Notes what a site's process spends on a message, from its start to its end, in seconds."""
    profile = cProfile.Profile() if context.run_config["profile"] else None
    before = {"at": time.monotonic(), "cpu": time.process_time()}
    if profile:
        profile.enable()
    reply = call_next(message, context)
    if profile:
        profile.disable()
    after = {"at": time.monotonic(), "cpu": time.process_time()}
    config = message.content.config_records.get("config")
    note = {
        "site": context.node_config["site"],
        "phase": message.metadata.message_type if config is not None else "greet",
        "round": int(config["server-round"]) if config is not None else 1,  # type: ignore[arg-type]
        "started": _process_started(),
        "handed": before,
        "handled": after,
        "payload_down": _payload(message),
        "payload_up": _payload(reply),
        **_times,
    }
    folder = Path(str(context.run_config["folder"]))
    if profile:
        profile.dump_stats(folder / f"{note['site']}-{note['round']}-{note['phase']}.prof")
    atexit.register(_write, folder / f"site-{note['site']}.jsonl", note)
    return reply


def compressed(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
    """Phloem's mod, in its mode; the time that it takes is the whole less the app's."""
    config = context.run_config
    if config["mode"] != "phloem":
        return call_next(message, context)
    import phloem.flower

    initial = (lambda _: bench_model.first(config)) if config["held"] else None
    started = time.monotonic()
    mod = phloem.flower.mod(state=Path(str(config["folder"])) / "state", initial=initial)
    reply = mod(message, context, call_next)
    _times["codec"] += time.monotonic() - started - _times["app"]
    return reply


client = ClientApp(mods=[measured, compressed])


@client.train()
def train(message: Message, context: Context) -> Message:
    """The trained model."""
    started = time.monotonic()
    codec, site = codec_of(context.run_config), int(context.node_config["site"])
    state = codec.model_in(message.content["arrays"])  # type: ignore[arg-type]
    base, training = dict(state), time.monotonic()
    trained, examples = bench_model.train(
        context.run_config,
        state,
        site,
        int(message.content["config"]["server-round"]),  # type: ignore[arg-type]
    )
    _times["train"] = time.monotonic() - training
    record = codec.trained_out(trained, base)
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": examples})})
    _times["codec"], _times["app"] = codec.seconds, time.monotonic() - started
    return Message(content, reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """One number about the model."""
    started = time.monotonic()
    codec = codec_of(context.run_config)
    state = codec.model_in(message.content["arrays"])  # type: ignore[arg-type]
    figures = MetricRecord({"num-examples": 1, "size": bench_model.measure(state)})
    _times["codec"], _times["app"] = codec.seconds, time.monotonic() - started
    return Message(RecordDict({"metrics": figures}), reply_to=message)


def _payload(message: Message) -> int:
    """The bytes of all arrays; of a greeting, of its words."""
    if not message.has_content():
        return 0
    arrays = (array.data for record in message.content.array_records.values() for array in record.values())
    words = (word for record in message.content.config_records.values() for word in record.values())
    return sum(map(len, arrays)) + sum(len(word) for word in words if isinstance(word, bytes))


def _process_started() -> float:
    """When this process began, on the monotonic clock."""
    ticks = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def _write(path: Path, note: dict[str, Any]) -> None:
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended = {"at": time.monotonic(), "cpu": time.process_time()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**note, "ended": ended, "peak_bytes": peak}) + "\n")
