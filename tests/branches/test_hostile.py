"""Repositories that somebody made up: refused in words, nothing written elsewhere, no more memory than they are."""

from __future__ import annotations

import gc as garbage
import os
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.branches.makers import model, tuned, written

from phloem import canonical, varint
from phloem.branches import history, packs, refs
from phloem.branches.blobs import Bytes
from phloem.branches.checking import fsck
from phloem.branches.collecting import gc
from phloem.branches.records import Commit, Encoding
from phloem.branches.refs import Refs
from phloem.branches.repacking import repack
from phloem.branches.repository import Repository
from phloem.errors import ConfigError, FormatError, NotFoundError, PhloemError, StateError
from phloem.files.encoding import encode_file
from phloem.tensors import TensorSpec, state_record, tensor_digest
from phloem.wire.contents import Contents, Head

TIME = "2026-01-02T03:04:05Z"


def publish(
    repo: Repository, *objects: tuple[int, bytes], state: str, branch: str = "evil", **said: object
) -> str:
    """A commit of a state that was made up, under a name, as somebody who does not use this program makes it."""
    commit = Commit(
        kind="import", parents=(), state=state, author="Eve", time=TIME, message="trust me", **said
    )  # type: ignore[arg-type]
    repo.folder.add_pack([*objects, (packs.COMMIT, commit.pack())])
    digest = canonical.digest(commit.pack())
    repo.folder.move(lambda names: names.with_branch(branch, digest))
    repo.objects.refresh()
    return digest


def encoding(state: str, frame: bytes, base: str | None = None, form: str = "file") -> tuple[int, bytes]:
    return packs.ENCODING, Encoding(state, base, canonical.digest(frame), form, "lossless", len(frame)).pack()


def refused(repo: Repository, folder: Path, words: str = ".") -> None:
    """The branch "evil" is refused by everything that reads it, in words, and nothing appears."""
    before = {path for path in folder.rglob("*") if "catalog" not in path.name}
    for call in (
        lambda: list(repo.restored("evil").iterate()),
        lambda: repo.checkout("evil", folder / "out.safetensors"),
        lambda: repo.checkout("evil", folder / "out"),
    ):
        with pytest.raises(PhloemError, match=words):
            call()
    assert {path for path in folder.rglob("*") if "catalog" not in path.name} == before
    found = fsck(repo, deep=True)
    assert not found.whole
    assert fsck(repo, mend=True).commits == found.commits


def sealed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def key_frame(specs: tuple[TensorSpec, ...], body: bytes) -> bytes:
    """A lossless frame of these tensors, with a body that fits or not."""
    head = Head(Contents(specs)).pack()
    return sealed(bytes([0xB1, 0x80 | 6]) + varint.pack(len(head)) + head + body)


def frame_of(folder: Path, state: dict[str, np.ndarray], base: Path | None = None) -> bytes:
    encode_file(written(folder / "made.safetensors", state), folder / "made.phl", base=base, lossless=True)
    return (folder / "made.phl").read_bytes()


def state_of(state: dict[str, np.ndarray]) -> bytes:
    return state_record((TensorSpec(name, a.shape), tensor_digest(a)) for name, a in state.items())


# -- names that lead elsewhere -----------------------------------------------------------------------------------------

ELSEWHERE = [
    "../../x",
    "/etc/x",
    "..",
    "a/../../x",
    "..\\x",
    "x\x00y",
    "CON",
    "adapter:../x/adapter_config.json",
]


@pytest.mark.parametrize("name", ELSEWHERE[:6])
def test_a_table_with_a_name_that_leads_elsewhere_is_refused(repo: Repository, name: str) -> None:
    head = repo.resolve("trunk")
    for table in (
        Refs(branches={"trunk": head, name: head}),
        Refs(branches={"trunk": head}, tags={name: head}),
        Refs(branches={"trunk": head}, remotes={name: {"trunk": head}}),
        Refs(branches={"trunk": head}, remotes={"far": {name: head}}),
        Refs(current=name, branches={"trunk": head}),
    ):
        with pytest.raises(FormatError):
            Refs.unpack(table.pack())
    (repo.folder.root / "refs.json").write_bytes(table.pack())
    with pytest.raises(StateError, match="fsck"):
        repo.log()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_checkout_never_writes_outside_its_directory(repo: Repository, tmp_path: Path, name: str) -> None:
    """Files beside the weights have names that somebody else chose."""
    content = b"#!/bin/sh\n"
    publish(
        repo,
        (packs.FILE, content),
        state=repo.show("trunk").state,
        files={name: canonical.digest(content)},
    )
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(PhloemError):
        repo.checkout("evil", inside / "model")
    assert set(tmp_path.rglob("*")) - before <= {
        path for path in tmp_path.rglob("*") if "catalog" in path.name
    }
    assert not Path("/etc/x").exists()


@pytest.mark.parametrize(
    "name", ["adapter:../../x/w", "../../x", "/etc/x", "adapter:/etc/w", "adapter:a/../../x"]
)
def test_names_of_tensors_are_no_names_of_files(repo: Repository, tmp_path: Path, name: str) -> None:
    state = {name: np.ones((2, 2), np.float32), "w": np.ones(3, np.float32)}
    record, frame = state_of(state), frame_of(tmp_path, state)
    key = canonical.digest(record)
    publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame), state=key)
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    try:
        repo.checkout("evil", inside / "model")
    except PhloemError:
        assert not (inside / "model").exists()
    new = {path for path in set(tmp_path.rglob("*")) - before if "catalog" not in path.name}
    assert all(path.is_relative_to(inside / "model") for path in new)


def test_a_digest_that_is_a_path_is_none(repo: Repository) -> None:
    evil = "../" * 21 + "x"
    assert len(evil) == 64
    for data in (
        f'{{"author":"Eve","kind":"commit","message":"","of":"import","parents":["{evil}"],"state":"{"a" * 64}",'
        f'"time":"{TIME}","version":1}}',
        f'{{"author":"Eve","kind":"commit","message":"","of":"import","parents":[],"state":"{evil}",'
        f'"time":"{TIME}","version":1}}',
    ):
        with pytest.raises(FormatError, match="digest"):
            Commit.unpack(data.encode())
    with pytest.raises(FormatError, match="digest"):
        Encoding.unpack(Encoding("a" * 64, None, evil, "file", "lossless", 1).pack())
    with pytest.raises(FormatError):
        repo.objects.frame(evil)


def test_what_a_commit_says_of_itself_cannot_move_the_cursor() -> None:
    with pytest.raises(FormatError):
        Commit.unpack(Commit("import", (), "a" * 64, "Eve\x1b[2J", TIME, "x").pack())


# -- claims ------------------------------------------------------------------------------------------------------------

HUGE = 1 << 47


def in_little_memory(root: Path, megabytes: int = 600) -> subprocess.CompletedProcess[str]:
    """Restores the branch "evil" in a process that may only take so much memory."""
    code = (
        f"import sys, resource; sys.path[:] = {sys.path!r}\n"
        "from phloem.branches.repository import Repository\n"
        "from phloem.errors import PhloemError\n"
        "import phloem.branches.restore, phloem.files.encoding\n"
        f"repo = Repository.open({str(root)!r})\n"
        "list(repo.restored('trunk').iterate(workers=1))\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + ({megabytes} << 20),) * 2)\n"
        "try:\n"
        "    list(repo.restored('evil').iterate(workers=1))\n"
        "except PhloemError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("size", [HUGE, 1 << 36, (1 << 24) + 1])
def test_a_state_that_claims_more_than_its_frame_can_hold_is_refused(
    repo: Repository, tmp_path: Path, size: int
) -> None:
    specs = (TensorSpec("w", (size,)),)
    record = state_record([(specs[0], "a" * 64)])
    chunks = -(-size // (1 << 18))
    body = bytes(1) + bytes(2) * min(4 * chunks, 1000)  # constant planes: two bytes for 2^18 zeros
    frame = key_frame(specs, body)
    key = canonical.digest(record)
    publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame), state=key)
    refused(repo, tmp_path, "claims|lossless|can hold")
    done = in_little_memory(repo.folder.root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("FormatError")


def test_a_state_that_is_larger_than_its_base_is_refused_before_memory_is_taken(
    repo: Repository, tmp_path: Path
) -> None:
    """With a base there is no limit by the bytes of a frame; but shapes are those of the base."""
    base = repo.show("trunk").state
    rows = [(spec, digest) for spec, digest in repo.objects.state(base)]
    large = [(TensorSpec(spec.name, (1 << 22, *spec.shape[1:])), digest) for spec, digest in rows]
    record = state_record(large)
    key = canonical.digest(record)
    specs = tuple(spec for spec, _ in large)
    head = Head(Contents(specs), base=base, has_sections=True).pack()
    frame = sealed(
        bytes([0xB1, 0x80 | 6]) + varint.pack(len(head)) + head + (varint.pack(10) + bytes(10)) * len(specs)
    )
    publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame, base), state=key)
    refused(repo, tmp_path)
    assert in_little_memory(repo.folder.root).returncode == 0


def test_an_object_that_claims_another_size_takes_no_memory(repo: Repository) -> None:
    """A pack made by hand, whose compressed records claim sizes that their bytes claim as well."""
    bomb = bytes.fromhex("28b52ffde0") + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
    for kind, size in ((packs.COMMIT, 1 << 20), (packs.FILE, 1 << 40), (packs.FRAME, 1 << 40)):
        table = struct.pack("<32sBQQQ", b"a" * 32, kind | 0x80, 8, len(bomb), size)
        data = b"PHLOEMP\x01" + bomb + table + struct.pack("<Q", 1) + b"PHLOEMI\x01"
        name = canonical.digest(table)
        try:
            [row] = packs.index(Bytes(data), name)
        except FormatError:
            continue
        with pytest.raises(FormatError, match="damaged"):
            packs.content_of(bomb, row)
        assert packs.salvaged(Bytes(data)) == []
        (repo.folder.root / "packs" / f"{name}.pack").write_bytes(data)
    repo.objects.refresh()
    assert not fsck(repo, mend=True).whole


def test_an_index_that_claims_more_than_the_file_is_refused() -> None:
    name, data = packs.pack([(packs.FILE, b"x")])
    for count in (2, 1 << 20, 1 << 57, (1 << 64) - 1):
        altered = data[:-16] + struct.pack("<Q", count) + data[-8:]
        with pytest.raises(FormatError):
            packs.index(Bytes(altered), name)
        assert packs.salvaged(Bytes(altered)) == [(packs.FILE, b"x")]
    for offset, stored, size in (
        (0, 1, 1),
        (8, 1 << 63, 1),
        ((1 << 64) - 1, 1, 1),
        (8, 1, 1 << 40),
        (9, 1, 1),
    ):
        table = struct.pack("<32sBQQQ", b"a" * 32, packs.FILE, offset, stored, size)
        forged = b"PHLOEMP\x01x" + table + struct.pack("<Q", 1) + b"PHLOEMI\x01"
        with pytest.raises(FormatError):
            packs.index(Bytes(forged), canonical.digest(table))


def test_a_record_that_is_nested_deeply_is_refused() -> None:
    for depth in (10, 100, *range(180, 1100, 20), 100_000):
        for opening, closing in (('{"a":', "}"), ("[", "]")):
            recipe = opening * depth + ("1" if opening[0] == "{" else "") + closing * depth
            table = recipe if opening[0] == "{" else f'{{"a":{recipe}}}'
            data = (
                f'{{"author":"Eve","kind":"commit","message":"x","of":"round","parents":[],"recipe":{table},'
                f'"state":"{"a" * 64}","time":"{TIME}","version":1}}'
            ).encode()
            try:
                Commit.unpack(data)
            except FormatError:
                assert depth > 100


def test_more_names_than_any_repository_has_are_refused(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repo.folder.root / "refs.json"
    os.truncate(path, 10_000_000 * 90)  # ten million names take as much
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(refs, "LARGEST", 1 << 20)
    monkeypatch.setattr("phloem.branches.folder.LARGEST", 1 << 20)
    with pytest.raises(StateError, match="larger than any"):
        _ = repo.refs
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (50 << 10)
    garbage.collect()
    monkeypatch.setattr(refs, "_MOST", 1000)
    table = Refs(branches={f"b{number}": "a" * 64 for number in range(1001)})
    with pytest.raises(FormatError, match="table of names"):
        Refs.unpack(table.pack())


# -- encodings that lie ------------------------------------------------------------------------------------------------


def test_encodings_in_a_circle_are_refused(repo: Repository, tmp_path: Path) -> None:
    one, two = state_of({"w": np.ones(3, np.float32)}), state_of({"w": np.zeros(3, np.float32)})
    first, second = canonical.digest(one), canonical.digest(two)
    frame = b"anything"
    publish(
        repo,
        (packs.STATE, one),
        (packs.STATE, two),
        (packs.FRAME, frame),
        encoding(first, frame, second),
        encoding(second, frame, first),
        state=first,
    )
    refused(repo, tmp_path, "nothing in the repository gives")
    for call in (gc, repack):
        with pytest.raises(StateError, match="nothing gives the state"):
            call(repo)


def test_a_frame_that_gives_another_state_is_refused_and_named(repo: Repository, tmp_path: Path) -> None:
    record = state_of({"w": np.ones(3, np.float32)})
    frame = frame_of(tmp_path, {"w": np.full(3, 2.0, np.float32)})
    key = canonical.digest(record)
    publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame), state=key)
    refused(repo, tmp_path, "tensor 'w' of the state .* came out other than it was committed")
    [one, *_] = fsck(repo, deep=True).findings
    assert one.digest == canonical.digest(encoding(key, frame)[1])


def test_a_tensor_that_no_frame_has_is_refused(repo: Repository, tmp_path: Path) -> None:
    full = {"v": np.ones(2, np.float32), "w": np.ones(3, np.float32)}
    record, frame = state_of(full), frame_of(tmp_path, {"w": full["w"]})
    key = canonical.digest(record)
    publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame), state=key)
    refused(repo, tmp_path, "not one of the state")


@pytest.mark.parametrize("form", ["file", "wire"])
def test_a_frame_that_is_none_is_refused(repo: Repository, tmp_path: Path, form: str) -> None:
    record = state_of({"w": np.ones(3, np.float32)})
    key = canonical.digest(record)
    whole = frame_of(tmp_path, {"w": np.ones(3, np.float32)})
    for frame in (b"", b"\xb1", b"x" * 40, whole[:-5], whole + b"more", bytes(200), whole[:20] * 9):
        publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame, form=form), state=key)
        with pytest.raises(PhloemError):
            list(repo.restored("evil").iterate())
        repo.remove_branch("evil", force=True)
        gc(repo, grace_seconds=0.0)
    assert fsck(repo, deep=True).findings == ()


def test_a_section_that_reaches_into_others_is_refused(repo: Repository, tmp_path: Path) -> None:
    """Where sections end is written before each: too long, too short, beyond the end."""
    specs = (TensorSpec("a", (4,)), TensorSpec("b", (4,), "int32"))
    values = np.arange(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    record = state_record((spec, tensor_digest(a)) for spec, a in zip(specs, values, strict=True))
    key = canonical.digest(record)
    head = Head(Contents(specs), has_sections=True).pack()
    for sizes in ((0, 0), (1, 1), (40, 1), (1, 40), (1 << 40, 1), (20, 20)):
        body = b"".join(varint.pack(size) + bytes(min(size, 20)) for size in sizes)
        frame = sealed(bytes([0xB1, 0x80 | 6]) + varint.pack(len(head)) + head + body)
        publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame), state=key)
        with pytest.raises(PhloemError):
            list(repo.restored("evil").iterate())
        repo.remove_branch("evil", force=True)


def test_a_base_with_other_tensors_or_types_is_refused(repo: Repository, tmp_path: Path) -> None:
    trunk = repo.show("trunk").state
    mine = {"w": np.ones(3, np.float32)}
    record, key = state_of(mine), canonical.digest(state_of(mine))
    head = Head(Contents((TensorSpec("w", (3,)),)), base=trunk).pack()
    for code in (1, 6):
        frame = sealed(bytes([0xB1, 0x80 | code]) + varint.pack(len(head)) + head + bytes(30))
        publish(repo, (packs.STATE, record), (packs.FRAME, frame), encoding(key, frame, trunk), state=key)
        refused(repo, tmp_path)
        repo.remove_branch("evil", force=True)
        gc(repo, grace_seconds=0.0)


def test_of_several_encodings_one_that_lies_does_not_hide_one_that_does_not(
    repo: Repository, tmp_path: Path
) -> None:
    """What cannot even be opened is passed over; what gives another state is refused until fsck takes it out."""
    state = repo.show("trunk").state
    publish(repo, (packs.FRAME, b"x"), encoding(state, b"x"), state=state)
    assert sum(1 for _ in repo.restored("trunk").iterate()) == 4
    assert sum(1 for _ in repo.restored("evil").iterate()) == 4


# -- commits and catalogs that lie -------------------------------------------------------------------------------------


def test_a_commit_whose_parents_are_not_here_is_shown_as_far_as_it_goes(
    repo: Repository, tmp_path: Path
) -> None:
    commit = Commit("update", ("b" * 64, repo.resolve("trunk")), repo.show("trunk").state, "Eve", TIME, "x")
    repo.folder.add_pack([(packs.COMMIT, commit.pack())])
    digest = canonical.digest(commit.pack())
    with pytest.raises(StateError, match="lacks"):
        repo.branch("evil", digest)
    repo.folder.move(lambda names: names.with_branch("evil", digest))
    assert [entry.digest for entry in repo.log("evil")] == [digest, repo.resolve("trunk")]
    with pytest.raises(NotFoundError, match="no commit bbbbbbbbbbbb"):
        repo.resolve("evil~2")
    assert {(one.severity, one.kind, one.digest) for one in fsck(repo).findings} == {
        ("missing", "commit", "b" * 64)
    }
    with pytest.raises(StateError, match="nothing was removed"):
        gc(repo)


def test_a_catalog_that_says_commits_are_their_own_ancestors_hangs_nobody(
    repo: Repository, tmp_path: Path
) -> None:
    """Somebody altered it here, where it is believed: walks end all the same, and fsck makes it again."""
    repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)))
    head, root = repo.resolve("trunk"), repo.resolve("trunk~1")
    with sqlite3.connect(repo.folder.root / "catalog.db") as database:
        database.execute("UPDATE commits SET parents = ? WHERE digest = ?", (head, root))
        database.execute("UPDATE encodings SET base = state")
    database.close()
    with Repository.open(repo.folder.root) as again:
        list(again.log())
        assert history.is_ancestor(head, root, again.objects.catalog.commits())
        with pytest.raises(NotFoundError):
            again.restored("trunk")
        checked = fsck(again, deep=True)
        assert [(one.severity, one.kind) for one in checked.findings] == [("harmless", "catalog")]
        assert [entry.digest for entry in again.log()] == [head, root]
        assert sum(1 for _ in again.restored("trunk").iterate()) == 4


def test_a_catalog_that_came_with_a_repository_is_not_believed(repo: Repository, tmp_path: Path) -> None:
    with sqlite3.connect(repo.folder.root / "catalog.db") as database:
        database.execute("UPDATE commits SET subject = 'pay to evil', parents = digest")
    database.close()
    repo.close()  # the last one writes everything to one file
    with Repository.open(shutil.copytree(repo.folder.root, tmp_path / "sent")) as sent:
        assert [entry.subject for entry in sent.log()] == ["the model that all start from"]


def test_a_repository_of_nonsense_is_refused_in_words(tmp_path: Path) -> None:
    for number, content in enumerate(
        (
            b"",
            b"{}",
            b"[]",
            b"\xff",
            b'{"format":"phloem repository"}',
            b"[" * 100_000,
            b'{"format":1,"version":1}',
        )
    ):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "format.json").write_bytes(content)
        with pytest.raises((ConfigError, StateError)):
            Repository.open(root)
