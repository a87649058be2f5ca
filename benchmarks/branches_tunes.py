"""Two models that belong together, one trained on from the other: what versions of real models differ by.

    transfer    a digits CNN that knows 0 to 4 goes on with all ten, at a fifth of its learning rate
    packages    a GPT trained on three quarters of Python's library goes on with the packages of the last, at a tenth
    prose       the same GPT goes on with English, the reference topics that Python ships, at a tenth
    continued   the same GPT in the middle of its training, and as many steps later: large updates

Data, seeds and the order of samples are fixed; what a model is scored on, nothing was trained on.
"""

from __future__ import annotations

import functools
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from phloem.seeds import generator, seed_for
from phloem.tasks import corpus, datasets, digits_cnn, gpt
from phloem.tasks.base import Memory
from phloem.tasks.code_lm import HELD_OUT, CodeLM
from phloem.tasks.corpus import Bytes
from phloem.tasks.torch_task import tensors
from phloem.tensors import State

SITES = ("a", "b", "c", "d")
STEPS = 300  # of the GPT, before and, in `continued`, after
TUNE = (150, 2e-4)  # steps and learning rate of a fine-tune
BLOCKS, CONTEXT = 192, 128
TESTED = 900  # digits; the other 897 are learned from

Score = Callable[[State], tuple[float, float]]


@dataclass(frozen=True)
class Pair:
    """A model and what it became.

    Attributes:
        score: accuracy in percent, and loss, of a state on data that neither was trained on.
    """

    name: str
    base: State
    tuned: State
    score: Score


def pairs(seed: int) -> Iterator[Pair]:
    """All four."""
    torch.set_num_threads(1)  # sums depend on how many there are
    yield transfer(seed)
    first, memory = code_model(seed)
    for name, (train, test) in (("packages", packages(seed, SITES[-1:])), ("prose", prose())):
        yield Pair(name, first, tuned(first, train, seed, *TUNE), score_text(test))
    train, test = packages(seed, SITES[:-1])
    more, _ = learned(first, train, memory, seed_for(seed, "second"), STEPS)
    yield Pair("continued", first, more, score_text(test))


def transfer(seed: int) -> Pair:
    """Digits: 0 to 4, then all."""
    examples = datasets.digits()
    order = generator(seed, "branches", "digits").permutation(len(examples))
    test, train = examples.at(order[:TESTED]), examples.at(order[TESTED:])
    low = train.at(np.flatnonzero(train.labels < 5))

    def trained(state: State, on: datasets.Examples, epochs: int, rate: float) -> State:
        return digits_cnn.sgd(
            state, on, epochs=epochs, learning_rate=rate, seed=seed, batch_size=16, momentum=0.9
        )[0]

    def score(state: State) -> tuple[float, float]:
        found = digits_cnn.measure(state, test)
        return 100 * found["accuracy"], found["loss"]

    base = trained(digits_cnn.initial(seed), low, 10, 0.05)
    return Pair("transfer", base, trained(base, train, 15, 0.01), score)


@functools.lru_cache(maxsize=2)
def code_model(seed: int) -> tuple[State, Memory]:
    """The GPT in the middle of its training, and what AdamW remembers."""
    torch.set_num_threads(1)
    train, _ = packages(seed, SITES[:-1])
    state = gpt.initial(gpt.Shape(context=CONTEXT), generator(seed, "code-lm", "initial"))
    return learned(state, train, {}, seed_for(seed, "first"), STEPS)


def tuned(state: State, text: Bytes, seed: int, steps: int, rate: float) -> State:
    """The GPT fine-tuned on a text."""
    return learned(state, text, {}, seed_for(seed, "tuned"), steps, learning_rate=rate, warmup=0)[0]


def learned(
    state: State, text: Bytes, memory: Memory, seed: int, steps: int, **options: float
) -> tuple[State, Memory]:
    """The GPT and AdamW's memory after some steps on a text."""
    task = CodeLM(["one"], 0, steps=steps, **options)
    state, memory, *_ = task.train(state, text, memory, seed)
    return state, memory


@functools.lru_cache(maxsize=8)
def packages(seed: int, sites: Sequence[str]) -> tuple[Bytes, torch.Tensor]:
    """Text to train on and blocks to test on, from the packages of these sites."""
    dealt = corpus.by_package(corpus.standard_library(), SITES)
    owned = [file for site in sites for file in dealt[site]]
    train, _, test = corpus.split_files(owned, HELD_OUT, generator(seed, "branches", *sites))
    return corpus.joined(train), _blocks(corpus.joined(test))


def prose() -> tuple[Bytes, torch.Tensor]:
    """The same of English."""
    topics = (
        Path(sysconfig.get_path("stdlib")) / "pydoc_data" / "topics.py"
    )  # the corpus leaves this folder out
    text = np.frombuffer(topics.read_bytes(), np.uint8)
    train, test = np.split(text, [len(text) * 9 // 10])
    return train, _blocks(test)


def _blocks(text: Bytes) -> torch.Tensor:
    return torch.tensor(corpus.blocks(text, CONTEXT + 1, BLOCKS)).long()


def score_text(blocks: torch.Tensor) -> Score:
    """How often the next byte is the likeliest one, in percent, and nats per byte."""

    def score(state: State) -> tuple[float, float]:
        weights, right, lost = tensors(state), 0, 0.0
        with torch.no_grad():
            for some in blocks.split(16):
                wanted = some[:, 1:].flatten()
                scores = gpt.logits(weights, gpt.Shape(context=CONTEXT), some[:, :-1]).flatten(0, 1)
                right += int((scores.argmax(-1) == wanted).sum())
                lost += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))
        count = blocks[:, 1:].numel()
        return 100 * right / count, lost / count

    return score
