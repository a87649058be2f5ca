from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.branches.makers import model, tuned, written

from phloem.branches import joining, verifying
from phloem.branches.merging import Recipe
from phloem.branches.records import Commit
from phloem.branches.repository import Repository
from phloem.branches.signing import signing_with
from phloem.errors import ConfigError, FormatError
from phloem.tensors import State
from phloem.tlog.keys import Signer

SITES = ("ant", "bee", "cat", "dog", "eel")
METHODS = (
    {"name": "mean"},
    {"name": "task-arithmetic", "scale": 0.3},
    {"name": "ties", "density": 0.3},
    {"name": "dare", "density": 0.5},
    {"name": "trimmed-mean", "trim": 0.2},
    {"name": "median"},
    {"name": "geometric-median"},
    {"name": "krum", "bad": 1, "keep": 2},
)


def state_of(repo: Repository, ref: str) -> State:
    return {spec.name: raw.view(np.float32).reshape(spec.shape) for spec, raw in repo.restored(ref).iterate()}


@pytest.fixture
def forest(repo: Repository, tmp_path: Path) -> Repository:
    """Five branches off the trunk."""
    for number, site in enumerate(SITES):
        repo.branch(site, "trunk")
        path = written(tmp_path / f"{site}.safetensors", tuned(model(), 10 + number))
        repo.commit(path, branch=site, bits=2.0, examples=100 * (number + 1), site=site)
    return repo


def merge(repo: Repository, names: Sequence[str] = SITES, **rest: object) -> joining.MergeResult:
    return joining.merge(repo, names, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS, ids=lambda row: row["name"])
def test_a_merge_is_one_commit_that_anyone_can_make_again(
    forest: Repository, method: dict[str, object]
) -> None:
    made = merge(forest, method=method, key=7)
    commit = forest.show("trunk")
    heads = [forest.resolve(site) for site in SITES]
    assert (made.kind, commit.kind, list(commit.parents[1:])) == ("merge", "merge", heads)
    assert commit.parents[0] == forest.resolve("trunk~1")
    assert Recipe.from_json(commit.recipe) == made.recipe
    checked = verifying.verify(forest, replay=True)
    assert (checked.wrong, checked.unknown, checked.replayed) == ((), (), 1)


def test_the_mean_is_what_anyone_would_compute(forest: Repository) -> None:
    merge(forest, weights="examples")
    weights = np.arange(1, 6) / 15
    for name, array in state_of(forest, "trunk").items():
        wanted = sum(
            w * state_of(forest, s)[name].astype(np.float64) for w, s in zip(weights, SITES, strict=True)
        )
        assert np.array_equal(array, wanted.astype(np.float32)) or np.abs(array - wanted).max() < 1e-8
    assert forest.show("trunk").examples == 1500


def test_the_same_in_fewer_bits_is_made_again_too(forest: Repository) -> None:
    exact = merge(forest, into="ant", names=SITES[1:])
    near = merge(forest, bits=1.0)
    assert near.bytes < exact.bytes / 5
    checked = verifying.verify(forest, "trunk", replay=True)
    assert (checked.wrong, checked.unknown, checked.replayed) == ((), (), 2)


def test_a_branch_that_moved_since_takes_part(forest: Repository, tmp_path: Path) -> None:
    forest.commit(written(tmp_path / "t.safetensors", tuned(model(), 99)), bits=2.0)
    head = forest.resolve("trunk")
    made = merge(forest, ["ant", "bee"])
    assert made.recipe is not None
    assert [row.name for row in made.recipe.branches] == ["trunk", "ant", "bee"]
    assert made.recipe.base == forest.resolve("ant~1") != head == made.recipe.into


def test_what_needs_no_merge_is_none(forest: Repository) -> None:
    made = merge(forest, ["ant"])
    assert (made.kind, made.commit, forest.resolve("trunk")) == (
        "fast-forward",
        forest.resolve("ant"),
        made.commit,
    )
    again = merge(forest, ["ant"])
    assert (again.kind, again.commit) == ("nothing", made.commit)


def test_tensors_that_are_kept_local_stay_the_branchs_own(forest: Repository) -> None:
    merge(forest)
    before = state_of(forest, "ant")
    made = merge(forest, ["trunk"], into="ant", keep_local=r"norm|bias")
    assert made.kind == "merge"
    after, trunk = state_of(forest, "ant"), state_of(forest, "trunk")
    for name, array in after.items():
        own = "norm" in name or "bias" in name
        assert np.array_equal(array, (before if own else trunk)[name])
    assert verifying.verify(forest, "ant", replay=True).replayed == 2
    with pytest.raises(ConfigError, match="keep-local: 'nowhere' is found in none"):
        merge(forest, ["trunk", "bee"], into="cat", keep_local="nowhere")


def test_a_merge_is_made_again_without_one(forest: Repository) -> None:
    first = merge(forest, method={"name": "ties", "density": 0.5})
    forest.branch("others", "trunk~1")
    direct = merge(
        forest, [s for s in SITES if s != "cat"], into="others", method={"name": "ties", "density": 0.5}
    )
    made = merge(forest, [], without=["cat"])
    assert made.state == direct.state != first.state
    assert made.recipe is not None
    assert (made.recipe.excluded, made.recipe.again) == (("cat",), first.commit)
    assert forest.show("trunk").parents == (first.commit,)
    assert verifying.verify(forest, replay=True).replayed == 2
    with pytest.raises(ConfigError, match=r"'cat' took no part.*ant, bee, dog, eel"):
        merge(forest, [], without=["cat"])
    with pytest.raises(ConfigError, match="is no merge"):
        merge(forest, [], into="ant", without=["bee"])


def test_the_scale_is_searched_for_by_a_score(forest: Repository) -> None:
    wanted = {
        name: model()[name] + np.float32(0.35) * (tuned(model(), 10)[name] - model()[name])
        for name in model()
    }

    def score(path: Path) -> float:
        from safetensors.numpy import load_file

        found = load_file(path)
        return -sum(float(np.square(found[n].astype(np.float64) - wanted[n]).sum()) for n in wanted)

    made = merge(forest, ["ant", "bee"], method={"name": "task-arithmetic"}, scale="search", score=score)
    assert made.recipe is not None
    scores = dict(made.recipe.search)
    assert len(scores) == 10
    assert made.recipe.method["scale"] == max(scores, key=lambda scale: scores[scale]) < 1.0
    assert verifying.verify(forest, replay=True).replayed == 1
    with pytest.raises(ConfigError, match="needs something that scores"):
        merge(forest, ["cat", "dog"], method={"name": "task-arithmetic"}, scale="search")
    with pytest.raises(ConfigError, match="has no scale"):
        merge(forest, ["cat", "dog"], scale="search", score=score)


def test_integers_are_taken_where_all_agree_and_named_where_not(tmp_path: Path) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        base = {**model(), "steps": np.array(5), "ids": np.arange(4)}
        repo.commit(written(tmp_path / "m.safetensors", base))
        for number, site in enumerate(("ant", "bee")):
            repo.branch(site, "trunk")
            one = {**tuned(model(), number), "steps": np.array(7 + number), "ids": np.arange(4) + 1}
            repo.commit(written(tmp_path / "s.safetensors", one), branch=site, bits=4)
        made = merge(repo, ["ant", "bee"])
        assert made.kept == ("steps",)
        raw = {
            spec.name: raw.view(np.int64) for spec, raw in repo.restored().iterate() if spec.dtype == "int64"
        }
        assert raw["steps"].tolist() == [5]
        assert raw["ids"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("names", "rest", "words"),
    [
        (["ant", "nobody"], {}, "there is no branch, tag or commit 'nobody'"),
        (["ant"], {"into": "nobody"}, "there is no branch 'nobody'"),
        (["ant", "bee"], {"method": {"name": "meen"}}, "did you mean 'mean'"),
        (["ant", "bee"], {"method": {"name": "ties", "dens": 1}}, "did you mean 'density'"),
        (["ant", "bee"], {"method": {"name": "krum", "bad": 1}}, "at least 5 branches"),
        (["ant", "bee"], {"weights": {"cow": 1.0}}, "'cow' is not among"),
        (["ant", "bee"], {"weights": {"ant": -1.0}}, "weights"),
        (["ant", "bee"], {"without": ["cow"]}, "'cow' is not among"),
        (["ant", "bee"], {"without": ["ant", "bee"]}, "nothing left to merge"),
        ([], {}, "name the branches to merge"),
        (["ant", "bee"], {"author": "a\nb"}, "an author is"),
    ],
)  # fmt: skip
def test_a_merge_that_cannot_be_is_refused_in_words(
    forest: Repository, names: list[str], rest: dict[str, object], words: str
) -> None:
    before = forest.refs
    with pytest.raises(ConfigError, match=words):
        merge(forest, names, **rest)
    assert forest.refs == before


def test_branches_of_another_model_are_refused_by_name(forest: Repository, tmp_path: Path) -> None:
    other = {**model(), "embed.weight": np.ones((70, 32), np.float32)}
    with Repository.create(tmp_path / "other") as second:
        second.commit(written(tmp_path / "o.safetensors", other))
    path = tmp_path / "o.safetensors"
    from phloem.branches.committing import commit_of, store_model
    from phloem.branches.drafts import Draft
    from phloem.branches.records import now
    from phloem.files.models import open_model

    with forest.folder.scratch() as scratch, open_model(path) as opened:  # a commit that no command makes
        draft = Draft(forest.folder, forest.objects, scratch)
        stored = store_model(draft, opened, None, {}, progress=lambda *_: None)
        said = {"author": "x", "time": now(), "message": "other"}
        commit = commit_of(stored, {}, kind="import", parents=(forest.resolve("trunk"),), **said)
        forest.publish(draft, commit, "strange", None)
    with pytest.raises(ConfigError, match=r"'embed.weight' has the shape \[70, 32\].*vocabulary"):
        merge(forest, ["ant", "strange"])
    with pytest.raises(ConfigError, match="has the shape"):
        merge(forest, ["strange", "ant"], into="bee")


# -- verify and signatures ---------------------------------------------------------------------------------------------


def test_signed_commits_say_who_and_altered_ones_are_found(repo: Repository, tmp_path: Path) -> None:
    ant, bee = Signer.new("ant"), Signer.new("bee")
    repo.commit(written(tmp_path / "a.safetensors", tuned(model(), 1)), bits=1.0, sign=signing_with(ant))
    checked = verifying.verify(repo)
    assert (checked.signers, checked.wrong) == ({f"ant+{ant.verifier.id.hex()}": 1}, ())
    assert verifying.verify(repo, trusted=[ant.verifier]).wrong == (
        f"the commit {repo.resolve('trunk~1')[:12]}: it is not signed",
    )
    wrong = verifying.verify(repo, trusted=[bee.verifier]).wrong
    assert any("signed by 'ant' with a key that is not among those to trust" in words for words in wrong)
    commit = repo.show("trunk")
    for change in ({"message": "other"}, {"examples": 3}, {"parents": ()}):
        forged = Commit(**{**vars(commit), **change})
        with repo.folder.scratch() as scratch:
            from phloem.branches.drafts import Draft

            head = repo.refs.branches.get("forged")
            repo.publish(Draft(repo.folder, repo.objects, scratch), forged, "forged", head)
        assert any("does not hold" in words for words in verifying.verify(repo, "forged").wrong)


def test_a_recipe_that_lies_is_found_by_making_the_merge_again(forest: Repository) -> None:
    merge(forest)
    honest = forest.show("trunk")
    recipe = {**honest.recipe, "method": {"name": "median", "scale": 1.0}}
    forged = Commit(**{**vars(honest), "recipe": recipe})
    with forest.folder.scratch() as scratch:
        from phloem.branches.drafts import Draft

        forest.publish(Draft(forest.folder, forest.objects, scratch), forged, "forged", None)
    assert verifying.verify(forest, "forged").wrong == ()
    checked = verifying.verify(forest, "forged", replay=True)
    assert [words.endswith("does not give the state that it names") for words in checked.wrong] == [True]


def test_every_damaged_recipe_is_refused(forest: Repository) -> None:
    made = merge(forest)
    assert made.recipe is not None
    said = made.recipe.to_json()
    assert Recipe.from_json(said) == made.recipe
    for key in said:
        with pytest.raises(FormatError):
            Recipe.from_json({name: value for name, value in said.items() if name != key})
        if key in ("again", "keep_local", "local", "excluded", "search"):
            continue
        for value in (None, 3.5, "x", [3], {"name": "x"}):
            try:
                Recipe.from_json({**said, key: value})
            except FormatError:
                continue
            assert key == "resolved"


def forged(repo: Repository, name: str, commit: Commit) -> verifying.Verified:
    """What is found of a commit that somebody wrote by hand."""
    from phloem.branches.drafts import Draft

    with repo.folder.scratch() as scratch:
        repo.publish(Draft(repo.folder, repo.objects, scratch), commit, name, None)
    return verifying.verify(repo, name, replay=True)


def test_a_choice_that_the_method_did_not_make_is_found(forest: Repository) -> None:
    """The state fits the recipe, and the recipe lies about which branches krum kept."""
    merge(forest, method={"name": "krum", "bad": 1})
    honest = forest.show("trunk")
    chosen = honest.recipe["resolved"]["chosen"]
    other = next(place for place in range(5) if place not in chosen)
    recipe = {**honest.recipe, "resolved": {**honest.recipe["resolved"], "chosen": [other]}}
    state = forest.show(SITES[other]).state
    found = forged(forest, "lie", Commit(**{**vars(honest), "recipe": recipe, "state": state}))
    assert any("krum decided otherwise than it does" in words for words in found.wrong)


def test_a_recipe_that_names_what_the_commit_did_not_come_from_is_found(forest: Repository) -> None:
    merge(forest, ["ant", "bee"])
    honest = forest.show("trunk")
    for number, parents in enumerate((honest.parents[:1], honest.parents[1:], honest.parents[:2])):
        found = forged(forest, f"lie-{number}", Commit(**{**vars(honest), "parents": parents}))
        assert any("its recipe names" in words for words in found.wrong), found


def test_a_merge_in_few_bits_without_one_is_made_again_too(forest: Repository) -> None:
    merge(forest, bits=1.0)
    merge(forest, [], without=["bee"], bits=1.0)
    checked = verifying.verify(forest, replay=True)
    assert (checked.wrong, checked.unknown, checked.replayed) == ((), (), 2)


def test_a_merge_that_changes_nothing_stores_nothing(forest: Repository) -> None:
    before = forest.show("ant").state
    made = merge(forest, ["bee"], into="ant", keep_local=".")
    assert (made.kind, made.state, made.bytes) == ("merge", before, 0)
    assert forest.fsck(deep=True).whole
    assert verifying.verify(forest, "ant", replay=True).replayed == 1


def test_an_expression_from_somebody_else_is_never_tried(forest: Repository) -> None:
    merge(forest, ["ant", "bee"], keep_local="norm")
    honest = forest.show("trunk")
    assert honest.recipe["local"] == ["norm.weight"]
    slow = {**honest.recipe, "keep_local": "(((a|.)+)+)+$^"}
    assert forged(forest, "slow", Commit(**{**vars(honest), "recipe": slow})).wrong == ()
    assert merge(forest, [], into="slow", without=["bee"]).kind == "merge"
    with pytest.raises(ConfigError, match="keep-local: expected a regular expression"):
        merge(forest, ["cat", "dog"], keep_local="(")


def test_what_goes_wrong_in_a_score_is_not_the_repositorys_doing(forest: Repository) -> None:
    def score(path: Path) -> float:
        raise FileNotFoundError("/no/such/data")

    with pytest.raises(FileNotFoundError, match="/no/such/data"):
        merge(forest, ["ant", "bee"], method={"name": "ties"}, scale="search", score=score)
    with pytest.raises(ConfigError, match="two of these names stand for one commit"):
        merge(forest, ["ant", "ant~0"])
