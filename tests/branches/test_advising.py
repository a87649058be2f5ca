from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.branches.makers import model, written

from phloem.branches import advising
from phloem.branches.advising import Advice, advise
from phloem.branches.committing import LOSSLESS, commit_of, store_model
from phloem.branches.drafts import Draft
from phloem.branches.records import now
from phloem.branches.repository import Repository
from phloem.errors import ConfigError
from phloem.files.tensorfile import TensorFile, silent
from phloem.seeds import generator
from phloem.tensors import State

SITES = ("ant", "bee", "cat", "dog")
Grow = Callable[..., None]


def way(seed: int) -> State:
    """A direction to move in."""
    draw = generator(seed, "advising", "way")
    return {name: draw.normal(size=array.shape).astype(np.float32) for name, array in model().items()}


def moved(*ways: tuple[float, State], base: State | None = None) -> State:
    """The model, moved so far each way."""
    start = model() if base is None else base
    return {
        name: array + sum(np.float32(far) * one[name] for far, one in ways) for name, array in start.items()
    }


@pytest.fixture
def grow(repo: Repository, tmp_path: Path) -> Grow:
    """Adds a branch off the trunk, exactly."""

    def add(name: str, state: Mapping[str, object], **rest: object) -> None:
        repo.branch(name, "trunk")
        path = written(tmp_path / f"{name}.safetensors", state)
        repo.commit(path, branch=name, lossless=True, **rest)  # type: ignore[arg-type]

    return add


def alike(
    grow: Grow, names: Sequence[str] = SITES, shared: float = 1e-2, own: float = 1e-2, start: int = 0
) -> None:
    """Branches with so much of a change in common, and so much of their own: cosine shared² ÷ (shared² + own²)."""
    for number, name in enumerate(names):
        grow(name, moved((shared, way(1000 + start)), (own, way(start + number))))


def weight(path: Path) -> float:
    return float(load_file(path)["layer.0.weight"].astype(np.float64).sum())


# -- from the states -----------------------------------------------------------------------------------------------


def test_branches_that_went_the_same_way_are_merged(repo: Repository, grow: Grow) -> None:
    alike(grow, shared=2e-2)
    found = advise(repo, SITES)
    assert (found.verdict, found.groups) == ("merge", (SITES,))
    assert found.evidence.cosine == pytest.approx(0.8, abs=0.03)
    assert "median cosine of 0.8" in found.words[0]


def test_branches_that_have_nothing_in_common_are_kept_apart(repo: Repository, grow: Grow) -> None:
    alike(grow, shared=0.0)
    found = advise(repo, SITES)
    assert (found.verdict, found.groups) == ("keep apart", tuple((name,) for name in SITES))
    assert found.evidence.total is not None
    assert found.evidence.total.left == pytest.approx(0.5, abs=0.03)  # 1 ÷ √4
    assert "likely, not known" in found.words[1]


def test_two_kinds_of_branches_are_two_groups(repo: Repository, grow: Grow) -> None:
    alike(grow, ("ant", "dog"), shared=2e-2)
    alike(grow, ("bee", "cat"), shared=2e-2, start=50)
    found = advise(repo, SITES)
    assert (found.verdict, found.groups) == ("groups", (("ant", "dog"), ("bee", "cat")))


def test_near_the_line_it_says_that_it_guesses(repo: Repository, grow: Grow) -> None:
    line = advising.LINE + advising.SLOPE * 0.14
    own = 1e-2 * np.sqrt(1 / line - 1)
    alike(grow, own=float(own), shared=1e-2)
    found = advise(repo, SITES)
    assert found.evidence.line == pytest.approx(found.evidence.cosine, abs=advising.NEAR)
    assert "hardly more than a guess" in found.words[1]


def test_the_further_branches_have_gone_the_more_they_must_have_in_common(
    repo: Repository, grow: Grow
) -> None:
    alike(grow, ("ant", "bee"), shared=5e-3, own=1e-2)
    alike(grow, ("cat", "dog"), shared=1e-1, own=2e-1)
    near, far = advise(repo, ("ant", "bee")), advise(repo, ("cat", "dog"))
    assert near.evidence.cosine == pytest.approx(far.evidence.cosine, abs=0.05)
    assert (near.verdict, far.verdict) == ("merge", "keep apart")
    assert far.evidence.line > near.evidence.line


def test_the_evidence_is_what_anyone_would_compute(repo: Repository, grow: Grow) -> None:
    states = {name: moved((1e-2, way(1)), (2e-2, way(2 + n))) for n, name in enumerate(SITES)}
    for name, state in states.items():
        grow(name, state)
    found = advise(repo, SITES).evidence
    base = np.concatenate([model()[k].ravel().astype(np.float64) for k in sorted(model())])
    changes = [
        np.concatenate([s[k].ravel().astype(np.float64) for k in sorted(s)]) - base for s in states.values()
    ]
    norms = [float(np.linalg.norm(change)) for change in changes]
    for number, branch in enumerate(found.branches):
        rest = np.mean([change for n, change in enumerate(changes) if n != number], axis=0)
        assert branch.moved == pytest.approx(norms[number] / np.linalg.norm(base))
        assert branch.others == pytest.approx(changes[number] @ rest / norms[number] / np.linalg.norm(rest))
    pair = next(pair for pair in found.pairs if (pair.first, pair.second) == ("bee", "dog"))
    assert pair.cosine == pytest.approx(changes[1] @ changes[3] / norms[1] / norms[3])
    assert pair.signs == pytest.approx(np.mean(np.sign(changes[1]) == np.sign(changes[3])))
    assert pair.norms == pytest.approx(norms[3] / norms[1])
    assert found.cosine == pytest.approx(np.median([one.cosine for one in found.pairs]))
    assert found.total is not None
    assert found.total.parameters == base.size
    assert found.total.left == pytest.approx(np.linalg.norm(np.mean(changes, axis=0)) / np.mean(norms))
    assert [layer.name for layer in found.layers] == ["embed", "layer.0", "norm"]
    assert sum(layer.parameters for layer in found.layers) == base.size


def test_asking_changes_nothing(repo: Repository, grow: Grow) -> None:
    alike(grow)
    before, files = repo.refs, sorted(path for path in repo.folder.root.rglob("*") if path.is_file())
    advise(repo, SITES, score=dict.fromkeys(SITES, weight))
    assert repo.refs == before
    assert sorted(path for path in repo.folder.root.rglob("*") if path.is_file()) == files


def test_changes_count_from_what_the_target_has_in_common(repo: Repository, grow: Grow) -> None:
    trunk = repo.resolve("trunk")
    alike(grow, ("ant", "bee"))
    grow("cat", moved((1e-2, way(7))))
    assert advise(repo, ("ant", "bee"), "cat").evidence.base == trunk


# -- what cannot be merged -----------------------------------------------------------------------------------------


def test_a_branch_with_another_vocabulary_stands_alone(repo: Repository, grow: Grow, tmp_path: Path) -> None:
    alike(grow, SITES[:3], shared=2e-2)
    bigger = {**model(), "embed.weight": np.zeros((70, 32), np.float32)}
    _graft(repo, "dog", bigger, tmp_path)
    found = advise(repo, SITES)
    assert (found.verdict, found.groups) == ("groups", (SITES[:3], ("dog",)))
    assert "another vocabulary" in found.evidence.obstacles["dog"]
    assert found.words[-1].startswith("dog cannot take part: the tensor 'embed.weight' is float32 [70, 32]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm.weight": None}, "the tensor 'norm.weight' is missing"),
        (
            {"norm.weight": np.zeros(32, np.float16)},
            "is float16 [32], and float32 [32] in the base",
        ),
        ({"head": np.zeros(3, np.float32)}, "the tensor 'head' is not in the base"),
        ({"norm.weight": np.full(32, np.nan, np.float32)}, "NaN or infinities"),
        ({"norm.weight": np.full(32, np.inf, np.float32)}, "NaN or infinities"),
        ({}, "it has changed nothing since the base"),
    ],
)
def test_why_a_branch_cannot_take_part_is_said_in_words(
    repo: Repository, grow: Grow, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    alike(grow, SITES[:3], shared=2e-2)
    state = {name: array for name, array in {**model(), **change}.items() if array is not None}
    if change:
        _graft(repo, "dog", state, tmp_path)
    else:
        repo.branch("dog", "trunk")
    found = advise(repo, SITES)
    assert words in found.evidence.obstacles["dog"]
    assert found.groups == (SITES[:3], ("dog",))


def test_with_nothing_left_to_merge_all_are_kept_apart(repo: Repository, grow: Grow) -> None:
    grow("ant", moved((1e-2, way(1))))
    repo.branch("bee", "trunk")
    found = advise(repo, ("ant", "bee"))
    assert (found.verdict, found.groups, found.evidence.total) == ("keep apart", (("ant",), ("bee",)), None)
    assert found.words == ("bee cannot take part: it has changed nothing since the base",)


@pytest.mark.parametrize(
    ("names", "score", "words"),
    [
        (("ant",), None, "two or more"),
        (("ant", "ant"), None, "each named once"),
        (("ant", "bee"), {"ant": weight}, "a score of its own"),
        (("ant", "bee"), {"ant": weight, "bee": weight, "cow": weight}, "see 'cow'"),
        (("ant", "bee"), {"ant": weight, "bee": lambda path: float("nan")}, "the score of 'bee' is nan"),
        (("ant", "cow"), None, "cow"),
    ],
)
def test_questions_without_sense_are_refused(
    repo: Repository, grow: Grow, names: tuple[str, ...], score: object, words: str
) -> None:
    alike(grow, ("ant", "bee"))
    with pytest.raises(ConfigError, match=words):
        advise(repo, names, score=score)  # type: ignore[arg-type]


# -- from the sites' scores ----------------------------------------------------------------------------------------


def nearer(wanted: State) -> Callable[[Path], float]:
    """How near a model is to what the site wants."""

    def score(path: Path) -> float:
        state = load_file(path)
        return -float(np.sqrt(sum(((state[k].astype(np.float64) - wanted[k]) ** 2).sum() for k in wanted)))

    return score


def test_the_sites_own_gain_decides_against_the_states(repo: Repository, grow: Grow) -> None:
    alike(grow, shared=2e-2)
    states = {
        name: {s.name: r.view("<f4").reshape(s.shape) for s, r in repo.restored(name).iterate()}
        for name in SITES
    }
    assert advise(repo, SITES).verdict == "merge"
    found = advise(repo, SITES, score={name: nearer(states[name]) for name in SITES})
    assert found.verdict == "keep apart"
    assert found.evidence.trials[0].mean == 0.0
    assert "worse off than alone: ant, bee, cat, dog" in found.words[1]


def test_sites_that_want_the_same_are_merged_though_their_changes_look_unlike(
    repo: Repository, grow: Grow
) -> None:
    alike(grow, shared=2e-3)
    assert advise(repo, SITES).verdict == "keep apart"
    found = advise(repo, SITES, score=dict.fromkeys(SITES, nearer(moved((2e-3, way(1000))))))
    assert (found.verdict, found.groups) == ("merge", (SITES,))
    assert [trial.what for trial in found.evidence.trials[:2]] == ["apart", "mean"]


def test_the_groups_are_tried_and_taken_if_they_serve_best(repo: Repository, grow: Grow) -> None:
    wanted = {}
    for start, pair in ((0, ("ant", "dog")), (50, ("bee", "cat"))):
        alike(grow, pair, shared=2e-2, start=start)
        wanted |= dict.fromkeys(pair, moved((2e-2, way(1000 + start))))
    found = advise(repo, SITES, score={name: nearer(wanted[name]) for name in SITES})
    assert (found.verdict, found.groups) == ("groups", (("ant", "dog"), ("bee", "cat")))
    assert max(found.evidence.trials, key=lambda trial: trial.mean).what == "groups"


def test_commits_that_know_their_examples_are_also_weighed_by_them(repo: Repository, grow: Grow) -> None:
    for number, name in enumerate(SITES):
        grow(name, moved((1e-2, way(1)), (1e-2, way(2 + number))), examples=10 + number)
    found = advise(repo, SITES, score=dict.fromkeys(SITES, weight))
    assert "mean by examples" in [trial.what for trial in found.evidence.trials]


def test_scores_that_cannot_tell_leave_it_to_the_states(repo: Repository, grow: Grow) -> None:
    alike(grow, shared=2e-2)
    found = advise(repo, SITES, score=dict.fromkeys(SITES, lambda path: 1.0))
    assert (found.verdict, found.evidence.noise) == ("merge", 0.0)
    assert "within the noise" in found.words[2]


def test_the_advice_is_the_same_from_states_stored_with_few_bits(repo: Repository, tmp_path: Path) -> None:
    verdicts: list[Advice] = []
    for bits in (None, 1.0):
        names = [f"{name}-{bits}" for name in SITES]
        for number, name in enumerate(names):
            repo.branch(name, "trunk")
            state = moved((7e-3, way(1000)), (1e-2, way(number)))
            repo.commit(
                written(tmp_path / "m.safetensors", state), branch=name, bits=bits, lossless=bits is None
            )
        verdicts.append(advise(repo, names))
    exact, coded = verdicts
    assert exact.verdict == coded.verdict == "merge"
    assert exact.evidence.cosine == pytest.approx(coded.evidence.cosine, abs=0.04)


def _graft(repo: Repository, name: str, state: Mapping[str, object], folder: Path) -> None:
    """A branch whose head is a state that `commit` would refuse there."""
    head = repo.resolve("trunk")
    repo.branch(name, "trunk")
    path = written(folder / "graft.safetensors", state)
    with repo.folder.scratch() as scratch, TensorFile.open(path) as opened:
        draft = Draft(repo.folder, repo.objects, scratch)
        stored = store_model(draft, opened, None, LOSSLESS, progress=silent)
        said = {"author": "unknown", "time": now(), "message": name}
        repo.publish(draft, commit_of(stored, LOSSLESS, kind="update", parents=(head,), **said), name, head)
