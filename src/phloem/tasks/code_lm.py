"""A language model of Python source: DiLoCo's task in small, on the text of Python's own standard library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from phloem.seeds import generator
from phloem.tasks import corpus, gpt
from phloem.tasks.base import Keep, Memory, Metric, Part, check_part, check_range, check_site
from phloem.tasks.corpus import Bytes
from phloem.tasks.torch_task import pack_optimiser, tensors, unpack_optimiser
from phloem.tensors import State

HELD_OUT = 0.05
"""Share of each site's bytes in the stopping part, and again in the test part; whole files."""

BLOCKS = {"stop": 96, "test": 192}
"""Blocks that a state is measured on, all sites together: 12,288 and 24,576 bytes at a context of 128."""

CLIP = 1.0
"""Largest norm of a gradient."""


class CodeLM:
    """A byte-level GPT of 853,120 parameters, trained by AdamW whose moments stay at the site.

    Each site has whole packages of the library. `train` makes `steps` inner steps on random stretches of the
    site's text; the moments and the number of steps made go to the memory. `data_digest` is the SHA-256 of
    the text, which differs a little between Python releases.

    Options:
        steps: inner steps of a round (H in DiLoCo).
        batch_size, context: sequences in a step, and bytes in each.
        learning_rate, warmup, weight_decay: of AdamW; the rate rises linearly over the first `warmup` steps.
    """

    metric: ClassVar[Metric] = Metric("loss", higher_is_better=False)

    def __init__(
        self,
        sites: Sequence[str],
        seed: int,
        *,
        steps: int = 20,
        batch_size: int = 4,
        context: int = 128,
        learning_rate: float = 2e-3,
        warmup: int = 20,
        weight_decay: float = 0.1,
    ) -> None:
        check_range("steps", steps, 1)
        check_range("batch_size", batch_size, 1)
        check_range("context", context, 8, 4096)
        check_range("learning_rate", learning_rate, 0, above=True)
        check_range("warmup", warmup, 0)
        check_range("weight_decay", weight_decay, 0)
        self.sites, self.steps, self.batch_size = list(sites), steps, batch_size
        self.learning_rate, self.warmup, self.weight_decay = learning_rate, warmup, weight_decay
        self.shape = gpt.Shape(context=context)
        files = corpus.standard_library()
        self.data_digest = corpus.digest(files)
        self._texts: dict[str, Bytes] = {}
        held: dict[str, list[torch.Tensor]] = {"stop": [], "test": []}
        for site, owned in corpus.by_package(files, self.sites).items():
            train, stop, test = corpus.split_files(owned, HELD_OUT, generator(seed, "code-lm", site, "parts"))
            self._texts[site] = corpus.joined(train)
            for part, part_files in (("stop", stop), ("test", test)):
                count = -(-BLOCKS[part] // len(self.sites))
                held[part].append(torch.tensor(corpus.blocks(corpus.joined(part_files), context + 1, count)))
        self._held_out = {part: torch.cat(pieces).long() for part, pieces in held.items()}

    def initial_state(self, seed: int) -> State:
        """A fresh GPT."""
        return gpt.initial(self.shape, generator(seed, "code-lm", "initial"))

    def shard(self, site: str) -> Bytes:
        """The site's training text, as bytes."""
        check_site(site, self.sites)
        return self._texts[site]

    def train(
        self, state: State, shard: Bytes, memory: Memory, seed: int, *, keep: Keep | None = None
    ) -> tuple[State, Memory, int, dict[str, float]]:
        """The state after the inner steps, with AdamW's moments in the memory; counts sequences.

        Pruned weights get no gradient, and are put back to zero after every step: moments of the time before they
        were pruned would move them.
        """
        length = self.shape.context + 1
        if len(shard) < length:
            return state, memory, 0, {}
        weights = tensors(state, learn=True)
        names = sorted(weights)
        parameters = [weights[name] for name in names]
        optimiser = torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay, fused=True
        )
        unpack_optimiser(optimiser, names, memory)
        made = _steps_made(memory)
        masks = [(weights[name], torch.tensor(mask)) for name, mask in (keep or {}).items()]
        starts = generator(seed, "stretches").integers(
            0, len(shard) - length + 1, (self.steps, self.batch_size)
        )
        text = torch.tensor(shard)
        total = 0.0
        for step in range(self.steps):
            batch = torch.stack([text[start : start + length] for start in starts[step]]).long()
            optimiser.param_groups[0]["lr"] = self.learning_rate * min(
                1.0, (made + step + 1) / (self.warmup + 1)
            )
            loss = gpt.loss(weights, self.shape, batch)
            optimiser.zero_grad()
            loss.backward()
            for weight, mask in masks:
                assert weight.grad is not None
                weight.grad.mul_(mask)
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            with torch.no_grad():
                for weight, mask in masks:
                    weight.mul_(mask)
            total += float(loss.detach())
        trained = {name: weights[name].detach().numpy() for name in names}
        return (
            trained,
            pack_optimiser(optimiser, names),
            self.steps * self.batch_size,
            {"loss": total / self.steps},
        )

    def evaluate(self, state: State, part: Part) -> dict[str, float]:
        """Nats per byte on the held-out part."""
        check_part(part)
        weights = tensors(state)
        blocks = self._held_out[part]
        with torch.no_grad():
            total = sum(float(gpt.loss(weights, self.shape, some)) * len(some) for some in blocks.split(16))
        return {"loss": total / len(blocks)}


def _steps_made(memory: Memory) -> int:
    """How many steps the optimiser in this memory has made."""
    made = [int(array) for label, array in memory.items() if ":step:" in label]
    return max(made, default=0)
