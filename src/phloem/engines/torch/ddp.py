"""A DistributedDataParallel model whose gradients travel compressed.

DDP hands over its buckets in one order at all ranks. Each goes to a lane, which encodes it, exchanges it and gives
DDP the mean, while the backward pass goes on. The last bucket's hook waits for all of them: what fails is raised
there, out of `backward()`, as what it is.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from phloem.engines.torch import gpu, owing, reduction, saving
from phloem.engines.torch.buffers import done, future_on, on_host, wide
from phloem.engines.torch.choosing import Choice, Trial
from phloem.engines.torch.lanes import Lanes
from phloem.engines.torch.peers import Peers, Traffic
from phloem.engines.torch.settings import AS_THEY_ARE, Settings
from phloem.errors import ConfigError, StateError
from phloem.kernels import threads
from phloem.tensors import Layout, state_digest

_LANES = 2
_log = logging.getLogger("phloem")


class Compressed:
    """The compression of one DDP model: what it owes, what it sent; made by `phloem.torch.compress_ddp`.

    Attributes:
        step: how many there were, also before the state that was loaded.
        dense_steps: how many of this process's travelled as they are.
        choices: where the choice is free, those that all ranks have made in this process, and of what.
    """

    def __init__(
        self,
        model: DistributedDataParallel,
        settings: Settings,
        *,
        scaler: torch.amp.GradScaler | None,
        seed: int,
        timeout_seconds: float,
        on_gpu: bool | None = None,
    ) -> None:
        self.settings, self.step = settings, 0
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._scale = 1.0 if self._scaler is None else float(self._scaler.get_scale())
        self._model = model
        self._parameters = dict(_trained(model))
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._on_gpu = bool(settings.matrix_rank) and gpu.stays(self._parameters.values(), on_gpu)
        if self._on_gpu:
            gpu.split(next(iter(self._parameters.values())).device)  # compiled now, in no step
        self._group = model.process_group
        self.peers = Peers(self._group, timeout_seconds)
        shapes = {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}
        skips_unused = bool(model.find_unused_parameters)
        self._reduction = reduction.Reduction(self.peers, self._parameters, settings, skips_unused, seed)
        self._owed = self._reduction.owed
        self._wide = torch.float32
        if self.peers.world > 1:
            self._agree(shapes, seed)
            self._wide = self._narrowest()
        self._trial = Trial(settings.ways) if settings.free else None
        self.choices: list[Choice] = []
        self._lanes = Lanes(_LANES)
        self._flying: list[Future[str | None]] = []
        self._plain: list[tuple[torch.futures.Future[torch.Tensor], torch.Tensor]] = []
        self._began: float | None = None
        self._exposed = 0.0  # seconds that the last step waited at its end
        self._steps_here = 0  # since this process began, or has loaded a state
        self.dense_steps = 0

    def _agree(self, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
        layout = Layout.of({name: np.empty(shape, np.float32) for name, shape in shapes.items()})
        facts = {
            "the model": f"{layout.size} parameters in {len(shapes)} tensors, {layout.digest:.16}",
            "torch": ".".join(torch.__version__.split(".")[:2]),
            "the residuals' version": owing.VERSION,
            "the codec up": self.settings.up,
            "the codec down": self.settings.down,
            "matrix_rank": self.settings.matrix_rank,
            "the optimizer": self.settings.optimizer,
            "warmup": self.settings.warmup,
            "dense_below": self.settings.dense_below,
            "check_every": self.settings.check_every,
            "what there is to choose from": [f"{way.name} x {way.inflation}" for way in self.settings.ways],
            "whether there is a scaler": self._scaler is not None,
            "seed": seed,
        }
        self.peers.agree("compression", facts)

    def _narrowest(self) -> torch.dtype:
        """bfloat16, where the group can sum it (gloo could not in every version of torch)."""
        device = next(iter(self._parameters.values())).device
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
        return self._trial is None or bool(self._trial.way(self._steps_here))

    @property
    def way(self) -> str:
        """How gradients travel in the step of now: "as they are", "thin 32 at 4 bits" or the like."""
        if not self.compresses:
            return AS_THEY_ARE.name
        return self.settings.ways[0 if self._trial is None else self._trial.way(self._steps_here)].name

    def _begin(self) -> None:
        now = time.perf_counter()
        if self._trial is not None and self._began is not None:
            self._trial.measured(self._steps_here - 1, now - self._began, self._exposed)
            if self._trial.asks_before(self._steps_here):
                self._decide(self._trial)
        if self._trial is not None and self.compresses:
            self._reduction.take(self._trial.way(self._steps_here))
        self._began = now
        if self._scaler is not None:
            scale = float(self._scaler.get_scale())
            if scale != self._scale:
                self._reduction.rescale(scale / self._scale)
                self._scale = scale

    def _decide(self, trial: Trial) -> None:
        rows = self.peers.gather(struct.pack("<2d", *trial.medians()), 16)
        choice = trial.heard(self.step, [struct.unpack("<2d", row) for row in rows])
        if choice is not None:
            self.choices.append(choice)
            if self.peers.rank == 0:
                _log.info("%s", choice)

    def _end(self) -> None:
        """Waits for the step's buckets and lets what they changed count; raises what went wrong, if something did."""
        flying, self._flying = self._flying, []
        ready = time.perf_counter()
        broken = [reason for reason in [future.result() for future in flying] if reason]
        broken += self._plain_broken()
        if self._trial is not None and self._trial.times(self._steps_here):
            gpu.finish(next(iter(self._parameters.values())).device)  # on NCCL a wait is only queued
        self._exposed = time.perf_counter() - ready
        if not broken:
            self._owed.commit()
        else:
            self._owed.discard()
            if self._scaler is None:
                raise StateError(
                    f"a gradient holds NaN or infinity, no rank has applied the step: {broken[0]}",
                    hint="with a GradScaler, pass it as scaler=; else check the learning rate, and start again",
                )
        every = self.settings.check_every
        joining = getattr(
            self._model, "_join_config", None
        )  # ranks without data are behind until all have joined
        if (
            every
            and self.peers.world > 1
            and self.step % every == every - 1
            and not getattr(joining, "enable", False)
        ):
            self._check()
        self.dense_steps += not self.compresses
        self.step += 1
        if self.step > self.settings.warmup:
            self._steps_here += 1

    def _plain_broken(self) -> list[str]:
        """Waits for what travels as it is. Whether it is finite is looked at where a residual is at stake."""
        plain, self._plain = self._plain, []
        broken = []
        for future, buffer in plain:
            try:
                future.wait()
            except RuntimeError as error:
                gone = ", ".join(f"rank {rank}" for rank in self.peers.gone()) or "a rank"
                raise StateError(
                    f"rank {self.peers.rank}: {gone} is gone, or did not send its gradient in time",
                    hint="see its own output",
                ) from error
            if self._owed.is_open and not bool(torch.isfinite(buffer).all()):
                broken.append("a bucket that travels as it is")
        return broken

    def _check(self) -> None:
        """All ranks hold the same bits.

        Raises:
            StateError: one does not; it is named.
        """
        state = {name: p.detach().float().cpu().numpy() for name, p in self._parameters.items()}
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
                late = self._owed.pay(self._names[id(parameter)])
                if late is not None:
                    gradient.add_(late.to(gradient.device, gradient.dtype))
            tiny = buffer.numel() < self.settings.dense_below
            sent = buffer if tiny else buffer.to(self._wide)
            sent.div_(self.peers.world)
        work = dist.all_reduce(sent, group=self._group, async_op=True)
        assert work is not None
        future: torch.futures.Future[torch.Tensor] = work.get_future().then(
            lambda done: buffer.copy_(done.value()[0])
        )
        self._plain.append((future, buffer))
        return future

    def _compressed(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        buffer, gradients = bucket.buffer(), bucket.gradients()
        names = tuple(self._names[id(parameter)] for parameter in bucket.parameters())
        tags = [self.peers.tag() for _ in range(4 if self.settings.matrix_rank else 2)]
        number = (self.step << 12) + bucket.index()
        place = buffer.device if self._on_gpu else torch.device("cpu")
        owed = [self._owed.begin(name, self._reduction.shapes[name], place) for name in names]
        future = future_on(buffer.device)
        ready = None
        if not on_host(buffer):
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(buffer.device))
        kernel_threads = torch.get_num_threads()

        def carry() -> str | None:
            try:
                with gpu.working_on(buffer.device, ready), torch.no_grad(), threads.at_least(kernel_threads):
                    tensors = [wide(gradient).to(place) for gradient in gradients]
                    broken = self._reduction.mean(names, tensors, owed, tags, number)
                    for gradient, tensor in zip(gradients, tensors, strict=True):
                        if tensor.data_ptr() != gradient.data_ptr():
                            gradient.copy_(tensor)
                return broken
            finally:
                future.set_result(buffer)

        self._flying.append(self._lanes.submit(carry))
        return future

    # -- what it cost ----------------------------------------------------------------------------------------

    @property
    def traffic(self) -> Traffic:
        """What this rank's compressed steps sent and received, in bytes; steps sent as they are go elsewhere."""
        return self.peers.traffic

    @property
    def codec_seconds(self) -> float:
        """What encoding and decoding took, all lanes together."""
        return self._reduction.codec_seconds

    # -- saved and restored ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What this rank owes, as tensors and plain values: every rank saves its own.

        Call it between two steps.
        """
        return {
            "kind": "phloem.torch residuals",
            "version": owing.VERSION,
            "ranks": self.peers.world,
            "rank": self.peers.rank,
            "step": self.step,
            **self._reduction.saved(self._scale),
        }

    def load_state_dict(self, states: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Continues from what `state_dict` gave: this rank's own, or all ranks' where their number has changed.

        The states of all ranks are taken one after another, so a generator needs the memory of one.

        Raises:
            ConfigError: it is no such state, or that of another rank or number of ranks, alone.
            StateError: another version or model, or a rank's state is missing. Nothing changed.
        """
        shapes = self._reduction.shapes
        if isinstance(states, Mapping):
            owing.check(states, shapes)
            if (states["ranks"], states["rank"]) != (self.peers.world, self.peers.rank):
                raise ConfigError(
                    f"this is what rank {states['rank']} of {states['ranks']} owed, loaded at rank "
                    f"{self.peers.rank} of {self.peers.world}",
                    hint="where the number of ranks has changed, give the states of all of them as a list",
                )
            own, last = reduction.arrays_of(states["own"]), states
        else:
            seen: list[Mapping[str, Any]] = []
            own, last = owing.merged(_seen(states, seen), shapes), seen[0]
        self._reduction.load(own, last, self._scale)
        self.step, self._steps_here, self._began = int(last["step"]), 0, None
        if self._trial is not None:
            self._trial = Trial(self.settings.ways)

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
    ignored = getattr(model, "parameters_to_ignore", ())
    return [(n, p) for n, p in model.module.named_parameters() if p.requires_grad and n not in ignored]


def _seen(states: Iterable[Mapping[str, Any]], seen: list[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The states as they come; of the first one everything but its residual stays in `seen`."""
    for state in states:
        yield state
        if not seen:
            seen.append({**state, "own": {}})
