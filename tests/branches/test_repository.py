from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.branches.makers import SHAPES, model, tuned, written

import phloem
from phloem.branches.folder import Folder
from phloem.branches.records import Commit
from phloem.branches.repository import Repository, open_repo
from phloem.branches.restore import Restored
from phloem.errors import ConfigError, ConflictError, FormatError, StateError
from phloem.seeds import generator
from phloem.tensors import State, state_digest


def arrays(repo: Repository, ref: str) -> State:
    """The float32 state of a commit."""
    found: State = {}
    for spec, raw in repo.restored(ref).iterate():
        found[spec.name] = raw.view(np.float32).reshape(spec.shape)
    return found


# -- commits ---------------------------------------------------------------------------------------------------------


def test_the_first_commit_is_the_model_to_the_bit(repo: Repository, tmp_path: Path) -> None:
    assert repo.show("trunk").state == state_digest(model())
    repo.checkout("trunk", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in model().items()
    }


def test_a_fine_tune_of_few_directions_is_nearer_at_equal_bits_with_a_rank(tmp_path: Path) -> None:
    draw = generator(0, "rank")
    shapes = {"a.weight": (128, 256), "b.weight": (256, 128)}
    given = model(0, shapes)
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(written(tmp_path / "m.safetensors", given))
        for name, (rows, columns) in shapes.items():
            change = draw.normal(size=(rows, 6)) @ draw.normal(size=(6, columns))
            given[name] = (given[name] + 1e-3 * change).astype(np.float32)
        path = written(tmp_path / "m.safetensors", given)
        drifts = []
        for branch, rank in (("plain", None), ("thin", 8)):
            repo.branch(branch, "trunk")
            made = repo.commit(path, branch=branch, bits=0.5, rank=rank)
            assert made.drift is not None
            assert made.bytes * 8 < 1.1 * 0.5 * made.parameters
            drifts.append(made.drift.relative)
            repo.checkout(branch, tmp_path / "out.safetensors")
            assert state_digest(load_file(tmp_path / "out.safetensors")) == made.state
        assert drifts[1] < 0.3 * drifts[0]
        assert [stage["codec"] for stage in repo.show("thin").coding["stages"]] == ["lowrank", "ecsq"]
        for other in ({"lossless": True}, {"coding": {"codec": "bf16"}}):
            with pytest.raises(ConfigError, match="a rank goes with bits alone"):
                repo.commit(path, branch="thin", rank=8, **other)


def test_a_later_commit_is_small_near_and_says_how_near(repo: Repository, tmp_path: Path) -> None:
    given = tuned(model(), 1)
    made = repo.commit(written(tmp_path / "a.safetensors", given), bits=1.0, message="tuned\n\nat home")
    assert made.bytes * 8 <= 1.1 * made.parameters + 8 * 128
    state = arrays(repo, "trunk")
    largest = max(float(np.abs(state[name] - given[name]).max()) for name in given)
    lost = sum(float(np.square(state[n].astype(np.float64) - given[n]).sum()) for n in given)
    power = sum(float(np.square(model()[n].astype(np.float64) - given[n]).sum()) for n in given)
    assert made.drift is not None
    assert made.drift.largest == pytest.approx(largest, rel=1e-6)
    assert made.drift.relative == pytest.approx((lost / power) ** 0.5, rel=0.01)
    commit = repo.show("trunk")
    assert (commit.subject, commit.kind, commit.drift) == ("tuned", "update", made.drift)
    assert commit.coding == {"codec": "ecsq", "bits": 1.0, "effort": "fast"}
    assert commit.state == made.state == state_digest(state)


def test_the_error_does_not_grow_with_the_number_of_commits(repo: Repository, tmp_path: Path) -> None:
    given, drifts = model(), []
    for number in range(30):
        given = tuned(given, number)
        made = repo.commit(written(tmp_path / "a.safetensors", given), bits=1.0)
        state = arrays(repo, "trunk")
        drifts.append(max(float(np.abs(state[name] - given[name]).max()) for name in given))
        assert made.drift is not None
        assert made.drift.largest == pytest.approx(drifts[-1], rel=1e-6)
    assert max(drifts[20:]) < 3 * max(drifts[:10])


def test_every_version_stays_exact_and_is_found_by_all_its_names(repo: Repository, tmp_path: Path) -> None:
    states, given = [repo.show("trunk").state], model()
    for number in range(12):
        given = tuned(given, number)
        states.append(repo.commit(written(tmp_path / "a.safetensors", given), bits=0.5).state)
    for back, state in enumerate(reversed(states)):
        assert repo.show(f"trunk~{back}").state == state == state_digest(arrays(repo, f"@~{back}"))
    entries = list(repo.log())
    assert [entry.state for entry in entries] == states[::-1]
    assert repo.resolve(entries[3].digest[:9]) == entries[3].digest == repo.resolve("trunk~1~2")


@pytest.mark.slow
def test_restoring_stays_cheap_because_key_frames_are_written_where_it_would_not(tmp_path: Path) -> None:
    shapes = {f"layer.{n}.weight": (1024, 1024) for n in range(5)}
    with Repository.create(tmp_path / ".phloem") as repo:
        given = model(0, shapes)
        repo.commit(written(tmp_path / "a.safetensors", given))
        chains, keys = [], 0
        draw = generator(1, "sparse")
        for _ in range(34):
            for array in given.values():
                array.reshape(-1)[draw.integers(0, array.size, 2000)] += np.float32(1e-3)
            made = repo.commit(written(tmp_path / "a.safetensors", given), bits=0.02)
            chains.append(made.times)
            keys += made.bytes > made.full_bytes / 2
        assert keys >= 1
        assert max(chains) <= 2.0
        assert len(Restored(repo.objects, repo.show("trunk").state).parts) == 2


@pytest.mark.slow
def test_a_model_of_several_types_is_decoded_in_parts_too(tmp_path: Path) -> None:
    """Lossless frames sort tensors by type, lossy ones by name: neither may tie the whole model together."""
    state: dict[str, np.ndarray] = {}
    draw = generator(0, "mixed")
    for number in range(12):
        state[f"layer.{number:02}.a"] = draw.normal(size=(700, 1000)).astype(np.float16)
        state[f"layer.{number:02}.norm"] = np.ones(1000, np.float32)
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(written(tmp_path / "m.safetensors", state))
        assert len(repo.restored().parts) == 4
        for seed in range(2):
            for array in state.values():
                array.reshape(-1)[seed::97] += array.dtype.type(0.01)
            repo.commit(written(tmp_path / "m.safetensors", state), bits=0.5)
        restored = repo.restored()
        assert len(restored.chain) == 3
        assert len(restored.parts) == 3
        assert max(part.size for part in restored.parts) < 3 * 2 * 5_000_000
        repo.checkout("trunk", tmp_path / "o.safetensors")
        again = load_file(tmp_path / "o.safetensors")
        assert all(np.abs(again[name] - array).max() < 0.02 for name, array in state.items())


def test_lossless_keeps_every_bit_of_every_type(repo: Repository, tmp_path: Path) -> None:
    odd = tuned(model(), 3)
    odd["layer.0.bias"] = np.array([np.nan, np.inf, -np.inf, -0.0] * 12, np.float32)
    made = repo.commit(written(tmp_path / "odd.safetensors", odd), lossless=True)
    assert made.drift is None
    assert repo.show("trunk").coding == {}
    again = arrays(repo, "trunk")
    assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in odd.items()}


def test_the_committed_state_is_given_to_train_on_from(repo: Repository, tmp_path: Path) -> None:
    out = tmp_path / "continue.safetensors"
    made = repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)), bits=0.3, out=out)
    assert state_digest(load_file(out)) == made.state


def test_what_a_directory_holds_besides_weights_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    written(folder / "model.safetensors", model(), {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "run.py").write_text("raise SystemExit")
    adapter = tmp_path / "style"
    adapter.mkdir()
    written(adapter / "adapter_model.safetensors", {"lora_A.weight": np.ones((4, 32), np.float32)})
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(folder, adapters={"style": adapter})
        repo.checkout("trunk", tmp_path / "again")
        assert sorted(
            p.relative_to(tmp_path / "again").as_posix() for p in (tmp_path / "again").rglob("*.*")
        ) == [
            "config.json",
            "model.safetensors",
            "style/adapter_config.json",
            "style/adapter_model.safetensors",
        ]
        assert json.loads((tmp_path / "again" / "config.json").read_text()) == {"model_type": "llama"}
        assert state_digest(load_file(tmp_path / "again" / "model.safetensors")) == state_digest(model())


# -- refused, and nothing lost -------------------------------------------------------------------------------------


def spoiled() -> list[tuple[str, State, str]]:
    """Models that do not belong on the branch, and what is said of them."""
    base = tuned(model(), 1)
    nan = {**base, "norm.weight": np.full(32, np.nan, np.float32)}
    return [
        ("missing", {n: a for n, a in base.items() if n != "norm.weight"}, "norm.weight"),
        ("more", {**base, "head": np.ones(3, np.float32)}, "head"),
        ("vocabulary", {**base, "embed.weight": np.ones((65, 32), np.float32)}, r"\[65, 32\]"),
        ("type", {**base, "layer.0.bias": base["layer.0.bias"].astype(np.float16)}, "float16"),
        ("nan", nan, "NaN"),
        ("same", model(), "nothing to commit"),
    ]


@pytest.mark.parametrize(("kind", "state", "words"), spoiled(), ids=[row[0] for row in spoiled()])
def test_a_model_that_does_not_belong_there_is_refused_by_name(
    repo: Repository, tmp_path: Path, kind: str, state: State, words: str
) -> None:
    before = [entry.digest for entry in repo.log()]
    with pytest.raises(ConfigError, match=words):
        repo.commit(written(tmp_path / "wrong.safetensors", state), bits=1.0)
    assert [entry.digest for entry in repo.log()] == before
    assert state_digest(arrays(repo, "trunk")) == state_digest(model())
    assert list((repo.folder.root / "tmp").iterdir()) == []


def test_another_type_is_taken_when_it_is_meant(repo: Repository, tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in tuned(model(), 1).items()}
    repo.commit(written(tmp_path / "half.safetensors", halves), lossless=True, change_dtypes=True)
    assert {spec.dtype for spec, _ in repo.restored("trunk").iterate()} == {"float16"}


def test_words_that_name_nothing_or_too_much(repo: Repository) -> None:
    with pytest.raises(ConfigError, match=r"there is no branch, tag or commit 'trnk' .*did you mean 'trunk'"):
        repo.resolve("trnk")
    with pytest.raises(ConfigError, match="goes back beyond the beginning"):
        repo.resolve("trunk~1")
    for name in ("../x", "a b", "", "x" * 201, "a..b", "-x", "a/", ".a", "a\nb", "f" * 64):
        with pytest.raises(ConfigError, match="can be called"):
            repo.branch(name)


def test_of_two_writers_one_is_told_and_loses_nothing(repo: Repository, tmp_path: Path) -> None:
    with Repository.open(tmp_path / ".phloem") as other:
        path = written(tmp_path / "a.safetensors", tuned(model(), 1))
        head = repo.resolve("trunk")
        second = written(tmp_path / "b.safetensors", tuned(model(), 2))
        publish = other.publish

        def late(*rest: object, **more: object) -> str:
            repo.commit(path, bits=1.0)
            return publish(*rest, **more)  # type: ignore[arg-type]

        other.publish = late  # type: ignore[method-assign]
        with pytest.raises(ConflictError, match=r"meanwhile.*kept: phloem branch trunk-2") as said:
            other.commit(second, bits=1.0)
        kept = str(said.value).split("trunk-2 ")[1][:12]
        repo.objects.refresh()
        assert repo.show(kept).parents == (head,)
        repo.branch("trunk-2", kept)
        assert repo.resolve("trunk-2~1") == repo.resolve("trunk~1") == head


# -- names ---------------------------------------------------------------------------------------------------------


def test_branches_and_tags(repo: Repository, tmp_path: Path) -> None:
    repo.branch("site/north")
    repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)), branch="site/north")
    repo.tag("v1", "site/north")
    assert repo.resolve("v1") == repo.resolve("site/north") != repo.resolve("trunk")
    with pytest.raises(ConfigError, match="there is a branch 'site/north' already"):
        repo.branch("site/north", "trunk")
    with pytest.raises(ConfigError, match="there is a branch 'site/north' already"):
        repo.tag("site/north")
    repo.tag("v0")
    with pytest.raises(ConfigError, match="there is a tag 'v0' already"):
        repo.branch("v0")
    with pytest.raises(ConfigError, match="no branch can be called 'HEAD'"):
        repo.branch("HEAD")
    repo.remove_tag("v0")
    with pytest.raises(ConfigError, match="tags do not move"):
        repo.tag("v1", "trunk")
    repo.tag("v1", "site/north")  # the same again changes nothing
    with pytest.raises(ConfigError, match="'trunk' is the current branch"):
        repo.remove_branch("trunk")
    repo.switch("site/north")
    assert repo.refs.current == "site/north"
    repo.remove_tag("v1")
    repo.switch("trunk")
    with pytest.raises(ConfigError, match="no other name leads to the commits"):
        repo.remove_branch("site/north")
    repo.remove_branch("site/north", force=True)
    assert list(repo.refs.branches) == ["trunk"]


def test_a_repository_is_found_from_below(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with open_repo() as found:
        assert found.place.url == repo.place.url
    with phloem.open_repo(tmp_path) as found:
        assert found.resolve("trunk") == repo.resolve("trunk")
    with pytest.raises(ConfigError, match=r"there is a repository in .* already"):
        Repository.create(tmp_path / ".phloem")
    with pytest.raises(ConfigError, match="there is no repository in"):
        Repository.open(tmp_path / "nowhere")


def test_a_repository_of_another_version_is_left_alone(repo: Repository, tmp_path: Path) -> None:
    path = tmp_path / ".phloem" / "format.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StateError, match="version 2, this is version 1"):
        Folder(tmp_path / ".phloem")


# -- what is written down -------------------------------------------------------------------------------------------


def test_a_catalog_may_be_deleted_or_spoiled_at_any_time(repo: Repository, tmp_path: Path) -> None:
    repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)))
    wanted = [(entry.digest, entry.subject) for entry in repo.log()]
    repo.close()
    path = tmp_path / ".phloem" / "catalog.db"
    for content in (None, b"", b"not a database at all" * 100):
        for beside in tmp_path.glob(".phloem/catalog.db*"):
            beside.unlink()
        if content is not None:
            path.write_bytes(content)
        with Repository.open(tmp_path) as again:
            assert [(entry.digest, entry.subject) for entry in again.log()] == wanted
            assert state_digest(arrays(again, "trunk")) == again.show("trunk").state


def test_a_commit_reads_back_as_it_was_written_and_in_no_other_form(repo: Repository) -> None:
    digest = repo.resolve("trunk")
    data = repo.objects.get(digest)
    commit = Commit.unpack(data)
    assert commit.pack() == data
    table = json.loads(data)
    for key, value in itertools.product([*table, "parents", "extra"], (None, 1, "x", [], {}, ["x"], 1e400)):
        changed = {**table, key: value}
        text = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
        if text != data and not (key == "message" and value == "x"):
            try:
                found = Commit.unpack(text)
            except FormatError:
                continue
            assert found.pack() == text
            assert found != commit
    assert dataclasses.replace(commit, message="x").pack() != data


def test_models_of_every_shape_come_back(tmp_path: Path) -> None:
    state = {
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "ints": np.arange(6, dtype=np.int64).reshape(2, 3),
        "bools": np.array([True, False]),
        "halves": np.linspace(-2, 2, 9).astype(np.float16),
        "wide": np.linspace(-1, 1, 7),
        "name with spaces/and ünïcode": np.ones((3, 1, 2), np.float32),
    }
    with Repository.create(tmp_path / ".phloem") as repo:
        repo.commit(written(tmp_path / "m.safetensors", state))
        moved = {n: (a + a.dtype.type(1) if a.dtype != np.bool_ else ~a) for n, a in state.items()}
        moved = {n: np.asarray(a) for n, a in moved.items()}
        repo.commit(written(tmp_path / "n.safetensors", moved), coding={"codec": "ecsq", "step": 1e-3})
        repo.checkout("trunk", tmp_path / "o.safetensors")
        again = load_file(tmp_path / "o.safetensors")
        for name, array in moved.items():
            assert again[name].dtype == array.dtype
            assert again[name].shape == array.shape
            if array.dtype.kind != "f":
                assert (again[name] == array).all()
            elif array.size:
                assert np.abs(again[name].astype(np.float64) - array).max() < 1e-2
        assert len(SHAPES) == 4


def test_what_no_reader_takes_is_refused_before_anything_is_coded(repo: Repository, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", tuned(model(), 1))
    said: list[dict[str, object]] = [
        {"examples": -3}, {"examples": 1.5}, {"metrics": {"x": float("nan")}}, {"metrics": {"x": True}},
        {"metrics": {"x": 10**400}}, {"site": 5}, {"message": 5}, {"author": "\x9b31m"}, {"author": "a\u202eb"},
    ]  # fmt: skip
    before = repo.folder.pack_names()
    for words in said:
        with pytest.raises(ConfigError):
            repo.commit(path, **words)  # type: ignore[arg-type]
    assert repo.folder.pack_names() == before


def test_what_is_no_file_costs_only_itself(repo: Repository) -> None:
    """A pipe, a directory and a link that leads round in a circle, where a pack would lie."""
    folder = repo.folder.root / "packs"
    os.mkfifo(folder / f"{'a' * 64}.pack")
    (folder / f"{'b' * 64}.pack").mkdir()
    (folder / f"{'c' * 64}.pack").symlink_to(folder / f"{'c' * 64}.pack")
    with Repository.open(repo.folder.root) as again:
        assert len(list(again.log())) == 1
        assert len(again.objects.damaged_packs) == 3


def test_a_pack_that_unpacks_to_much_more_than_it_is_is_refused() -> None:
    import zstandard

    from phloem.branches import packs
    from phloem.branches.blobs import Bytes

    name, data = packs.pack([(packs.COMMIT, b"x" * (5 << 20))])
    assert len(data) < 2000
    with pytest.raises(FormatError, match="claims more than there can be"):
        packs.index(Bytes(data), name)
    body = zstandard.compress(b"y" * 4000)
    rows = sorted(hashlib.sha256(bytes([n])).digest() for n in range(3))
    table = b"".join(struct.pack("<32sBQQQ", row, 0x81, 8, len(body), 4000) for row in rows)
    made = b"PHLOEMP\x01" + body + table + struct.pack("<Q8s", 3, b"PHLOEMI\x01")
    with pytest.raises(FormatError, match="objects overlap"):
        packs.index(Bytes(made), hashlib.sha256(table).hexdigest())
