"""A witness on HTTP: `add-checkpoint` for logs, the newest checkpoints for everybody.

Source: c2sp.org/tlog-witness.

    POST /add-checkpoint               a cosignature, or a status and a sentence that say why not
    GET  /SHA256-OF-ORIGIN/checkpoint  the newest checkpoint of a log that was cosigned, with both signatures
    GET  /                             the key and the logs, in words

Nobody is asked who they are: a request counts by the log's signature. What strangers can cost is bounded instead: the
size of a request, the time that it may take to arrive, and the connections at a time.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from phloem.errors import ConfigError, PhloemError
from phloem.ledger.sockets import Incoming, TooLateError, TooMuchError
from phloem.ledger.witness import Witness, origin_digest
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.note import Note
from phloem.tlog.witness import Reply, Request

PORT = 8420
ADD_CHECKPOINT = "/add-checkpoint"
_MONITOR = re.compile(r"/([0-9a-f]{64})/checkpoint")
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 42\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\nthere are too many connections, try again\n"
)
_LAST_REPLIES_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers may take.

    A request of `body_bytes` has room for 64 signatures of 2,420 bytes (ML-DSA-44) and 63 hashes, in base64.
    `request_seconds` is for a whole request to arrive, and for a connection without one.
    """

    connections: int = 64
    request_seconds: float = 10.0
    head_bytes: int = 1 << 14
    body_bytes: int = 1 << 18


class WitnessServer:
    """Serves a witness at `url` while it is open."""

    def __init__(
        self,
        witness: Witness,
        bind: str = "127.0.0.1",
        port: int = PORT,
        limits: Limits | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Listens at once, with port 0 at any that is free; `tell` hears a line about every request for a log here.

        Raises:
            ConfigError: the address is not this machine's, or taken.
        """
        if not bind:
            raise ConfigError("a witness needs an address to listen on", hint="0.0.0.0 is every one of IPv4")
        try:
            self._server = _Server(witness, bind, port, limits or Limits(), tell or (lambda _: None))
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"a witness cannot listen on {bind}, port {port}: {reason}",
                hint="choose another --port or --bind",
            ) from error
        self.port = int(self._server.server_address[1])
        host = f"[{bind}]" if ":" in bind else bind
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes no more requests, and waits a little for the replies to those that are here."""
        self._server.shutdown()
        self._server.server_close()
        self._server.wait_for_replies(_LAST_REPLIES_SECONDS)

    def wait(self) -> None:
        """Comes back when the server has ended, or somebody interrupts."""
        self._thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(
        self, witness: Witness, bind: str, port: int, limits: Limits, tell: Callable[[str], None]
    ) -> None:
        self.witness, self.limits, self.tell = witness, limits, tell
        self._places = threading.BoundedSemaphore(limits.connections)
        self._answering = 0
        self._answered = threading.Condition()
        if ":" in bind:
            self.address_family = socket.AF_INET6
        super().__init__((bind, port), _Handler)

    def server_bind(self) -> None:
        """As in HTTPServer, without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, if there is a place for it."""
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(_FULL)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says that a connection ended badly; nothing else is known of it."""
        self.tell("a connection ended with an error")

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """While a request is answered, the server's end waits."""
        with self._answered:
            self._answering += 1
        try:
            yield
        finally:
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()

    def wait_for_replies(self, seconds: float) -> None:
        """Comes back when nothing is being answered, or after so long."""
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wfile: io.BytesIO

    def setup(self) -> None:
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._incoming = Incoming(self.connection)
        self.rfile = io.BufferedReader(self._incoming)
        self.wfile = io.BytesIO()  # head and body leave together, in `_send`

    def finish(self) -> None:
        self.rfile.close()

    def handle_one_request(self) -> None:
        limits = self.server.limits
        self._incoming.allow(limits.request_seconds, limits.head_bytes)
        self.command, self.request_version, self.requestline = "", self.protocol_version, ""
        try:
            super().handle_one_request()
        except TooLateError:
            self.close_connection = True
            if self._incoming.taken:  # not only a connection that rests
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request took too long to arrive")
        except TooMuchError:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too long")
        except PhloemError as error:
            self.server.tell(f"a request could not be answered: {error.message}")
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the witness cannot reach its records now")
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            self.close_connection = True  # its body is nothing to us, and no next request
        found = _MONITOR.fullmatch(self.path)
        if self.path == "/":
            self._answer(HTTPStatus.OK, self._page())
        elif found is None:
            self._refuse_path("GET")
        else:
            with self.server.answering():
                note = self.server.witness.checkpoint(found[1])
                if note is None:
                    self._answer(HTTPStatus.NOT_FOUND, b"no checkpoint of such a log was cosigned here\n")
                else:
                    self._answer(HTTPStatus.OK, note)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        if self.path != ADD_CHECKPOINT:
            self._refuse_path("POST")
            return
        size = self._body_size()
        if size is None:
            return
        self._incoming.allow_more(size)
        body = self.rfile.read(size)
        if len(body) != size:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request ended early")
            return
        with self.server.answering():
            reply = self.server.witness.add_checkpoint(body)
            self._answer(reply.status, reply.body, reply.type)
        if reply.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
            self.server.tell(f"{self.client_address[0]}: {_in_words(body, reply)}")

    def _body_size(self) -> int | None:
        """How long the body will be; None, and an answer is given, where that is not said or too much."""
        lengths = self.headers.get_all("Content-Length", [])
        most = self.server.limits.body_bytes
        if self.headers.get("Transfer-Encoding") is not None or not lengths:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "send the body in one piece, with a Content-Length")
        elif len(lengths) > 1 or not re.fullmatch("[0-9]{1,19}", lengths[0].strip()):
            self._refuse(HTTPStatus.BAD_REQUEST, "expected one Content-Length, a decimal number")
        elif int(lengths[0]) > most:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {most} bytes")
        else:
            return int(lengths[0])
        return None

    def _page(self) -> bytes:
        witness = self.server.witness
        lines = [
            "A witness of transparency logs (c2sp.org/tlog-witness).",
            "",
            f"key: {witness.signer.verifier}",
        ]
        for origin in sorted(witness.logs):
            found = witness.database.newest(origin)
            what = "nothing cosigned yet" if found is None else f"{found.size} entries cosigned"
            lines += ["", f"log: {origin}", f"  {what}", f"  /{origin_digest(origin)}/checkpoint"]
        return "".join(f"{line}\n" for line in lines).encode()

    def _answer(
        self, status: HTTPStatus, body: bytes, type_: str = "text/plain; charset=utf-8", **more: str
    ) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": type_,
            "Content-Length": str(len(body)),
            "X-Content-Type-Options": "nosniff",
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in (headers | {"Cache-Control": "no-cache"} | more).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self._send()

    def _send(self) -> None:
        data = self.wfile.getvalue()
        self.wfile.seek(0)
        self.wfile.truncate()
        self.connection.settimeout(self.server.limits.request_seconds)
        self.connection.sendall(data)

    def _refuse(self, status: HTTPStatus, reason: str, **more: str) -> None:
        """An answer after which nothing more is read, because what comes may be the rest of this request."""
        self.close_connection = True
        try:
            self._answer(status, f"{reason}\n".encode(), **more)
        except OSError:
            return
        self._linger()

    def _linger(self) -> None:
        """Reads a little of what still comes: closed at once, the answer could be lost on its way."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self._incoming.allow(1.0, self.server.limits.body_bytes)
            while self.rfile.read1(1 << 16):
                pass

    def _refuse_path(self, method: str) -> None:
        if self.path == ADD_CHECKPOINT or self.path == "/" or _MONITOR.fullmatch(self.path):
            other = "POST" if method == "GET" else "GET"
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"here only {other} is known", Allow=other)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

    def handle_expect_100(self) -> bool:
        """Lets a client that asks first go on."""
        super().handle_expect_100()
        self._send()
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses, in its words for the status and nothing of what was sent."""
        status = HTTPStatus(code)
        self._refuse(status, status.phrase.lower())

    def version_string(self) -> str:
        """Who answers."""
        return "phloem"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `tell` hears what matters."""


def _in_words(body: bytes, reply: Reply) -> str:
    """What happened to a request for a log that is known here, in a line for the witness's operator."""
    checkpoint = Checkpoint.unpack(Note.unpack(Request.unpack(body).note).text)
    what = {
        HTTPStatus.OK: "cosigned",
        HTTPStatus.CONFLICT: "not cosigned: another size was cosigned last",
        HTTPStatus.FORBIDDEN: "refused: the log did not sign it",
    }
    why = what.get(reply.status, "REFUSED: it does not continue what was cosigned")
    return f"{checkpoint.origin}, {checkpoint.size} entries: {why}"
