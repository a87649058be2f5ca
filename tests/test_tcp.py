"""What the kernel says of connections that are not ours to touch: whose it is, and what when it says nothing."""

from __future__ import annotations

import importlib
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from phloem import tcp
from phloem.tcp import Reading, Watch, carried, parsed, readings

linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO as Linux has it")
Pair = tuple[socket.socket, socket.socket]


def joined(host: str = "127.0.0.1") -> Pair:
    """A connection: who sends, and who receives."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        one = socket.create_connection(listening.getsockname()[:2])
        other, _ = listening.accept()
    return one, other


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    with ExitStack() as stack:
        found = [joined() for _ in range(3)]
        for pair in found:
            for end in pair:
                stack.enter_context(end)
        yield found


def said_of(end: socket.socket) -> tcp.Socket:
    """The name of a socket of this process."""
    return end.fileno(), os.fstat(end.fileno()).st_ino


def send(pair: Pair, size: int) -> None:
    """A message and its arrival."""
    pair[0].sendall(bytes(size))
    left = size
    while left:
        left -= len(pair[1].recv(left))


# -- real connections --------------------------------------------------------------------------------------------


@linux
def test_the_sockets_that_were_given_a_message_are_those_that_carried_it(pairs: list[Pair]) -> None:
    before = readings()
    assert {said_of(end) for pair in pairs for end in pair} <= before.keys()
    for pair, size in zip(pairs, (5000, 700, 5152), strict=True):  # a library may put something around
        send(pair, size)
    after = readings(before)
    sent = [said_of(pairs[0][0]), said_of(pairs[2][0])]
    assert sorted(carried(before, after, 5000, most=2)) == sorted(sent)
    assert carried(before, after, 5000, most=1) == [], "another program's may be among them"
    assert carried(before, after, 700, most=2) == [said_of(pairs[1][0])]
    assert 0 < after[sent[0]].round_trip_seconds < 1


@linux
def test_bytes_that_wait_to_be_sent_were_given_all_the_same(pairs: list[Pair]) -> None:
    sender, _ = pairs[0]
    sender.setblocking(False)
    before, given = readings(), 0
    while select.select([], [sender], [], 0)[1]:  # nobody takes anything
        given += sender.send(bytes(1 << 16))
    after = readings(before)
    assert after[said_of(sender)].given - before[said_of(sender)].given == given


@linux
def test_connections_over_ipv6_are_read_too() -> None:
    try:
        pair = joined("::1")
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    with pair[0], pair[1]:
        before = readings()
        send(pair, 3000)
        assert carried(before, readings(before), 3000, most=1) == [said_of(pair[0])]


@linux
def test_what_is_no_tcp_connection_is_not_among_them(tmp_path: Path, pairs: list[Pair]) -> None:
    with ExitStack() as stack:
        others = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))),
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
            *map(stack.enter_context, socket.socketpair()),
            stack.enter_context((tmp_path / "file").open("wb")),
        ]
        found = {descriptor for descriptor, _ in readings()}
        assert not found & {one.fileno() for one in others}
        assert found >= {end.fileno() for pair in pairs for end in pair}


@linux
def test_a_socket_that_was_closed_is_gone_also_where_its_number_is_used_again(pairs: list[Pair]) -> None:
    (one, _), (again, _), _ = pairs
    was, new = said_of(one), said_of(again)
    assert readings([was]).keys() == {was}
    os.dup2(again.fileno(), one.fileno())  # closes what had the number
    assert readings([was]) == {}
    assert readings([(was[0], new[1])]).keys() == {(was[0], new[1])}
    one.close()
    assert readings([was, (was[0], new[1])]) == {}


@linux
def test_reading_opens_and_closes_nothing(pairs: list[Pair]) -> None:
    def opened() -> dict[str, str]:
        return {
            name: os.readlink(f"/proc/self/fd/{name}")
            for name in os.listdir("/proc/self/fd")
            if Path(f"/proc/self/fd/{name}").exists()
        }

    before = opened()
    readings()
    assert opened() == before
    send(pairs[0], 10)


@linux
def test_descriptors_that_vanish_after_they_were_listed_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, pairs: list[Pair]
) -> None:
    here = said_of(pairs[0][0])
    monkeypatch.setattr(tcp, "_listed", lambda: [(1 << 20, 5), here, (pairs[0][1].fileno(), 1)])
    assert readings().keys() == {here}


# -- what it is read from ----------------------------------------------------------------------------------------


def info(*, state: int = 1, flags: int = 0, shortest: int = 40_000, more: int = 0) -> bytes:
    """A `struct tcp_info` of an open connection: 900 bytes sent, 100 of them again, 50 waiting."""
    raw = bytearray(216 + more)
    raw[0], raw[7] = state, flags
    struct.pack_into("=2I", raw, 144, 50, shortest)
    struct.pack_into("=Q", raw, 160, 1_250_000)
    struct.pack_into("=2Q", raw, 200, 900, 100)
    return bytes(raw)


def test_the_fields_are_taken_from_their_places() -> None:
    wanted = Reading(given=850, round_trip_seconds=0.04, delivery_rate=1_250_000.0, limited=False)
    assert parsed(info()) == wanted
    assert parsed(info(more=64)) == wanted, "newer kernels say more"


def test_a_kernel_that_says_less_and_a_connection_that_does_not_stand_say_nothing() -> None:
    assert all(parsed(info()[:length]) is None for length in range(216))
    assert all(parsed(info(state=state)) is None for state in range(13) if state != 1)


def test_before_a_first_answer_there_is_no_round_trip() -> None:
    reading = parsed(info(shortest=0xFFFFFFFF))
    assert reading is not None
    assert reading.round_trip_seconds == 0.0


# -- watching ----------------------------------------------------------------------------------------------------


@linux
def test_whoever_watches_finds_the_peers_once_and_asks_them_alone_from_then_on(
    monkeypatch: pytest.MonkeyPatch, pairs: list[Pair]
) -> None:
    looked = []
    listed = tcp._listed
    monkeypatch.setattr(tcp, "_listed", lambda: looked.append(1) or listed())
    watch = Watch()
    for size in (4000, 9000, 100):
        watch.begin()
        for pair in pairs[:2]:
            send(pair, size)
        assert 0 < watch.end(size, peers=2) < 1
        assert sorted(watch.known) == sorted(said_of(pair[0]) for pair in pairs[:2])
    assert len(looked) == 1


@linux
def test_peers_that_connect_anew_are_found_again(pairs: list[Pair]) -> None:
    watch = Watch()
    found = []
    for pair in (pairs[0], pairs[1], pairs[1]):
        watch.begin()
        send(pair, 4000)
        found.append(watch.end(4000, peers=1) > 0)
    assert found == [True, False, True]


@linux
def test_where_nothing_is_found_three_times_nobody_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(tcp, "_listed", lambda: looked.append(1) or [])
    watch = Watch()
    for _ in range(5):
        watch.begin()
        assert watch.end(100, peers=1) == 0.0
    assert len(looked) == 3


def watched(pair: Pair) -> float:
    """What is heard of a message."""
    watch = Watch()
    watch.begin()
    send(pair, 1000)
    return watch.end(1000, peers=1)


@linux
@pytest.mark.parametrize("missing", ["Linux", "/proc", "getsockopt", "the option", "room"])
def test_where_the_system_does_not_tell_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, pairs: list[Pair], missing: str
) -> None:
    def hidden(path: str) -> list[str]:
        raise PermissionError(path)

    tcp._asking.cache_clear()
    with monkeypatch.context() as changed:
        if missing == "Linux":
            changed.setattr(sys, "platform", "darwin")
        elif missing == "/proc":
            changed.setattr(os, "listdir", hidden)
        elif missing == "getsockopt":
            changed.setattr(tcp.ctypes, "CDLL", lambda name: object())
        elif missing == "the option":
            changed.setattr(tcp, "_TCP_INFO", 9999)
        else:
            changed.setattr(tcp, "_DESCRIPTORS", 2)
        assert watched(pairs[0]) == 0.0
    tcp._asking.cache_clear()
    assert watched(pairs[0]) > 0


@linux
@pytest.mark.slow
@pytest.mark.service("namespaces")
def test_a_line_of_forty_milliseconds_is_heard_to_have_forty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    links = importlib.import_module("links")
    with links.Network({"oslo": links.Link(10e6, 10e6, 0.04)}) as network:
        with network.inside("server"):
            listening = socket.create_server((network.server_host, 0))
        with listening, network.inside("oslo"):
            pair = socket.create_connection(listening.getsockname()), listening.accept()[0]
        with pair[0], pair[1]:
            send(pair, 1000)
            assert watched(pair) == pytest.approx(0.04, rel=0.2)
