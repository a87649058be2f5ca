"""What lies on the disk, written out by hand: packs, records, the table of names; and what reads them."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.branches.makers import model, tuned, written

from phloem.branches import catalog as catalogs
from phloem.branches import history, packs
from phloem.branches.blobs import BlobFile, Bytes, blob_of
from phloem.branches.catalog import Catalog, Entry
from phloem.branches.chains import Size, cheapest
from phloem.branches.folder import Folder, find
from phloem.branches.objects import Objects
from phloem.branches.records import Commit, Drift, Encoding
from phloem.branches.refs import Refs, check_name
from phloem.branches.repository import Repository
from phloem.branches.ways import Ways
from phloem.errors import ConfigError, FormatError, NotFoundError, StateError, StoreError

A, B, C, D = (letter * 64 for letter in "abcd")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- golden bytes ------------------------------------------------------------------------------------------------------

PACK = bytes.fromhex(
    "50484c4f454d5001"  # "PHLOEMP", version 1
    "6672616d65"  # "frame"
    "66696c65"  # "file"
    # "file": kind 5, offset 13, stored 4, size 4
    "3b9c358f36f0a31b6ad3e14f309c7cf198ac9246e8316f9ce543d5b19ac02b80"
    "05"
    "0d00000000000000"
    "0400000000000000"
    "0400000000000000"
    # "frame": kind 4, offset 8, stored 5, size 5
    "9dff50df08c635815f4b19da10f756605a34a79a48d4ba48712782502975a70e"
    "04"
    "0800000000000000"
    "0500000000000000"
    "0500000000000000"
    "0200000000000000"  # two objects
    "50484c4f454d4901"  # "PHLOEMI", version 1
)


def test_a_pack_has_the_bytes_that_its_description_says() -> None:
    name, data = packs.pack([(packs.FRAME, b"frame"), (packs.FILE, b"file")])
    assert data == PACK
    assert name == sha(PACK[17:-16])
    assert {(row.size, row.kind, row.offset) for row in packs.index(Bytes(PACK), name)} == {
        (4, packs.FILE, 13),
        (5, packs.FRAME, 8),
    }


def test_records_are_compressed_where_that_makes_them_smaller_and_frames_are_not() -> None:
    long = b'{"kind":"commit"}' * 50
    name, data = packs.pack([(packs.COMMIT, long), (packs.FRAME, long + b"x"), (packs.FILE, b"short")])
    rows = {row.kind: row for row in packs.index(Bytes(data), name)}
    assert (rows[packs.COMMIT].compressed, rows[packs.COMMIT].stored < 100) == (True, True)
    assert (rows[packs.FRAME].compressed, rows[packs.FRAME].stored) == (False, len(long) + 1)
    assert (rows[packs.FILE].compressed, rows[packs.FILE].stored) == (False, 5)
    for kind, content in ((packs.COMMIT, long), (packs.FRAME, long + b"x"), (packs.FILE, b"short")):
        row = rows[kind]
        assert packs.content_of(data[row.offset : row.offset + row.stored], row) == content


COMMIT = Commit(
    kind="update",
    parents=(A, B),
    state=C,
    author="Ada",
    time="2026-01-02T03:04:05Z",
    message="tuned\n\nat home",
    coding={"codec": "ecsq", "bits": 0.5},
    drift=Drift(0.25, 0.001953125),
    recipe={"name": "mean"},
    metrics={"accuracy": 0.9},
    examples=100,
    site="clinic",
    files={"config.json": D},
    metadata={"format": "pt"},
    signature={"key": "k", "signature": "s"},
)
COMMIT_BYTES = (
    '{"author":"Ada","coding":{"bits":0.5,"codec":"ecsq"},"drift":{"largest":0.001953125,"relative":0.25},'
    f'"examples":100,"files":{{"config.json":"{D}"}},"kind":"commit","message":"tuned\\n\\nat home",'
    '"metadata":{"format":"pt"},"metrics":{"accuracy":0.9},"of":"update",'
    f'"parents":["{A}","{B}"],"recipe":{{"name":"mean"}},"signature":{{"key":"k","signature":"s"}},'
    f'"site":"clinic","state":"{C}","time":"2026-01-02T03:04:05Z","version":1}}'
).encode()
SHORT = Commit("import", (), C, "Ada", "2026-01-02T03:04:05Z", "first")
SHORT_BYTES = (
    f'{{"author":"Ada","kind":"commit","message":"first","of":"import","parents":[],"state":"{C}",'
    '"time":"2026-01-02T03:04:05Z","version":1}'
).encode()
ENCODING = Encoding(A, B, C, "file", "ecsq/fast", 1234)
ENCODING_BYTES = (
    f'{{"base":"{B}","codec":"ecsq/fast","form":"file","frame":"{C}","frame_bytes":1234,"kind":"encoding",'
    f'"state":"{A}","version":1}}'
).encode()
REFS = Refs("trunk", {"trunk": A, "clinic": B}, {"v1": A}, {"origin": {"trunk": C}})
REFS_BYTES = (
    f'{{"branches":{{"clinic":"{B}","trunk":"{A}"}},'
    '"check":"CHECK",'
    f'"current":"trunk","remotes":{{"origin":{{"trunk":"{C}"}}}},"tags":{{"v1":"{A}"}},"version":1}}\n'
).encode()
REFS_BYTES = REFS_BYTES.replace(b"CHECK", sha(REFS_BYTES.replace(b'"check":"CHECK",', b"").rstrip()).encode())


@pytest.mark.parametrize(
    ("record", "data"),
    [(COMMIT, COMMIT_BYTES), (SHORT, SHORT_BYTES), (ENCODING, ENCODING_BYTES), (REFS, REFS_BYTES)],
)
def test_a_record_has_one_form_which_is_this(record: Commit | Encoding | Refs, data: bytes) -> None:
    assert record.pack() == data
    assert type(record).unpack(data) == record


def test_what_is_signed_is_the_record_without_a_signature() -> None:
    assert COMMIT.unsigned() == COMMIT_BYTES.replace(b'"signature":{"key":"k","signature":"s"},', b"")
    assert COMMIT.subject == "tuned"


@pytest.mark.parametrize("record", [COMMIT, SHORT, ENCODING, REFS])
def test_a_record_with_any_byte_altered_is_refused_or_another(record: Commit | Encoding | Refs) -> None:
    data = record.pack()
    for at in range(len(data)):
        altered = data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :]
        try:
            again = type(record).unpack(altered)
        except FormatError:
            continue
        assert again != record
        assert again.pack() == altered
    if isinstance(record, Refs):  # these have no name that would say so: they carry a checksum
        for at in range(len(data) - 1):
            with pytest.raises(FormatError):
                Refs.unpack(data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":1', b'"version":2'),
        (b'"kind":"commit"', b'"kind":"state"'),
        (b'"of":"update"', b'"of":"rebase"'),
        (b'"author":"Ada"', b'"author":""'),
        (b'"author":"Ada"', b'"author":"A\\u001b[2J"'),
        (b"2026-01-02T", b"2026-01-02 "),
        (b'"examples":100', b'"examples":-1'),
        (b'"examples":100', b'"examples":true'),
        (b'"accuracy":0.9', b'"accuracy":"0.9"'),
        (b'"format":"pt"', b'"format":7'),
        (b'"drift":{"largest":0.001953125,', b'"drift":{"largest":-1,'),
        (A.encode(), A.upper().encode()),
        (b'"metrics":{"accuracy":0.9}', b'"metrics":{}'),
        (b'"site":"clinic",', b'"site":null,'),
        (b'"site":"clinic",', b'"sight":"clinic",'),
    ],
)
def test_a_commit_of_another_form_is_refused(old: bytes, new: bytes) -> None:
    assert old in COMMIT_BYTES
    with pytest.raises(FormatError):
        Commit.unpack(COMMIT_BYTES.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"form":"file"', b'"form":"zip"'),
        (b"1234", b"-1"),
        (b"1234", b"9223372036854775808"),
        (b"1234", b"1.5"),
        (B.encode(), A.encode()),
        (b'"ecsq/fast"', b"7"),
    ],
)
def test_an_encoding_of_another_form_is_refused(old: bytes, new: bytes) -> None:
    with pytest.raises(FormatError):
        Encoding.unpack(ENCODING_BYTES.replace(old, new))


# -- packs -------------------------------------------------------------------------------------------------------------

CONTENTS = st.lists(st.tuples(st.sampled_from(sorted(packs.KINDS)), st.binary(max_size=200)), max_size=8)


@given(CONTENTS)
def test_what_goes_into_a_pack_comes_out(contents: list[tuple[int, bytes]]) -> None:
    name, data = packs.pack(contents)
    assert packs.pack(contents + contents) == (name, data)
    rows = packs.index(Bytes(data), name)
    first = {sha(content): kind for kind, content in reversed(contents)}
    assert {row.digest: row.kind for row in rows} == first
    for row in rows:
        assert sha(packs.content_of(data[row.offset : row.offset + row.stored], row)) == row.digest
    assert {content for _, content in packs.salvaged(Bytes(data))} == {content for _, content in contents}


@given(CONTENTS.filter(bool), st.data())
def test_a_pack_that_was_cut_off_or_altered_is_refused_or_costs_one_object(
    contents: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    name, whole = packs.pack(contents)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(FormatError):
        packs.index(Bytes(cut), name)
    at = data.draw(st.integers(0, len(whole) - 1))
    altered = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
    lost = set()
    try:
        for row in packs.index(Bytes(altered), name):
            try:
                packs.content_of(altered[row.offset : row.offset + row.stored], row)
            except FormatError:
                lost.add(row.digest)
                assert row.offset <= at < row.offset + row.stored
    except FormatError:
        assert at < 8 or at >= len(whole) - 16 - 57 * len(packs.index(Bytes(whole), name))
    assert len(lost) <= 1
    saved = {sha(content) for _, content in packs.salvaged(Bytes(altered))}
    assert len({sha(content) for _, content in contents} - saved) <= 1


def test_a_pack_is_known_by_its_name_only() -> None:
    name, data = packs.pack([(packs.FILE, b"content")])
    with pytest.raises(FormatError, match="another name"):
        packs.index(Bytes(data), A)
    for other in (b"", data[:20], b"X" + data[1:], data[:-1] + b"\x02"):
        with pytest.raises(FormatError):
            packs.index(Bytes(other), name)


# -- blobs, folders ----------------------------------------------------------------------------------------------------


def test_a_blob_gives_no_more_than_it_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    stretch = blob_of(tmp_path / "file", "the file")
    for blob in (Bytes(b"0123456789"), stretch):
        assert (blob.read(2, 3), blob.read(10, 0), blob.size) == (b"234", b"", 10)
        with pytest.raises(StoreError, match="ends before byte 11"):
            blob.read(8, 3)
    file = BlobFile(stretch)
    assert (file.read(4), file.seek(-2, 2), file.read(), file.tell()) == (b"0123", 8, b"89", 10)
    os.truncate(tmp_path / "file", 5)
    with pytest.raises(FormatError, match="shorter"):
        stretch.read(2, 6)
    with pytest.raises(NotFoundError, match="the other is not there"):
        blob_of(tmp_path / "other", "the other")


def test_a_folder_that_was_half_made_is_gone_on_with(tmp_path: Path) -> None:
    Folder.create(tmp_path / "r", {"a": 1})
    (tmp_path / "r" / "format.json").unlink()
    with pytest.raises(ConfigError, match="there is no repository"):
        Folder(tmp_path / "r")
    assert Folder.create(tmp_path / "r", {"a": 2}).settings == {"a": 2}
    with pytest.raises(ConfigError, match="already"):
        Folder.create(tmp_path / "r")
    (tmp_path / "r" / "format.json").write_text('{"format":"phloem repository","version":9}')
    with pytest.raises(StateError, match="version 9"):
        Folder(tmp_path / "r")


def test_the_nearest_repository_is_found(tmp_path: Path) -> None:
    Folder.create(tmp_path / "a" / ".phloem")
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    assert find(tmp_path / "a" / "b" / "c") == (tmp_path / "a" / ".phloem").resolve()
    assert find(tmp_path) is None


def test_names_of_files_are_digests_or_refused(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path / "r")
    for name in ("", "../" * 21 + "x", "A" * 64, "a" * 63, "a" * 63 + "/"):
        for call in (folder.pack, folder.frame, folder.remove_pack, folder.frame_path):
            with pytest.raises(FormatError):
                call(name)
    (tmp_path / "r" / "packs" / "notes.txt").write_text("mine")
    (tmp_path / "r" / "frames" / "zz").mkdir()
    (tmp_path / "r" / "frames" / "zz" / ("q" * 62)).write_text("mine")
    assert (folder.pack_names(), folder.frames()) == ([], {})


def test_what_killed_processes_left_is_swept_and_what_is_in_the_making_is_not(tmp_path: Path) -> None:
    folder = Folder.create(tmp_path / "r")
    left, part = folder.root / "tmp" / "1-dead", folder.root / "tmp" / "x.part"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "file").write_bytes(b"12345")
    part.write_bytes(b"123")
    old = folder.root / "packs" / ".half.1234"
    old.write_bytes(b"1234567")
    os.utime(old, (1e9, 1e9))
    (folder.root / ".refs.json.abcd").write_bytes(b"young")
    making = folder.root / "tmp" / ".2-being-made"
    making.mkdir()
    with folder.scratch() as scratch:
        (scratch / "mine").write_bytes(b"12")
        assert folder.sweep(dry_run=True) == folder.sweep() == 12
        assert (scratch / "mine").read_bytes() == b"12"
        assert folder.sweep() == 0
    assert sorted(path.name for path in (folder.root / "tmp").iterdir()) == [".2-being-made", "x.part"]
    os.utime(part, (1e9, 1e9))
    assert folder.sweep() == 3


# -- names -------------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,20}", fullmatch=True)


@given(st.dictionaries(NAMES, st.sampled_from([A, B, C]), max_size=5), NAMES)
def test_names_that_are_allowed_come_back_and_others_do_not(table: dict[str, str], current: str) -> None:
    allowed = True
    for name in (*table, current):
        try:
            check_name(name)
        except ConfigError:
            allowed = False
    refs = Refs(current, table, table, {})
    if allowed:
        assert Refs.unpack(refs.pack()) == refs
    else:
        with pytest.raises(FormatError):
            Refs.unpack(refs.pack())


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/x",
        "x/",
        "x.",
        ".x",
        "a..b",
        "a//b",
        "a/.b",
        "a.lock",
        "a@{b",
        "a b",
        "-x",
        "../../x",
        "é",
        "x" * 201,
        A,
    ],
)
def test_names_that_could_be_taken_for_something_else_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


# -- the catalog -------------------------------------------------------------------------------------------------------


def packed(contents: list[tuple[int, bytes]]) -> tuple[str, Bytes]:
    name, data = packs.pack(contents)
    return name, Bytes(data)


def commit_of(*parents: str, message: str = "x") -> bytes:
    return Commit("update", parents, C, "Ada", "2026-01-02T03:04:05Z", message).pack()


class Place:
    """Packs in memory."""

    url = "memory"

    def __init__(self) -> None:
        self.there: dict[str, Bytes] = {}

    def add(self, *contents: tuple[int, bytes]) -> str:
        name, blob = packed(list(contents))
        self.there[name] = blob
        return name

    def pack_names(self) -> list[str]:
        return list(self.there)

    def pack(self, name: str) -> Bytes:
        if name not in self.there:
            raise NotFoundError("gone")
        return self.there[name]

    def frame(self, digest: str) -> Bytes:
        raise NotFoundError("none")

    def frames(self) -> dict[str, int]:
        return {}

    def refs(self) -> Refs:
        return Refs()


def test_a_catalog_follows_packs_that_come_and_go(tmp_path: Path) -> None:
    place, catalog = Place(), Catalog(tmp_path / "catalog.db")
    one, two = commit_of(message="one"), commit_of(sha(commit_of(message="one")), message="two")
    first = place.add((packs.COMMIT, one), (packs.FILE, b"shared"))
    assert catalog.follow(place.pack_names, place.pack) == {}
    second = place.add((packs.COMMIT, two), (packs.FILE, b"shared"))
    catalog.follow(place.pack_names, place.pack)
    assert catalog.commits().keys() == {sha(one), sha(two)}
    assert [name for name, _ in catalog.places(sha(b"shared"))] == [first, second]
    del place.there[first]
    catalog.follow(place.pack_names, place.pack)
    assert (sha(one) in catalog, catalog.commit(sha(one)), sha(b"shared") in catalog) == (False, None, True)
    assert catalog.commit(sha(two)) == Entry(
        sha(two), (sha(one),), C, "update", "2026-01-02T03:04:05Z", "Ada", "two", None
    )
    again = Catalog(tmp_path / "catalog.db")
    assert again.commits() == catalog.commits()


def test_a_pack_that_is_gone_when_it_is_opened_was_combined_and_the_new_one_is_found(tmp_path: Path) -> None:
    """Whoever listed packs a moment ago must not make the catalog forget what was combined since."""
    place, catalog = Place(), Catalog(None)
    first = place.add((packs.FILE, b"one"))
    calls = itertools.count()

    def names() -> list[str]:
        found = place.pack_names()
        if next(calls) == 1:
            del place.there[first]
            place.add((packs.FILE, b"one"), (packs.FILE, b"two"))
        return found

    catalog.follow(names, place.pack)
    assert sha(b"one") in catalog
    assert sha(b"two") in catalog


def test_two_who_follow_the_same_packs_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    place = Place()
    mine, theirs = Catalog(tmp_path / "c.db"), Catalog(tmp_path / "c.db")
    for number in range(20):
        place.add((packs.FILE, b"%d" % number))
        listed = place.pack_names()
        theirs.follow(place.pack_names, place.pack)  # between the other's look and its change
        mine.follow(lambda listed=listed: listed, place.pack)  # type: ignore[misc]
    assert len(mine.digests()) == 20


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, b"SQLite format 3\x00" + bytes(4080)])
def test_a_catalog_that_is_none_is_made_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.db").write_bytes(content)
    place = Place()
    place.add((packs.FILE, b"one"))
    catalog = Catalog(tmp_path / "catalog.db")
    catalog.follow(place.pack_names, place.pack)
    assert sha(b"one") in catalog


def test_a_catalog_damaged_while_it_is_open_is_made_again(tmp_path: Path) -> None:
    place = Place()
    catalog = Catalog(tmp_path / "catalog.db")
    for number in range(60):
        place.add((packs.COMMIT, commit_of(message=str(number))))
    catalog.follow(place.pack_names, place.pack)
    expected = catalog.commits()
    catalog.close()
    path = tmp_path / "catalog.db"
    whole = path.read_bytes()
    for at in range(4096, len(whole), 4096):
        path.write_bytes(
            whole[:at] + b"\xa5" * 4096 + whole[at + 4096 :]
        )  # in place: the file's number stays
        again = Catalog(path)
        again.follow(place.pack_names, place.pack)
        for digest in list(expected)[::15]:
            again.places(digest)
        assert again.commits() == expected
        again.close()


def test_a_catalog_from_elsewhere_is_not_believed(tmp_path: Path) -> None:
    place, path = Place(), tmp_path / "catalog.db"
    place.add((packs.COMMIT, commit_of(message="true")))
    catalog = Catalog(path)
    catalog.follow(place.pack_names, place.pack)
    catalog.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE commits SET subject = 'false', parents = digest")
    database.close()
    assert [entry.subject for entry in Catalog(path).commits().values()] == [
        "false"
    ]  # ours: it may say anything
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "catalog.db").write_bytes(path.read_bytes())
    copied = Catalog(tmp_path / "copy" / "catalog.db")
    copied.follow(place.pack_names, place.pack)
    assert [entry.subject for entry in copied.commits().values()] == ["true"]


def test_a_full_disk_costs_the_catalog_its_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    connected = Catalog._connected

    def small(path: str) -> sqlite3.Connection:
        found = connected(path)
        if path != ":memory:":
            found.execute("PRAGMA max_page_count = 16")
        return found

    monkeypatch.setattr(catalogs.Catalog, "_connected", staticmethod(small))
    catalog = Catalog(tmp_path / "catalog.db")
    for number in range(300):
        place.add((packs.COMMIT, commit_of(message=str(number))))
    catalog.follow(place.pack_names, place.pack)
    assert len(catalog.commits()) == 300


def test_an_object_is_read_from_the_copy_that_is_whole(tmp_path: Path) -> None:
    place = Place()
    first = place.add((packs.FILE, b"content"), (packs.FILE, b"first"))
    place.add((packs.FILE, b"content"), (packs.FILE, b"second"))
    objects = Objects(place, Catalog(tmp_path / "c.db"))
    data = place.there[first].content
    place.there[first] = Bytes(data.replace(b"content", b"c0ntent"))
    assert objects.get(sha(b"content")) == b"content"
    with pytest.raises(NotFoundError, match="no object"):
        objects.get(A)
    assert objects.get(sha(b"first")) == b"first"
    place.there[first] = Bytes(data.replace(b"first", b"f1rst"))
    with pytest.raises(FormatError, match="damaged"):
        objects.get(sha(b"first"))


def test_a_catalog_that_says_the_wrong_place_is_asked_again(tmp_path: Path) -> None:
    place = Place()
    place.add((packs.FILE, b"one"), (packs.FILE, b"two"))
    objects = Objects(place, Catalog(tmp_path / "c.db"))
    with sqlite3.connect(tmp_path / "c.db") as database:
        database.execute("UPDATE objects SET at = at + 1000000")
    database.close()
    assert objects.get(sha(b"two")) == b"two"


def test_a_damaged_pack_costs_only_what_is_in_it(repo: Repository, tmp_path: Path) -> None:
    made = repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)), bits=1.0)
    name = repo.objects.catalog.places(made.digest)[0][0]
    copy = Path(shutil.copytree(repo.folder.root, tmp_path / "copy"))  # whose catalog is made anew
    path = copy / "packs" / f"{name}.pack"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with Repository.open(copy) as again:
        assert list(again.objects.damaged_packs) == [name]
        first = next(iter(repo.log("@~1"))).digest
        assert again.show(first[:12]).kind == "import"
        assert sum(1 for _ in again.restored(first[:12]).iterate()) == 4
        with pytest.raises(NotFoundError, match="fsck"):
            again.show("trunk")


# -- history -----------------------------------------------------------------------------------------------------------


def graph(*rows: tuple[str, str]) -> dict[str, Entry]:
    """Commits by one-letter names, each with those of its parents; later ones are newer."""
    return {
        name: Entry(name, tuple(parents), C, "update", f"2026-01-01T00:00:{number:02}Z", "Ada", name, None)
        for number, (name, parents) in enumerate(rows)
    }


def test_histories_are_shown_newest_first_and_lines_stay_together() -> None:
    commits = graph(("a", ""), ("b", "a"), ("c", "a"), ("d", "b"), ("e", "c"), ("m", "de"))
    assert "".join(entry.digest for entry in history.in_order(["m"], commits)) == "mdbeca"
    assert "".join(entry.digest for entry in history.in_order(["d", "e"], commits)) == "ecdba"


@given(st.lists(st.sets(st.integers(0, 19), max_size=3), min_size=1, max_size=20))
def test_no_commit_is_shown_before_those_that_came_from_it(rows: list[set[int]]) -> None:
    letters = "abcdefghijklmnopqrst"
    commits = graph(
        *(
            (letters[n], "".join(letters[p] for p in sorted(parents) if p < n))
            for n, parents in enumerate(rows)
        )
    )
    shown = [entry.digest for entry in history.in_order([letters[len(rows) - 1]], commits)]
    assert set(shown) == history.reachable([letters[len(rows) - 1]], commits)
    assert len(shown) == len(set(shown))
    for digest in shown:
        for parent in commits[digest].parents:
            assert shown.index(digest) < shown.index(parent)


def test_the_newest_common_ancestor_is_found_and_strangers_have_none() -> None:
    commits = graph(("a", ""), ("b", "a"), ("c", "b"), ("d", "b"), ("x", ""))
    assert history.merge_base(["c", "d"], commits) == "b"
    assert history.merge_base(["c", "b"], commits) == "b"
    with pytest.raises(ConfigError, match="no commit in common"):
        history.merge_base(["c", "x"], commits)
    with pytest.raises(NotFoundError):
        history.merge_base(["c", "z"], commits)


def test_commits_that_a_catalog_claims_to_be_their_own_ancestors_end_every_walk() -> None:
    """By their digests none can be; a catalog that somebody altered may say so."""
    commits = graph(("a", "c"), ("b", "a"), ("c", "b"))
    assert history.reachable(["c"], commits) == set("abc")
    assert list(history.in_order(["c"], commits)) == []
    history.is_ancestor("a", "c", commits)


# -- chains and ways ---------------------------------------------------------------------------------------------------

SIZE = Size(10_000_000, 40_000_000)


def key(state: str, size: int = 30_000_000) -> Encoding:
    return Encoding(state * 64, None, sha(f"key {state}".encode()), "file", "lossless", size)


def step(state: str, base: str, size: int = 600_000) -> Encoding:
    return Encoding(state * 64, base * 64, sha(f"{state} {base}".encode()), "file", "ecsq/fast", size)


@given(
    st.sets(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef-"), st.integers(1, 40)), max_size=25)
)
def test_ways_are_the_cheapest_chains(rows: set[tuple[str, str, int]]) -> None:
    encodings = [
        key(state, size * 1_000_000) if base == "-" else step(state, base, size * 100_000)
        for state, base, size in sorted(rows)
        if state != base
    ]
    ways = Ways(encodings, lambda state: SIZE)

    def check() -> None:
        for letter in "abcdef":
            try:
                chain = cheapest(letter * 64, SIZE, ways.giving)
            except NotFoundError:
                assert letter * 64 not in ways.last
                continue
            assert sum(cost(one) for one in chain) == pytest.approx(sum(map(cost, ways.chain(letter * 64))))

    check()
    for one in encodings[::2]:
        before = dict(ways.last)
        removed = ways.remove(one)
        check()
        ways.put_back(one, removed)
        assert ways.last == before
        ways.remove(one)
    check()
    for one in encodings[::2]:
        ways.add(one)
    check()


def cost(one: Encoding) -> float:
    from phloem.branches.chains import cost_of

    return cost_of(one, SIZE)


def test_encodings_that_only_lead_round_in_a_circle_give_nothing() -> None:
    rows = {"a" * 64: [step("a", "b")], "b" * 64: [step("b", "a")]}
    with pytest.raises(NotFoundError, match="nothing in the repository gives"):
        cheapest("a" * 64, SIZE, lambda state: rows.get(state, []))
    assert Ways([step("a", "b"), step("b", "a")], lambda state: SIZE).last == {}


def test_a_compressed_object_may_not_claim_another_size_than_its_row() -> None:
    """The library takes memory by the size that the compressed bytes claim, whatever limit it is given."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    row = packs.Row(sha(b"x"), packs.FILE, 8, len(bomb), 1, True)
    with pytest.raises(FormatError, match="damaged"):
        packs.content_of(bomb, row)
    claim = bytes.fromhex("28b52ffde0") + (1 << 46).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(FormatError, match="damaged"):
        packs.content_of(claim, packs.Row(sha(b"x"), packs.FILE, 8, len(claim), 1, True))


def test_a_commit_written_in_another_way_is_refused() -> None:
    """Two texts for one commit would be two names for it."""
    for old, new in ((b'"of":"update"', b'"of": "update"'), (b'"site":"clinic",', b'"site":"\\u0063linic",')):
        assert old in COMMIT_BYTES
        with pytest.raises(FormatError, match="another way"):
            Commit.unpack(COMMIT_BYTES.replace(old, new))
