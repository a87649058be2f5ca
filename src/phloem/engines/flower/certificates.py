"""The keys of a federation: a certificate authority for its server, and one key pair for every node.

    ca.crt        what nodes and the command line check the server by; may be given to anyone
    ca.key        signs a new server certificate when the hosts change; needed for nothing else
    server.crt    names the hosts that the server answers for
    server.key    proves that it is the server

Private files are readable by their owner only. What is there already is read and kept: nodes that have `ca.crt`
and registered keys stay valid. No message quotes the content of a key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from phloem.errors import ConfigError, FormatError, StateError, StoreError
from phloem.store.files import write_durably

_DAYS = 825  # the longest life that Apple's TLS accepts of a server certificate from a private authority
_EARLIER = datetime.timedelta(hours=1)  # a node's clock may be behind ours
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


@dataclasses.dataclass(frozen=True)
class Authority:
    """Where the files of an authority and of its server are."""

    ca_certificate: Path
    ca_key: Path
    server_certificate: Path
    server_key: Path


@dataclasses.dataclass(frozen=True)
class NodeKey:
    """Where the key pair of a node is: `private` stays with the node, `public` is registered with the server."""

    private: Path
    public: Path


def make_authority(folder: Path, hosts: Sequence[str], days: int = _DAYS) -> Authority:
    """An authority in `folder`, and a server certificate from it that names all `hosts`.

    An authority that is there is kept. Its server gets a new certificate where the present one misses a host, has
    expired or does not fit its key.

    Raises:
        ConfigError: no hosts, or one that is neither a name nor an IP address. StateError: the authority has
        expired, or its key is needed and missing. FormatError: a file is not what its name says. StoreError: the
        disk refuses.
    """
    names = _names(hosts)
    if days < 1:
        raise ConfigError(f"expected a certificate to be valid for one day or more, found {days}")
    here = Authority(*(folder / name for name in ("ca.crt", "ca.key", "server.crt", "server.key")))
    with _in_words(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not here.ca_certificate.exists():  # a key alone is left of a start cut short: nobody relies on it
            _make_root(here, days)
        root = _certificate(here.ca_certificate)
        if root.not_valid_after_utc <= _now():
            raise StateError(
                f"the authority in {folder} expired on {root.not_valid_after_utc:%Y-%m-%d}",
                hint="make a new one in another folder, and give its ca.crt to every node",
            )
        if not _serves(here, root, names):
            _make_server(here, root, names, days)
    return here


def make_node_key(folder: Path, name: str) -> NodeKey:
    """The key pair of node `name`: `NAME.key` and `NAME.pub`, both in OpenSSH's format. An existing one is kept.

    Raises:
        ConfigError: the name cannot be a file's. StateError: others can read the private key, or the public key
        is another one's. FormatError: a file is not what its name says. StoreError: the disk refuses.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a node's name of letters, digits, '.', '_' and '-', found {name!r:.80}")
    here = NodeKey(folder / f"{name}.key", folder / f"{name}.pub")
    with _in_words(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = _node_key(here.private).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        if not here.public.exists():
            write_durably(here.public, line + b"\n", 0o644)
        elif here.public.read_bytes().split()[:2] != line.split():
            raise StateError(f"the public key {here.public} does not belong to {here.private}")
    return here


def _node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key in `path`, made where there is none."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        write_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), 0o600)
        return key
    if path.stat().st_mode & 0o077:
        raise StateError(
            f"the private key {path} can be read by others",
            hint="remove it for a new one, or `chmod 600` it if nobody has",
        )
    try:
        known = load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise FormatError(f"expected a key in OpenSSH's format without a password in {path}") from error
    if not isinstance(known, ec.EllipticCurvePrivateKey):
        raise FormatError(f"expected a key on an elliptic curve in {path}, found another kind")
    return known


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The hosts as a certificate has them."""
    if isinstance(hosts, str) or not hosts:
        raise ConfigError(f"expected a list of one or more hosts, found {hosts!r:.80}")
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError as error:
            if len(host) > 253 or not _HOST.fullmatch(host) or host.replace(".", "").isdigit():
                raise ConfigError(
                    f"expected a host name or an IP address, found {host!r:.80}",
                    hint="without a port or a scheme",
                ) from error
            names.append(x509.DNSName(host.lower()))
    return names


def _serves(here: Authority, root: x509.Certificate, names: Iterable[x509.GeneralName]) -> bool:
    """Whether the server's files are whole, in force, from this authority and name all hosts."""
    if not (here.server_certificate.exists() and here.server_key.exists()):
        return False
    server, key = _certificate(here.server_certificate), _key(here.server_key)
    try:
        server.verify_directly_issued_by(root)
        known = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return (
        server.public_key() == key.public_key()
        and server.not_valid_after_utc > _now()
        and set(names) <= set(known)
    )


def _make_root(here: Authority, days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Phloem authority {secrets.token_hex(4)}")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    root = (
        _draft(name, name, key, _now() + datetime.timedelta(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    write_durably(here.ca_key, _pem(key), 0o600)
    write_durably(here.ca_certificate, root.public_bytes(Encoding.PEM), 0o644)


def _make_server(here: Authority, root: x509.Certificate, names: list[x509.GeneralName], days: int) -> None:
    if not here.ca_key.exists():
        raise StateError(
            f"the server certificate in {here.ca_key.parent} has to be made anew, and {here.ca_key.name} is missing",
            hint="bring the authority's key back for this call",
        )
    signer, key = _key(here.ca_key), ec.generate_private_key(ec.SECP256R1())
    if signer.public_key() != root.public_key():
        raise StateError(f"the authority's key {here.ca_key} does not belong to {here.ca_certificate}")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Phloem server")])
    end = min(_now() + datetime.timedelta(days), root.not_valid_after_utc)
    issuer_id = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    server = (
        _draft(subject, root.subject, key, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    write_durably(here.server_key, _pem(key), 0o600)
    write_durably(here.server_certificate, server.public_bytes(Encoding.PEM), 0o644)


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _EARLIER)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise FormatError(f"expected a certificate in PEM in {path}") from error


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise FormatError(f"expected a private key in PEM without a password in {path}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FormatError(f"expected a key on an elliptic curve in {path}, found another kind")
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    """Turns the system's errors into ours."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"the keys in {folder} could not be read or written: {error.strerror}") from error
