from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phloem.engines.flower import warm
from phloem.engines.flower.processes import SuperLink, SuperNode, environment, free_port, pairs
from phloem.errors import ConfigError, StateError

APP = """
import os
import threading
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def ask_every_node(grid: Grid, context: Context) -> None:
    while len(nodes := sorted(grid.get_node_ids())) < context.run_config["nodes"]:
        threading.Event().wait(0.1)
    wanted = RecordDict({"asked": ConfigRecord({"wait": context.run_config["wait"]})})
    asked = [Message(wanted, dst_node_id=node, message_type="train") for node in nodes]
    for reply in grid.send_and_receive(asked):
        print("answered", reply.content["told"]["site"], flush=True)
        print("from a process of", reply.content["told"]["parent"], flush=True)


@client.train()
def tell_the_site(message: Message, context: Context) -> Message:
    print("asked", flush=True)
    threading.Event().wait(message.content["asked"]["wait"])
    parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace")
    told = {"site": context.node_config["site"], "parent": repr(parent)}
    return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)
"""

PROJECT = """
[project]
name = "tiny"
version = "1.0.0"
description = "Asks every node for its name"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "phloem"

[tool.flwr.app.components]
serverapp = "tiny:server"
clientapp = "tiny:client"

[tool.flwr.app.config]
nodes = 2
wait = 0.0
"""

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 for IPv4, and for IPv6 sockets
ODD = "a \"quoted\" 'site' \\ with=all\nof ünïcode 🌸"  # what a command line may get wrong


@dataclass
class Deployment:
    root: Path
    app: Path
    link: SuperLink
    nodes: dict[str, SuperNode]


def running(root: Path) -> list[int]:
    """The processes of Flower that keep their files under `root`, whatever group or session they are in."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and f"FLWR_HOME={root}/".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def listening(root: Path) -> list[str]:
    """The addresses, as the kernel writes them, at which these processes listen."""
    ours = set()
    for process in running(root):
        with contextlib.suppress(OSError):  # it ended meanwhile
            ours |= {os.readlink(entry) for entry in Path(f"/proc/{process}/fd").iterdir()}
    sockets = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return [
        fields[1].partition(":")[0]
        for fields in sockets
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in ours
    ]


def write_app(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "tiny.py").write_text(APP)
    return folder


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server, two registered nodes that are connected, and a third that starts with a key nobody registered."""
    from phloem.engines.flower.certificates import make_authority, make_node_key

    root = tmp_path_factory.mktemp("deployment")
    authority = make_authority(root / "authority", ["127.0.0.1"])
    with contextlib.ExitStack() as all_of_it:
        link = all_of_it.enter_context(SuperLink(root / "server", authority))
        nodes = {}
        for name, site in (("alpha", "alpha"), ("beta", ODD), ("stranger", "stranger")):
            key = make_node_key(root / "keys", name)
            if name != "stranger":
                link.register(key.public)
            node = SuperNode(root / name, link.address, authority.ca_certificate, key.private, {"site": site})
            nodes[name] = all_of_it.enter_context(node)
        for name in ("alpha", "beta"):
            nodes[name].wait_connected()
        yield Deployment(root, write_app(root / "app"), link, nodes)
    assert running(root) == []


@pytest.mark.slow
@pytest.mark.service("flower")
def test_registered_nodes_answer_over_tls_and_a_stranger_is_refused(deployment: Deployment) -> None:
    stranger = deployment.nodes["stranger"]
    with pytest.raises(StateError, match="did not connect"):
        stranger.wait_connected()
    assert "Failed to activate SuperNode" in (stranger.refusal() or "")
    run = deployment.link.run(deployment.app)
    ended = deployment.link.wait_finished(run, 120)
    log = deployment.link.log(run)
    assert ended.status == "finished:completed", log
    assert "answered alpha\n" in log
    assert f"answered {ODD}" in log
    assert "stranger" not in log
    started_warm = log.count("from phloem.engines.flower.warm import main")
    assert started_warm == (2 if warm.possible() else 0)
    assert ended.inbound_bytes > 0
    assert ended.outbound_bytes > 0
    assert stranger.exit_code == 1
    assert deployment.nodes["alpha"].refusal() is None


@pytest.mark.slow
@pytest.mark.service("flower")
def test_a_node_of_another_authority_does_not_talk_to_the_server(deployment: Deployment) -> None:
    from phloem.engines.flower.certificates import make_authority

    other = make_authority(deployment.root / "other", ["127.0.0.1"])
    key = deployment.nodes["alpha"].private_key
    folder = deployment.root / "mistaken"
    with SuperNode(folder, deployment.link.address, other.ca_certificate, key) as node:
        with pytest.raises(StateError):
            node.wait_connected()
        assert "certificate verify failed" in (node.refusal() or "")


@pytest.mark.slow
@pytest.mark.service("flower")
def test_what_flower_refuses_is_said_in_one_sentence(deployment: Deployment) -> None:
    with pytest.raises(StateError, match=r"^flwr run did not succeed: .*Invalid run configuration"):
        deployment.link.run(deployment.app, {"unknown": 1})
    with pytest.raises(StateError, match=r"^flwr supernode did not succeed: .*already in use"):
        deployment.link.register(deployment.root / "keys" / "alpha.pub")


@pytest.mark.slow
@pytest.mark.service("flower")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_beyond_loopback(deployment: Deployment) -> None:
    assert len(found := listening(deployment.root)) >= 3  # the server and two nodes
    assert set(found) <= LOOPBACK


@pytest.mark.slow
@pytest.mark.service("flower")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_stopping_in_the_middle_of_a_run_leaves_nothing(deployment: Deployment) -> None:
    # The last test with this deployment: it ends it.
    link, (alpha, beta, _) = deployment.link, deployment.nodes.values()
    before = {node: node.output().count("asked") for node in (alpha, beta)}
    link.run(deployment.app, {"wait": 300.0})
    limit = time.monotonic() + 60
    while any(node.output().count("asked") == count for node, count in before.items()):
        assert time.monotonic() < limit, alpha.output() + beta.output()
    groups = {os.getpgid(process) for process in running(deployment.root)}
    assert len(groups) >= 4  # one for each program, and one for what the server starts
    assert os.getpgid(0) not in groups
    beta.kill()
    assert running(deployment.root / "beta") == []
    alpha.stop()
    link.stop()
    assert running(deployment.root) == []
    for group in groups:
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)


@pytest.mark.slow
@pytest.mark.service("flower")
def test_a_server_that_crashed_knows_its_nodes_when_it_is_started_again(tmp_path: Path) -> None:
    from phloem.engines.flower.certificates import make_authority, make_node_key

    authority, key = make_authority(tmp_path / "keys", ["127.0.0.1"]), make_node_key(tmp_path, "alpha")
    with SuperLink(tmp_path / "server", authority, database=tmp_path / "server.db") as link:
        link.register(key.public)
        link.kill()
        assert not link.alive
        assert link.exit_code == 128 + signal.SIGKILL
        with pytest.raises(StateError, match="does not run"):
            link.status(1)
        link.start()
        with pytest.raises(StateError, match="already in use"):
            link.register(key.public)


@pytest.mark.slow
@pytest.mark.service("flower")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_of_a_server_whose_starter_was_killed(tmp_path: Path) -> None:
    code = (
        f"import os, signal, sys; sys.path[:] = {sys.path!r}; here = {str(tmp_path)!r}\n"
        "from pathlib import Path\n"
        "from phloem.engines.flower.certificates import make_authority\n"
        "from phloem.engines.flower.processes import SuperLink\n"
        "link = SuperLink(Path(here, 'server'), make_authority(Path(here, 'keys'), ['127.0.0.1']))\n"
        "link.start()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    limit = time.monotonic() + 30
    while left := running(tmp_path):
        assert time.monotonic() < limit, left


@pytest.mark.slow
@pytest.mark.service("flower")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_simulation_uses_tls_and_loopback_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from phloem.engines.flower.certificates import make_authority

    app = write_app(tmp_path / "app")
    (app / "tiny.py").write_text(
        APP.replace('context.node_config["site"]', 'str(context.node_config["partition-id"])')
    )
    size = {"num-supernodes": 2, "client-resources-num-cpus": 1, "init-args-num-cpus": 2}
    with SuperLink(
        tmp_path / "server", make_authority(tmp_path / "keys", ["127.0.0.1"]), simulation=True
    ) as link:
        run = link.run(app, {"wait": 3.0}, size)
        heard: set[str] = set()
        limit = time.monotonic() + 120
        while len(heard) < 2 and time.monotonic() < limit:  # the server's and Ray's
            heard.update(listening(tmp_path))
            threading.Event().wait(0.2)
        heard.update(listening(tmp_path))
        assert heard == LOOPBACK
        assert link.wait_finished(run, 120).status == "finished:completed", link.log(run)
        assert "answered 1" in link.log(run)
    assert running(tmp_path) == []


@pytest.mark.slow
@pytest.mark.service("flower")
def test_a_certificate_for_another_host_is_noticed_at_the_start(tmp_path: Path) -> None:
    from phloem.engines.flower.certificates import make_authority

    link = SuperLink(tmp_path / "server", make_authority(tmp_path / "keys", ["elsewhere.example"]))
    with pytest.raises(StateError, match=r"not good for 127\.0\.0\.1.*make_authority"):
        link.start()
    assert not link.alive


@pytest.mark.service("flower")
def test_a_port_that_is_taken_is_noticed_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        node = SuperNode(tmp_path, "127.0.0.1:1", tmp_path / "ca.crt", tmp_path / "a.key", port=port)
        with pytest.raises(ConfigError, match=f"port {port}"):
            node.start()
    assert not node.alive


def test_without_flower_the_hint_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    node = SuperNode(tmp_path, "127.0.0.1:1", tmp_path / "ca.crt", tmp_path / "a.key")
    with pytest.raises(ConfigError, match=r"flower-supernode .* \(pip install 'phloem\[flower\]'\)"):
        node.start()


def test_the_environment_says_nothing_to_anyone(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    assert variables["FLWR_TELEMETRY_ENABLED"] == variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert variables["FLWR_HOME"] == str(tmp_path)
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_a_free_port_can_be_listened_on() -> None:
    socket.create_server(("127.0.0.1", free_port())).close()


keys = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"))
integers = st.integers(-(2**63), 2**63 - 1)
values = texts | integers | st.floats(allow_nan=False) | st.booleans()


@pytest.mark.service("flower")
@given(st.dictionaries(keys, values, min_size=1))
def test_flower_reads_settings_as_they_were(settings: dict[str, str | int | float | bool]) -> None:
    config = pytest.importorskip("flwr.common.config")
    read = config.parse_config_args([pairs(settings)])
    assert read == settings
    assert {key: type(value) for key, value in read.items()} == {
        key: type(value) for key, value in settings.items()
    }


@pytest.mark.parametrize(
    "settings", [{"a b": 1}, {"": 1}, {"a=b": 1}, {"a": None}, {"a": 2**63}, {"a": "\ud800"}, {"a": [1]}]
)
def test_settings_that_flower_could_not_read_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        pairs(settings)
