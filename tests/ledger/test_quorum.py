"""The log's side of witnessing: who is dead, slow or lying costs its own cosignature, and a fork gets no quorum."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

import pytest
from tests.ledger.witnesses import LOG, ORIGIN, new_witness, note_of

from phloem.errors import FormatError, ProofError, StateError
from phloem.ledger import quorum
from phloem.ledger.log import Log
from phloem.ledger.quorum import GRACE_SECONDS, MOST_SECONDS_APART, Witnesses
from phloem.ledger.witness import Witness
from phloem.ledger.witness_server import WitnessServer
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import COSIGNATURE, Signer, VerifierKey
from phloem.tlog.merkle import leaf_hash
from phloem.tlog.note import MOST_SIGNATURES, Note, Signature, signed
from phloem.tlog.policy import Policy
from phloem.tlog.witness import Request

LIAR = Signer.from_seed("witness.example/liar", COSIGNATURE, bytes([9]) * 32)
NOW = 1_700_000_000


class Odd:
    """A witness that answers every request with what `answer` makes of its body, raw; None is no answer at all."""

    def __init__(self, answer: Callable[[bytes], bytes | Iterator[bytes] | None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in [self._listener, *self._open]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        try:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(1 << 16)
            head, _, body = data.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(body) < size:
                body += connection.recv(1 << 16)
            self.requests.append(body)
            answer = self._answer(body)
            if answer is None:
                return
            for part in [answer] if isinstance(answer, bytes) else answer:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def http(body: bytes, status: bytes = b"200 OK", *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *more, b"", b""]
    return b"\r\n".join(lines) + body


def cosignature(body: bytes, signer: Signer = LIAR, at: int = NOW, text: bytes | None = None) -> bytes:
    text = Note.unpack(Request.unpack(body).note).text if text is None else text
    return str(Signature(signer.name, signer.verifier.id, signer.sign(text, lambda: at))).encode()


def policy_of(wanted: int, **witnesses: tuple[VerifierKey, str | None]) -> Policy:
    names = list(witnesses)
    keys = {name: key for name, (key, _) in witnesses.items()}
    lines = [f"log {LOG.verifier}"]
    lines += [f"witness {name} {keys[name]} {witnesses[name][1] or ''}" for name in names]
    lines += [f"group g {wanted} {' '.join(names)}", "quorum g"]
    return Policy.parse("\n".join(lines).encode())


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log.db", ORIGIN) as found:
        found.append([b"%d" % n for n in range(20)])
        yield found


class Three:
    """Three honest witnesses."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.witnesses = [
            stack.enter_context(new_witness(folder / f"w{n}", f"witness.example/w{n}")) for n in range(3)
        ]
        self.servers = [stack.enter_context(WitnessServer(one, port=0)) for one in self.witnesses]

    def of(self, *numbers: int) -> dict[str, tuple[VerifierKey, str | None]]:
        return {f"w{n}": (self.witnesses[n].signer.verifier, self.servers[n].url) for n in numbers}


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    with ExitStack() as stack:
        yield Three(tmp_path, stack)


# -- honest witnesses ----------------------------------------------------------------------------------------------


def test_a_log_that_grows_is_cosigned_by_all_and_keeps_it(log: Log, three: Three) -> None:
    policy = policy_of(3, **three.of(0, 1, 2))
    witnesses = Witnesses(policy)
    for _ in range(4):
        note = witnesses.cosign(log, log.sign([LOG]))
        assert witnesses.missing == {}
        assert policy.check(note).size == log.size
        assert log.checkpoint() == note
        assert log.receipt(3).check(leaf_hash(b"3"), policy).size == log.size
        log.append([b"%d" % (log.size + n) for n in range(7)])


def test_the_size_that_a_witness_cosigned_last_is_remembered_or_learnt(
    log: Log, three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = Witness.add_checkpoint
    monkeypatch.setattr(
        Witness,
        "add_checkpoint",
        lambda self, body: asked.append(Request.unpack(body).old) or whole(self, body),
    )
    policy = policy_of(1, **three.of(0))
    witnesses = Witnesses(policy)
    for _ in range(3):
        policy.check(witnesses.cosign(log, log.sign([LOG])))
        log.append([b"more"])
    policy.check(Witnesses(policy).cosign(log, log.sign([LOG])))  # after a restart
    assert asked == [0, 20, 21, 0, 22]


def test_who_has_cosigned_is_not_asked_again_and_others_can_be_added_later(log: Log, three: Three) -> None:
    first = Witnesses(policy_of(1, **three.of(0))).cosign(log, log.sign([LOG]))
    three.servers[0]._server.server_close()
    witnesses = Witnesses(policy_of(2, **three.of(0, 1)))
    both = witnesses.cosign(log, first)
    assert witnesses.missing == {}
    assert both.startswith(first)
    assert log.checkpoint() == both


def test_a_witness_without_a_url_is_not_asked(log: Log, three: Three) -> None:
    witnesses = Witnesses(policy_of(1, **three.of(0), other=(LIAR.verifier, None)))
    witnesses.policy.check(witnesses.cosign(log, log.sign([LOG])))
    assert witnesses.missing == {"other": "it has no URL in the policy"}


def test_an_older_note_of_the_log_gets_no_cosignature_and_the_reason_is_said(log: Log, three: Three) -> None:
    policy = policy_of(1, **three.of(0))
    older = log.sign([LOG])
    log.append([b"more"])
    witnesses = Witnesses(policy)
    witnesses.cosign(log, log.sign([LOG]))
    assert witnesses.cosign(log, older) == older
    assert "has cosigned 21 entries, more than these 20" in witnesses.missing["w0"]


def test_a_note_that_is_not_the_logs_is_not_shown_to_anybody(log: Log) -> None:
    with Odd(lambda _: None) as odd:
        witnesses = Witnesses(policy_of(1, odd=(LIAR.verifier, odd.url)))
        fork = Checkpoint(ORIGIN, 20, bytes(32))
        for checkpoint in (
            fork,
            Checkpoint("example.org/other", 20, bytes(32)),
            Checkpoint(ORIGIN, 21, bytes(32)),
        ):
            with pytest.raises(StateError, match="not one of the log"):
                witnesses.cosign(log, signed(checkpoint.pack(), [LOG]))
        with pytest.raises(FormatError):
            witnesses.cosign(log, b"no note")
        note = log.sign([LOG])
        wrong = note + cosignature(b"", text=b"another text\n")
        with pytest.raises(ProofError):
            witnesses.cosign(log, wrong)
        assert odd.requests == []


# -- other witnesses -----------------------------------------------------------------------------------------------


def endless(part: bytes) -> Iterator[bytes]:
    while True:
        yield part


def slowly(data: bytes) -> Iterator[bytes]:
    wait = threading.Event()
    for byte in data:
        yield bytes([byte])
        wait.wait(0.05)


ODD: dict[str, tuple[Callable[[bytes], bytes | Iterator[bytes] | None], str]] = {
    "nothing": (lambda _: None, "no answer in time"),
    "closes": (lambda _: b"", "no HTTP"),
    "no http": (lambda _: b"SSH-2.0-OpenSSH\r\n", "no HTTP"),
    "garbage": (lambda _: http(b"\xff\0garbage\n" * 99), "no cosignature by the key"),
    "empty": (lambda _: http(b""), "no cosignature by the key"),
    "no body": (lambda _: b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
    "another key": (
        lambda body: http(cosignature(body, Signer.new("witness.example/liar", COSIGNATURE))),
        "no cosignature by the key",
    ),
    "another key under this id": (
        lambda body: http(
            str(
                Signature(LIAR.name, LIAR.verifier.id, Signer.new("x", COSIGNATURE).sign(b"x\n", lambda: NOW))
            ).encode()
        ),
        "not over this checkpoint",
    ),
    "another tree": (
        lambda body: http(cosignature(body, text=Checkpoint(ORIGIN, 20, bytes(32)).pack())),
        "not over this checkpoint",
    ),
    "the log's own signature": (lambda _: http(note_of(20).rpartition(b"\n\n")[2]), "no cosignature by"),
    "no time": (lambda body: http(cosignature(body, at=0)), "seconds behind"),
    "the past": (lambda body: http(cosignature(body, at=NOW - MOST_SECONDS_APART - 9)), "609 seconds behind"),
    "the future": (
        lambda body: http(cosignature(body, at=NOW + MOST_SECONDS_APART + 9)),
        "609 seconds ahead",
    ),
    "a huge body": (lambda body: http(cosignature(body) + b"x" * 200_000), "larger than 65536"),
    "a huge length": (
        lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nx" % 10**15,
        "no cosignature by the key",
    ),
    "a body without end": (
        lambda _: endless(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000),
        "larger than 65536",
    ),
    "chunks without end": (
        lambda _: (
            part
            for start in [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
            for part in [start, *[b"1000\r\n" + b"x" * 0x1000 + b"\r\n"] * 99]
        ),
        "larger than 65536",
    ),
    "a huge chunk": (
        lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\nx",
        "",
    ),
    "a head without end": (lambda _: endless(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000), ""),
    "continue without end": (lambda _: endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "larger than 65536"),
    "a byte at a time": (lambda body: slowly(http(cosignature(body))), "no answer in time"),
    "a head at a time": (lambda _: slowly(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000), "no answer in time"),
    "404": (lambda _: http(b"unknown \x1b[31mlog\n", b"404 Not Found"), "answered 404: unknown ?[31mlog"),
    "500": (lambda _: http(b"<html>", b"500 Internal Server Error"), "answered 500: <html>"),
    "422": (lambda _: http(b"no proof\n", b"422 Unprocessable Entity"), "does not continue what it cosigned"),
    "409, no size": (lambda _: http(b"busy", b"409 Conflict"), "no decimal number"),
    "409, a negative size": (lambda _: http(b"-1\n", b"409 Conflict"), "no decimal number"),
    "409, a huge size": (lambda _: http(b"9" * 60_000, b"409 Conflict"), "larger than"),
    "409, a larger size": (lambda _: http(b"21\n", b"409 Conflict"), "more than these 20"),
    "409 for ever": (lambda _: http(b"7\n", b"409 Conflict"), "another size each time"),
    "409 with this size": (lambda _: http(b"20\n", b"409 Conflict"), "another tree of 20 entries"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_an_odd_witness_costs_its_own_cosignature_and_no_more_than_the_timeout(
    log: Log, three: Three, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quorum, "GRACE_SECONDS", 30.0)  # so that it is the timeout that ends the waiting
    answer, reason = ODD[name]
    three.witnesses[0]._clock = lambda: float(NOW)
    with Odd(answer) as odd:
        policy = policy_of(1, odd=(LIAR.verifier, odd.url), **three.of(0))
        timeout = 1.5 if reason == "no answer in time" else 20.0
        witnesses = Witnesses(policy, timeout, clock=lambda: float(NOW))
        started = time.monotonic()
        note = witnesses.cosign(log, log.sign([LOG]))
        assert time.monotonic() - started < timeout + 4
        assert set(witnesses.missing) == {"odd"}
        assert reason in witnesses.missing["odd"]
        assert witnesses.missing["odd"].isprintable()
    assert policy.check(note).size == 20
    with pytest.raises(ProofError):
        policy_of(2, odd=(LIAR.verifier, None), **three.of(0)).check(note)


def test_a_redirect_is_not_followed(log: Log) -> None:
    with Odd(lambda body: http(cosignature(body))) as good:
        target = b"Location: " + good.url.encode() + b"/add-checkpoint"
        for status in (b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"308 Permanent Redirect"):
            with Odd(lambda _, status=status: http(b"", status, target)) as odd:
                witnesses = Witnesses(policy_of(1, odd=(LIAR.verifier, odd.url)), clock=lambda: float(NOW))
                note = log.sign([LOG])
                assert witnesses.cosign(log, note) == note
                assert "redirect" in witnesses.missing["odd"]
        assert good.requests == []


def test_other_keys_lines_in_an_answer_are_left_out(log: Log) -> None:
    other = Signer.new("witness.example/other", COSIGNATURE)
    answer = lambda body: http(cosignature(body, other) + b"junk\n" + cosignature(body))  # noqa: E731
    with Odd(answer) as odd:
        witnesses = Witnesses(policy_of(1, odd=(LIAR.verifier, odd.url)), clock=lambda: float(NOW))
        note = witnesses.cosign(log, log.sign([LOG]))
    assert [one.name for one in Note.unpack(note).signatures] == [ORIGIN, LIAR.name]


def test_a_dead_witness_is_a_reason_and_no_error(log: Log, three: Three) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
    witnesses = Witnesses(policy_of(1, dead=(LIAR.verifier, dead), **three.of(0)))
    witnesses.policy.check(witnesses.cosign(log, log.sign([LOG])))
    assert "refused" in witnesses.missing["dead"]


def test_once_the_quorum_is_there_the_others_have_a_short_grace(log: Log, three: Three) -> None:
    with Odd(lambda _: None) as odd:
        witnesses = Witnesses(policy_of(2, odd=(LIAR.verifier, odd.url), **three.of(0, 1)), 60.0)
        started = time.monotonic()
        witnesses.policy.check(witnesses.cosign(log, log.sign([LOG])))
        assert GRACE_SECONDS <= time.monotonic() - started < 30
        assert witnesses.missing == {"odd": "no answer in time"}
        log.append([b"more"])
        witnesses.policy.check(witnesses.cosign(log, log.sign([LOG])))
        assert "before this one" in witnesses.missing["odd"]
        assert len(odd.requests) == 1  # who hangs is asked once


def test_without_a_quorum_the_note_comes_back_with_what_there_is(log: Log, three: Three) -> None:
    with Odd(lambda _: None) as odd:
        policy = policy_of(2, odd=(LIAR.verifier, odd.url), **three.of(0))
        note = Witnesses(policy, 1.5).cosign(log, log.sign([LOG]))
    assert three.witnesses[0].signer.verifier in Note.unpack(note).verified(policy.witnesses.values())
    with pytest.raises(ProofError, match="lacks the quorum"):
        policy.check(note)
    assert log.checkpoint() == note


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "127.0.0.1:80",
        "http://",
        "http://user:hunter2@127.0.0.1:1/",
        "http://127.0.0.1:hunter2/",
        "http://127.0.0.1:99999/",
        "http://[::hunter2/",
        "http://127.0.0.1:1/?hunter2",
        f"http://{'a' * 70}.example/",
        "http://127.0.0.1:1/\u00e9",
    ],
)
def test_a_url_that_cannot_be_asked_is_a_reason_that_does_not_repeat_it(log: Log, url: str) -> None:
    witnesses = Witnesses(policy_of(1, odd=(LIAR.verifier, url)))
    note = log.sign([LOG])
    assert witnesses.cosign(log, note) == note
    assert witnesses.missing["odd"]
    assert "hunter2" not in witnesses.missing["odd"]


def test_a_url_may_have_a_path(log: Log) -> None:
    seen: list[bytes] = []

    def answer(body: bytes) -> bytes:
        seen.append(body)
        return http(cosignature(body))

    with Odd(answer) as odd:
        policy = policy_of(1, odd=(LIAR.verifier, f"{odd.url}/a/b/"))
        policy.check(Witnesses(policy, clock=lambda: float(NOW)).cosign(log, log.sign([LOG])))
    assert len(seen) == 1


def test_the_environments_proxies_are_not_asked(
    log: Log, three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    policy = policy_of(1, **three.of(0))
    policy.check(Witnesses(policy).cosign(log, log.sign([LOG])))


# -- TLS -----------------------------------------------------------------------------------------------------------


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "witness")])
    now = datetime.now(UTC)
    found = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(found.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_https_is_asked_and_an_unknown_certificate_is_not_trusted(
    log: Log, three: Three, tmp_path: Path
) -> None:
    paths = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    server = three.servers[0]._server
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    url = server.server_address[1]
    policy = policy_of(1, w0=(three.witnesses[0].signer.verifier, f"https://127.0.0.1:{url}"))
    strict = Witnesses(policy)
    note = log.sign([LOG])
    assert strict.cosign(log, note) == note
    assert "certificate" in strict.missing["w0"]
    trusting = Witnesses(policy, tls=ssl.create_default_context(cafile=str(paths[0])))
    assert policy.check(trusting.cosign(log, note)).size == 20


# -- the log keeps -------------------------------------------------------------------------------------------------


def test_a_log_keeps_more_signatures_and_never_loses_one(log: Log) -> None:
    note = log.sign([LOG])
    a, b = (Signer.new(name, COSIGNATURE) for name in "ab")
    log.keep(Note.unpack(note).signed([a], lambda: NOW).pack())
    log.keep(Note.unpack(note).signed([b], lambda: NOW).pack())
    log.keep(Note.unpack(note).signed([a], lambda: NOW + 1).pack())  # the first is kept
    kept = log.checkpoint()
    assert kept is not None
    found = Note.unpack(kept).verified([LOG.verifier, a.verifier, b.verifier])
    assert len(found) == 3
    assert int.from_bytes(found[a.verifier][:8], "big") == NOW
    log.append([b"more"])
    log.sign([LOG])
    log.keep(kept)  # an older checkpoint may still get some


def test_a_log_keeps_no_other_text_and_no_size_that_it_did_not_sign(log: Log) -> None:
    note = log.sign([LOG])
    with pytest.raises(StateError, match="another checkpoint of 20"):
        log.keep(signed(Checkpoint(ORIGIN, 20, bytes(32)).pack(), [LOG]))
    with pytest.raises(StateError, match="no checkpoint of 19"):
        log.keep(note_of(19))
    with pytest.raises(FormatError):
        log.keep(note[:-1])
    many = Note.unpack(note).signed([Signer.new(f"n{n}") for n in range(MOST_SIGNATURES - 1)]).pack()
    log.keep(many)
    with pytest.raises(FormatError, match="65 signatures"):
        log.keep(Note.unpack(note).signed([Signer.new("one-more")]).pack())
    assert log.checkpoint() == many


# -- a log with two histories --------------------------------------------------------------------------------------


@pytest.mark.parametrize("halves", [((0, 1), (1, 2)), ((0, 1), (2,)), ((0,), (1, 2)), ((0, 1, 2), (0, 1, 2))])
@pytest.mark.parametrize("size", [20, 21])
def test_of_two_histories_at_most_one_reaches_the_quorum(
    log: Log, three: Three, tmp_path: Path, halves: tuple[tuple[int, ...], tuple[int, ...]], size: int
) -> None:
    public = policy_of(2, **three.of(0, 1, 2))
    reached: set[str] = set()

    def ask(name: str, history: Log, whom: tuple[int, ...]) -> None:
        note = Witnesses(policy_of(len(whom), **three.of(*whom)), 20.0).cosign(history, history.sign([LOG]))
        with suppress(ProofError):
            public.check(note)
            reached.add(name)

    with Log.create(tmp_path / "fork.db", ORIGIN) as fork:
        fork.append([b"%d" % n for n in range(10)] + [b"other %d" % n for n in range(size - 10)])
        for parts in (halves, ((0, 1, 2), (0, 1, 2))):  # to halves, then to all, after both have grown
            threads = [
                threading.Thread(target=ask, args=words)
                for words in (("log", log, parts[0]), ("fork", fork, parts[1]))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(reached) <= 1
            log.append([b"more"])
            fork.append([b"more"])
    assert len(reached) == 1
    assert any(one.database.misbehaviour() for one in three.witnesses)
