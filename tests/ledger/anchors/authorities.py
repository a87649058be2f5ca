"""A time-stamping authority of one's own: `openssl ts` behind an HTTP server on this machine."""

from __future__ import annotations

import datetime
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

POLICY = "1.2.3.4.1"
_CONFIG = """
[tsa]
default_tsa = this
[this]
serial = serial
signer_cert = signer.pem
signer_key = signer.key
signer_digest = sha256
default_policy = {policy}
digests = sha256, sha512
accuracy = secs:1, millisecs:500
ess_cert_id_alg = sha256
tsa_name = yes
"""
_Now = datetime.datetime.now(datetime.UTC)


class Authority:
    """An authority with a root, an intermediate and a signer; as a context manager its server runs at `url`.

    `answer` may be replaced to answer in another way: it is given the request, and gives a status and a body.
    """

    def __init__(self, folder: Path, *, hours: int = 24 * 365, chain: bool = True) -> None:
        self.folder = folder
        self.answer: Callable[[bytes], tuple[int, bytes]] = lambda request: (200, self.stamp(request))
        folder.mkdir(parents=True, exist_ok=True)
        root_key, root = _certificate("Test Root", None, hours=24 * 3650)
        middle_key, middle = _certificate("Test Intermediate", (root_key, root), hours=24 * 3650)
        key, signer = _certificate(
            "Test Authority", (middle_key, middle), hours=hours, stamps=True, authority=False
        )
        _, other = _certificate("Test Root", None, hours=24 * 3650)  # the same name, another key
        (folder / "root.pem").write_bytes(root)
        (folder / "other.pem").write_bytes(other)
        (folder / "middle.pem").write_bytes(middle)
        (folder / "signer.pem").write_bytes(signer)
        (folder / "signer.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / "serial").write_text("01\n", encoding="ascii")
        more = "certs = middle.pem\n" if chain else ""
        (folder / "tsa.cnf").write_text(_CONFIG.format(policy=POLICY) + more, encoding="ascii")

    @property
    def roots(self) -> bytes:
        return (self.folder / "root.pem").read_bytes()

    @property
    def others(self) -> bytes:
        """Root certificates that are not this authority's."""
        return (self.folder / "other.pem").read_bytes()

    def stamp(self, request: bytes) -> bytes:
        """The answer of `openssl ts` to a request."""
        (self.folder / "request.tsq").write_bytes(request)
        self.openssl("-reply", "-config", "tsa.cnf", "-queryfile", "request.tsq", "-out", "answer.tsr")
        return (self.folder / "answer.tsr").read_bytes()

    def openssl(self, *words: str) -> str:
        """What `openssl ts` says; it must succeed."""
        done = subprocess.run(
            ["openssl", "ts", *words], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def __enter__(self) -> Self:
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/timestamp-query"
                request = self.rfile.read(int(self.headers["Content-Length"]))
                status, body = authority.answer(request)
                self.send_response(status)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(body)))
                if status in (301, 302, 307):
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/stamp"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _certificate(
    name: str,
    issuer: tuple[ec.EllipticCurvePrivateKey, bytes] | None,
    *,
    hours: int,
    authority: bool = True,
    stamps: bool = False,
) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A fresh key, and its certificate from an hour ago on."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer, signed_by = key, subject
    if issuer is not None:
        signer, signed_by = issuer[0], x509.load_pem_x509_certificate(issuer[1]).subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_Now - datetime.timedelta(hours=1))
        .not_valid_after(_Now + datetime.timedelta(hours=hours))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    ours, theirs = key.public_key(), signer.public_key()
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(ours), critical=False)
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(theirs)  # two authorities may have one name
    builder = builder.add_extension(by, critical=False)
    if stamps:
        purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(purpose, critical=True)
    return key, builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
