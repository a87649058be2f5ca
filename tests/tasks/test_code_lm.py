from __future__ import annotations

import numpy as np
import pytest
import torch

from phloem.errors import ConfigError
from phloem.tasks import corpus, gpt
from phloem.tasks.code_lm import CodeLM
from phloem.tasks.corpus import SourceFile
from phloem.tasks.torch_task import tensors
from phloem.tensors import Layout, state_digest

SITES = ["a", "b", "c", "d"]
SMALL = gpt.Shape(width=16, layers=2, heads=2, context=12)


@pytest.fixture(scope="module")
def files() -> list[SourceFile]:
    return corpus.standard_library()


def test_the_corpus_is_the_librarys_code_and_nothing_of_this_machine(files: list[SourceFile]) -> None:
    paths = [file.path for file in files]
    assert paths == sorted(paths)
    assert {"json/decoder.py", "argparse.py", "asyncio/base_events.py"} <= set(paths)
    assert not any("test" in path.split("/")[:-1] or "site-packages" in path for path in paths)
    assert not any("_sysconfigdata" in path for path in paths)


def test_the_digest_names_every_byte_and_every_path(files: list[SourceFile]) -> None:
    some = files[:3]
    renamed = [SourceFile("x.py", some[0].text), *some[1:]]
    changed = [SourceFile(some[0].path, some[0].text + b"#"), *some[1:]]
    assert len({corpus.digest(version) for version in (some, renamed, changed, some[:2])}) == 4


def test_sites_get_whole_packages_of_about_equal_size(files: list[SourceFile]) -> None:
    dealt = corpus.by_package(files, SITES)
    packages = [{file.package for file in held} for held in dealt.values()]
    assert sum(map(len, packages)) == len(set.union(*packages))
    assert sorted(file.path for held in dealt.values() for file in held) == [file.path for file in files]
    sizes = [sum(len(file.text) for file in held) for held in dealt.values()]
    assert max(sizes) < 1.05 * min(sizes)


def test_held_out_files_are_never_trained_on(files: list[SourceFile]) -> None:
    owned = corpus.by_package(files, SITES)["a"]
    parts = corpus.split_files(owned, 0.05, np.random.default_rng(0))
    paths = [{file.path for file in part} for part in parts]
    assert sum(map(len, paths)) == len(set.union(*paths)) == len(owned)
    total = sum(len(file.text) for file in owned)
    assert all(sum(len(file.text) for file in part) >= 0.05 * total for part in parts)


def test_more_sites_than_packages_are_refused(files: list[SourceFile]) -> None:
    with pytest.raises(ConfigError, match="packages cannot be dealt"):
        corpus.by_package(files[:1], SITES)


def test_blocks_lie_inside_the_text() -> None:
    text = np.arange(50, dtype=np.uint8)
    found = corpus.blocks(text, 10, 5)
    assert found[:, 0].tolist() == [0, 10, 20, 30, 40]
    with pytest.raises(ConfigError, match="less than a block"):
        corpus.blocks(text, 51, 1)


def test_a_byte_is_predicted_from_earlier_bytes_only() -> None:
    weights = tensors(gpt.initial(SMALL, np.random.default_rng(0)))
    text = torch.arange(12)[None]
    changed = text.clone()
    changed[0, 8:] = 99
    with torch.no_grad():
        one, two = gpt.logits(weights, SMALL, text), gpt.logits(weights, SMALL, changed)
    assert torch.equal(one[:, :8], two[:, :8])
    assert not torch.equal(one[:, 8:], two[:, 8:])


def test_a_fresh_model_is_about_as_good_as_guessing() -> None:
    weights = tensors(gpt.initial(SMALL, np.random.default_rng(0)))
    with torch.no_grad():
        loss = float(gpt.loss(weights, SMALL, torch.randint(256, (8, 13), generator=torch.Generator())))
    assert loss == pytest.approx(np.log(256), abs=0.3)


@pytest.mark.slow
def test_the_language_model_trains_repeats_and_resumes_to_the_bit() -> None:
    task = CodeLM(SITES, 0, steps=2, batch_size=2, context=32)
    state = task.initial_state(0)
    assert Layout.of(CodeLM(SITES, 0).initial_state(0)).size == 853_120
    once, memory, examples, metrics = task.train(state, task.shard("a"), {}, 1)
    again, *_ = task.train(state, task.shard("a"), {}, 1)
    assert examples == 4
    assert metrics["loss"] > 0
    assert state_digest(once) == state_digest(again) != state_digest(state)
    copied = {name: array.copy() for name, array in memory.items()}
    next_one = task.train(once, task.shard("a"), memory, 2)
    next_two = CodeLM(SITES, 0, steps=2, batch_size=2, context=32).train(once, task.shard("a"), copied, 2)
    assert state_digest(next_one[0]) == state_digest(next_two[0])
    assert all(np.array_equal(memory[name], copied[name]) for name in memory)
    assert any(name.startswith("optimiser:exp_avg") for name in memory)


@pytest.mark.slow
def test_the_language_model_learns() -> None:
    task = CodeLM(SITES, 0, steps=30, batch_size=4, context=64)
    state = task.initial_state(0)
    before = task.evaluate(state, "stop")["loss"]
    state = task.train(state, task.shard("a"), {}, 0)[0]
    assert task.evaluate(state, "stop")["loss"] < before - 1.5
    assert task.metric.reached(2.0, 2.1)


@pytest.mark.slow
def test_pruned_weights_of_the_language_model_stay_zero_whatever_adam_remembers() -> None:
    task = CodeLM(SITES, 0, steps=2, batch_size=2, context=32)
    state, memory, *_ = task.train(task.initial_state(0), task.shard("a"), {}, 1)
    name = max(state, key=lambda name: state[name].size)
    keep = {name: np.abs(state[name]) > np.median(np.abs(state[name]))}
    pruned = {**state, name: np.where(keep[name], state[name], np.float32(-0.0))}
    after, *_ = task.train(pruned, task.shard("a"), memory, 2, keep=keep)
    assert (after[name][~keep[name]] == 0).all()
    assert (after[name][keep[name]] != pruned[name][keep[name]]).any()
    assert (task.train(pruned, task.shard("a"), memory, 2)[0][name][~keep[name]] != 0).any()
