"""An exported log read from a web server, well and badly behaved."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from phloem.errors import ConfigError, FormatError, NotFoundError, StoreError
from phloem.ledger.export import Directory, Web, export, files_at
from phloem.ledger.exported import Exported
from phloem.ledger.log import Log
from phloem.tlog.keys import NOTE, Signer

SIGNER = Signer.from_seed("example.org/log", NOTE, bytes(32))


class Server(ThreadingHTTPServer):
    """Answers every request with `answer(handler, content of the file or None)`."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.answer: Callable[[Handler, bytes | None], None] = plainly
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/log"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        place = self.server.root / self.path.removeprefix("/log/").partition("?")[0]
        self.server.answer(self, place.read_bytes() if place.is_file() else None)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def say(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)


def plainly(handler: Handler, content: bytes | None) -> None:
    if content is None:
        handler.say(404, b"no such file")
    else:
        handler.say(200, content)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log.db", "example.org/log") as log:
        log.append([b"entry %d" % number for number in range(300)])
        log.sign([SIGNER])
        export(log, Directory(tmp_path / "out"))
        yield log


@pytest.fixture
def server(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(tmp_path / "out") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def test_a_log_is_read_from_a_web_server(log: Log, server: Server) -> None:
    for url in (server.url, server.url + "/"):
        exported = Exported(files_at(url))
        assert exported.entries(0, 300) == log.entries(0, 300)
        assert exported.receipt(299) == log.receipt(299)
    assert Web(server.url).get("tile/0/999") is None
    with pytest.raises(ConfigError, match="nothing can be exported"):
        Web(server.url).put("checkpoint", b"")


def test_what_a_server_compresses_without_being_asked_is_read(log: Log, server: Server) -> None:
    server.answer = lambda handler, content: (
        plainly(handler, None)
        if content is None
        else handler.say(200, gzip.compress(content), Content_Encoding="gzip")
    )
    assert Exported(Web(server.url)).entries(0, 300) == log.entries(0, 300)


def test_a_server_that_refuses_is_no_log_without_files(server: Server) -> None:
    for status in (403, 500, 503):
        server.answer = lambda handler, content, status=status: handler.say(status, b"")  # type: ignore[misc]
        with pytest.raises(
            StoreError, match=f"checkpoint cannot be read: the server says {status}"
        ) as caught:
            Exported(Web(server.url))
        assert not isinstance(caught.value, NotFoundError)


def test_a_server_that_is_not_there_is_said(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(StoreError, match=r"log/checkpoint cannot be read: Connection refused"):
        Exported(Web(f"http://127.0.0.1:{port}/log"))


def cut_off(handler: Handler, content: bytes | None) -> None:
    handler.say(200, (content or b"")[:-1], Content_Length=str(len(content or b"")))
    handler.close_connection = True


def cut_off_inside_gzip(handler: Handler, content: bytes | None) -> None:
    handler.say(200, gzip.compress(content or b"")[:-9], Content_Encoding="gzip")


def no_gzip(handler: Handler, content: bytes | None) -> None:
    handler.say(200, content or b"", Content_Encoding="gzip")


def silent(handler: Handler, content: bytes | None) -> None:
    handler.server.over.wait()
    handler.close_connection = True


def drop_by_drop(handler: Handler, content: bytes | None) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while not handler.server.over.wait(0.05):
            handler.wfile.write(b"x")
    except OSError:
        pass
    handler.close_connection = True


def garbage(handler: Handler, content: bytes | None) -> None:
    handler.wfile.write(b"\x00\x01 no HTTP\r\n\r\n")
    handler.close_connection = True


@pytest.mark.parametrize("answer", [cut_off, cut_off_inside_gzip, no_gzip, silent, drop_by_drop, garbage])
def test_a_broken_answer_is_neither_believed_nor_waited_for(
    server: Server, answer: Callable[[Handler, bytes | None], None]
) -> None:
    server.answer = answer
    with pytest.raises(StoreError, match="/log/checkpoint") as caught:
        Exported(Web(server.url, timeout_seconds=0.3))
    assert not isinstance(caught.value, NotFoundError)


@pytest.mark.parametrize("packed", [False, True])
def test_more_than_any_file_of_a_log_has_is_not_taken(server: Server, packed: bool) -> None:
    content = bytes(20 << 20)
    if packed:
        server.answer = lambda handler, _: handler.say(
            200, gzip.compress(content, 1), Content_Encoding="gzip"
        )
    else:
        server.answer = lambda handler, _: handler.say(200, content)
    with pytest.raises(FormatError, match="is larger than 16777472 bytes"):
        Exported(Web(server.url))


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/log",
        "https://host/log?token=secret",
        "https://",
        "http:///x",
        "http://[::1/x",
        "http://h:99999",
    ],
)
def test_a_url_with_more_than_a_host_and_a_path_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a URL of the form https://HOST/PATH") as caught:
        files_at(url)
    assert "secret" not in str(caught.value)
