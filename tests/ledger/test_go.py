"""Our exported logs, read by the code of Go's checksum database (golang.org/x/mod/sumdb), which checks everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from phloem.ledger.export import Directory, export
from phloem.ledger.log import Log
from phloem.tlog.checkpoint import Checkpoint
from phloem.tlog.keys import NOTE, Signer
from phloem.tlog.note import Note
from phloem.tlog.text import to_base64

pytestmark = [pytest.mark.slow, pytest.mark.service("go")]

SIZE, EARLIER = 70_000, 1234
SIGNER = Signer.from_seed("example.org/log", NOTE, bytes(32))
PROGRAM = Path(__file__).parent / "go" / "main.go"


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built without modules: what it imports is linked from among the sources of Go's own command."""
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    assert go is not None
    folder = tmp_path_factory.mktemp("go")
    settings = {
        "GO111MODULE": "off",
        "GOPATH": str(folder),
        "GOFLAGS": "",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    environment = {**os.environ, **settings, "GOPROXY": "off"}
    command = [go, "env", "GOROOT"]
    root = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    place = folder / "src/golang.org/x"
    place.parent.mkdir(parents=True)
    place.symlink_to(Path(root) / "src/cmd/vendor/golang.org/x")
    command = [go, "build", "-o", str(folder / "check"), str(PROGRAM)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "check"


@dataclass(frozen=True)
class Written:
    """An exported log, and its checkpoint of an earlier time."""

    root: Path
    earlier: Path
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("log")
    with Log.create(folder / "log.db", "example.org/log") as log:
        log.append([b"entry %d" % number for number in range(EARLIER)])
        (folder / "earlier").write_bytes(log.sign([SIGNER]))
        export(log, Directory(folder / "out"))
        log.append([b"entry %d" % number for number in range(EARLIER, SIZE - 1)] + [b""])
        note = log.sign([SIGNER])
        export(log, Directory(folder / "out"))
    return Written(folder / "out", folder / "earlier", Checkpoint.unpack(Note.unpack(note).text))


def run(checker: Path, written: Written, key: str = str(SIGNER.verifier)) -> subprocess.CompletedProcess[str]:
    command = [str(checker), str(written.root), key, str(written.earlier)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_go_finds_the_root_proves_256_records_and_that_the_log_only_grew(
    checker: Path, written: Written
) -> None:
    done = run(checker, written)
    assert done.returncode == 0, done.stderr
    root = to_base64(written.checkpoint.root)
    assert done.stdout == (
        f"{SIZE} entries, root {root}; 256 records proved; begins with the log of {EARLIER}\n"
    )


@pytest.mark.parametrize(
    "path",
    [
        "checkpoint",
        "tile/0/000",
        "tile/0/272",
        "tile/0/273.p/112",
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
        "tile/entries/000",
        "tile/entries/123",
        "tile/entries/273.p/112",
    ],
)
def test_go_refuses_a_log_with_one_byte_flipped(checker: Path, written: Written, path: str) -> None:
    place = written.root / path
    content = place.read_bytes()
    try:
        for at in (0, len(content) // 2, len(content) - 1):
            place.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            done = run(checker, written)
            assert (done.returncode, done.stdout) == (1, ""), f"byte {at}"
            assert done.stderr
    finally:
        place.write_bytes(content)


def test_go_refuses_another_key_and_another_beginning(
    checker: Path, written: Written, tmp_path: Path
) -> None:
    stranger = Signer.from_seed("example.org/log", NOTE, bytes(31) + b"\1")
    assert run(checker, written, str(stranger.verifier)).returncode == 1
    with Log.create(tmp_path / "log.db", "example.org/log") as log:
        log.append([b"entry %d" % number for number in range(EARLIER - 1)] + [b"another"])
        (tmp_path / "earlier").write_bytes(log.sign([SIGNER]))
    done = run(checker, Written(written.root, tmp_path / "earlier", written.checkpoint))
    assert done.returncode == 1
    assert f"the log of {EARLIER} entries is not the beginning" in done.stderr
