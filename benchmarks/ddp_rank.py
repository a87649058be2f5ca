"""One rank of `ddp.py`: trains a model under DDP, gradients reduced in one way after another; prints JSON."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import phloem.torch
from phloem.seeds import generator
from phloem.tasks import corpus, gpt

BATCH, HELD_OUT, WARMUP = 4, 96, 20
LEARNING_RATE = 2e-3


class CodeLM(nn.Module):
    """The byte-level GPT of the task `code-lm`, 853,120 parameters, as a module."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.shape = gpt.Shape()
        state = gpt.initial(self.shape, generator(seed, "code-lm"))
        self.names = {name: name.replace(".", "_") for name in sorted(state)}
        for name, own in self.names.items():
            self.register_parameter(own, nn.Parameter(torch.tensor(state[name])))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return gpt.loss({name: getattr(self, own) for name, own in self.names.items()}, self.shape, text)


class Bottleneck(nn.Module):
    """Source: He et al., Deep residual learning for image recognition, 2016, figure 5, with the stride in the 3 × 3."""

    def __init__(self, inner: int, before: int, stride: int) -> None:
        super().__init__()

        def part(fan_in: int, fan_out: int, size: int, step: int = 1) -> nn.Sequential:
            convolution = nn.Conv2d(fan_in, fan_out, size, step, size // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(fan_out))

        self.parts = nn.ModuleList(
            [part(before, inner, 1), part(inner, inner, 3, stride), part(inner, 4 * inner, 1)]
        )
        plain = stride == 1 and before == 4 * inner
        self.skip = nn.Identity() if plain else part(before, 4 * inner, 1, stride)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first, second, third = self.parts
        return functional.relu(third(second(first(images).relu()).relu()) + self.skip(images))


class ResNet50(nn.Module):
    """25,557,032 parameters in 161 tensors; the cross entropy of its answer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
        before = 64
        for inner, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for n in range(count):
                layers.append(Bottleneck(inner, before, stride if n == 0 else 1))
                before = 4 * inner
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self.layers(images), labels)


def batches(model: str, seed: int, rank: int) -> tuple[Callable[[], tuple[torch.Tensor, ...]], Any]:
    """This rank's next batch, and the blocks of text that the loss is measured on."""
    rng = generator(seed, "batches", rank)
    if model == "resnet50":  # noise: the gradients have the shapes and the work, there is nothing to learn

        def noise() -> tuple[torch.Tensor, ...]:
            images = rng.standard_normal((4, 3, 64, 64), np.float32)
            return torch.from_numpy(images), torch.from_numpy(rng.integers(0, 1000, 4))

        return noise, None
    text = torch.tensor(corpus.joined(corpus.standard_library()))
    length, cut = gpt.Shape().context + 1, int(len(text) * 0.95)
    starts = np.linspace(cut, len(text) - length, HELD_OUT).astype(int)
    held = torch.stack([text[start : start + length] for start in starts]).long()

    def stretch() -> tuple[torch.Tensor, ...]:
        starts = rng.integers(0, cut - length, BATCH)
        return (torch.stack([text[start : start + length] for start in starts]).long(),)

    return stretch, held


def compressed(ddp: DistributedDataParallel, way: dict[str, Any]) -> phloem.torch.Compressed | None:
    """Makes gradients travel in one way."""
    way = dict(way)
    kind = way.pop("kind")
    if kind == "phloem":
        return phloem.torch.compress_ddp(ddp, **way)
    if kind == "bf16":  # torch allows its hook on NCCL only; gloo sums bfloat16 all the same
        ddp.register_comm_hook(None, lambda group, bucket: default_hooks.bf16_compress_hook(group, bucket))
    elif kind == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, way["rank"], start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif kind == "nothing":  # every rank keeps its own gradient: computing alone
        ddp.register_comm_hook(None, lambda _, bucket: _there(bucket.buffer()))
    return None


def _there(tensor: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(tensor)
    return future


def sent_bytes() -> int | None:
    """What has left this rank's device so far; None on loopback, which all ranks share."""
    counter = Path("/sys/class/net/line/statistics/tx_bytes")
    return int(counter.read_text("ascii")) if counter.exists() else None


def train(model_name: str, way: dict[str, Any], steps: int, seed: int, every: int) -> dict[str, Any]:
    """Seconds of every step, losses, bytes."""
    torch.manual_seed(seed)
    model = CodeLM(seed) if model_name == "code-lm" else ResNet50()
    one_bucket = way["kind"] == "powersgd"  # its chained collectives mix up on gloo where there are more
    first = dist._DEFAULT_FIRST_BUCKET_BYTES
    if one_bucket:
        dist._DEFAULT_FIRST_BUCKET_BYTES = 1 << 40
    ddp = DistributedDataParallel(
        model, bucket_cap_mb=1 << 20 if one_bucket else None, broadcast_buffers=False
    )
    dist._DEFAULT_FIRST_BUCKET_BYTES = first
    compression = compressed(ddp, way)
    if model_name == "code-lm":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            ddp.parameters(), LEARNING_RATE, (0.9, 0.95), weight_decay=0.1, fused=True
        )
    else:
        optimizer = torch.optim.SGD(ddp.parameters(), 1e-3, momentum=0.9, foreach=True)
    batch, held = batches(model_name, seed, dist.get_rank())
    seconds, losses = [], []
    before = sent_bytes()
    for step in range(steps):
        inputs = batch()
        started = time.perf_counter()
        if model_name == "code-lm":
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / (WARMUP + 1))
        loss = ddp(*inputs)
        optimizer.zero_grad()
        loss.backward()
        if model_name == "code-lm":
            nn.utils.clip_grad_norm_(ddp.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        if every and (step + 1) % every == 0:
            with torch.no_grad():
                losses.append([step + 1, float(model(held))])
    told: dict[str, Any] = {"seconds": seconds, "losses": losses}
    if before is not None:
        told["device_bytes"] = (sent_bytes() or 0) - before
    if compression is not None:
        told |= {
            "sent_bytes": compression.traffic.sent,
            "codec_seconds": compression.codec_seconds,
            "dense_steps": compression.dense_steps,
            "choices": [dataclasses.asdict(choice) for choice in compression.choices],
        }
    dist.barrier()
    return told


def main() -> None:
    """Trains in every way, one after another, and tells what each took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("code-lm", "resnet50"), required=True)
    parser.add_argument("--ways", type=json.loads, required=True, help="a list of [way, steps]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=0, help="steps between two measures of the loss")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=30))
    told = [train(options.model, way, steps, options.seed, options.every) for way, steps in options.ways]
    print(json.dumps({"ways": told}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
