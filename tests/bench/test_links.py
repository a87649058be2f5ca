"""The emulated lines of benchmarks/links.py: a benchmark's seconds are only as true as they are."""

import contextlib
import functools
import importlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
UP, DOWN, RTT_SECONDS = 8e6, 16e6, 0.03
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
HEADER = 20 + 8  # bytes of IPv4 and UDP

pytestmark = [pytest.mark.slow, pytest.mark.service("namespaces")]


@pytest.fixture(scope="module")
def links() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("links")
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture
def network(links) -> Iterator[Any]:
    link = links.Link(UP, DOWN, RTT_SECONDS)
    with links.Network({"oslo": link, "rome": link}) as network:
        yield network


def at_best(measure: Any) -> Any:
    """The best of a few tries: other work on this machine makes a line slower, nothing makes it faster."""

    @functools.wraps(measure)
    def tried(*arguments: Any, **more: Any) -> None:
        for _ in range(7):
            with contextlib.suppress(AssertionError):
                measure(*arguments, **more)
                return
        measure(*arguments, **more)

    return tried


def namespaces_of(pid: int) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"phloem-{pid}-*")]


@pytest.mark.parametrize(("what", "rate"), [("up", UP), ("down", DOWN)])
@at_best
def test_tcp_gets_the_rate_of_its_direction_and_the_counters_see_payload_and_headers(
    links, network, what, rate
) -> None:
    size = round(rate * 3 / 8)  # three seconds
    with links.answering(network):
        before = network.counts()
        seconds = links.ask(network, [what], size)[what]
        after = network.counts()
    for site, [taken] in zip(network.links, seconds, strict=True):
        assert size * 8 / taken == pytest.approx(rate, rel=0.15)
        assert size * 8 / taken < rate
        forth, back = f"{what}_bytes", f"{'down' if what == 'up' else 'up'}_bytes"
        # 52 bytes of headers on at most 1448 of payload, and little that is sent twice
        assert 1.035 < (getattr(after[site], forth) - getattr(before[site], forth)) / size < 1.07
        assert (
            0 < (getattr(after[site], back) - getattr(before[site], back)) / size < 0.05
        )  # acknowledgements


@at_best
def test_both_directions_at_once_do_not_share_one_rate(links, network) -> None:
    with links.answering(network):
        seconds = links.ask(network, ["up", "down"], round(UP * 3 / 8))
    assert statistics.median(s for [s] in seconds["up"]) < 3 / 0.85
    assert statistics.median(s for [s] in seconds["down"]) < 3 / 2 / 0.85


@at_best
def test_a_silent_line_takes_its_round_trip_time(links, network) -> None:
    with links.answering(network):
        trips = links.ask(network, ["echo"], 40)["echo"]
    for seconds in trips:
        assert RTT_SECONDS < min(seconds) < RTT_SECONDS + 0.003  # the others may wait for a core


def test_the_counters_are_exact(network) -> None:
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range(20): s.sendto(bytes(500), ('{network.server_host}', 7800)); s.recv(100)"
    )
    answer = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(('{network.server_host}', 7800)); print(flush=True)\n"
        "while True: s.sendto(b'yes', s.recvfrom(1000)[1])"
    )
    with network.popen("server", [sys.executable, "-c", answer], stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            assert network.popen("rome", [sys.executable, "-c", send]).wait(30) == 0
        finally:
            server.kill()
    counts = network.counts()
    rome = counts["rome"]
    assert (rome.up_packets, rome.up_bytes) == (20, 20 * (HEADER + 500))
    assert (rome.down_packets, rome.down_bytes) == (20, 20 * (HEADER + 3))
    assert set(vars(counts["oslo"]).values()) == {0}


def test_signals_reach_the_process_itself(network) -> None:
    with network.popen("oslo", [sys.executable, "-c", "print(flush=True); input()"], **PIPES) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_a_site_reaches_no_other_site(network) -> None:
    # where it could be reached, nothing listens: it would refuse
    tell = (
        "import socket\ntry: socket.create_connection(('10.77.0.2', 9), 1)\n"
        "except ConnectionRefusedError: print('refused')\nexcept OSError: print('unreachable')"
    )
    for site, expected in (("rome", "refused"), ("server", "refused"), ("oslo", "unreachable")):
        process = network.popen(site, [sys.executable, "-c", tell], stdout=subprocess.PIPE, text=True)
        assert process.communicate(timeout=30)[0].strip() == expected


def test_nothing_is_left_after_the_block_even_after_an_exception(links) -> None:
    before, processes = set(os.listdir("/sys/class/net")), []

    def use() -> None:
        link = links.Link(1e6, 1e6, 0.01)
        with links.Network({"a": link}) as one, links.Network({"a": link}) as other:
            processes.extend(network.popen("a", ["sleep", "1000"]) for network in (one, other))
            assert len(namespaces_of(os.getpid())) == 4
            one.popen("b", ["true"])

    with pytest.raises(KeyError, match="b"):
        use()
    assert namespaces_of(os.getpid()) == []
    assert set(os.listdir("/sys/class/net")) == before
    assert [process.poll() for process in processes] == [-signal.SIGKILL] * 2


def test_the_relay_of_a_killed_process_ends_and_the_next_network_removes_the_rest(links) -> None:
    hold = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import links, json\n"
        "with links.Network({'a': links.Link(1e6, 1e6, 0.01)}) as n: print(n.relay.pid, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", hold], **PIPES) as process:
        relay = os.pidfd_open(json.loads(process.stdout.readline()))
        process.kill()
        process.wait()
    try:
        assert select.select([relay], [], [], 30)[0], "the relay still runs"
    finally:
        os.close(relay)
    assert len(namespaces_of(process.pid)) == 2
    with links.Network({"a": links.Link(1e6, 1e6, 0.01)}):
        assert namespaces_of(process.pid) == []


@pytest.mark.parametrize(
    "wrong",
    [{"up_bits_per_second": 0}, {"down_bits_per_second": -1}, {"rtt_seconds": -1}, {"queue_seconds": 0}],
)
def test_links_that_cannot_be_are_refused(links, wrong) -> None:
    with pytest.raises(ValueError, match="oslo"):
        links.Network({"oslo": links.Link(**{**vars(links.Link(1e6, 1e6, 0.1)), **wrong})})
    with pytest.raises(ValueError, match="server"):
        links.Network({"server": links.Link(1e6, 1e6, 0.1)})
