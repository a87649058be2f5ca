"""Salts beside a log: kept, found, counted; and when they are destroyed, nowhere any more."""

from __future__ import annotations

import random
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from phloem.errors import StoreError
from phloem.ledger.salts import Salt, Salts

DRAW = random.Random(7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "salts.db"


@pytest.fixture
def salts(path: Path) -> Iterator[Salts]:
    with closing(Salts(path)) as found:
        yield found


def drawn(count: int, content: str | None = None) -> list[Salt]:
    """Salts of commitments that nobody has seen before."""
    return [
        Salt(DRAW.randbytes(32).hex(), DRAW.randbytes(32), content or DRAW.randbytes(32).hex())
        for _ in range(count)
    ]


def files(path: Path) -> bytes:
    """Everything on the disk: the file, its write-ahead log, the index of that."""
    return b"".join(one.read_bytes() for one in sorted(path.parent.iterdir()))


def test_a_salt_is_found_by_its_commitment(salts: Salts) -> None:
    one, other = drawn(2)
    salts.put([one, other])
    assert salts.get(one.commitment) == one
    assert salts.get(other.commitment) == other
    assert salts.get("0" * 64) is None
    salts.put([])
    again = Salt(one.commitment, one.salt, other.content)
    salts.put([again])
    assert salts.get(one.commitment) == again


def test_salts_are_there_when_the_file_is_opened_again(path: Path) -> None:
    (one,) = drawn(1)
    with closing(Salts(path)) as first:
        first.put([one])
    with closing(Salts(path)) as second:
        assert second.get(one.commitment) == one


def test_only_the_owner_reads_any_of_its_files(path: Path, salts: Salts) -> None:
    salts.put(drawn(3))
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert set(modes) >= {"salts.db", "salts.db-wal"}
    assert set(modes.values()) == {0o600}


def test_how_many_commitments_are_to_one_content(salts: Salts) -> None:
    rows = drawn(3, "c" * 64) + drawn(1)
    salts.put(rows)
    assert salts.uses("c" * 64) == 3
    assert salts.uses(rows[3].content) == 1
    assert salts.uses("0" * 64) == 0
    salts.destroy(rows[0].commitment)
    assert salts.uses("c" * 64) == 2


def test_a_destroyed_salt_is_nowhere_in_the_files(path: Path, salts: Salts) -> None:
    one, other = drawn(2)
    salts.put([one, other])
    assert one.salt in files(path)
    salts.destroy(one.commitment)
    assert salts.get(one.commitment) is None
    assert one.salt not in files(path)
    assert one.commitment.encode() not in files(path)
    assert other.salt in files(path)
    salts.destroy(one.commitment)  # once more is no error
    salts.destroy("0" * 64)
    assert salts.get(other.commitment) == other


@pytest.mark.parametrize("count", [40, 700])
def test_of_many_salts_the_destroyed_are_nowhere_and_the_others_are_there(
    path: Path, salts: Salts, count: int
) -> None:
    """Pages split, are balanced and are freed: no copy of a salt may stay behind in what is left of them."""
    rows = drawn(count)
    for start in range(0, count, 7):
        salts.put(rows[start : start + 7])
    gone = DRAW.sample(rows, count // 4)
    for one in gone:
        salts.destroy(one.commitment)
        assert one.salt not in files(path), "a copy stayed behind"
    left = files(path)
    assert not [one for one in gone if one.salt in left or one.commitment.encode() in left]
    kept = [one for one in rows if one not in gone]
    assert [salts.get(one.commitment) for one in kept] == kept
    for one in kept:
        salts.destroy(one.commitment)
    left = files(path)
    assert not [one for one in rows if one.salt in left]


def test_a_salt_that_was_put_again_is_destroyed_in_both_places(path: Path, salts: Salts) -> None:
    one, more = drawn(1)[0], drawn(200)
    salts.put([one])
    salts.put(more)
    new = Salt(one.commitment, DRAW.randbytes(32), one.content)
    salts.put([new])
    salts.destroy(one.commitment)
    assert one.salt not in files(path)
    assert new.salt not in files(path)


def test_while_somebody_reads_a_salt_is_not_said_to_be_destroyed(path: Path, salts: Salts) -> None:
    one, other = drawn(2)
    salts.put([one])
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM salt").fetchone()
        salts.put([other])
        salts._database.execute("PRAGMA busy_timeout = 50")
        with pytest.raises(StoreError, match=r"somebody else has .* open"):
            salts.destroy(one.commitment)
        reader.execute("ROLLBACK")
        salts.destroy(one.commitment)
    assert one.salt not in files(path)
    assert salts.get(other.commitment) == other


def test_after_a_refusal_of_the_disk_it_goes_on(path: Path, salts: Salts) -> None:
    one, other = drawn(2)
    with closing(sqlite3.connect(path)) as other_side:
        other_side.execute(
            "CREATE TRIGGER no BEFORE INSERT ON salt BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        )
        other_side.commit()
        with pytest.raises(StoreError, match=r"the salts at .* the disk is full"):
            salts.put([one])
        other_side.execute("DROP TRIGGER no")
        other_side.commit()
    assert salts.get(one.commitment) is None
    salts.put([other])
    assert salts.get(other.commitment) == other


def test_what_is_no_file_of_salts_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text" * 1000)
    for place in (tmp_path / "text", tmp_path, tmp_path / "text" / "below"):
        with pytest.raises(StoreError, match="could not be read or written"):
            Salts(place)
