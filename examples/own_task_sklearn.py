"""A scikit-learn model of your own as a task: a linear classifier of digits that goes on from the trunk.

In the recipe: task = "own_task_sklearn:LinearDigits"
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from phloem.tasks import Metric


class LinearDigits:
    metric = Metric("accuracy")

    def __init__(self, sites: list[str], seed: int, *, learning_rate: float = 0.01) -> None:
        images, self.labels = load_digits(return_X_y=True)
        self.images = images / 16
        order = np.random.default_rng(seed).permutation(len(self.labels))
        self.parts = {"stop": order[:300], "test": order[300:700]}
        self.shards = dict(zip(sites, np.array_split(order[700:], len(sites)), strict=True))
        self.learning_rate = learning_rate

    def initial_state(self, seed):
        return {"coef": np.zeros((10, 64), np.float32), "intercept": np.zeros(10, np.float32)}

    def shard(self, site):
        return self.images[self.shards[site]], self.labels[self.shards[site]]

    def train(self, state, shard, memory, seed):
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=self.learning_rate)
        model.set_params(random_state=seed % 2**32)
        model.partial_fit(*shard, classes=np.arange(10))  # makes the arrays; their values come from the trunk
        model.coef_, model.intercept_ = (state[name].astype(float) for name in ("coef", "intercept"))
        model.partial_fit(*shard)
        trained = {"coef": np.float32(model.coef_), "intercept": np.float32(model.intercept_)}
        return trained, memory, len(shard[1]), {}

    def evaluate(self, state, part):
        guesses = (self.images[self.parts[part]] @ state["coef"].T + state["intercept"]).argmax(1)
        return {"accuracy": float(np.mean(guesses == self.labels[self.parts[part]]))}
