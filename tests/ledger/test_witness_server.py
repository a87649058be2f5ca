"""The witness on HTTP: the protocol's statuses, and what strangers cannot do to it."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.ledger.witnesses import FORK, LOG, ORIGIN, new_witness, note_of, post, request

from phloem.errors import ConfigError
from phloem.ledger.witness import Witness, origin_digest
from phloem.ledger.witness_server import Limits, WitnessServer
from phloem.tlog.note import Note
from phloem.tlog.witness import Reply

LIMITS = Limits(connections=4, request_seconds=0.8)
NO_TIME = Limits(connections=4, request_seconds=30.0)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with new_witness(tmp_path / "w") as found:
        yield found


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def server(witness: Witness, heard: list[str]) -> Iterator[WitnessServer]:
    with WitnessServer(witness, port=0, limits=NO_TIME, tell=heard.append) as found:
        yield found


@pytest.fixture
def hurried(witness: Witness) -> Iterator[WitnessServer]:
    with WitnessServer(witness, port=0, limits=LIMITS) as found:
        yield found


def connected(server: WitnessServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        while chunk := connection.recv(1 << 16):
            found += chunk
    except ConnectionError:
        pass
    return found


def said(server: WitnessServer, data: bytes) -> bytes:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):  # it may have heard enough before the end
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return all_of(connection)


def get(server: WitnessServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, str(answer.getheader("Content-Type")), answer.read()


# -- the protocol --------------------------------------------------------------------------------------------------


def test_the_statuses_of_the_protocol(server: WitnessServer, witness: Witness) -> None:
    status, body = post(server.port, request(0, 7))
    assert status == 200
    assert witness.signer.verifier in Note.unpack(note_of(7) + body).verified([witness.signer.verifier])
    assert post(server.port, request(0, 9)) == (409, b"7\n")
    for wrong, expected in (
        (b"old\n", 400),
        (request(9, 8), 400),
        (request(7, 9).replace(b"\n9\n", b"\n8\n"), 403),
        (request(7, 9).replace(ORIGIN.encode(), b"example.org/other"), 404),
        (request(7, 40, FORK).replace(b"old 7\n", b"old 7\n" + b"A" * 43 + b"=\n"), 422),
    ):
        status, body = post(server.port, wrong)
        assert status == expected
        assert body.endswith(b"\n")
        assert body.isascii()


def test_a_size_has_its_own_type_and_words_are_plain_text(server: WitnessServer) -> None:
    post(server.port, request(0, 7))
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        for body, expected in (
            (request(3, 9), "text/x.tlog.size"),
            (b"junk", "text/plain; charset=utf-8"),
            (request(7, 9), "text/plain; charset=utf-8"),
        ):
            connection.request("POST", "/add-checkpoint", body)
            answer = connection.getresponse()
            answer.read()
            assert answer.getheader("Content-Type") == expected
            assert answer.getheader("X-Content-Type-Options") == "nosniff"


def test_who_watches_a_log_gets_the_newest_checkpoint_with_both_signatures(
    server: WitnessServer, witness: Witness
) -> None:
    path = f"/{origin_digest(ORIGIN)}/checkpoint"
    assert get(server, path)[0] == 404
    post(server.port, request(0, 7))
    _, cosignature = post(server.port, request(7, 9))
    status, type_, note = get(server, path)
    assert (status, type_) == (200, "text/plain; charset=utf-8")
    assert note == note_of(9) + cosignature
    assert get(server, f"/{'0' * 64}/checkpoint")[0] == 404
    assert get(server, path, "HEAD") == (200, type_, b"")


def test_the_front_page_names_the_key_and_the_logs_and_nothing_secret(
    server: WitnessServer, witness: Witness
) -> None:
    post(server.port, request(0, 7))
    status, type_, page = get(server, "/")
    assert (status, type_) == (200, "text/plain; charset=utf-8")
    for word in (str(witness.signer.verifier), ORIGIN, "7 entries", origin_digest(ORIGIN)):
        assert word in page.decode()
    assert "PRIVATE" not in page.decode()
    assert str(witness.database.path) not in page.decode()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/add-checkpoint", 405),
        ("POST", "/", 405),
        ("POST", f"/{'0' * 64}/checkpoint", 405),
        ("GET", "/key", 404),
        ("GET", "/../key", 404),
        ("GET", "/%2e%2e/key", 404),
        ("GET", f"/{'A' * 64}/checkpoint", 404),
        ("GET", f"/{'0' * 64}/checkpoint/", 404),
        ("GET", "/?x", 404),
        ("POST", "/add-checkpoint/", 404),
        ("PUT", "/add-checkpoint", 501),
        ("OPTIONS", "*", 501),
        ("BREW", "/", 501),
    ],
)
def test_other_paths_and_methods_are_refused_in_words(
    server: WitnessServer, method: str, path: str, status: int
) -> None:
    found, type_, body = get(server, path, method)
    assert (found, type_) == (status, "text/plain; charset=utf-8")
    assert body.endswith(b"\n")
    assert b"<" not in body


# -- HTTP ----------------------------------------------------------------------------------------------------------


def head(*lines: str, path: str = "/add-checkpoint") -> bytes:
    return "".join(f"{line}\r\n" for line in (f"POST {path} HTTP/1.1", "Host: x", *lines, "")).encode()


def test_a_connection_serves_one_request_after_another(server: WitnessServer) -> None:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        sockets = set()
        for old, size, status in ((0, 7, 200), (0, 7, 409), (7, 9, 200), (9, 8, 400), (9, 9, 200)):
            connection.request("POST", "/add-checkpoint", request(old, size))
            sockets.add(connection.sock)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        assert len(sockets) == 1


def test_requests_in_one_packet_are_all_answered_in_order(server: WitnessServer) -> None:
    one, other = request(0, 7), request(7, 9)
    data = head(f"Content-Length: {len(one)}") + one + head(f"Content-Length: {len(other)}") + other
    found = said(server, data + b"GET / HTTP/1.0\r\n\r\n")
    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert b"9 entries" in found


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], 411),
        (["Transfer-Encoding: chunked"], 411),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 411),
        (["Content-Length: 5", "Content-Length: 5"], 400),
        (["Content-Length: -5"], 400),
        (["Content-Length: +5"], 400),
        (["Content-Length: 5_0"], 400),
        (["Content-Length: \u0665"], 400),
        (["Content-Length: 0x5"], 400),
        (["Content-Length: 5, 5"], 400),
        (["Content-Length: 262145"], 413),
        (["Content-Length: 9999999999999999999"], 413),
        (["Content-Length: " + "9" * 30], 400),
        ([f"X: {'x' * 20000}"], 431),
        ([f"X{n}: x" for n in range(500)], 431),
    ],
)
def test_a_body_of_unknown_or_too_great_length_is_refused_and_the_connection_closed(
    server: WitnessServer, lines: list[str], status: int
) -> None:
    found = said(server, head(*lines) + b"GET / HTTP/1.1\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 %d " % status)
    assert found.count(b"HTTP/1.1") == 1  # what came as the body is no second request
    assert b"Connection: close" in found


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/x\r\n\r\n",
        b"GET / / HTTP/1.1\r\n\r\n",
        b"POST /\r\n\r\n",
        b"x" * 200_000,
        b"\0" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 200_000,
    ],
)
def test_what_is_no_http_is_refused_and_nothing_of_it_repeated(
    server: WitnessServer, heard: list[str], data: bytes
) -> None:
    found = said(server, data)
    assert b"Traceback" not in found
    assert b"xxxx" not in found
    assert b"200 OK" not in found
    assert heard == []
    assert get(server, "/")[0] == 200


def test_a_get_with_a_body_is_answered_and_the_connection_closed(server: WitnessServer) -> None:
    data = b"GET / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    assert said(server, data).count(b"HTTP/1.1 200") == 1


def test_a_client_that_asks_first_is_let_go_on(server: WitnessServer) -> None:
    body = request(0, 7)
    with connected(server) as connection:
        connection.sendall(head(f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close"))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert all_of(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_ends_early_is_not_looked_at(server: WitnessServer, witness: Witness) -> None:
    body = request(0, 7)
    found = said(server, head(f"Content-Length: {len(body) + 1}") + body)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert witness.database.logs() == []


# -- slow, many, and failing ---------------------------------------------------------------------------------------


def drip(server: WitnessServer, first: bytes) -> bytes:
    """The answer to who sends `first` and then a byte now and then, and never comes to an end."""
    with connected(server) as connection:
        connection.sendall(first)
        connection.settimeout(0.05)
        for _ in range(400):
            try:
                return connection.recv(1 << 16)
            except TimeoutError:
                connection.sendall(b"x")
            except ConnectionError:
                return b""
    raise AssertionError("it was never cut off")


@pytest.mark.parametrize("first", [b"P", head()[:-2], head("Content-Length: 500") + b"old"])
def test_a_request_that_comes_too_slowly_is_cut_off(hurried: WitnessServer, first: bytes) -> None:
    assert drip(hurried, first).startswith(b"HTTP/1.1 408 ")


def test_a_connection_without_a_request_is_closed_without_a_word(hurried: WitnessServer) -> None:
    with connected(hurried) as connection:
        assert all_of(connection) == b""


def test_slow_clients_do_not_keep_others_out_for_longer_than_their_time(hurried: WitnessServer) -> None:
    slow = [connected(hurried) for _ in range(LIMITS.connections)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\n")
    for connection in slow:  # the first byte of an answer: it was cut off
        assert all_of(connection).startswith(b"HTTP/1.1 408 ")
        connection.close()
    found = 503
    while found == 503:  # until their threads have ended
        try:
            found = get(hurried, "/")[0]
        except ConnectionError:
            continue
    assert found == 200


def test_more_connections_than_there_is_room_for_are_told_so(server: WitnessServer) -> None:
    open_ = []
    for _ in range(NO_TIME.connections):
        connection = connected(server)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")  # and stays open
        open_.append(connection)
    with connected(server) as connection:
        found = all_of(connection)
    assert found.startswith(b"HTTP/1.1 503 ")
    first, _, body = found.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in first
    for connection in open_:
        connection.close()


def test_a_client_that_reads_no_answers_is_cut_off(hurried: WitnessServer) -> None:
    with connected(hurried) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.settimeout(1.5)
        with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012
            for _ in range(100_000):
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n" * 50)
    assert get(hurried, "/")[0] == 200


def test_a_disk_that_fails_is_an_answer_without_details(
    server: WitnessServer, witness: Witness, heard: list[str]
) -> None:
    with closing(sqlite3.connect(witness.database.path)) as other:
        other.execute("CREATE TRIGGER no BEFORE INSERT ON newest BEGIN SELECT RAISE(ABORT, 'full'); END")
        other.commit()
        status, body = post(server.port, request(0, 7))
        assert (status, body) == (503, b"the witness cannot reach its records now\n")
        assert "full" in heard[0]
        other.execute("DROP TRIGGER no")
        other.commit()
    assert post(server.port, request(0, 7))[0] == 200


def test_the_operator_hears_what_happened_to_the_logs_that_are_known(
    server: WitnessServer, heard: list[str]
) -> None:
    for body in (b"junk", request(0, 20), request(0, 21), request(20, 40, FORK)):
        post(server.port, body)
    while len(heard) < 3:  # they are told of after the answer
        get(server, "/")
    assert sorted(line.partition(": ")[2] for line in heard) == [
        "example.org/log, 20 entries: cosigned",
        "example.org/log, 21 entries: not cosigned: another size was cosigned last",
        "example.org/log, 40 entries: REFUSED: it does not continue what was cosigned",
    ]


def test_an_end_waits_for_the_answer_that_is_being_made(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()
    whole = Witness.add_checkpoint

    def slow(self: Witness, body: bytes) -> Reply:
        inside.set()
        assert go_on.wait(30)
        return whole(self, body)

    monkeypatch.setattr(Witness, "add_checkpoint", slow)
    found: list[tuple[int, bytes]] = []
    with WitnessServer(witness, port=0, limits=NO_TIME) as server:
        asking = threading.Thread(target=lambda: found.append(post(server.port, request(0, 7))))
        asking.start()
        assert inside.wait(30)
        ended = server._server.wait_for_replies
        monkeypatch.setattr(server._server, "wait_for_replies", lambda s: (go_on.set(), ended(s)))
    assert witness.database.newest(ORIGIN) is not None
    asking.join()
    assert found[0][0] == 200
    with pytest.raises(ConnectionRefusedError):
        connected(server)


def test_an_address_that_is_taken_or_elsewhere_is_a_wrong_call(
    witness: Witness, server: WitnessServer
) -> None:
    for bind, port in (("127.0.0.1", server.port), ("192.0.2.1", 0), ("", 0), ("127.0.0.1", 70_000)):
        with pytest.raises(ConfigError, match="listen") as found:
            WitnessServer(witness, bind, port)
        assert found.value.hint


def test_it_listens_on_this_machine_alone_unless_told_otherwise(server: WitnessServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert server._server.server_address[0] == "127.0.0.1"
    assert LOG.verifier.name in server._server.witness.logs
