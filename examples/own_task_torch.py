"""A torch model of your own as a task: wine cultivars by their chemistry, one producer per site.

In the recipe: task = "own_task_torch:Wine"
"""

import numpy as np
from sklearn.datasets import load_wine
from torch import nn
from torch.nn import functional

from phloem.tasks import Metric
from phloem.tasks.torch_task import built, load_state, sgd_epochs, state_of

TYPICAL = [13, 2, 2, 20, 100, 2, 2, 0.4, 1.5, 5, 1, 2.5, 700]  # agreed beforehand, not computed


class Wine:
    metric = Metric("accuracy")

    def __init__(self, sites: list[str], seed: int, *, epochs: int = 5) -> None:
        inputs, self.labels = load_wine(return_X_y=True)
        self.inputs = np.float32(inputs / TYPICAL - 1)
        order = np.random.default_rng(seed).permutation(len(self.labels))
        self.parts = {"stop": order[:30], "test": order[30:70]}
        self.shards = dict(zip(sites, np.array_split(order[70:], len(sites)), strict=True))
        self.epochs = epochs

    def module(self, seed):
        return built(lambda: nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3)), seed)

    def initial_state(self, seed):
        return state_of(self.module(seed))

    def shard(self, site):
        return self.inputs[self.shards[site]], self.labels[self.shards[site]]

    def train(self, state, shard, memory, seed):
        module = self.module(0)
        load_state(module, state)
        loss = sgd_epochs(module, functional.cross_entropy, *shard, seed=seed, epochs=self.epochs)
        return state_of(module), memory, len(shard[1]), {"loss": loss}

    def evaluate(self, state, part):
        hidden = np.maximum(self.inputs[self.parts[part]] @ state["0.weight"].T + state["0.bias"], 0)
        guesses = (hidden @ state["2.weight"].T + state["2.bias"]).argmax(1)
        return {"accuracy": float(np.mean(guesses == self.labels[self.parts[part]]))}
