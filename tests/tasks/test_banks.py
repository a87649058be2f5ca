from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phloem.errors import ConfigError
from phloem.tasks import load_task
from phloem.tasks.banks import Banks
from phloem.tensors import state_digest

SITES = [f"bank-{i}" for i in range(6)]
COLUMNS = {"label": "stolen", "site": "branch", "features": ["amount", "hour"]}


@pytest.fixture(scope="module")
def task() -> Banks:
    return Banks(SITES, 0, transactions=12_000)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["amount,hour,branch,stolen"]
    for row in range(300):
        stolen = row % 10 == 0
        amount = rng.lognormal(5 if stolen else 3, 0.5)
        lines.append(f"{amount:.2f},{rng.integers(24)},{'north' if row % 3 else 'south'},{int(stolen)}")
    path = tmp_path / "cards.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_generated_banks_repeat_to_the_bit(task: Banks) -> None:
    other = Banks(SITES, 0, transactions=12_000)
    assert task.data_digest == other.data_digest != Banks(SITES, 1, transactions=12_000).data_digest
    start = task.initial_state(0)
    one = task.train(start, task.shard("bank-2"), {}, 1)[0]
    two = task.train(start, other.shard("bank-2"), {}, 1)[0]
    assert state_digest(one) == state_digest(two) != state_digest(start)


def test_banks_are_of_unequal_size_and_pool_to_all_of_them(task: Banks) -> None:
    sizes = [len(task.shard(site)) for site in SITES]
    assert sizes[0] > 2 * sizes[-1]
    assert len(task.pooled_shard()) == sum(sizes)


def test_training_ranks_fraud_far_above_chance(task: Banks) -> None:
    state = task.initial_state(0)
    for seed in range(3):
        state = task.train(state, task.pooled_shard(), {}, seed)[0]
    assert task.evaluate(state, "stop")["average_precision"] > 0.3


def test_a_csv_gives_every_named_site_its_rows(table: Path) -> None:
    task = Banks(["north", "south"], 0, csv=str(table), units=[10.0, 12], **COLUMNS)
    assert len(task.shard("north")) == 120
    assert len(task.shard("south")) == 60
    assert len(task.data_digest) == 64
    state = task.initial_state(0)
    for seed in range(20):
        state = task.train(state, task.pooled_shard(), {}, seed)[0]
    assert task.evaluate(state, "stop")["average_precision"] > 0.5
    assert 0 <= task.evaluate(state, "test")["average_precision"] <= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"csv": "nowhere.csv"}, "cannot be read: No such file"),
        ({"features": ["amuont", "hour"]}, "no column 'amuont' (did you mean 'amount'?)"),
        ({"label": "fraud"}, "no column 'fraud'"),
        ({"site": "brnch"}, "did you mean 'branch'"),
        ({"features": ["branch"]}, "column 'branch' must be a number, found 'south'"),
        ({"label": "hour"}, "must be 0 or 1"),
        ({"features": []}, "must list the columns"),
        ({"features": "amount"}, "must list the columns"),
        ({"units": [1.0]}, "one number per feature, 2, found 1"),
        ({"units": [1.0, 0]}, "must be more than 0"),
        ({"units": [1.0, "km"]}, "must hold numbers"),
    ],
)
def test_a_wrong_file_or_column_is_named(table: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task("banks", ["north", "south"], 0, {"csv": str(table), **COLUMNS, **options})
    assert sentence in str(caught.value)


def test_a_site_without_rows_is_named(table: Path) -> None:
    with pytest.raises(ConfigError, match="0 rows of site 'west'"):
        Banks(["north", "west"], 0, csv=str(table), **COLUMNS)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no column 'amount'"),
        (b"amount,hour,branch,stolen\n", "has no rows"),
        (b"amount,hour,branch,stolen\n1,2\n", "line 2"),
        (b"amount,hour,branch,stolen\n1,,north,0\n", "column 'hour' must be a number, found ''"),
        (b"amount,hour,branch,stolen\nnan,1,north,0\n", "column 'amount' must be a number"),
        (b"amount,hour,branch,stolen\n1e99,1,north,0\n", "column 'amount' must be a number"),
        (b"x" * 200_000 + b"\n1\n", "is not CSV"),
        (b"amount,hour,branch,stolen\n1,2," + b"x" * 200_000 + b",0\n", "is not CSV"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Banks(["north"], 0, csv=str(path), **COLUMNS)
    assert sentence in str(caught.value)


def test_a_label_that_never_happens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calm.csv"
    path.write_text("amount,hour,branch,stolen\n" + "1,2,north,0\n" * 50, encoding="utf-8")
    with pytest.raises(ConfigError, match="too few rows with stolen = 1"):
        Banks(["north"], 0, csv=str(path), **COLUMNS)
