"""`LocalSGD`: every rank trains alone for some steps, then all merge what they learned; DiLoCo, in compressed rounds.

The rounds are those of every other engine: each rank is a site, and each replays the coordinator from all ranks'
frames. So no frame travels down: the merged step is exact, costs no bytes, and every rank computes the same bits.
Per round a rank sends its frame to every other rank.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from phloem import canonical
from phloem.codecs.config import check_number
from phloem.engines.torch import leveling
from phloem.engines.torch.commits import Own, Trunk, Worker, meet, shared_start
from phloem.engines.torch.leveling import Leveling
from phloem.engines.torch.peers import TIMEOUT_SECONDS, Peers, Traffic
from phloem.engines.torch.settings import codecs_of
from phloem.errors import ConfigError, StateError
from phloem.planner import levels
from phloem.rounds.choose import FixedChoice
from phloem.rounds.coordinator import DIVERGED, Coordinator
from phloem.rounds.merge import MergeRule, ServerOptimizer, WeightedMerge
from phloem.rounds.plan import OpenPlan, limits_for
from phloem.rounds.site import Site
from phloem.strict import from_table
from phloem.tasks.torch_task import load_state, pack_optimiser, state_of, unpack_optimiser
from phloem.tensors import Layout, State, state_digest

_log = logging.getLogger("phloem")


@dataclass(frozen=True)
class Merged:
    """What one exchange did.

    Attributes:
        round: how many there have been, this one included.
        workers: whose updates were merged.
        refused: whose were not, and why.
        sent, received: bytes over this rank's line.
        seconds: how long it took, waiting for slower ranks included.
        state: the digest of the model that all ranks hold now, in the rounds in which it is compared.
        level: what this rank's update was sent at where `bits` is "auto": "0.05 fast" is bits per parameter and the
            encoder's effort, "none" and "bf16" are whole values. Else "".
    """

    round: int
    workers: tuple[int, ...]
    refused: Mapping[int, str]
    sent: int
    received: int
    seconds: float
    state: str | None
    level: str = ""


class LocalSGD:
    """Local SGD over torch.distributed: call `step()` after every optimizer step; every so often it merges.

    A rank that joins, or comes back after a crash, takes over the newest model that any rank has on its disk, and
    has what it owes from its own.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 30,
        bits: float | str | None = None,
        codec: str | Mapping[str, Any] | None = None,
        effort: str = "fast",
        outer: str | Mapping[str, Any] | ServerOptimizer = "sgd",
        division: float = 1.0,
        decay: float = 1.0,
        clip_norm: float | None = None,
        folder: str | Path | None = None,
        group: dist.ProcessGroup | None = None,
        seed: int = 0,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Every rank calls it alike, before its first step. The ranks start from rank 0's model.

        Args:
            model: a plain module. Its floating-point parameters and buffers are merged, the others stay.
            optimizer: the inner one. Its moments stay at the rank; `folder` keeps them.
            every: steps between two merges (H in DiLoCo).
            bits: wire bits per parameter of a rank's frame (`ecsq`); or "auto", as without `codec` unless told
                otherwise: they are chosen for every merge, from 0.02 to all 32, by what training and the merges before
                took, so that the run is done soonest. It begins with a few kilobytes. The choice is the same at every
                rank. With momentum outside, which coarse frames do not bear, none is coarser than 2 bits.
            codec: in place of `bits`, any codec by its name or table.
            effort: of `ecsq`, with a number of bits; "auto" chooses it, too.
            outer: the step on the merged update: "sgd" (learning rate 1), "nesterov" (0.7, momentum 0.9: dense
                DiLoCo's), or a table {"name": …, "learning_rate": …, "momentum": …}.
            division: p of `phloem.rounds.merge.MergeRule`; 1 is the mean over the ranks that sent a coordinate.
            decay: what is left of a rank's residual from one merge to the next. With coarse frames and a large outer
                step less than 1 may do better: `benchmarks/diloco.py` takes 0.9 at 0.03 bits with an outer rate of 2.
            clip_norm: bounds the Euclidean norm of a rank's update.
            folder: where this rank writes down every merge; ranks of one machine may share it. Without one, a crash
                loses the run.
            group: the ranks that merge; all without one.
            seed: of the codec's random numbers, if it has any.
            timeout_seconds: the longest that a rank waits for another's steps and frame.

        Raises:
            ConfigError: the options do not fit, or the ranks disagree about model or options.
            StateError: a rank did not come in time, or `folder` holds another run.
        """
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise ConfigError(
                "a DistributedDataParallel model is merged at every step already",
                hint="give the module inside: model.module",
            )
        if type(every) is not int or every < 1:
            raise ConfigError(f"'every' must be a whole number of steps, 1 or more, found {every!r}")
        self.every, self.steps = every, 0
        self._model, self._optimizer = model, optimizer
        if bits is None and codec is None:
            bits = leveling.AUTO
        if isinstance(bits, str):
            self._up = leveling.first(bits, codec, effort)
        else:
            self._up, _ = codecs_of(bits, None, codec, effort, 0.0)
        self._rule = MergeRule(division, _outer(outer))
        if clip_norm is not None:
            check_number("LocalSGD", "clip_norm", clip_norm, 1e-12, 1e12)
        check_number("LocalSGD", "decay", decay, 0.0, 1.0)
        self._clip_norm, self._decay, self._seed = clip_norm, decay, seed
        self.peers = Peers(group, timeout_seconds)
        state = state_of(model)
        self._layout = Layout.of(state)
        self._leveling = None
        if isinstance(bits, str):
            self._leveling = Leveling(self.peers, self._layout.size, self._rule.optimizer.name != "sgd")
        self._names = _names(model, optimizer)
        self._agree()
        place = Path(folder) if folder is not None else None
        self.worker, self._numbers, trunk = meet(self.peers, place)
        self._disk = Worker(place, self.worker) if place is not None else None
        self._coordinator = self._coordinator_at(trunk, state)
        self._site, memory = self._site_at(trunk)
        unpack_optimiser(optimizer, self._names, memory)
        flying = not self._order()
        if self._disk is not None:
            self._keep_trunk(self._disk)
        told = self.peers.gather(bytes([flying]), 1)
        if self._leveling is not None:
            self._leveling.begin()
        if any(one != b"\0" for one in told):
            self._finish()
        self._since = time.perf_counter()  # it trains from here

    # -- the loop --------------------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """How many merges the model has had."""
        return self._coordinator.round

    @property
    def traffic(self) -> Traffic:
        """What crossed this rank's line so far."""
        return self.peers.traffic

    def step(self) -> Merged | None:
        """Counts one step of the optimizer; merges after every so many, and says what came of it.

        The model then holds the merged weights, the same bits at every rank.

        Raises:
            StateError: a rank is gone or too late, or holds another model. The last merge is on the disk: start
                again (`torchrun` does) with the ranks that are left.
        """
        self.steps += 1
        return self.merge() if self.steps % self.every == 0 else None

    def merge(self) -> Merged:
        """Merges now, whatever the count. Every rank must."""
        train = time.perf_counter() - self._since
        state, coding = self._trained(), time.perf_counter()
        message = self._site.reply(
            state, self.every, spent=lambda: (train, time.perf_counter() - coding, 0.0, 0.0)
        )
        merged = self._merged(message)
        self._since = time.perf_counter()
        return merged

    def _finish(self) -> None:
        """Merges the updates that a crash has left under way, without those that it has taken along."""
        self._merged(self._site.reply(None), again=True)

    def _merged(self, message: bytes, *, again: bool = False) -> Merged:
        started, before = time.perf_counter(), replace(self.peers.traffic)
        number = self._coordinator.round
        if self._disk is not None:
            self._keep_own(self._disk)
        most = 2 * limits_for(self._layout)["max_frame_bytes"]
        if self._leveling is not None:
            self._leveling.starts()
        ready = time.perf_counter()
        replies = self.peers.gather(message, most)
        exchanged = time.perf_counter() - ready
        if self._leveling is not None:
            self._leveling.ended(len(message))
        for worker, reply in zip(self._numbers, replies, strict=True):
            reason = self._coordinator.receive(str(worker), reply)
            if reason is not None and (reason.startswith(DIVERGED) or "another trunk" in reason):
                raise StateError(
                    f"worker {worker} {reason}", hint="compare versions and processors of the ranks"
                )
        result = self._coordinator.close()
        refused = {int(worker): reason for worker, reason in result.refused.items()}
        for worker, reason in refused.items():
            _log.warning("round %d goes without worker %d: %s", number, worker, reason)
        if self.worker in refused:  # whatever broke the weights is in the moments as well
            self._optimizer.state.clear()
        level = ""
        if self._leveling is not None:
            level = self._leveling.words(self.worker)
            sent = {str(worker): len(reply) for worker, reply in zip(self._numbers, replies, strict=True)}
            self._leveling.meet(ready, exchanged, {} if again else sent, result)
        self._order()
        for owed in self._site.at.residual.owed or ():
            owed *= np.float32(self._decay)
        if self._disk is not None:
            self._keep_trunk(self._disk)
        now = self.peers.traffic
        return Merged(
            number + 1,
            tuple(sorted(int(update.site) for update in result.accepted)),
            refused,
            now.sent - before.sent,
            now.received - before.received,
            time.perf_counter() - started,
            result.state,
            level,
        )

    def _order(self) -> bool:
        """Lets the own site take the trunk's last step, and the model with it; whether it trains from here.

        It does not where its update of this very round is still under way.
        """
        here = {str(worker) for worker in self._numbers}
        orders = self._coordinator.orders(here, here)
        work = self._site.receive(orders[str(self.worker)])
        load_state(self._model, self._site.at.state)
        self._loaded = None if self._is_float32() else state_of(self._model)
        return work.train

    def _trained(self) -> State:
        """The model's state, and in a narrower type than float32 the trunk plus what the steps changed."""
        state = state_of(self._model)
        if self._loaded is None:
            return state
        trunk = self._site.at.state
        return {name: trunk[name] + (array - self._loaded[name]) for name, array in state.items()}

    def _is_float32(self) -> bool:
        tensors = self._model.state_dict().values()
        return all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())

    # -- the start -------------------------------------------------------------------------------------------

    def _agree(self) -> None:
        facts = {
            "the model": f"{self._layout.size} parameters in {len(self._layout.specs)} tensors, "
            f"{self._layout.digest:.16}",
            "every": self.every,
            "the codec": self._up if self._leveling is None else leveling.AUTO,
            "the merge": canonical.plain(self._rule),
            "clip_norm": self._clip_norm,
            "decay": self._decay,
            "seed": self._seed,
        }
        self.peers.agree("local SGD", facts)

    def _plan(self, initial_state: str) -> OpenPlan:
        limits = limits_for(self._layout)
        mine = {str(self._up["codec"])} if self._leveling is None else levels.codecs()
        return OpenPlan(
            run="local-sgd",
            seed=self._seed,
            sites=(),
            layout=self._layout.digest,
            initial_state=initial_state,
            up=self._up,
            down={"codec": "none"},
            codecs=tuple(sorted(mine | {"none", "lossless"})),
            merge=self._rule,
            clip_norm=self._clip_norm,
            max_frame_bytes=limits["max_frame_bytes"],
            digest_every=limits["digest_every"],
        )

    def _coordinator_at(self, trunk: Trunk | None, state: State) -> Coordinator:
        merger = WeightedMerge(self._rule)
        if trunk is None:
            state = shared_start(self.peers, state, state_digest(state))
            broken = self._layout.first_non_finite(self._layout.arrays(state))
            if broken is not None:
                raise ConfigError(f"the model's '{broken}' holds NaN or infinity before the first step")
            plan = self._plan(state_digest(state))
            coordinator = Coordinator(plan, state, choose=self._leveling or FixedChoice(plan), merge=merger)
        else:
            plan = self._plan(str(trunk.plan["initial_state"]))
            wanted, found = canonical.plain(plan), trunk.plan
            for key in sorted(wanted.keys() | found.keys()):
                if wanted.get(key) != found.get(key):
                    raise StateError(
                        f"the run in the folder has {key} = {found.get(key)!r:.200}, this call "
                        f"{wanted.get(key)!r:.200}",
                        hint="go on with its settings, or start in another folder",
                    )
            choose = self._leveling or FixedChoice(plan)
            coordinator = Coordinator(plan, trunk.state, choose=choose, merge=merger, begins=False)
            coordinator.load(trunk.facts, trunk.arrays, trunk.state, list(trunk.recent))
        return coordinator

    def _site_at(self, trunk: Trunk | None) -> tuple[Site, dict[str, Any]]:
        coordinator, name = self._coordinator, str(self.worker)
        plan = coordinator.plan
        own = self._disk.own() if self._disk is not None else None
        memory: dict[str, Any] = {}
        if own is None and trunk is None:
            site = Site(name, plan, coordinator.state)
        else:
            site = Site.without_state(name, plan, self._layout)
            if own is not None:
                site.load(own.facts, own.owed, own.state)
                memory = own.memory
        stands = self.peers.gather(site.at.round.to_bytes(8, "little", signed=True), 8)
        coordinator.positions.clear()
        for worker, at in zip(self._numbers, stands, strict=True):
            coordinator.place(str(worker), int.from_bytes(at, "little", signed=True))
        return site, memory

    # -- the disk --------------------------------------------------------------------------------------------

    def _keep_own(self, disk: Worker) -> None:
        facts, owed, state = self._site.save()
        disk.keep_own(Own(facts, owed, state, pack_optimiser(self._optimizer, self._names)))

    def _keep_trunk(self, disk: Worker) -> None:
        facts, arrays, state = self._coordinator.save()
        plan = canonical.plain(self._coordinator.plan)
        assert isinstance(plan, dict)
        disk.keep_trunk(Trunk(plan, facts, arrays, state, tuple(self._coordinator.recent)))


def _outer(outer: str | Mapping[str, Any] | ServerOptimizer) -> ServerOptimizer:
    if isinstance(outer, ServerOptimizer):
        return outer
    if isinstance(outer, str):
        return ServerOptimizer(outer, 0.7, 0.9) if outer == "nesterov" else ServerOptimizer(outer)
    if not isinstance(outer, Mapping):
        raise ConfigError(f"'outer' must be a name or a table, found {outer!r:.60}")
    return from_table(ServerOptimizer, dict(outer), "outer")


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in its own order."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    names = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in known:
                raise ConfigError(
                    "the optimizer has a parameter that the model has not", hint="build it of this model"
                )
            names.append(known[id(parameter)])
    return names
