"""`Compressed` and the mod on real processes: nodes that lie, fail or lack the mod, and a strategy that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import ROOT

from phloem.engines.flower.certificates import make_authority, make_node_key
from phloem.engines.flower.processes import SuperLink, SuperNode

pytestmark = [pytest.mark.service("flower"), pytest.mark.slow]

NODES = ("honest", "steady", "plain", "nan", "garbage", "old")
APP = """
import json, os
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAdam

import phloem.flower
from phloem.engines.flower import greeting

ours = phloem.flower.mod()


def with_faults(message, context, call_next):
    fault = context.node_config["fault"]
    if fault == "plain":
        return call_next(message, context)
    if fault == "old":
        greeting.PROTOCOL = 0
    out = ours(message, context, call_next)
    if fault == "garbage" and out.has_content() and "arrays" in out.content.array_records:
        array = out.content["arrays"]["0"]
        data = bytearray(array.data)
        data[-3] ^= 1
        out.content["arrays"]["0"] = Array("uint8", (len(data),), array.stype, bytes(data))
    return out


client = ClientApp(mods=[with_faults])
server = ServerApp()


@client.train()
def train(message, context):
    number, fault = message.content["config"]["server-round"], context.node_config["fault"]
    log = Path(context.node_config["log"])
    log.write_text((log.read_text() if log.exists() else "") + f"{number}\\n")
    if context.node_config["fault"] == "steady":
        while number == 3 and Path(context.node_config["hold"]).exists():
            __import__("threading").Event().wait(0.05)
    draw = np.random.default_rng([number, len(fault)])
    arrays = {k: a.numpy() for k, a in message.content["arrays"].items()}
    for name, array in arrays.items():
        arrays[name] = (array + 0.1 * draw.normal(size=array.shape)).astype(array.dtype)
    if fault == "nan" and number == 2:
        arrays["w"][0, 0] = np.nan
    content = {"arrays": ArrayRecord({k: Array(a) for k, a in arrays.items()}),
               "metrics": MetricRecord({"num-examples": 2})}
    return Message(RecordDict(content), reply_to=message)


@client.evaluate()
def evaluate(message, context):
    total = float(np.sum(message.content["arrays"]["w"].numpy(), dtype=np.float64))
    return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "total": total})}), reply_to=message)


@server.main()
def main(grid, context):
    config = context.run_config
    while len(list(grid.get_node_ids())) < config["nodes"]:
        __import__("threading").Event().wait(0.1)
    inner = FedAdam(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=config["nodes"])
    strategy = phloem.flower.Compressed(inner, bits=2.0, state=config["state"])
    first = {"w": np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32), "b": np.zeros(5, np.float32)}
    seen = {}

    def measure(number, arrays):
        seen[number] = float(np.sum(arrays["w"].numpy(), dtype=np.float64))

    result = strategy.start(grid, ArrayRecord({k: Array(a) for k, a in first.items()}),
                            num_rounds=config["rounds"], evaluate_fn=measure)
    rows = [[r.round, r.phase, r.node, r.direction, r.bytes, r.compressed] for r in strategy.traffic]
    clients = {n: m["total"] for n, m in result.evaluate_metrics_clientapp.items()}
    final = {k: a.numpy().tobytes().hex() for k, a in result.arrays.items()}
    Path(config["result"]).write_text(json.dumps({"seen": seen, "clients": clients, "final": final, "traffic": rows}))
"""
PROJECT = """
[project]
name = "faults"
version = "1.0.0"
description = "Nodes with faults"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "phloem"

[tool.flwr.app.components]
serverapp = "faults:server"
clientapp = "faults:client"

[tool.flwr.app.config]
nodes = 2
rounds = 1
state = ""
result = ""
"""


@contextlib.contextmanager
def deployed(folder: Path, nodes: tuple[str, ...]) -> Iterator[SuperLink]:
    app = folder / "app"
    app.mkdir(parents=True)
    (app / "faults.py").write_text(APP, "utf-8")
    (app / "pyproject.toml").write_text(PROJECT, "utf-8")
    authority = make_authority(folder / "keys", ["127.0.0.1"])
    with SuperLink(folder / "superlink", authority) as link, contextlib.ExitStack() as running:
        for name in nodes:
            key = make_node_key(folder / "keys", name)
            link.register(key.public)
            config = {
                "fault": name,
                "log": str(folder / f"{name}.trained"),
                "hold": str(folder / "hold"),
                "phloem-state": str(folder / "states" / name),
            }
            node = SuperNode(folder / name, link.address, authority.ca_certificate, key.private, config)
            running.enter_context(node)
        yield link


def run(link: SuperLink, folder: Path, **config: Any) -> dict[str, Any]:
    number = start(link, folder, **config)
    state = link.wait_finished(number, 900)
    assert state.status == "finished:completed", (state, link.log(number)[-3000:])
    return {**json.loads((folder / "result.json").read_text()), "log": link.log(number)}


def start(link: SuperLink, folder: Path, **config: Any) -> int:
    return link.run(
        folder / "app", {"result": str(folder / "result.json"), "state": str(folder / "strategy"), **config}
    )


def wait_for(what: Callable[[], Any], seconds: float = 400.0) -> Any:
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < limit, "it did not happen in time"
        threading.Event().wait(0.05)
    return found


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))


def test_rounds_go_on_while_nodes_lie_fail_or_lack_the_mod(tmp_path: Path) -> None:
    with deployed(tmp_path, NODES) as link:
        found = run(link, tmp_path, nodes=len(NODES), rounds=3)
    log = found["log"]
    assert "has no phloem mod" in log
    assert "speaks protocol" in log
    assert "tensor 'w' holds NaN or infinity" in log
    assert log.count("checksum does not match") >= 3  # by us, and by Flower again
    for number in ("1", "2", "3"):  # every node that evaluated holds what the strategy holds
        assert found["clients"][number] == pytest.approx(found["seen"][number], abs=1e-9)
    assert not (tmp_path / "old.trained").exists()
    for name in ("honest", "nan", "garbage", "plain"):
        assert (tmp_path / f"{name}.trained").read_text().split()[-3:] == ["1", "2", "3"], name
    down = [row for row in found["traffic"] if row[3] == "down" and row[5]]
    whole = max(row[4] for row in down)
    assert all(row[4] < whole / 3 for row in down if (row[0], row[1]) != (1, "train"))


def test_a_strategy_killed_in_mid_round_goes_on_and_nobody_trains_twice(tmp_path: Path) -> None:
    names = ("honest", "steady")
    with deployed(tmp_path / "whole", names) as link:
        whole = run(link, tmp_path / "whole", nodes=2, rounds=4)
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "hold").touch()
    with deployed(folder, names) as link:
        number = start(link, folder, nodes=2, rounds=4)
        wait_for(lambda: "3" in _trained(folder, "honest") and "3" in _trained(folder, "steady"))
        threading.Event().wait(3.0)  # until the honest node's reply is on its way
        os.kill(_serverapp(folder), signal.SIGKILL)
        (folder / "hold").unlink()
        assert link.wait_finished(number, 600).status == "finished:failed"
        again = run(link, folder, nodes=2, rounds=4)
    assert "2 rounds were done before; going on" in again["log"]
    assert again["final"] == whole["final"]
    assert _trained(folder, "honest") == _trained(folder, "steady") == ["1", "2", "3", "4"]


def _trained(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.trained"
    return path.read_text().split() if path.exists() else []


def _serverapp(folder: Path) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"FLWR_HOME={folder}".encode() in (path / "environ").read_bytes()
            if ours and b"flwr-serverapp" in (path / "cmdline").read_bytes():
                return int(path.name)
    raise AssertionError("there is no server app")
