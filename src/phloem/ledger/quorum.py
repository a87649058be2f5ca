"""The log's side of witnessing: it asks the witnesses of a policy for their cosignatures, all at once.

A witness that is dead, slow or lying costs its own cosignature and nothing else: no error, and no waiting beyond the
timeout. What each of the missing ones did is in `Witnesses.missing`, in words.
"""

from __future__ import annotations

import contextlib
import io
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from phloem.errors import FormatError, PhloemError, ProofError, StateError
from phloem.ledger.sockets import Incoming, TooLateError, TooMuchError
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import VerifierKey, cosigned_time
from phloem.tlog.merkle import prove_consistency, tree_hash
from phloem.tlog.note import MOST_SIGNATURES, Note, Signature
from phloem.tlog.policy import Policy
from phloem.tlog.text import from_decimal
from phloem.tlog.witness import Request

if TYPE_CHECKING:
    import ssl

    from phloem.ledger.log import Log

GRACE_SECONDS = 0.25
"""How long those that are late are waited for once the quorum is there."""

MOST_SECONDS_APART = 600
"""How far a witness's clock may be from this machine's."""

_LARGEST_REPLY = 1 << 16  # with its head; a cosignature has 150 bytes, one of ML-DSA-44 3,300
_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "phloem", "Connection": "close"}
_NO_URL = "its URL is none of the form https://HOST:PORT/PATH"
_LATE = "no answer in time"

_Answers: TypeAlias = "queue.SimpleQueue[tuple[str, Signature | str]]"


class Witnesses:
    """The witnesses of a policy, asked for cosignatures over a log's checkpoints. One call at a time.

    `missing` says, after each call, why which witness has not cosigned. With `tls` witnesses are judged by other
    certificates than the system's.
    """

    def __init__(
        self,
        policy: Policy,
        timeout: float = 10.0,
        *,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.policy, self.timeout = policy, timeout
        self.missing: Mapping[str, str] = {}
        self._clock = clock
        self._tls = tls
        self._sizes: dict[tuple[str, str], int] = {}  # that each cosigned last, as far as is known
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def cosign(self, log: Log, note: bytes) -> bytes:
        """The same note with all cosignatures that came in time, which the log keeps.

        It comes back when every witness has answered, when the timeout is over, or `GRACE_SECONDS` after the quorum
        is there. Whether it is there is for `policy.check` to say. Who has cosigned this note already is not asked.

        Raises:
            FormatError, ProofError: `note` is no checkpoint, or a witness's signature on it is bad. StateError: it is
                not the log's. StoreError: the log cannot be read or written.
        """
        found = Note.unpack(note)
        task = _Task(log, found, Checkpoint.unpack(found.text), time.monotonic() + self.timeout)
        good = found.verified(self.policy.witnesses.values())
        done = {name for name, key in self.policy.witnesses.items() if key in good}
        missing = {name: "it has no URL in the policy" for name in self.policy.witnesses if name not in done}
        answers: _Answers = queue.SimpleQueue()
        asked = {name for name in missing if self._start(task, name, answers, missing)}
        came: dict[str, Signature] = {}
        until = task.until
        while asked:
            if self.policy.quorum_of(done):
                until = min(until, time.monotonic() + GRACE_SECONDS)
            try:
                name, answer = answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            asked.discard(name)
            if isinstance(answer, str):
                missing[name] = answer
            elif len(found.signatures) + len(came) == MOST_SIGNATURES:
                missing[name] = f"a note has room for {MOST_SIGNATURES} signatures"
            else:
                came[name] = answer
                done.add(name)
                del missing[name]
        self.missing = missing
        if not came:
            return note
        ordered = [came[name] for name in self.policy.witnesses if name in came]
        cosigned = Note(found.text, (*found.signatures, *ordered)).pack()
        log.keep(cosigned)
        return cosigned

    def _start(self, task: _Task, name: str, answers: _Answers, missing: dict[str, str]) -> bool:
        """Starts to ask a witness, if that can be, and says in `missing` what there is to say until it answers."""
        if self.policy.witnesses[name] not in self.policy.urls:
            return False
        with self._lock:
            if name in self._busy:
                missing[name] = "it has not answered the request before this one"
                return False
            self._busy.add(name)
        missing[name] = _LATE
        # A daemon: who never stops answering does not keep this process alive.
        threading.Thread(
            target=self._ask, args=(task, name, answers), name=f"witness {name}", daemon=True
        ).start()
        return True

    def _ask(self, task: _Task, name: str, answers: _Answers) -> None:
        answer: Signature | str = "it could not be asked"
        try:
            answer = self._cosignature(task, name)
        except TooLateError:
            answer = _LATE
        except TooMuchError:
            answer = f"its answer is larger than {_LARGEST_REPLY} bytes"
        except PhloemError as error:
            answer = error.message
        except (OSError, HTTPException, ValueError) as error:
            answer = f"no connection, or no HTTP on it: {_reason(error)}"
        finally:
            with self._lock:
                self._busy.discard(name)
            answers.put((name, answer))

    def _cosignature(self, task: _Task, name: str) -> Signature:
        key = self.policy.witnesses[name]
        url = self.policy.urls[key]
        size, place = task.checkpoint.size, (task.checkpoint.origin, name)
        status, body = self._post(task, url, min(self._sizes.get(place, 0), size))
        if status == HTTPStatus.CONFLICT:
            known = self._sizes[place] = _size_in(body)
            if known > size:
                raise ProofError(
                    f"it has cosigned {known} entries, more than these {size}: "
                    "is this an older note, or an older copy of the log?"
                )
            status, body = self._post(task, url, known)
            if status == HTTPStatus.CONFLICT:
                raise ProofError(
                    f"it cosigned another tree of {known} entries"
                    if _size_in(body) == known == size
                    else "it names another size each time: is somebody else asking it for this log?"
                )
        if status != HTTPStatus.OK:
            raise ProofError(_refusal(status, body))
        signature = _cosignature_in(body, key, task.note.text)
        apart = cosigned_time(signature.signature) - self._clock()
        if abs(apart) > MOST_SECONDS_APART:
            direction = "ahead of" if apart > 0 else "behind"
            raise ProofError(f"its clock is {abs(apart):.0f} seconds {direction} this machine's")
        self._sizes[place] = size
        return signature

    def _post(self, task: _Task, url: str, old: int) -> tuple[int, bytes]:
        """Status and body of the answer to a request from the size `old`."""
        body = Request(old, task.proof(old), task.note.pack()).pack()
        seconds = task.until - time.monotonic()
        if seconds <= 0:
            raise TooLateError
        connection, path = _connection(url, seconds, self._tls)
        with contextlib.closing(connection):
            connection.request("POST", f"{path}/add-checkpoint", body, _HEADERS)
            with connection.getresponse() as response:
                return response.status, response.read(_LARGEST_REPLY)


class _Task:
    """What all witnesses are asked for; a proof is made once for all that need it."""

    def __init__(self, log: Log, note: Note, checkpoint: Checkpoint, until: float) -> None:
        size = checkpoint.size
        own = checkpoint.origin == log.origin and size <= log.size
        if not own or tree_hash(size, log.read) != checkpoint.root:
            raise StateError(f"the checkpoint of {size} entries is not one of the log at {log.path}")
        self.note, self.checkpoint, self.until = note, checkpoint, until
        self._log = log
        self._proofs: dict[int, tuple[bytes, ...]] = {}
        self._lock = threading.Lock()

    def proof(self, old: int) -> tuple[bytes, ...]:
        """The consistency proof from this size."""
        if old == 0:
            return ()
        with self._lock:
            if old not in self._proofs:
                self._proofs[old] = tuple(prove_consistency(old, self.checkpoint.size, self._log.read))
            return self._proofs[old]


# -- HTTP ----------------------------------------------------------------------------------------------------------


class _Response(HTTPResponse):
    """An answer that is over in time and of a size to be borne, its head as well."""

    def __init__(self, sock: socket.socket, *args: Any, until: float, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        incoming = Incoming(sock)
        incoming.allow(until - time.monotonic(), _LARGEST_REPLY)
        self.fp = io.BufferedReader(incoming)


def _connection(url: str, seconds: float, tls: ssl.SSLContext | None) -> tuple[HTTPConnection, str]:
    """Where to ask, and the path there. Proxies of the environment are not, and redirects are never followed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:  # its message repeats what may be a password
        raise FormatError(_NO_URL) from None
    if not host or parts.username is not None or parts.query or parts.fragment:
        raise FormatError(_NO_URL)
    found: HTTPConnection
    match parts.scheme:
        case "http":
            found = HTTPConnection(host, port, timeout=seconds)
        case "https":
            found = HTTPSConnection(host, port, timeout=seconds, context=tls)
        case _:
            raise FormatError("its URL begins neither with https:// nor with http://")
    found.response_class = partial(_Response, until=time.monotonic() + seconds)  # type: ignore[assignment]
    return found, parts.path.rstrip("/")


def _size_in(body: bytes) -> int:
    return from_decimal(body.decode("ascii", "replace").removesuffix("\n"), "the size that it cosigned")


def _cosignature_in(body: bytes, key: VerifierKey, text: bytes) -> Signature:
    """The signature line of `key` in an answer, if it is good over this text; other keys' lines are left out."""
    lines = body.decode("utf-8", "replace").split("\n")
    for line in lines[:MOST_SIGNATURES]:
        with contextlib.suppress(FormatError):
            found = Signature.parse(line)
            if (found.name, found.id) == (key.name, key.id):
                if not key.verifies(text, found.signature):
                    raise ProofError("its cosignature is not over this checkpoint")
                return found
    raise ProofError("its answer has no cosignature by the key in the policy")


def _refusal(status: int, body: bytes) -> str:
    """What a witness answered, with the beginning of its words, and no odd letters of it."""
    said = body[:200].decode("ascii", "replace").strip()
    words = "".join(letter if letter.isprintable() else "?" for letter in said)
    match status:
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            return f"it says that this checkpoint does not continue what it cosigned (422): {words}"
        case _ if 300 <= status < 400:
            return f"it redirects ({status}), which is not followed"
        case _:
            return f"it answered {status}: {words}"


def _reason(error: Exception) -> str:
    """Why there was no answer, without the address, which may hold a password."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    return getattr(error, "strerror", None) or type(error).__name__
