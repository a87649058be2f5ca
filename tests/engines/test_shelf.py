"""Sites whose residuals lie on disk give the same run, and hold nothing in memory while they are not at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.test_local import Run
from tests.tiny import table

import phloem
from phloem.engines.host import Host
from phloem.engines.shelf import Shelf
from phloem.errors import ConfigError, FormatError
from phloem.recipe import load_recipe
from phloem.store.files import Store


@pytest.mark.parametrize("workers", [0, 2])
def test_residuals_on_disk_give_the_same_run(tmp_path: Path, workers: int) -> None:
    sites = {"dropout": 0.3, "late": 0.2}
    plain = phloem.build(table(count=5, sites=sites), out=tmp_path / "plain")
    spilled = phloem.build(
        table(count=5, sites=sites, run={"residuals": "disk", "workers": workers}), out=tmp_path / "spilled"
    )
    assert spilled.summary["state_digest"] == plain.summary["state_digest"]
    assert spilled.summary["total_bytes"] == plain.summary["total_bytes"]


def test_sites_that_are_not_at_work_hold_nothing_and_stand_on_one_trunk(tmp_path: Path) -> None:
    with Run(count=5) as run:
        run.engine.spill_to(Store(tmp_path))
        for _ in range(3):
            run.round()
        host = run.engine.hosts[0]
        assert isinstance(host, Host)
        for name, site in host.sites.items():
            assert site.at.residual.owed is None
            assert not host.memory[name]
            owed, memory = host.shelf.take(name) if host.shelf else ({}, {})
            assert any(array.any() for array in owed.values())
            assert memory["times"] == 3
        assert len({id(site.at.state["weight"]) for site in host.sites.values()}) == 1
        with pytest.raises(ValueError, match="read-only"):
            host.sites["site-0"].at.state["weight"][:] = 0


def test_a_shelf_keeps_what_a_snapshot_names_and_little_else(tmp_path: Path) -> None:
    def own(value: int) -> dict[str, Any]:
        return {"w": np.full(3, value, np.float32)}

    shelf = Shelf(Store(tmp_path))
    shelf.put("a", own(1), {})
    shelf.put("b", own(1), {})  # the same content, and yet a blob of its own
    pinned = shelf.pin(["a", "b"])
    assert pinned["a"] != pinned["b"]
    for value in range(2, 6):
        shelf.put("a", own(value), {"times": np.array(value)})
        assert len(list(shelf.store.digests())) == 3  # the snapshot's two, and the newest
    owed, memory = shelf.take("a")
    assert owed["w"].tolist() == [5, 5, 5]
    assert memory["times"] == 5
    assert shelf.take("b")[0]["w"].tolist() == [1, 1, 1]
    shelf.put("b", own(7), {})
    shelf.pin(["a", "b"])
    shelf.put("a", own(8), {})
    assert pinned["a"] in set(shelf.store.digests())  # no longer named, but only a snapshot forgets it


def test_a_damaged_blob_is_named(tmp_path: Path) -> None:
    shelf = Shelf(Store(tmp_path))
    shelf.put("a", {"w": np.ones(3, np.float32)}, {})
    (digest,) = shelf.pin(["a"]).values()
    path = tmp_path / "objects" / digest[:2] / digest[2:]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="is damaged"):
        shelf.take("a")


def test_another_word_for_where_residuals_lie_is_refused() -> None:
    with pytest.raises(ConfigError, match="'residuals' must be 'memory' or 'disk', found 'cloud'"):
        load_recipe(table(run={"residuals": "cloud"}))
