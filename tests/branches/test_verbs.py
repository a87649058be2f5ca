"""Every verb of the command is a method, too."""

from __future__ import annotations

from pathlib import Path

from tests.branches.makers import model, tuned, written

import phloem
from phloem.branches.repository import Repository


def test_a_repository_from_its_start_to_another_place_in_python(repo: Repository, tmp_path: Path) -> None:
    for number, name in enumerate(("ant", "bee")):
        repo.branch(name)
        repo.commit(written(tmp_path / "m.safetensors", tuned(model(), number)), branch=name, bits=2)
    assert repo.diff("ant", "bee").total.differing == 4
    assert repo.advise("ant", "bee").verdict in ("merge", "keep apart", "groups")
    made = repo.merge("ant", "bee", method={"name": "ties", "density": 0.5})
    assert repo.resolve("trunk") == made.commit
    assert repo.verify(replay=True).replayed == 1
    repo.commit(written(tmp_path / "m.safetensors", tuned(model(), 9)), branch="ant", bits=1)
    state = repo.show("ant").state
    assert repo.squash("ant", "trunk~1").squashed == 2
    assert repo.show("ant").state == state
    assert repo.gc(dry_run=True, grace_seconds=0).bytes == repo.gc(grace_seconds=0).bytes
    repo.repack()
    assert repo.fsck(deep=True).whole
    pushed = repo.push(tmp_path / "there", ["trunk", "ant", "bee"])
    assert set(pushed.moved) == {"trunk", "ant", "bee"}
    with phloem.Repository.create(tmp_path / "third") as third:
        third.pull(tmp_path / "there")
        assert {name: third.show(name).state for name in ("trunk", "ant", "bee")} == {
            name: repo.show(name).state for name in ("trunk", "ant", "bee")
        }
        assert third.verify("trunk", replay=True).wrong == ()
