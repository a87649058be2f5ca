from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from phloem.errors import ConfigError, FormatError, StateError

pytest.importorskip("cryptography")

from phloem.engines.flower.certificates import Authority, make_authority, make_node_key

HOSTS = ["localhost", "127.0.0.1"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def greet(authority: Authority, ca_certificate: Path, host: str) -> None:
    """A TLS handshake over loopback: a server of `authority`, and a client that trusts `ca_certificate`."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(authority.server_certificate, authority.server_key)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            serving.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            asking = ssl.create_default_context(cafile=ca_certificate)
            asking.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13
            with (
                socket.create_connection(listener.getsockname(), 10) as plain,
                asking.wrap_socket(plain, server_hostname=host),
            ):
                pass
        finally:
            thread.join()


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_with_the_authority_accepts_the_server_by_each_of_its_names(
    tmp_path: Path, host: str
) -> None:
    authority = make_authority(tmp_path / "keys", HOSTS)
    greet(authority, authority.ca_certificate, host)


def test_a_client_refuses_a_host_that_the_certificate_does_not_name(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "keys", HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        greet(authority, authority.ca_certificate, "other.example")


def test_a_client_of_another_authority_refuses_the_server(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "keys", HOSTS)
    other = make_authority(tmp_path / "others", HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        greet(authority, other.ca_certificate, "localhost")


def test_private_files_are_for_their_owner_only(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "keys", HOSTS)
    node = make_node_key(tmp_path / "nodes", "alpha")
    assert [mode(path) for path in (authority.ca_key, authority.server_key, node.private)] == [0o600] * 3
    assert [mode(tmp_path / name) for name in ("keys", "nodes")] == [0o700] * 2


def test_an_authority_that_is_there_is_kept_to_the_byte(tmp_path: Path) -> None:
    first = make_authority(tmp_path, HOSTS)
    before = contents(tmp_path)
    assert make_authority(tmp_path, ["LOCALHOST"]) == first
    assert contents(tmp_path) == before


def test_a_new_host_gets_a_new_server_certificate_from_the_same_authority(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, HOSTS)
    before = contents(tmp_path)
    make_authority(tmp_path, [*HOSTS, "coordinator.example"])
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"server.crt", "server.key"}
    greet(authority, authority.ca_certificate, "coordinator.example")


def test_the_authoritys_key_may_be_away_until_it_has_to_sign(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, HOSTS)
    authority.ca_key.unlink()
    make_authority(tmp_path, HOSTS)
    with pytest.raises(StateError, match=r"ca\.key is missing"):
        make_authority(tmp_path, ["new.example"])


@pytest.mark.parametrize("lost", [["ca.crt"], ["server.crt"], ["server.key"], ["ca.crt", "server.crt"]])
def test_what_a_crash_left_unmade_is_made(tmp_path: Path, lost: list[str]) -> None:
    authority = make_authority(tmp_path, HOSTS)
    for name in lost:
        (tmp_path / name).unlink()
    make_authority(tmp_path, HOSTS)
    greet(authority, authority.ca_certificate, "localhost")


def test_a_key_of_another_authority_signs_nothing(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "keys", HOSTS)
    other = make_authority(tmp_path / "others", HOSTS)
    other.ca_key.replace(authority.ca_key)
    with pytest.raises(StateError, match="does not belong"):
        make_authority(tmp_path / "keys", ["new.example"])


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key"])
def test_a_damaged_file_is_refused_and_not_quoted(tmp_path: Path, name: str) -> None:
    make_authority(tmp_path, HOSTS)
    (tmp_path / name).write_text("not a key: very secret")
    with pytest.raises(FormatError, match=name.replace(".", r"\.")) as caught:
        make_authority(tmp_path, HOSTS)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "hosts", [[], "localhost", ["a:1"], ["https://a"], ["[::1]"], ["1.2.3"], ["-a"], [""]]
)
def test_what_is_not_a_host_is_refused_before_anything_is_made(tmp_path: Path, hosts: list[str]) -> None:
    with pytest.raises(ConfigError):
        make_authority(tmp_path / "keys", hosts)
    assert not (tmp_path / "keys").exists()


def test_a_nodes_key_is_kept_and_its_public_key_made_again(tmp_path: Path) -> None:
    node = make_node_key(tmp_path, "alpha")
    before = contents(tmp_path)
    node.public.unlink()
    assert make_node_key(tmp_path, "alpha") == node
    assert contents(tmp_path) == before
    assert before["alpha.key"].startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert before["alpha.pub"].startswith(b"ecdsa-sha2-nistp384 ")


def test_a_public_key_of_another_node_is_noticed(tmp_path: Path) -> None:
    alpha, beta = make_node_key(tmp_path, "alpha"), make_node_key(tmp_path, "beta")
    beta.public.replace(alpha.public)
    with pytest.raises(StateError, match="does not belong"):
        make_node_key(tmp_path, "alpha")


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    make_node_key(tmp_path, "alpha").private.chmod(0o644)
    with pytest.raises(StateError, match="read by others"):
        make_node_key(tmp_path, "alpha")


def test_a_damaged_private_key_is_refused_and_not_quoted(tmp_path: Path) -> None:
    make_node_key(tmp_path, "alpha").private.write_text("very secret")
    with pytest.raises(FormatError) as caught:
        make_node_key(tmp_path, "alpha")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "../alpha", "a/b", ".hidden", "a b"])
def test_a_name_that_cannot_be_a_files_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="node's name"):
        make_node_key(tmp_path, name)
