"""Private keys on the disk: for their owner only, never overwritten, never shown."""

from __future__ import annotations

import os
import stat
import threading
import traceback
from pathlib import Path

import pytest
from tests.ledger.samples import ANT, COORDINATOR

from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, StoreError
from phloem.ledger.keys import key_at, read_key, write_key
from phloem.tlog.keys import COSIGNATURE, NOTE, Signer

SECRET = ANT.export().rpartition("+")[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def parts(secret: str) -> list[str]:
    """Every eight letters of it."""
    return [secret[place : place + 8] for place in range(len(secret) - 7)]


def test_a_key_comes_back_from_a_file_that_only_its_owner_may_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "new" / "folders" / "ant.key", ANT)
    finally:
        os.umask(before)
    path = tmp_path / "new" / "folders" / "ant.key"
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert path.read_text() == f"{ANT.export()}\n"
    assert read_key(path).verifier == ANT.verifier
    assert read_key(path).sign(b"x") == ANT.sign(b"x")
    assert [one.name for one in path.parent.iterdir()] == ["ant.key"]


@pytest.mark.parametrize("wrong", [0o640, 0o604, 0o660, 0o606, 0o610, 0o601, 0o777, 0o644, 0o444])
def test_a_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "ant.key"
    write_key(path, ANT)
    path.chmod(wrong)
    with pytest.raises(ConfigError, match="others than its owner may read the key") as said:
        read_key(path)
    assert said.value.hint == f"chmod 600 {path}"
    path.chmod(0o400)
    assert read_key(path).verifier == ANT.verifier


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "ant.key"
    write_key(path, ANT)
    for other in (ANT, COORDINATOR):
        with pytest.raises(ConfigError, match="exists already"):
            write_key(path, other)
    assert read_key(path).verifier == ANT.verifier
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        write_key(tmp_path / "folder", ANT)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists already"):
        write_key(tmp_path / "dangling", ANT)


def test_of_two_that_make_a_key_at_once_one_is_told_that_it_exists(tmp_path: Path) -> None:
    path, told = tmp_path / "ant.key", []
    ready = threading.Barrier(8)

    def make() -> None:
        ready.wait()
        try:
            write_key(path, Signer.new("ant"))
        except ConfigError as error:
            told.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(told) == 7
    assert read_key(path).name == "ant"
    assert [one.name for one in tmp_path.iterdir()] == ["ant.key"]


def test_a_file_system_without_links_holds_keys_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_key(tmp_path / "ant.key", ANT)
    assert read_key(tmp_path / "ant.key").verifier == ANT.verifier
    assert mode(tmp_path / "ant.key") == 0o600
    with pytest.raises(ConfigError, match="exists already"):
        write_key(tmp_path / "ant.key", COORDINATOR)
    assert [one.name for one in tmp_path.iterdir()] == ["ant.key"]


def test_who_loses_the_race_for_a_key_uses_the_winner_s(tmp_path: Path) -> None:
    path = tmp_path / "ant.key"
    found: list[Signer] = []
    ready = threading.Barrier(8)

    def make() -> None:
        ready.wait()
        found.append(key_at(path, "ant"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {str(one.verifier) for one in found} == {str(read_key(path).verifier)}
    assert len(found) == 8


def test_what_is_not_there_or_cannot_be_read_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no key at") as said:
        read_key(tmp_path / "none.key")
    assert said.value.hint == "`phloem key new` makes one"
    with pytest.raises(StoreError, match="cannot be read"):
        read_key(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot be (read|written)"):
        write_key(tmp_path / "file" / "ant.key", ANT)


def damaged() -> dict[str, bytes]:
    """What may stand in a key's file, and is no key."""
    text = ANT.export()
    name, id_, data = text.removeprefix("PRIVATE+KEY+").split("+", 2)
    return {
        "nothing": b"",
        "words": b"hello",
        "no mark": f"{name}+{id_}+{data}".encode(),
        "cut short": text[:-5].encode(),
        "one letter more": f"{text}A".encode(),
        "another letter": text[:-6].encode() + b"!" + text[-5:].encode(),
        "url-safe": text.replace("/", "_").encode() + b"-",
        "another id": text.replace(id_, "00000000").encode(),
        "no id": text.replace(f"{id_}+", "").encode(),
        "no name": text.replace("ant", "").encode(),
        "another name": text.replace("ant", "bee").encode(),
        "a name with a space": text.replace("ant", "a t").encode(),
        "another type": f"PRIVATE+KEY+ant+{id_}+{'Bw' + data[2:]}".encode(),
        "two lines": f"{text}\n{text}".encode(),
        "a space": text.replace("+ant", "+ ant").encode(),
        "a public key": str(ANT.verifier).encode(),
        "in hexadecimal": bytes([3] * 32).hex().encode(),
        "odd bytes": b"PRIVATE+KEY+\xff\xfe+" + text[20:].encode(),
        "PEM": b"-----BEGIN PRIVATE KEY-----\n" + data.encode() + b"\n-----END PRIVATE KEY-----",
        "very long": text.encode() * 100,
    }


@pytest.mark.parametrize("what", sorted(damaged()))
def test_a_damaged_key_is_refused_and_nothing_of_it_is_shown(tmp_path: Path, what: str) -> None:
    path = tmp_path / "ant.key"
    path.write_bytes(damaged()[what])
    path.chmod(0o600)
    with pytest.raises(FormatError) as said:
        read_key(path)
    assert str(path) in said.value.message
    shown = f"{said.value} {said.value!r} {said.value.hint}"
    shown += "".join(traceback.format_exception(said.value))  # what --debug shows
    secrets = parts(SECRET[2:]) + parts(bytes([3] * 32).hex())
    assert not [part for part in secrets if part in shown]


def test_a_key_is_not_shown_by_what_holds_it() -> None:
    shown = f"{ANT} {ANT!r} {[ANT]} {ANT.verifier}"
    assert not [part for part in parts(SECRET[2:]) if part in shown]


def test_the_key_of_somebody_else_is_not_taken_for_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "ant.key"
    write_key(path, ANT)
    for name, type_ in (("bee", NOTE), ("ant", COSIGNATURE)):
        with pytest.raises(ConfigError, match=r"the key at .* is ") as said:
            key_at(path, name, type_)
        assert not [part for part in parts(SECRET[2:]) if part in str(said.value)]
    assert key_at(path, "ant").verifier == ANT.verifier
    made = key_at(tmp_path / "w.key", "w.example", COSIGNATURE)
    assert (made.name, made.type) == ("w.example", COSIGNATURE)
    assert mode(tmp_path / "w.key") == 0o600
    with pytest.raises(PhloemError, match="without spaces"):
        key_at(tmp_path / "odd.key", "two words")
    assert not (tmp_path / "odd.key").exists()
