"""Everything that is damaged or missing is named, byte by byte, and put right where somebody has it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.branches.makers import model, tuned, written

from phloem import canonical
from phloem.branches import catalog as catalogs
from phloem.branches import packs
from phloem.branches.catalog import Catalog
from phloem.branches.checking import Checked, fsck
from phloem.branches.collecting import gc
from phloem.branches.drafts import Draft
from phloem.branches.folder import Folder
from phloem.branches.objects import SMALL_FRAME
from phloem.branches.records import Commit
from phloem.branches.refs import Refs
from phloem.branches.repacking import repack
from phloem.branches.repository import Repository
from phloem.errors import ConfigError, PhloemError
from phloem.seeds import generator
from phloem.tensors import State

TINY = {"a": (6, 5), "b": (3,)}
LARGE = {"embed.weight": (400, 300), "norm.weight": (300,)}
Found = set[tuple[str, str, str]]


def found(checked: Checked) -> Found:
    return {(one.severity, one.kind, one.digest) for one in checked.findings}


def bad(checked: Checked) -> Found:
    return {one for one in found(checked) if one[0] in ("damaged", "missing")}


def line(
    repo: Repository, folder: Path, branch: str, count: int, shapes: dict[str, tuple[int, ...]] | None
) -> None:
    state: State = model(0, shapes)
    for number in range(count):
        state = tuned(state, number)
        repo.commit(
            written(folder / "next.safetensors", state), branch=branch, bits=2.0, message=f"{branch} {number}"
        )


def pack_path(repo: Repository, digest: str) -> Path:
    return repo.folder.root / "packs" / f"{repo.objects.catalog.places(digest)[0][0]}.pack"


def flip(path: Path, at: int, bits: int = 4) -> None:
    """Alters a byte where it lies, as a disk does."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ bits]))


def fresh(repo: Repository, folder: Path) -> Repository:
    """A copy of the repository, whose catalog knows nothing yet."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    return Repository.open(shutil.copytree(repo.folder.root, copy))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """The smallest repository: two branches of two commits, one file, a tag."""
    folder = tmp_path_factory.mktemp("tiny")
    with Repository.create(folder / ".phloem") as repo:
        start = folder / "start"
        start.mkdir()
        (start / "config.json").write_text('{"layers": 1}')
        written(start / "model.safetensors", model(0, TINY))
        repo.commit(start)
        repo.branch("clinic")
        line(repo, folder, "clinic", 1, TINY)
        repo.tag("v1", "trunk")
        yield repo


# -- what is found -----------------------------------------------------------------------------------------------------


def test_nothing_is_found_where_all_is_well(repo: Repository, tmp_path: Path) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 3, None)
    for deep, restored in ((False, 1), (True, 4)):
        checked = fsck(repo, deep=deep)
        assert (checked.findings, checked.heads, checked.whole) == ((), (), True)
        assert (checked.commits, checked.restored, checked.copies) == (4, restored, 16)


def expected_of(repo: Repository) -> list[tuple[Path, int, int, Found]]:
    """Every stretch of every file, and what has to be found if a byte of it is altered."""
    rows: list[tuple[Path, int, int, Found]] = []
    for name in repo.folder.pack_names():
        path = repo.folder.root / "packs" / f"{name}.pack"
        objects = sorted(repo.objects.catalog.rows_of(name), key=lambda row: row.offset)
        end = objects[-1].offset + objects[-1].stored
        rows += [(path, 0, 8, {("damaged", "pack", name)})]
        rows += [(path, end, path.stat().st_size, {("damaged", "pack", name)})]
        for row in objects:
            kind = packs.KINDS[row.kind]
            rows.append((path, row.offset, row.offset + row.stored, {("damaged", kind, row.digest)}))
    path = repo.folder.root / "refs.json"
    rows.append((path, 0, path.stat().st_size, {("damaged", "names", "")}))
    return rows


def check_flips(repo: Repository, copy: Path, step: int) -> tuple[int, int]:
    """Alters every so many-th byte; gives how many were altered, and how many of those made no difference."""
    shutil.copytree(repo.folder.root, copy)
    flips = harmless = 0
    for path, start, end, expected in expected_of(repo):
        mine = copy / path.relative_to(repo.folder.root)
        for at in range(start, end, step):
            flip(mine, at)
            with Repository.open(copy) as opened:
                checked = fsck(opened)
                if expected <= found(checked):
                    assert not checked.whole
                else:  # nothing that any reader could tell: all objects, and all of the index, are as they were
                    assert bad(checked) == set()
                    harmless += 1
            flip(mine, at)
            flips += 1
    with Repository.open(copy) as opened:
        assert fsck(opened).whole
    return flips, harmless


def test_a_byte_altered_anywhere_is_found_and_named(tiny: Repository, tmp_path: Path) -> None:
    flips, harmless = check_flips(tiny, tmp_path / "copy", 53)
    assert flips > 50
    assert harmless <= 2


@pytest.mark.slow
def test_every_byte_altered_is_found_and_named(tiny: Repository, tmp_path: Path) -> None:
    flips, harmless = check_flips(tiny, tmp_path / "copy", 1)
    assert flips == sum(
        path.stat().st_size for path in [*tiny.folder.root.glob("packs/*"), tiny.folder.root / "refs.json"]
    )
    assert harmless < flips / 50  # bits that compression does not look at


def test_a_byte_altered_in_a_frame_of_its_own_is_named(tmp_path: Path) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(written(tmp_path / "a.safetensors", model(0, LARGE)))
        [(digest, size)] = repo.folder.frames().items()
        for at in (0, 1, 200, size // 2, size - 1):
            flip(repo.folder.frame_path(digest), at)
            checked = fsck(repo)
            assert ("damaged", "frame", digest) in found(checked)
            assert ("missing", "state", repo.show("trunk").state) in found(checked)
            flip(repo.folder.frame_path(digest), at)
        assert fsck(repo).whole


def test_every_byte_of_the_format_is_named_or_means_nothing(tiny: Repository, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny.folder.root, tmp_path / "copy"))
    path = copy / "format.json"
    refused = 0
    for at in range(path.stat().st_size):
        flip(path, at)
        try:
            with Repository.open(copy) as opened:
                assert opened.folder.settings == {}
                assert fsck(opened).whole
        except PhloemError as error:
            refused += str(copy) in str(error)
        flip(path, at)
    assert refused > path.stat().st_size / 2


def test_a_byte_altered_in_the_catalog_costs_nothing(
    tiny: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At worst the catalog is made again: what is read through it is checked, and fsck compares all of it."""
    monkeypatch.setattr(catalogs, "_inode", lambda path: 1)  # or what is put back here would not be believed
    copy = tmp_path / "copy"
    shutil.copytree(tiny.folder.root, copy, ignore=shutil.ignore_patterns("catalog.db*"))
    path = copy / "catalog.db"
    with Repository.open(copy) as opened:
        right = opened.objects.catalog.commits()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    whole = path.read_bytes()
    used = [at for at in range(len(whole)) if whole[at]]
    told = 0
    for at in used[:: len(used) // 50]:
        flip(path, at)
        with Repository.open(copy) as opened:
            checked = fsck(opened)
            assert checked.whole
            told += ("harmless", "catalog", "") in found(checked)
            assert opened.objects.catalog.commits() == right
            assert sum(1 for _ in opened.restored("clinic").iterate()) == 2
        path.write_bytes(whole)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    assert told > 10


def test_a_missing_commit_state_frame_or_file_is_named(tiny: Repository, tmp_path: Path) -> None:
    commit = tiny.show("trunk")
    frame = tiny.restored("trunk").chain[-1].frame
    [file] = commit.files.values()
    for kind, digest in (
        ("commit", tiny.resolve("trunk")),
        ("state", commit.state),
        ("frame", frame),
        ("file", file),
    ):
        with fresh(tiny, tmp_path) as copy:
            without(copy, {digest})
            checked = fsck(copy)
            assert ("missing", kind, digest) in found(checked)
            assert not checked.whole
            assert all(
                one.words.endswith("missing") or "gives the state" in one.words for one in checked.findings
            )


def without(repo: Repository, digests: set[str]) -> None:
    """Writes packs again without these objects."""
    for name in repo.folder.pack_names():
        contents = [
            (row.kind, packs.content_of(repo.folder.pack(name).read(row.offset, row.stored), row))
            for row in repo.objects.catalog.rows_of(name)
        ]
        kept = [one for one in contents if canonical.digest(one[1]) not in digests]
        if len(kept) < len(contents):
            repo.folder.add_pack(kept)
            repo.folder.remove_pack(name)
    repo.objects.refresh()


def test_a_missing_pack_is_noticed_by_what_was_in_it(tiny: Repository, tmp_path: Path) -> None:
    with fresh(tiny, tmp_path) as copy:
        head, parent = tiny.resolve("clinic"), tiny.resolve("trunk")
        pack_path(copy, head).unlink()
        assert bad(fsck(copy)) == {("missing", "commit", head)}
    with fresh(tiny, tmp_path) as copy:
        pack_path(copy, parent).unlink()
        assert ("missing", "commit", parent) in bad(fsck(copy))
        assert ("missing", "state", tiny.show("clinic").state) in bad(fsck(copy))


def test_commits_without_a_name_are_listed_and_can_be_named(repo: Repository, tmp_path: Path) -> None:
    repo.branch("clinic")
    line(repo, tmp_path, "clinic", 3, None)
    head = repo.remove_branch("clinic", force=True)
    checked = fsck(repo)
    assert (checked.whole, checked.heads, checked.commits) == (True, (head,), 1)
    [one] = checked.findings
    assert (one.severity, one.kind, one.digest) == ("dangling", "commit", head)
    assert f"phloem branch NAME {head[:12]}" in one.words
    assert "'clinic 2') and to 2 before it" in one.words
    repo.branch("again", head[:12])
    assert fsck(repo, deep=True).findings == ()


def test_the_branches_of_other_places_need_not_be_here(repo: Repository) -> None:
    repo.folder.move(lambda refs: refs.with_remote("far", {"trunk": "f" * 64}))
    assert fsck(repo).findings == ()


def test_a_current_branch_that_is_not_there_is_said(repo: Repository) -> None:
    repo.folder.move(lambda refs: Refs("other", refs.branches))
    [one] = fsck(repo).findings
    assert (one.severity, one.kind) == ("harmless", "names")


def test_a_frame_that_never_gave_its_state_is_found_by_a_deep_check(repo: Repository, tmp_path: Path) -> None:
    """All digests are right; what comes out is another state than the record of the encoding says."""
    line(repo, tmp_path, "trunk", 2, None)
    mine, other = repo.restored("@").chain[-1], repo.restored("@~1").chain[-1]
    frame = repo.objects.blob(other.frame)
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        false = draft.add_frame(frame, mine.state, other.base, "file", mine.codec)
        draft.publish()
    record = canonical.digest(false.pack())
    checked = fsck(repo, deep=True)
    assert bad(checked) == {("damaged", "encoding", record)}
    assert "does not give the state" in checked.findings[0].words
    without(repo, {canonical.digest(mine.pack())})
    checked = fsck(repo, deep=True)
    assert bad(checked) == {("damaged", "encoding", record), ("missing", "state", mine.state)}
    assert not fsck(repo).whole  # the current branch's tip is restored in any case


def test_a_record_that_is_none_is_named_though_its_digest_is_right(repo: Repository) -> None:
    rows = [(packs.COMMIT, b'{"kind":"commit"}'), (packs.ENCODING, b"[]"), (packs.STATE, b"{}")]
    repo.folder.add_pack(rows)
    checked = fsck(repo)
    assert bad(checked) == {
        ("damaged", packs.KINDS[kind], canonical.digest(content)) for kind, content in rows
    }


def test_a_bucket_or_copy_is_checked_through_what_every_place_has(tiny: Repository) -> None:
    class Elsewhere:
        """A place that is no directory."""

        url = "elsewhere"
        writable = False

        def __getattr__(self, name: str) -> object:
            return getattr(tiny.folder, name)

    with Repository(Elsewhere(), Catalog(None)) as far:  # type: ignore[arg-type]
        assert fsck(far, deep=True).findings == ()
        with pytest.raises(ConfigError, match="can be checked, not mended"):
            fsck(far, mend=True)


# -- what is mended ----------------------------------------------------------------------------------------------------


def check_mended(tiny: Repository, folder: Path, places: list[tuple[Path, int]]) -> None:
    right = tiny.objects.catalog.digests()
    copy = folder / "copy"
    for path, at in places:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tiny.folder.root, copy)
        flip(copy / path.relative_to(tiny.folder.root), at)
        with Repository.open(copy) as opened:
            checked = fsck(opened, deep=True, repair_from=tiny, rebuild_names=True)
            assert checked.whole, checked.findings
            assert opened.objects.catalog.digests() == right
            assert opened.refs == tiny.refs


def test_what_is_damaged_is_fetched_from_elsewhere(tiny: Repository, tmp_path: Path) -> None:
    places = [
        (path, at) for path, start, end, _ in expected_of(tiny) for at in {start, (start + end) // 2, end - 1}
    ]
    check_mended(tiny, tmp_path, [place for place in places if place[0].name != "refs.json"])


@pytest.mark.slow
def test_whatever_byte_is_damaged_is_fetched_from_elsewhere(tiny: Repository, tmp_path: Path) -> None:
    places = [(path, at) for path, start, end, _ in expected_of(tiny) for at in range(start, end, 7)]
    check_mended(tiny, tmp_path, [place for place in places if place[0].name != "refs.json"])


def test_what_is_missing_is_fetched_with_all_that_it_came_from(repo: Repository, tmp_path: Path) -> None:
    line(repo, tmp_path, "trunk", 5, None)
    with fresh(repo, tmp_path) as copy:
        for name in copy.folder.pack_names()[:]:
            if name not in repo.objects.catalog.places(repo.resolve("trunk"))[0]:
                copy.folder.remove_pack(name)
        assert len(bad(fsck(copy))) > 1
        checked = fsck(copy, deep=True, repair_from=repo.folder)
        assert checked.whole
        assert checked.mended
        assert copy.objects.catalog.digests() == repo.objects.catalog.digests()
        assert fsck(copy, repair_from=repo).mended == ()


def test_a_large_frame_is_replaced(tmp_path: Path) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(written(tmp_path / "a.safetensors", model(0, LARGE)))
        with fresh(repo, tmp_path) as copy:
            [(digest, size)] = copy.folder.frames().items()
            assert size > SMALL_FRAME
            flip(copy.folder.frame_path(digest), size // 2)
            assert not fsck(copy, repair_from=fresh(copy, tmp_path / "again")).whole  # which has it no better
            checked = fsck(copy, deep=True, repair_from=repo)
            assert checked.whole
            assert checked.mended == (f"fetched the frame {digest[:12]}",)
            copy.folder.remove_frame(digest)
            assert fsck(copy, deep=True, repair_from=repo).whole


def test_a_state_is_fetched_in_whatever_form_the_other_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other place was repacked since: it has the state, not the frame."""
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(written(tmp_path / "a.safetensors", model(0, LARGE)))
        line(repo, tmp_path, "trunk", 2, LARGE)
        with fresh(repo, tmp_path) as copy:
            monkeypatch.setattr("phloem.branches.repacking._WORTH", 1e9)
            repack(repo, tip_times=0.0, most_times=0.0)
            frame = copy.restored("@~1").chain[-1].frame
            without(copy, {frame})
            without(repo, {frame})
            assert ("missing", "frame", frame) in bad(fsck(copy))
            checked = fsck(copy, deep=True, repair_from=repo)
            assert {one[:2] for one in bad(checked)} <= {("missing", "frame")}
            assert {one for one in bad(checked) if one[1] == "state"} == set()
            state = copy.show("@~1").state
            assert {one.base for one in copy.objects.encodings(state)} >= {None}
            assert sum(1 for _ in copy.restored("@").iterate()) == 2


def test_damage_is_mended_from_another_copy_here(tiny: Repository, tmp_path: Path) -> None:
    with fresh(tiny, tmp_path) as copy:
        name = copy.folder.pack_names()[0]
        rows = copy.objects.catalog.rows_of(name)
        contents = [
            (row.kind, packs.content_of(copy.folder.pack(name).read(row.offset, row.stored), row))
            for row in rows
        ]
        copy.folder.add_pack([*contents, (packs.FILE, b"more")])
        flip(copy.folder.root / "packs" / f"{name}.pack", rows[0].offset + rows[0].stored // 2, 0xFF)
        checked = fsck(copy)
        assert bad(checked) == {("damaged", packs.KINDS[rows[0].kind], rows[0].digest)}
        assert "another copy is whole" in checked.findings[0].words
        checked = fsck(copy, mend=True)
        assert (checked.whole, len(checked.mended)) == (True, 1)


def test_a_pack_whose_index_is_damaged_is_saved_without_help(tiny: Repository, tmp_path: Path) -> None:
    """Its objects name themselves."""
    for name in tiny.folder.pack_names():
        size = tiny.folder.pack(name).size
        start = size - 16 - 57 * len(tiny.objects.catalog.rows_of(name))
        for at in (0, start + 5, start + 33, size - 57 - 16 + 3, size - 16, size - 12, size - 4):
            with fresh(tiny, tmp_path) as copy:
                flip(copy.folder.root / "packs" / f"{name}.pack", at, 1)
                assert ("damaged", "pack", name) in bad(fsck(copy))
                checked = fsck(copy, deep=True, mend=True)
                if checked.whole:
                    assert copy.objects.catalog.digests() == tiny.objects.catalog.digests()
                    assert name in copy.folder.pack_names()  # the very same again
                else:  # where an object lay is lost, and so is one object
                    assert at in (start + 33,)


def test_what_cannot_be_mended_stays_as_it_is(tiny: Repository, tmp_path: Path) -> None:
    with fresh(tiny, tmp_path) as copy:
        frame = tiny.restored("trunk").chain[-1].frame
        path = pack_path(copy, frame)
        [(_, row)] = copy.objects.catalog.places(frame)
        flip(path, row.offset + row.stored // 2)
        before = path.read_bytes()
        checked = fsck(copy, mend=True)
        assert ("damaged", "frame", frame) in bad(checked)
        assert checked.mended == ()
        assert path.read_bytes() == before


def test_a_damaged_frame_that_nothing_needs_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise readers would go on choosing it."""
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(written(tmp_path / "a.safetensors", model(0, LARGE)))
        line(repo, tmp_path, "trunk", 1, LARGE)
        monkeypatch.setattr("phloem.branches.repacking._WORTH", 1e9)
        repack(repo, tip_times=0.0)
        key = next(one for one in repo.objects.encodings(repo.show("trunk").state) if one.base is None)
        flip(repo.folder.frame_path(key.frame), key.frame_bytes // 2)
        assert bad(fsck(repo)) == {("damaged", "frame", key.frame)}
        with Repository.open(repo.folder.root) as opened:
            checked = fsck(opened, deep=True, mend=True)
            assert (checked.findings, len(checked.mended)) == ((), 1)
            assert sum(1 for _ in opened.restored("trunk").iterate()) == 2


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_are_made_again_of_what_is_left_of_them(tiny: Repository, tmp_path: Path) -> None:
    size = (tiny.folder.root / "refs.json").stat().st_size
    right, lost = tiny.refs, 0
    for at in range(0, size, 17):
        with fresh(tiny, tmp_path) as copy:
            path = copy.folder.root / "refs.json"
            flip(path, at)
            with pytest.raises(PhloemError, match="fsck"):
                _ = copy.refs
            with pytest.raises(PhloemError):
                gc(copy, grace_seconds=0.0)
            damaged = path.read_bytes()
            assert not fsck(copy).whole
            checked = fsck(copy, rebuild_names=True)
            assert (checked.whole, checked.heads, len(checked.mended)) == (True, (), 1)
            assert (copy.folder.root / "refs.damaged").read_bytes() == damaged
            assert right.commits() <= copy.refs.commits()
            lost += len(copy.refs.branches.items() ^ right.branches.items()) > 2
            assert fsck(copy, rebuild_names=True).mended == ()
    assert lost < size / 17 / 2


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 300])
def test_names_that_are_gone_altogether_become_found(
    tiny: Repository, tmp_path: Path, content: bytes | None
) -> None:
    with fresh(tiny, tmp_path) as copy:
        path = copy.folder.root / "refs.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        head = tiny.resolve("clinic")
        checked = fsck(copy)
        assert checked.heads == (head,)
        assert ("damaged", "names", "") in found(checked)
        assert fsck(copy, rebuild_names=True).whole
        assert copy.refs == Refs(f"found/{head[:12]}", {f"found/{head[:12]}": head})


def test_a_table_that_can_be_read_is_not_made_again(tiny: Repository, tmp_path: Path) -> None:
    with fresh(tiny, tmp_path) as copy:
        before = (copy.folder.root / "refs.json").read_bytes()
        assert fsck(copy, rebuild_names=True).mended == ()
        assert (copy.folder.root / "refs.json").read_bytes() == before


def test_a_directory_that_cannot_be_written_is_checked(
    tiny: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh(tiny, tmp_path) as copy:

        def refuse(*_: object) -> None:
            raise AssertionError("it was written")

        for name in ("locked", "add_pack", "add_frame", "remove_pack", "remove_frame", "scratch"):
            monkeypatch.setattr(Folder, name, refuse)
        assert fsck(copy, deep=True).findings == ()


def test_random_damage_never_raises_anything_and_is_always_found(tiny: Repository, tmp_path: Path) -> None:
    """Stretches overwritten, files cut off and made longer."""
    draw = generator(7, "tests", "damage")
    files = [path.relative_to(tiny.folder.root) for path in tiny.folder.root.glob("packs/*")]
    for number in range(30):
        with fresh(tiny, tmp_path) as copy:
            path = copy.folder.root / files[number % len(files)]
            data = bytearray(path.read_bytes())
            at = int(draw.integers(0, len(data)))
            if number % 3 == 0:
                stretch = draw.integers(0, 256, min(50, len(data) - at)).astype(np.uint8).tobytes()
                data[at : at + len(stretch)] = stretch
            elif number % 3 == 1:
                del data[at:]
            else:
                data[at:at] = b"more"
            path.write_bytes(bytes(data))
            checked = fsck(copy)
            assert not checked.whole
            assert {one.digest for one in checked.findings if one.severity == "damaged"}
            assert fsck(copy, deep=True, repair_from=tiny).whole


def test_what_a_commit_says_of_itself_is_shown_of_dangling_ones(repo: Repository) -> None:
    with repo.folder.scratch() as scratch:
        draft = Draft(repo.folder, repo.objects, scratch)
        lonely = draft.add_commit(Commit("import", (), "e" * 64, "Ada", "2026-01-02T03:04:05Z", "gone"))
        draft.publish()
    [one] = fsck(repo).findings
    assert one.digest == lonely
    assert "what gives its state is no longer there" in one.words
