"""The emulated lines of benchmarks/links.py, and ranks on them: a benchmark's seconds are only as true as they are."""

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
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in ("links", "links_check", "ranks")}
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def links(scripts) -> ModuleType:
    return scripts["links"]


@pytest.fixture(scope="module")
def check(scripts) -> ModuleType:
    return scripts["links_check"]


@pytest.fixture(scope="module")
def ranks(scripts) -> ModuleType:
    return scripts["ranks"]


@pytest.fixture
def network(links) -> Iterator[Any]:
    link = links.Link(UP, DOWN, RTT_SECONDS)
    with links.Network({"oslo": link, "rome": link}) as network:
        yield network


@pytest.fixture(params=[RTT_SECONDS, 0], ids=["relay", "veth"])
def either(links, request) -> Iterator[Any]:
    """A network of each kind of line."""
    link = links.Link(UP, DOWN, request.param)
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
    check, either, what, rate
) -> None:
    size = round(rate * 3 / 8)  # three seconds
    with check.answering(either):
        before = either.counts()
        seconds = check.ask(either, [what], size)[what]
        after = either.counts()
    for site, [taken] in zip(either.links, seconds, strict=True):
        assert size * 8 / taken == pytest.approx(rate, rel=0.15)
        assert size * 8 / taken < rate
        forth, back = f"{what}_bytes", f"{'down' if what == 'up' else 'up'}_bytes"
        # 52 bytes of headers on at most 1448 of payload, and little that is sent twice
        assert 1.035 < (getattr(after[site], forth) - getattr(before[site], forth)) / size < 1.07
        assert (
            0 < (getattr(after[site], back) - getattr(before[site], back)) / size < 0.05
        )  # acknowledgements


@at_best
def test_both_directions_at_once_do_not_share_one_rate(check, network) -> None:
    with check.answering(network):
        seconds = check.ask(network, ["up", "down"], round(UP * 3 / 8))
    assert statistics.median(s for [s] in seconds["up"]) < 3 / 0.85
    assert statistics.median(s for [s] in seconds["down"]) < 3 / 2 / 0.85


@at_best
def test_a_silent_line_takes_its_round_trip_time(check, network) -> None:
    with check.answering(network):
        trips = check.ask(network, ["echo"], 40)["echo"]
    for seconds in trips:
        assert RTT_SECONDS < min(seconds) < RTT_SECONDS + 0.003  # the others may wait for a core


def test_the_counters_are_exact(either) -> None:
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range(20): s.sendto(bytes(500), ('{either.server_host}', 7800)); s.recv(100)"
    )
    answer = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.bind(('{either.server_host}', 7800)); print(flush=True)\n"
        "while True: s.sendto(b'yes', s.recvfrom(1000)[1])"
    )
    with either.popen("server", [sys.executable, "-c", answer], stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            assert either.popen("rome", [sys.executable, "-c", send]).wait(30) == 0
        finally:
            server.kill()
    counts = either.counts()
    rome = counts["rome"]
    assert (rome.up_packets, rome.up_bytes) == (20, 20 * (HEADER + 500))
    assert (rome.down_packets, rome.down_bytes) == (20, 20 * (HEADER + 3))
    assert set(vars(counts["oslo"]).values()) == {0}


def test_signals_reach_the_process_itself(network) -> None:
    with network.popen("oslo", [sys.executable, "-c", "print(flush=True); input()"], **PIPES) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_a_site_reaches_no_other_site(either) -> None:
    # where it could be reached, nothing listens: it would refuse
    tell = (
        "import socket\ntry: socket.create_connection(('10.77.0.2', 9), 1)\n"
        "except ConnectionRefusedError: print('refused')\nexcept OSError: print('unreachable')"
    )
    for site, expected in (("rome", "refused"), ("server", "refused"), ("oslo", "unreachable")):
        process = either.popen(site, [sys.executable, "-c", tell], stdout=subprocess.PIPE, text=True)
        assert process.communicate(timeout=30)[0].strip() == expected


@pytest.mark.parametrize("sites", [2, 4])
def test_sites_that_meet_reach_each_other_over_lines_of_both_kinds(links, check, sites) -> None:
    kinds = [links.Link(UP, DOWN, rtt_seconds) for rtt_seconds in (RTT_SECONDS, 0, 0.01, 0)]
    with links.Network({f"site {i}": kinds[i] for i in range(sites)}, meet=True) as network:
        order = check.ring(network)
        with check.answering(network, "server", *network.links):
            trips = check.ask(network, ["echo"], 20, order)["echo"]
            assert all(check.ask(network, ["echo"], 1)["echo"])  # and the server
        for (site, link), seconds in zip(network.links.items(), trips, strict=True):
            together = link.rtt_seconds + network.links[order[site]].rtt_seconds
            assert together < min(seconds) < together + 0.01


@pytest.mark.parametrize("link", [(10e6, 0.01), (100e6, 0.002), (10e6, 0), (100e6, 0), (1e9, 0)], ids=str)
@at_best
def test_every_site_of_a_ring_gets_its_rate(links, check, link) -> None:
    rate, rtt_seconds = link
    size = round(rate / 8 * 2)  # two seconds
    each = links.Link(rate, rate, rtt_seconds)
    with links.Network({f"site {i}": each for i in range(4)}, meet=True) as network:
        order = check.ring(network)
        with check.answering(network, *network.links):
            before = network.counts()
            seconds = check.ask(network, ["up"], size, order)["up"]
            after = network.counts()
    for site, [taken] in zip(order, seconds, strict=True):
        assert 0.85 < size * 8 / taken / rate < 1
        for way in (
            "up_bytes",
            "down_bytes",
        ):  # headers, and the acknowledgements of what came from the other side
            assert 1.035 < (getattr(after[site], way) - getattr(before[site], way)) / size < 1.08


def test_a_site_has_its_address_at_its_device(links) -> None:
    with links.Network({"oslo": links.Link(1e6, 1e6, 0), "rome": links.Link(1e6, 1e6, 0.01)}) as network:
        for where in ("oslo", "rome", "server"):
            argv = ["ip", "-j", "-4", "address", "show", "dev", network.device(where)]
            told = network.popen(where, argv, stdout=subprocess.PIPE).communicate(timeout=30)[0]
            addresses = [entry["local"] for entry in json.loads(told)[0]["addr_info"]]
            assert network.address(where) in addresses
        assert len({network.address(where) for where in ("oslo", "rome", "server")}) == 3


def test_lines_without_a_round_trip_need_no_relay(links) -> None:
    with links.Network({"oslo": links.Link(1e6, 1e6, 0)}) as network:
        assert network.relay is None
        assert network.relay_seconds() == 0
        assert set(vars(network.counts()["oslo"]).values()) == {0}


@pytest.mark.parametrize("rtt_seconds", [0.01, 0], ids=["relay", "veth"])
def test_nothing_is_left_after_the_block_even_after_an_exception(links, rtt_seconds) -> None:
    before, processes = set(os.listdir("/sys/class/net")), []

    def use() -> None:
        link = links.Link(1e6, 1e6, rtt_seconds)
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
    [
        {"up_bits_per_second": 0},
        {"down_bits_per_second": -1},
        {"rtt_seconds": -1},
        {"queue_seconds": 0},
        {"burst_seconds": 0},
    ],
)
def test_links_that_cannot_be_are_refused(links, wrong) -> None:
    with pytest.raises(ValueError, match="oslo"):
        links.Network({"oslo": links.Link(**{**vars(links.Link(1e6, 1e6, 0.1)), **wrong})})
    with pytest.raises(ValueError, match="server"):
        links.Network({"server": links.Link(1e6, 1e6, 0.1)})


@pytest.mark.parametrize("rtt_seconds", [0.002, 0], ids=["relay", "veth"])
@at_best
def test_an_all_reduce_takes_the_seconds_that_the_rate_allows(links, ranks, rtt_seconds) -> None:
    link, values, runs = links.Link(100e6, 100e6, rtt_seconds), 1_000_000, 3
    told = ranks.run_ranks(
        ranks.all_reduce(values, runs), {f"site {i}": link for i in range(4)}, timeout_seconds=120
    )
    ideal = ranks.ideal_seconds(link, 4 * values, 4)
    assert ideal == pytest.approx(2 * 3 / 4 * 4e6 * 8 / 100e6, rel=0.04)
    assert [one["rank"] for one in told] == [0, 1, 2, 3]
    for one in told:
        assert one["right"]
        assert 0.95 * ideal < statistics.median(one["seconds"]) < 1.15 * ideal
        for way in ("up_bytes", "down_bytes"):
            assert one["line"][way] == pytest.approx(runs * 2 * 3 / 4 * 4 * values * 1500 / 1448, rel=0.03)


def test_ranks_on_loopback_find_each_other_and_have_no_line(ranks) -> None:
    told = ranks.run_ranks(ranks.all_reduce(1000, 1), ranks=2, timeout_seconds=120)
    assert [(one["rank"], one["right"], one["line"]) for one in told] == [(0, True, None), (1, True, None)]


def test_a_rank_has_one_thread_and_the_variables_given(links, ranks) -> None:
    tell = "import json, os; print('a word before'); print(json.dumps(dict(os.environ)))"
    argv = [sys.executable, "-c", tell]
    for lines, expected in (
        ({"a": links.Link(1e6, 1e6, 0), "b": links.Link(1e6, 1e6, 0)}, ("10.77.0.1", "line")),
        (None, ("127.0.0.1", "lo")),
    ):
        told = ranks.run_ranks(argv, lines, {"ONE": "1"}, ranks=2, timeout_seconds=60)
        assert [one["RANK"] for one in told] == ["0", "1"]
        for one in told:
            assert (one["WORLD_SIZE"], one["OMP_NUM_THREADS"], one["ONE"]) == ("2", "1", "1")
            assert (one["MASTER_ADDR"], one["GLOO_SOCKET_IFNAME"]) == expected
        assert len({one["MASTER_PORT"] for one in told}) == 1
    [one, _] = ranks.run_ranks(argv, None, {"OMP_NUM_THREADS": "2"}, ranks=2)
    assert one["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("end", ["raise ValueError('no luck')", "print('no JSON')", "print([1])", "pass"])
def test_a_rank_that_fails_ends_all_of_them_and_its_words_are_told(ranks, tmp_path, end) -> None:
    run = (
        "import os, pathlib, signal; rank = os.environ['RANK']\n"
        f"if rank == '1': {end}\n"
        f"else: pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); signal.pause()"
    )
    with pytest.raises(RuntimeError, match=r"(?s)rank 1.*" + ("no luck" if "raise" in end else "status 0")):
        ranks.run_ranks([sys.executable, "-c", run], ranks=3, timeout_seconds=60)
    assert [pid.name for pid in tmp_path.iterdir() if Path("/proc", pid.name).exists()] == []


def test_ranks_that_take_too_long_are_killed_with_what_they_started(links, ranks) -> None:
    leave = "import subprocess; subprocess.Popen(['sleep', '1000']); print('{}')"  # it holds stdout open
    for lines in (None, {"a": links.Link(1e6, 1e6, 0)}):
        with pytest.raises(TimeoutError, match=r"ranks \[0\]"):
            ranks.run_ranks([sys.executable, "-c", leave], lines, timeout_seconds=2, ranks=1)


def test_ranks_die_with_the_process_that_started_them(tmp_path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    rank = f"import os, signal; open({str(told)!r}, 'w').write(str(os.getpid())); signal.pause()"
    hold = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import ranks\n"
        f"ranks.run_ranks([sys.executable, '-c', {rank!r}], ranks=1)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], **PIPES) as process:
        pid = os.pidfd_open(int(told.read_text()))
        process.kill()
        process.wait()
    try:
        assert select.select([pid], [], [], 30)[0], "the rank still runs"
    finally:
        os.close(pid)
