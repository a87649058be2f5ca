from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.branches.makers import model, tuned, written
from tests.files.models import Arrays, mixed, moved, raw, write

from phloem import canonical
from phloem.branches import comparing, restore
from phloem.branches.catalog import Entry
from phloem.branches.comparing import Difference, common_base, compare, compare_commits, layer_of
from phloem.branches.repository import Repository
from phloem.branches.restore import Restored
from phloem.errors import FormatError, NotFoundError
from phloem.files import sections
from phloem.seeds import generator


class Shelf:
    """States in repositories of their own, for those that one repository would not take side by side."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._repos = folder, list[Repository]()

    def state(self, tensors: Arrays, then: Arrays | None = None, **options: Any) -> Restored:
        """The state of a model, or of a second one that is committed after it."""
        place = self._folder / str(len(self._repos))
        place.mkdir()
        repo = Repository.create(place / ".phloem")
        self._repos.append(repo)
        repo.commit(write(place / "first.safetensors", tensors))
        if then is not None:
            repo.commit(write(place / "then.safetensors", then), **(options or {"lossless": True}))
        found: Restored = repo.restored()
        return found

    def close(self) -> None:
        for repo in self._repos:
            repo.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, ...]]:
    """How often each part was decoded since, by its names."""
    found: Counter[tuple[str, ...]] = Counter()
    really = restore.Part.decoded

    def counted(part: restore.Part, pool: Any = None) -> restore.Tensors:
        found[tuple(part.names)] += 1
        return really(part, pool)

    monkeypatch.setattr(restore.Part, "decoded", counted)
    return found


def floats32(tensors: Mapping[str, Any]) -> Arrays:
    return {name: ("float32", np.asarray(array, np.float32)) for name, array in tensors.items()}


def figures(found: Difference, name: str) -> comparing.Figures:
    return next(row.figures for row in found.rows if row.name == name)


def branched(repo: Repository, folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """A branch from trunk for each of these models, kept exactly."""
    for name, state in changes.items():
        repo.branch(name, "trunk")
        repo.commit(written(folder / f"{name}.safetensors", state), branch=name, lossless=True)


# -- figures ---------------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_definitions(repo: Repository, tmp_path: Path) -> None:
    a, b = tuned(model(), 1), tuned(model(), 2)
    branched(repo, tmp_path, {"a": a, "b": b})
    found = compare_commits(repo.objects, repo.resolve("a"), repo.resolve("b"))
    assert found.base == repo.show("trunk").state
    assert [row.name for row in found.rows] == sorted(model())
    flat = [
        (x, {name: array.astype(np.float64).reshape(-1) for name, array in x.items()})
        for x in (a, b, model())
    ]
    for names, said in [((name,), figures(found, name)) for name in model()] + [
        (tuple(model()), found.total.figures)
    ]:
        x, y, z = (np.concatenate([doubles[name] for name in names]) for _, doubles in flat)
        assert said.parameters == said.compared == x.size
        assert said.changed == np.count_nonzero(x != y)
        assert said.largest == np.abs(y - x).max()
        both = ((x - z) != 0) & ((y - z) != 0)
        assert said.both == np.count_nonzero(both)
        assert said.agreement == np.count_nonzero(both & ((x > z) == (y > z))) / np.count_nonzero(both)
        wanted = {
            "norm": np.linalg.norm(y - x),
            "norm_a": np.linalg.norm(x),
            "relative": np.linalg.norm(y - x) / np.linalg.norm(x),
            "moved_a": np.linalg.norm(x - z),
            "moved_b": np.linalg.norm(y - z),
            "ratio": np.linalg.norm(y - z) / np.linalg.norm(x - z),
            "cosine": (x - z) @ (y - z) / np.linalg.norm(x - z) / np.linalg.norm(y - z),
        }
        assert {name: getattr(said, name) for name in wanted} == pytest.approx(wanted, rel=1e-9)


def test_long_tensors_are_summed_over_all_stretches(shelf: Shelf) -> None:
    draw = generator(3, "comparing")
    size = 3 * comparing._LENGTH + 17
    a = draw.normal(size=size).astype(np.float32)
    b = a.copy()
    b[[0, comparing._LENGTH, size - 1]] += np.float32(2)
    found = compare(shelf.state(floats32({"w": a})), shelf.state(floats32({"w": b}))).total.figures
    assert (found.changed, found.compared) == (3, size)
    assert found.norm == pytest.approx(math.sqrt(12), rel=1e-6)
    assert found.norm_a == pytest.approx(float(np.linalg.norm(a.astype(np.float64))), rel=1e-12)


def test_every_type_is_compared_by_its_values(shelf: Shelf) -> None:
    one, other = mixed(), moved(mixed(), mixed("other", 0.01))
    found = compare(shelf.state(one), shelf.state(one, other))
    for row in found.rows:
        dtype, x = one[row.name]
        _, y = other[row.name]
        if dtype.startswith("float8"):
            continue
        if dtype == "bfloat16":
            x, y = (
                (raw(dtype, array).view("<u2").astype(np.uint32) << 16).view(np.float32) for array in (x, y)
            )
        x, y = (
            np.asarray(array).astype(dtype if dtype == "float16" else np.asarray(array).dtype)
            for array in (x, y)
        )
        wide = np.complex128 if dtype == "complex64" else np.float64
        x, y = x.reshape(-1).astype(wide), y.reshape(-1).astype(wide)
        assert row.figures.norm == pytest.approx(float(np.linalg.norm(y - x)), rel=1e-9), row.name
        assert row.figures.changed == np.count_nonzero(x != y), row.name
        assert row.figures.parameters == x.size


@pytest.mark.parametrize(
    ("dtype", "codes", "values", "missing"),
    [
        ("float8_e4m3fn", [0x38, 0xB8, 0x01, 0x7E, 0x08], [1.0, -1.0, 2**-9, 448.0, 2**-6], 0x7F),
        ("float8_e5m2", [0x3C, 0xBC, 0x01, 0x7B, 0x04], [1.0, -1.0, 2**-16, 57344.0, 2**-14], 0x7E),
        ("float8_e8m0fnu", [127, 128, 126, 0, 254], [1.0, 2.0, 0.5, 2.0**-127, 2.0**127], 0xFF),
    ],
)
def test_small_floats_have_the_values_of_their_format(
    dtype: str, codes: list[int], values: list[float], missing: int
) -> None:
    assert comparing._values(np.array(codes, np.uint8), dtype).tolist() == values
    assert np.isnan(comparing._values(np.array([missing], np.uint8), dtype)).all()


def test_values_that_differ_in_their_bits_alone_count_as_changed(shelf: Shelf) -> None:
    a = np.array([0.0, 1.0, 2.0], np.float32)
    found = compare(shelf.state(floats32({"w": a})), shelf.state(floats32({"w": [-0.0, 1.0, 2.0]})))
    (row,) = found.rows
    assert (row.identical, row.figures.changed, row.figures.norm, row.figures.relative) == (
        False,
        1,
        0.0,
        0.0,
    )


def test_what_has_no_direction_or_no_size_is_undefined_not_a_number(shelf: Shelf) -> None:
    zeros, ones = np.zeros(4), np.ones(4)
    a, b = shelf.state(floats32({"w": zeros})), shelf.state(floats32({"w": ones}))
    found = compare(a, b, a).total.figures
    assert (found.relative, found.cosine, found.ratio, found.agreement) == (None, None, None, None)
    assert (found.norm, found.moved_a, found.moved_b) == (2.0, 0.0, 2.0)


def test_values_that_are_not_finite_are_named_and_left_out_of_the_sums(shelf: Shelf) -> None:
    base = np.arange(1, 7, dtype=np.float32)
    a, b = base + np.float32(1), base + np.float32(1)
    a[0], b[1], b[2] = np.nan, np.inf, np.nan
    tensors = [floats32({"fine": base, "w": array}) for array in (a, b, base)]
    found = compare(
        *(shelf.state(floats32({"fine": base, "w": base}), one) for one in tensors[:2]),
        shelf.state(tensors[2]),
    )
    assert [(row.name, row.not_finite) for row in found.not_finite] == [("w", (1, 2, 0))]
    said = figures(found, "w")
    assert (said.changed, said.compared, said.norm) == (3, 6, 0.0)
    assert said.cosine == pytest.approx(1.0)
    assert (said.both, said.agreeing) == (3, 3)
    assert said.norm_a == pytest.approx(math.sqrt(25 + 36 + 49))
    canonical.dumps(found.to_json())


def test_sums_beyond_float64_are_undefined(shelf: Shelf) -> None:
    a, b = ({"w": ("float64", np.array([scale, 1.0]))} for scale in (1e200, 2e200))
    found = compare(shelf.state(a), shelf.state(a, b))
    assert (found.total.figures.norm, found.total.figures.relative) == (None, None)
    assert found.total.figures.largest == 1e200
    assert not found.not_finite
    canonical.dumps(found.to_json())


# -- what has to be decoded ------------------------------------------------------------------------------------------


def test_equal_tensors_are_not_decoded(
    tmp_path: Path, decoded: Counter[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "MOST_PARAMETERS", 1)  # each tensor in a part of its own
    first = Repository.create(tmp_path / "other" / ".phloem")
    first.commit(written(tmp_path / "model.safetensors", model()))
    for name, letter in (("a", 1), ("b", 2)):
        state = model()
        state["norm.weight"] = tuned(model(), letter)["norm.weight"]
        first.branch(name, "trunk")
        first.commit(written(tmp_path / f"{name}.safetensors", state), branch=name, lossless=True)
    a, b = first.resolve("a"), first.resolve("b")
    decoded.clear()
    found = compare_commits(first.objects, a, b)
    assert decoded == {("norm.weight",): 3}
    assert (found.total.tensors, found.total.differing) == (4, 1)
    same = next(row for row in found.rows if row.name == "embed.weight")
    assert (same.identical, same.figures.parameters, same.figures.compared) == (True, 64 * 32, 0)
    assert same.figures.relative == 0.0
    decoded.clear()
    assert compare_commits(first.objects, a, a).total.differing == 0
    assert not decoded
    first.close()


def test_two_that_went_the_same_way_have_the_cosine_one(repo: Repository, tmp_path: Path) -> None:
    branched(
        repo,
        tmp_path,
        {"a": tuned(model(), 1), "b": tuned(model(), 1) | {"norm.weight": np.ones(32, np.float32)}},
    )
    found = compare_commits(repo.objects, repo.resolve("a"), repo.resolve("b"))
    same = figures(found, "embed.weight")
    assert (same.changed, same.cosine, same.agreement, same.ratio) == (0, pytest.approx(1.0), 1.0, 1.0)
    assert same.compared == same.parameters  # its way counts among those of the whole model
    assert found.total.differing == 1


def test_a_part_is_decoded_once_also_where_the_parts_of_the_two_differ(
    shelf: Shelf, decoded: Counter[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "MOST_PARAMETERS", 250)
    draw = generator(4, "comparing")

    def some(step: float) -> Arrays:
        # Kept exactly, types go apart; kept with loss, they lie together.
        return {
            f"layers.{n}.{kind}": (dtype, (1 + step * draw.normal(size=100)).astype(np.float32))
            for n in range(10)
            for kind, dtype in (("norm", "float32"), ("weight", "bfloat16"))
        }

    root, later = some(0.1), some(0.2)
    a = shelf.state(root)
    b = shelf.state(root, later, bits=4.0)
    decoded.clear()
    forth, back = compare(a, b), compare(b, a)
    assert set(decoded.values()) == {2}
    assert set(decoded) == {tuple(part.names) for one in (a, b) for part in one.parts}
    assert len(a.parts) > 1
    assert forth.total.figures.norm == pytest.approx(back.total.figures.norm)
    assert [row.name for row in forth.rows] == sorted(root)


def test_few_tensors_are_in_memory_at_a_time(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "MOST_PARAMETERS", 1)
    draw = generator(5, "comparing")
    one, other = (floats32({f"layers.{n}.w": draw.normal(size=1 << 16) for n in range(48)}) for _ in range(2))
    a, b = shelf.state(one), shelf.state(other)
    compare(a, b)  # what is made once
    tracemalloc.start()
    try:
        compare(a, b)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tensor = 4 << 16
    assert peak < 24 * tensor < 48 * 2 * tensor


def test_damage_is_refused_and_nothing_waits_for_it(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    branched(repo, tmp_path, {"a": tuned(model(), 1)})

    def damaged(part: restore.Part, pool: object = None) -> restore.Tensors:
        raise FormatError("a frame is damaged")

    monkeypatch.setattr(restore.Part, "decoded", damaged)
    with pytest.raises(FormatError, match="a frame is damaged"):
        compare_commits(repo.objects, repo.resolve("trunk"), repo.resolve("a"))


def test_progress_counts_what_has_to_be_compared(repo: Repository, tmp_path: Path) -> None:
    state = tuned(model(), 1) | {"embed.weight": model()["embed.weight"]}
    branched(repo, tmp_path, {"a": state})
    told: list[tuple[str, int, int]] = []
    compare_commits(
        repo.objects, repo.resolve("trunk"), repo.resolve("a"), progress=lambda *row: told.append(row)
    )
    total = sum(array.nbytes for name, array in state.items() if name != "embed.weight")
    assert told[-1] == ("comparing", total, total)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


# -- what cannot be compared -----------------------------------------------------------------------------------------


def test_other_tensors_shapes_and_types_are_listed_not_refused(shelf: Shelf) -> None:
    ones = np.ones((4, 2), np.float32)
    a = shelf.state(
        {
            "cast": ("float32", ones / 3),
            "gone": ("float32", ones),
            "reshaped": ("float32", ones),
            "same": ("float32", ones),
            "turned": ("float32", ones),
        }
    )
    b = shelf.state(
        {
            "cast": ("bfloat16", ones / 3),
            "new": ("int64", np.arange(3)),
            "reshaped": ("float32", ones.T),
            "same": ("float32", ones),
            "turned": ("complex64", ones.astype(np.complex64)),
        }
    )
    found = compare(a, b)
    assert [spec.name for spec in found.only_a] == ["gone"]
    assert [(spec.name, spec.dtype) for spec in found.only_b] == [("new", "int64")]
    assert [(x.name, x.shape, y.shape) for x, y in found.unlike] == [
        ("reshaped", (4, 2), (2, 4)),
        ("turned", (4, 2), (4, 2)),
    ]
    cast, same = found.rows
    assert (cast.dtype, cast.dtype_b, cast.identical, cast.figures.changed) == (
        "float32",
        "bfloat16",
        False,
        8,
    )
    assert 0 < (cast.figures.relative or 0) < 2**-8
    assert same.identical


def test_equal_bytes_of_two_types_are_not_the_same(shelf: Shelf) -> None:
    a = shelf.state({"w": ("int32", np.array([1, 2], np.int32))})
    b = shelf.state({"w": ("float32", np.array([1, 2], np.int32).view(np.float32))})
    (row,) = compare(a, b).rows
    assert not row.identical
    assert row.figures.norm == pytest.approx(math.sqrt(5))


def test_tensors_that_the_base_has_not_are_compared_without_it(shelf: Shelf) -> None:
    draw = generator(6, "comparing")
    a, b = (floats32({"new": draw.normal(size=5), "old": draw.normal(size=5)}) for _ in range(2))
    found = compare(shelf.state(a), shelf.state(b), shelf.state(floats32({"old": np.zeros(5)})))
    assert found.not_in_base == ("new",)
    assert figures(found, "new").cosine is None
    assert figures(found, "new").norm
    assert found.total.figures.cosine == figures(found, "old").cosine is not None


# -- which base ------------------------------------------------------------------------------------------------------


def entry(name: str, *parents: str, time: str = "2026-01-01T00:00:00Z") -> Entry:
    return Entry(name, parents, "state", "update", time, "me", name, None)


def test_the_base_is_the_newest_common_commit_that_is_neither_of_both() -> None:
    rows = [entry("root"), entry("fork", "root"), entry("a", "fork"), entry("b", "fork"), entry("alone")]
    commits = {row.digest: row for row in rows}
    assert common_base("a", "b", commits) == "fork"
    assert common_base("a", "fork", commits) is None
    assert common_base("root", "b", commits) is None
    assert common_base("a", "a", commits) is None
    assert common_base("a", "alone", commits) is None
    with pytest.raises(NotFoundError):
        common_base("a", "nowhere", commits)


def test_a_base_that_is_named_is_used(repo: Repository, tmp_path: Path) -> None:
    branched(repo, tmp_path, {"a": tuned(model(), 1)})
    trunk, a = repo.resolve("trunk"), repo.resolve("a")
    assert compare_commits(repo.objects, trunk, a).base is None
    found = compare_commits(repo.objects, trunk, a, trunk)
    assert found.base == repo.show("trunk").state
    assert (found.total.figures.moved_a, found.total.figures.cosine) == (0.0, None)
    assert found.total.figures.moved_b == found.total.figures.norm


# -- layers and JSON -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("transformer.h.0.attn.c_attn.weight", "transformer.h.0"),
        ("transformer.wte.weight", "transformer.wte"),
        ("transformer.ln_f.bias", "transformer.ln_f"),
        ("lm_head.weight", "lm_head"),
        ("model.layers.31.self_attn.q_proj.weight", "model.layers.31"),
        ("model.layers.31.mlp.experts.7.w1.weight", "model.layers.31"),
        ("encoder.block.11.layer.0.SelfAttention.q.weight", "encoder.block.11"),
        ("conv1.weight", "conv1"),
        ("bn1.running_mean", "bn1"),
        ("layer1.0.conv1.weight", "layer1.0"),
        ("layer4.2.downsample.0.weight", "layer4.2"),
        ("features.1.0.block.0.0.weight", "features.1.0"),
        ("fc.bias", "fc"),
        ("0.weight", "0"),
        ("w", "w"),
        ("w1", "w1"),
        ("0", "0"),
        ("params/Dense_0/kernel", "params/Dense_0"),
        ("prompts.0", "prompts"),
        ("adapter:v1.0/model.layers.3.self_attn.q_proj.lora_A.weight", "adapter:v1.0/model.layers.3"),
        ("..", ".."),
        ("", ""),
    ],
)
def test_tensors_are_grouped_as_people_speak_of_layers(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_layers_add_up_and_come_in_the_order_of_their_numbers(shelf: Shelf) -> None:
    draw = generator(7, "comparing")
    names = [f"h.{n}.{kind}" for n in (0, 2, 10) for kind in ("attn.weight", "mlp.weight")] + ["wte.weight"]
    a, b = (floats32({name: draw.normal(size=6) for name in names}) for _ in range(2))
    found = compare(
        shelf.state(a), shelf.state(b), shelf.state(floats32({name: np.zeros(6) for name in names}))
    )
    assert [(layer.name, layer.tensors, layer.differing) for layer in found.layers] == [
        ("h.0", 2, 2),
        ("h.2", 2, 2),
        ("h.10", 2, 2),
        ("wte", 1, 1),
    ]
    assert sum(layer.figures.parameters for layer in found.layers) == found.total.figures.parameters
    squares = sum((layer.figures.norm or 0) ** 2 for layer in found.layers)
    assert math.sqrt(squares) == pytest.approx(found.total.figures.norm)
    assert max(layer.figures.largest for layer in found.layers) == found.total.figures.largest


def test_the_json_form_has_everything_and_no_base_where_there_is_none(
    repo: Repository, tmp_path: Path
) -> None:
    branched(repo, tmp_path, {"a": tuned(model(), 1), "b": tuned(model(), 2)})
    trunk, a, b = (repo.resolve(name) for name in ("trunk", "a", "b"))
    found = compare_commits(repo.objects, a, b).to_json()
    assert canonical.loads(canonical.dumps(found)) == found
    assert (found["kind"], found["version"], found["a"]) == ("difference", 1, repo.show("a").state)
    assert [row["name"] for row in found["rows"]] == sorted(model())
    assert [layer["name"] for layer in found["layers"]] == ["embed", "layer.0", "norm"]
    assert -1 <= found["total"]["figures"]["cosine"] <= 1
    assert found["rows"][0]["shape"] == [64, 32]
    alone = compare_commits(repo.objects, trunk, a).to_json()
    assert alone["base"] is None
    assert "cosine" not in alone["total"]["figures"]
