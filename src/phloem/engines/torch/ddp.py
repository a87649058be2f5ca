"""A DistributedDataParallel model whose gradients travel compressed.

DDP hands over its buckets in one order at all ranks. Each goes to a lane, which encodes it, exchanges it and gives
DDP the mean, while the backward pass goes on. The last bucket's hook waits for all of them: what fails is raised
there, out of `backward()`, as what it is.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from phloem.codecs.registry import codec_from
from phloem.engines.torch import owing, saving
from phloem.engines.torch.balance import Balance
from phloem.engines.torch.buffers import array_of, done, future_on, shares_memory
from phloem.engines.torch.choosing import Trial
from phloem.engines.torch.lanes import Lanes
from phloem.engines.torch.peers import Peers, Traffic
from phloem.engines.torch.reduce import Pair, PlainMean
from phloem.engines.torch.settings import Settings
from phloem.engines.torch.thin import ThinMean
from phloem.errors import ConfigError, StateError
from phloem.kernels import threads
from phloem.tensors import Array, Layout, state_digest

_LANES = 2
_log = logging.getLogger("phloem")


class Compressed:
    """The compression of one DDP model: what it owes, what it sent; made by `phloem.torch.compress_ddp`."""

    def __init__(
        self,
        model: DistributedDataParallel,
        settings: Settings,
        *,
        scaler: torch.amp.GradScaler | None,
        seed: int,
        timeout_seconds: float,
    ) -> None:
        self.settings, self.step = settings, 0
        self._scaler, self._scale = scaler, 1.0
        self._names = {id(parameter): name for name, parameter in _trained(model)}
        self._parameters = [parameter for _, parameter in _trained(model)]
        self._group = model.process_group
        self._skips_unused = bool(model.find_unused_parameters)
        self.peers = Peers(self._group, timeout_seconds)
        shapes = {name: tuple(parameter.shape) for name, parameter in _trained(model)}
        up, down = codec_from(settings.up), codec_from(settings.down)
        self._owed = owing.Owed()
        self._balance = Balance() if settings.optimizer == "adam" else None
        self._mean: PlainMean | ThinMean = PlainMean(self.peers, shapes, Pair(up, down), seed)
        if settings.rank:
            self._mean = ThinMean(self.peers, shapes, settings.rank, Pair(up, down), Pair(up, down), seed)
        self._wide = torch.float32
        if self.peers.world > 1:
            self._agree(shapes, seed)
            self._wide = self._narrowest()
        self._trial = Trial() if settings.free else None
        self._lanes = Lanes(_LANES)
        self._flying: list[Future[str | None]] = []
        self._late: dict[str, Array] = {}
        self._began: float | None = None
        self.dense_steps = 0

    def _agree(self, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
        layout = Layout.of({name: np.empty(shape, np.float32) for name, shape in shapes.items()})
        facts = {
            "the model": f"{layout.size} parameters in {len(shapes)} tensors, {layout.digest:.16}",
            "torch": ".".join(torch.__version__.split(".")[:2]),
            "the residuals' version": owing.VERSION,
            "the codec up": self.settings.up,
            "the codec down": self.settings.down,
            "the rank of thin matrices": self.settings.rank,
            "the optimizer": self.settings.optimizer,
            "warmup": self.settings.warmup,
            "dense_below": self.settings.dense_below,
            "check_every": self.settings.check_every,
            "whether the choice is free": self.settings.free,
            "whether there is a scaler": self._scaler is not None,
            "seed": seed,
        }
        self.peers.agree("compression", facts)

    def _narrowest(self) -> torch.dtype:
        """bfloat16, where the group can sum it (gloo could not in every version of torch)."""
        device = self._parameters[0].device
        try:
            dist.all_reduce(torch.zeros(2, dtype=torch.bfloat16, device=device), group=self._group)
        except RuntimeError:
            return torch.float32
        return torch.bfloat16

    # -- the hook --------------------------------------------------------------------------------------------

    def hook(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """What DDP calls for every bucket, in one order at all ranks."""
        if bucket.index() == 0:
            self._begin()
        if self.peers.world == 1:
            future = done(bucket.buffer())
        elif bucket.buffer().numel() < self.settings.dense_below or not self.compresses:
            future = self._dense(bucket)
        else:
            future = self._compressed(bucket)
        if bucket.is_last():
            self._end()
        return future

    @property
    def compresses(self) -> bool:
        """Whether the step of now is compressed: not in the warm-up, and not where sending all is faster."""
        if self.step < self.settings.warmup:
            return False
        return self._trial is None or self._trial.compresses(self.step - self.settings.warmup)

    def _begin(self) -> None:
        now = time.perf_counter()
        if self._trial is not None and self._began is not None:
            done = self.step - 1 - self.settings.warmup
            self._trial.measured(done, now - self._began)
            if self._trial.ends_before(done + 1):
                self._decide(self._trial)
        self._began = now
        if not self.compresses:
            self._late |= self._owed.settle()
        if self._scaler is not None and self._scaler.is_enabled():
            scale = float(self._scaler.get_scale())
            if scale != self._scale:
                self._owed.scale(scale / self._scale)
                self._mean.sharded.steps.clear()
                if self._balance is not None:
                    self._balance.scale(scale / self._scale)
                self._scale = scale

    def _decide(self, trial: Trial) -> None:
        rows = self.peers.gather(struct.pack("<2d", *trial.medians()), 16)
        dense, compressed = zip(*(struct.unpack("<2d", row) for row in rows), strict=True)
        chosen = trial.decide(list(zip(dense, compressed, strict=True)))
        if self.peers.rank == 0:
            words = "compressed" if chosen else "as they are"
            _log.info(
                "gradients travel %s: a step takes %.0f ms so, %.0f ms the other way",
                words,
                1e3 * max(compressed if chosen else dense),
                1e3 * max(dense if chosen else compressed),
            )

    def _end(self) -> None:
        """Waits for the step's buckets; raises what went wrong in the first that failed."""
        flying, self._flying = self._flying, []
        broken = [reason for reason in [future.result() for future in flying] if reason]
        if broken and self._scaler is None:
            raise StateError(
                f"a gradient holds NaN or infinity, no rank has applied the step: {broken[0]}",
                hint="with a GradScaler, pass it as scaler=; else check the learning rate",
            )
        every = self.settings.check_every
        if every and self.peers.world > 1 and self.step % every == every - 1:
            self._check()
        self.dense_steps += not self.compresses
        self.step += 1

    def _check(self) -> None:
        """All ranks hold the same bits.

        Raises:
            StateError: one does not; it is named.
        """
        state = {str(n): p.detach().float().cpu().numpy() for n, p in enumerate(self._parameters)}
        digests = self.peers.gather(bytes.fromhex(state_digest(state))[:8], 8)
        others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise StateError(
                f"in step {self.step} rank {others[0]} holds other parameters than rank 0",
                hint="something changes them outside of the optimizer, or a rank's memory is faulty",
            )

    def _dense(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """The mean without compression, and with it whatever is still owed."""
        buffer = bucket.buffer()
        with torch.no_grad():
            for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
                late = self._late.pop(self._names[id(parameter)], None)
                if late is not None:
                    gradient.add_(torch.from_numpy(late).to(gradient.device, gradient.dtype))
            tiny = buffer.numel() < self.settings.dense_below
            sent = buffer if tiny else buffer.to(self._wide)
            sent.div_(self.peers.world)
        work = dist.all_reduce(sent, group=self._group, async_op=True)
        assert work is not None
        future: torch.futures.Future[torch.Tensor] = work.get_future().then(
            lambda done: buffer.copy_(done.value()[0])
        )
        return future

    def _compressed(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        buffer, gradients = bucket.buffer(), bucket.gradients()
        names = tuple(self._names[id(parameter)] for parameter in bucket.parameters())
        tags = [self.peers.tag() for _ in range(4 if self.settings.rank else 2)]
        owed = [self._owed.of(name, self._mean.shapes[name]) for name in names]
        on_host = buffer.device.type == "cpu"
        future = future_on(buffer.device)
        ready = None
        if not on_host:
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(buffer.device))
        kernel_threads = torch.get_num_threads()

        def carry() -> str | None:
            try:
                if ready is not None:
                    ready.synchronize()
                with torch.no_grad(), threads.at_least(kernel_threads):
                    arrays = [array_of(gradient) for gradient in gradients]
                    broken = self._reduced(names, arrays, owed, tags)
                    for gradient, array in zip(gradients, arrays, strict=True):
                        if not shares_memory(gradient, array):
                            gradient.copy_(torch.from_numpy(array))
                if not on_host:
                    torch.cuda.current_stream(buffer.device).synchronize()
                return broken
            finally:
                future.set_result(buffer)

        self._flying.append(self._lanes.submit(carry))
        return future

    def _reduced(
        self, names: tuple[str, ...], arrays: Sequence[Array], owed: Sequence[Array], tags: Sequence[int]
    ) -> str | None:
        """The mean, in frames of gradient ÷ scale where the optimizer divides by it, too."""
        if self._balance is None:
            return self._mean.mean(names, arrays, owed, tags)
        self._balance.divide(names, arrays, owed)
        broken = self._mean.mean(names, arrays, owed, tags)
        self._balance.multiply(names, arrays, owed)
        if broken is None:
            self._balance.look(names, arrays)
        return broken

    # -- what it cost ----------------------------------------------------------------------------------------

    @property
    def traffic(self) -> Traffic:
        """What this rank's compressed steps sent and received, in bytes; steps sent as they are go elsewhere."""
        return self.peers.traffic

    @property
    def codec_seconds(self) -> float:
        """What encoding and decoding took, all lanes together."""
        return self._mean.sharded.codec_seconds

    # -- saved and restored ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What this rank owes, as tensors and plain values: every rank saves its own.

        Call it between two steps.
        """
        inverse = np.float32(1.0 / self._scale)
        return {
            "kind": "phloem.torch residuals",
            "version": owing.VERSION,
            "ranks": self.peers.world,
            "rank": self.peers.rank,
            "step": self.step,
            "own": {name: torch.from_numpy(array * inverse) for name, array in self._owed.own.items()},
            "right": {name: torch.from_numpy(array * inverse) for name, array in self._mean.right.items()},
            "squares": {} if self._balance is None else self._balance.saved(1.0 / self._scale),
            "steps": {key: step * float(inverse) for key, step in self._mean.sharded.steps.items()},
        }

    def load_state_dict(self, states: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Continues from what `state_dict` gave: this rank's own, or all ranks' where their number has changed.

        The states of all ranks are taken one after another, so a generator needs the memory of one.

        Raises:
            ConfigError: it is no such state, or that of another rank or number of ranks, alone.
            StateError: another version or model, or a rank's state is missing. Nothing changed.
        """
        shapes = self._mean.shapes
        if isinstance(states, Mapping):
            owing.check(states, shapes)
            if (states["ranks"], states["rank"]) != (self.peers.world, self.peers.rank):
                raise ConfigError(
                    f"this is what rank {states['rank']} of {states['ranks']} owed, loaded at rank "
                    f"{self.peers.rank} of {self.peers.world}",
                    hint="where the number of ranks has changed, give the states of all of them as a list",
                )
            owed, last = owing.Owed(_arrays(states["own"])), states
        else:
            seen: list[Mapping[str, Any]] = []
            owed, last = owing.Owed(owing.merged(_seen(states, seen), shapes)), seen[0]
        owed.scale(self._scale)
        right = owing.Owed(_arrays(last["right"]))
        right.scale(self._scale)
        self._owed, self.step = owed, int(last["step"])
        self._mean.right = right.own
        if self._balance is not None:
            self._balance.load(last["squares"], self._scale)
        self._mean.sharded.steps = {key: step * self._scale for key, step in last["steps"].items()}

    def save(self, folder: str | Path) -> None:
        """Writes what this rank owes into `folder`, which all ranks may share; call it at every rank.

        Raises:
            StoreError: the disk failed; what was saved before is still there.
        """
        saving.save(Path(folder), self.state_dict())

    def load(self, folder: str | Path) -> int:
        """Continues from the newest step that all ranks have saved in `folder`, however many they were; its number.

        Raises:
            StateError: there is none, or it is of another version or model.
        """
        state = saving.newest(Path(folder), self.peers.world, self.peers.rank)
        self.load_state_dict(state)
        return self.step

    def close(self) -> None:
        """Lets the lanes' threads end."""
        self._lanes.close()


def _trained(model: DistributedDataParallel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.module.named_parameters() if p.requires_grad]


def _arrays(tensors: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.array(tensor, np.float32) for name, tensor in tensors.items()}


def _seen(states: Iterable[Mapping[str, Any]], seen: list[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The states as they come; of the first one everything but its residual stays in `seen`."""
    for state in states:
        yield state
        if not seen:
            seen.append({**state, "own": {}})
