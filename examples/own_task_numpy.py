"""A NumPy model of your own as a task: how diabetes goes on, by ridge regression in gradient steps.

In the recipe: task = "own_task_numpy:Diabetes"
"""

import numpy as np
from sklearn.datasets import load_diabetes

from phloem.tasks import Metric


class Diabetes:
    metric = Metric("rmse", higher_is_better=False)

    def __init__(self, sites: list[str], seed: int, *, steps: int = 20) -> None:
        inputs, progress = load_diabetes(return_X_y=True)
        self.inputs, self.progress = np.float32(inputs * 20), np.float32(progress / 100)
        order = np.random.default_rng(seed).permutation(len(progress))
        self.parts = {"stop": order[:80], "test": order[80:180]}
        self.shards = dict(zip(sites, np.array_split(order[180:], len(sites)), strict=True))
        self.steps = steps

    def initial_state(self, seed):
        return {"weight": np.zeros(10, np.float32), "bias": np.zeros(1, np.float32)}

    def shard(self, site):
        return self.inputs[self.shards[site]], self.progress[self.shards[site]]

    def train(self, state, shard, memory, seed):
        inputs, progress = shard
        weight, bias = state["weight"], state["bias"]
        for _ in range(self.steps):
            error = inputs @ weight + bias - progress
            weight = weight - np.float32(0.05) * (inputs.T @ error / len(error) + np.float32(0.01) * weight)
            bias = bias - np.float32(0.05) * error.mean()
        return {"weight": weight, "bias": bias}, memory, len(progress), {}

    def evaluate(self, state, part):
        rows = self.parts[part]
        error = self.inputs[rows] @ state["weight"] + state["bias"] - self.progress[rows]
        return {"rmse": float(np.sqrt(np.mean(error**2)) * 100)}
