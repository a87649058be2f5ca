"""Real processes: a SuperLink and SuperNodes over TLS, with what goes wrong between institutions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import ROOT, table

import phloem
from phloem.engines.flower.certificates import make_node_key
from phloem.engines.flower.processes import SuperLink, SuperNode, free_port
from phloem.engines.flower.project import write_app, write_kit, write_nodes, write_secrets
from phloem.errors import StateError
from phloem.job.deployed import registered, run_on
from phloem.job.record import RoundRecord
from phloem.job.runner import Run
from phloem.job.watch import Unwatched
from phloem.planner.costs import Seen
from phloem.recipe import Recipe, load_recipe

pytestmark = [pytest.mark.service("flower"), pytest.mark.slow]

MEASURED = {"train_seconds", "codec_seconds", "choice_seconds", "wall_seconds", "metrics", "per_site"}
EVIL = """
import copy
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

honest = client
client = ClientApp()

@client.train()
def sometimes_honest(message, context):
    reply = honest(message, context)
    if context.node_config.get("garbage") and reply.has_content() and "phloem" in reply.content.array_records:
        record = reply.content["phloem"]
        data = bytearray(record["0"].data)
        data[-3] ^= 0x40
        record["0"] = Array("uint8", (len(data),), record["0"].stype, bytes(data))
    return reply
"""


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's processes find `tests.tiny`; what they leave is looked for in one place."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def lines(run: Run) -> list[dict[str, Any]]:
    """The rounds, without what is measured and what only the local engine sees."""
    return [{k: v for k, v in json.loads(r.to_json()).items() if k not in MEASURED} for r in run.records]


def sizes(run: Run) -> list[Any]:
    return [{s: (row.up, row.down, row.control) for s, row in r.per_site.items()} for r in run.records]


def pids_under(folder: Path, program: str) -> list[int]:
    """The processes of a program whose own files lie under `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = f"FLWR_HOME={folder}".encode() in (path / "environ").read_bytes()
            if here and program.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def wait_for(what: Callable[[], Any], seconds: float = 400.0) -> Any:
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < limit, "it did not happen in time"
        threading.Event().wait(0.05)
    return found


@pytest.mark.parametrize("engine", ["flower", "flower-simulation"])
def test_on_flower_a_run_ends_with_the_state_and_the_bytes_of_the_local_engine(
    engine: str, tmp_path: Path
) -> None:
    if engine == "flower-simulation":
        pytest.importorskip("ray")
    recipe = load_recipe(table(count=3, rounds=3))
    local = phloem.build(recipe, out=tmp_path / "local")
    told: list[str] = []
    run = phloem.build(recipe, out=tmp_path / "run", engine=engine, tell=told.append)
    assert run.summary["state_digest"] == local.summary["state_digest"]
    assert lines(run) == lines(local)
    assert sizes(run) == sizes(local)
    assert sorted(word for word in told if word.endswith("is connected")) == [
        f"{site} is connected" for site in recipe.sites.all
    ]
    assert not (tmp_path / "run" / "private").exists()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert pids_under(tmp_path, "flower-") == []


AUTO: dict[str, Any] = {"compress": "auto", "count": 3, "rounds": 4, "task": {"features": 400, "rate": 0.002}}
UNEQUAL: dict[str, Any] = {**AUTO, "links": {"site-1": {"up": "50kbit"}}}
#: Training takes so long that a round without it pays.
LONG: dict[str, Any] = {
    **AUTO,
    "task": {"features": 9_000, "rate": 0.0001},
    "link": {"up": "1gbit", "down": "1gbit", "latency": "1ms", "train_seconds": 2.0},
}


@pytest.mark.parametrize(("engine", "sections"), [("flower", UNEQUAL), ("flower-simulation", LONG)])
def test_on_the_simulated_clock_codecs_are_chosen_as_in_the_local_engine(
    engine: str, sections: dict[str, Any], tmp_path: Path
) -> None:
    if engine == "flower-simulation":
        pytest.importorskip("ray")
    recipe = load_recipe(table(**sections, adapt={"clock": "simulated"}))
    local = phloem.build(recipe, out=tmp_path / "local")
    run = phloem.build(recipe, out=tmp_path / "run", engine=engine)
    assert run.summary["state_digest"] == local.summary["state_digest"]
    logs = [(one.path / "decisions.jsonl").read_text() for one in (run, local)]
    assert logs[0] == logs[1]
    assert ('"trains":false' in logs[0].replace(" ", "")) == (sections is LONG)


def test_on_flower_codecs_are_chosen_from_what_the_wire_and_the_sites_took(tmp_path: Path) -> None:
    run = phloem.build(load_recipe(table(**AUTO)), out=tmp_path / "run", engine="flower")
    rows = [json.loads(line) for line in (run.path / "decisions.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        for seen in row["told"]["seen"].values():
            one = Seen(*seen)
            assert one.memory >= 1 << 20, "a site says what memory it has left"
            assert one.up_bytes > one.frame_bytes > 0
            assert one.down_bytes > 0
            assert 0 < one.up_seconds < 60
            assert 0 < one.down_seconds < 60
            assert 0 < one.encode_seconds < 10
            assert 0 < one.decode_seconds < 10


def test_a_coordinator_killed_in_mid_round_goes_on_to_the_same_result(tmp_path: Path) -> None:
    recipe = load_recipe(table(count=2, rounds=4, task={"name": "tests.tiny:Blobs", "delay": 0.3}))
    local = phloem.build(recipe, out=tmp_path / "local")
    root, ended = tmp_path / "run", []

    def build() -> None:
        with pytest.raises(StateError, match="ended before the run did") as caught:
            phloem.build(recipe, out=root, engine="flower")
        ended.append(caught.value)

    building = threading.Thread(target=build)
    building.start()
    rounds = root / "rounds.jsonl"
    wait_for(lambda: rounds.exists() and rounds.read_bytes().count(b"\n") >= 2)
    for pid in wait_for(lambda: pids_under(tmp_path, "flwr-serverapp")):
        os.kill(pid, signal.SIGKILL)
    building.join(600)
    assert ended
    run = phloem.build(recipe, resume=root, engine="flower")
    assert run.summary["state_digest"] == local.summary["state_digest"]
    assert lines(run) == lines(local)


@contextlib.contextmanager
def deployed(
    folder: Path, recipe: Recipe, **faults: dict[str, Any]
) -> Iterator[tuple[SuperLink, dict[str, Any]]]:
    """A SuperLink and a node per site, some with faults in their own configuration."""
    write_app(folder / "app", recipe)
    with (folder / "app" / "phloem_app.py").open("a") as file:
        file.write(EVIL)
    authority = write_secrets(folder, ["127.0.0.1"])
    with SuperLink(folder / "superlink", authority) as link, contextlib.ExitStack() as nodes:
        started = {}
        for site in recipe.sites.all:
            kit = write_kit(folder, site, link.address, authority)
            config = {"site": site, "phloem-state": str(folder / "states"), **faults.get(site, {})}
            started[site] = SuperNode(kit / "node", link.address, kit / "ca.crt", kit / "node.key", config)
        write_nodes(folder / "nodes.json", registered(link, folder, recipe))
        for node in started.values():
            nodes.enter_context(node)
        yield link, started


class Watching(Unwatched):
    """Calls `after[n]` when round n is over."""

    def __init__(self, after: dict[int, Callable[[], None]]) -> None:
        self.after = after

    def round(self, record: RoundRecord) -> None:
        self.after.get(record.round, lambda: None)()


def test_garbage_is_refused_by_name_and_a_site_that_was_away_for_five_rounds_catches_up(
    tmp_path: Path,
) -> None:
    recipe = load_recipe(table(count=4, rounds=14))
    ant, bee, cat, dog = recipe.sites.all
    recipe = load_recipe(recipe, [f"task.nan_site={dog}", "task.fault_from=1"])
    with deployed(tmp_path, recipe, **{bee: {"garbage": True}}) as (link, nodes):
        watch = Watching({1: nodes[cat].stop, 6: nodes[cat].start})
        config = {"nodes": str(tmp_path / "nodes.json"), "answer-seconds": 60}
        run = run_on(link, tmp_path / "app", recipe, tmp_path / "run", watch, lambda words: None, config)
    for record in run.records:
        assert ant in record.accepted
        assert bee not in record.accepted
    assert all("checksum does not match" in r.refused[bee] for r in run.records)
    away = [r.round for r in run.records if r.per_site[cat].status == "away"]
    assert away[0] == 2
    assert 4 <= len(away) <= 11  # its node takes some rounds to start
    assert cat in run.records[-1].accepted
    caught_up = next(r for r in run.records if r.round == away[-1])
    assert caught_up.per_site[cat].frames_down + run.records[away[-1] + 1].per_site[cat].frames_down > 0
    assert dog in run.records[0].accepted
    assert "holds NaN or infinity" in run.records[1].refused[dog]


def test_the_commands_for_separate_machines_train_over_tls_and_leave_a_stranger_out(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    (tmp_path / "recipe.toml").write_text(
        _toml(table(count=2, rounds=2, ledger={"receipts": "strict"})), "utf-8"
    )
    clinic, port = tmp_path / "clinic", free_port()
    env = {**os.environ, "COLUMNS": "100"}
    phl = [sys.executable, "-m", "phloem.cli.main", "flower"]
    recipe = tmp_path / "recipe.toml"
    made = subprocess.run(
        [*phl, "new", clinic, "--recipe", recipe, "--sites", "north,south", "--host", f"127.0.0.1:{port}"],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"phloem flower coordinator {clinic}" in made.stdout
    stranger = clinic / "sites" / "stranger"
    subprocess.run(["cp", "-r", clinic / "sites" / "north", stranger], check=True)
    for name in ("node.key", "node.pub"):
        (stranger / name).unlink()
    make_node_key(stranger, "node")
    logs = {name: (tmp_path / f"{name}.log") for name in ("north", "south", "stranger")}
    with contextlib.ExitStack() as running:
        for name, path in logs.items():
            output = running.enter_context(path.open("w"))
            site = subprocess.Popen(
                [*phl, "site", clinic / "sites" / name], env=env, stderr=output, text=True
            )
            running.callback(site.wait)
            running.callback(site.send_signal, signal.SIGINT)
        done = subprocess.run(
            [*phl, "coordinator", clinic, "--json"],
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        wait_for(lambda: "is not connected" in logs["stranger"].read_text())
    summary = json.loads(done.stdout)
    assert set(summary["sites"]) == {"north", "south"}
    assert all(row["rounds_accepted"] == 2 for row in summary["sites"].values())
    assert (clinic / "runs" / summary["name"] / "report.html").exists()
    assert "north is connected" in logs["north"].read_text()
    assert "round 2: received" in logs["north"].read_text()
    assert pids_under(clinic, "flower-") == []
    audit = [sys.executable, "-m", "phloem.cli.main", "ledger", "audit", clinic / "runs" / summary["name"]]
    policy = clinic / "sites" / "north" / "policy.txt"  # the kit's, which the site judged by
    assert subprocess.run([*audit, "--replay", "--policy", policy], env=env, check=False).returncode == 0
    assert (clinic / "ledger" / "log.db").exists()


def _toml(recipe: dict[str, Any]) -> str:
    from phloem.engines.flower.project import as_toml

    return as_toml(load_recipe(recipe))
