"""Keys in files, addresses as people write them, and the addresses of servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.ledger.anchors.notes import needs_evm

from phloem.errors import ConfigError, NotFoundError, StoreError
from phloem.ledger.anchors.senders import Sender, address_of
from phloem.ledger.anchors.servers import host_of

KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@needs_evm
@pytest.mark.parametrize("text", [KEY, f"0x{KEY}", f"{KEY}\n", KEY.upper()])
def test_a_key_is_read_in_every_usual_spelling(tmp_path: Path, text: str) -> None:
    sender = Sender.from_file(key_file(tmp_path, text))
    assert (sender.address, sender.signs) == (ADDRESS, True)


@needs_evm
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="read by others") as caught:
        Sender.from_file(key_file(tmp_path, KEY, mode))
    assert "chmod 600" in str(caught.value)


@needs_evm
@pytest.mark.parametrize(
    "text", ["", "x", KEY[:-1], KEY + "0", KEY + "\n" + KEY, "0" * 64, "f" * 64, "é" * 32, KEY * 100]
)
def test_what_is_no_key_is_refused_without_being_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="no private key") as caught:
        Sender.from_file(key_file(tmp_path, text))
    assert not text or len(text) < 2 or text[:20] not in str(caught.value)
    assert caught.value.__suppress_context__


@needs_evm
def test_a_key_that_is_not_there_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no key at"):
        Sender.from_file(tmp_path / "none")
    with pytest.raises(StoreError, match="cannot be read"):
        Sender.from_file(tmp_path)


@needs_evm
def test_a_mistyped_address_is_refused() -> None:
    assert address_of(ADDRESS) == address_of(ADDRESS.lower()) == bytes.fromhex(ADDRESS[2:])
    for wrong in (ADDRESS.replace("39F", "39f"), ADDRESS[:-1] + "7"):
        with pytest.raises(ConfigError, match="mistyped"):
            address_of(wrong)
    for wrong in ("", "0x", ADDRESS[2:], ADDRESS + "00", "0x" + "g" * 40, "example.eth"):
        with pytest.raises(ConfigError, match="expected an address"):
            address_of(wrong)


def test_a_server_is_named_by_its_host_only() -> None:
    assert host_of("https://user:word@node.example.org/v3/secret?x#y", "a node") == "node.example.org"
    assert host_of("http://127.0.0.1:8545", "a node") == "127.0.0.1:8545"
    for wrong in (
        "",
        "node.example.org",
        "ftp://a",
        "file:///etc/passwd",
        "http://",
        "http://a:b",
        "http://[",
    ):
        with pytest.raises(ConfigError, match="expected the address of a node"):
            host_of(wrong, "a node")
