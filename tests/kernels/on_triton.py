"""Triton's kernels against the processor's, in a process of its own: python -m tests.kernels.on_triton PART.

Triton decides at its import whether it interprets its kernels on the processor (TRITON_INTERPRET=1) or compiles them.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import torch
from tests.engines.torch.in_threads import ThreadPeers, tensors, together

from phloem.codecs.registry import codec_from
from phloem.engines.torch import gpu, reduce, thin
from phloem.engines.torch.reduce import Pair, PlainMean
from phloem.engines.torch.thin import ThinMean
from phloem.kernels import triton as kernels
from phloem.tensors import Array

SHAPES = [(1, 1, 1), (7, 5, 2), (32, 128, 4), (33, 129, 8), (100, 300, 32), (64, 1, 33), (0, 4, 2), (5, 0, 3)]


def uneven(rng: np.random.Generator, *shape: int) -> Array:
    """Values of all sizes, zeros of both signs and subnormals among them."""
    values = rng.standard_normal(shape) * np.exp2(rng.integers(-70, 60, shape))
    values[rng.random(shape) < 0.1] = 0.0
    values[rng.random(shape) < 0.05] = -0.0
    values[rng.random(shape) < 0.05] = 1e-41
    return np.asarray(values, np.float32)


def split() -> None:
    """The same bits as the processor's, whatever the values; and so has torch's way without Triton."""
    rng = np.random.default_rng(3)
    for m, n, rank in SHAPES:
        whole, base, told, mean = (uneven(rng, *s) for s in ((m, n), (rank, m), (rank, n), (rank, n)))
        found = []
        for function in (thin.split, gpu.split_by_passes, kernels.split):
            mine, owed = torch.from_numpy(whole.copy()), torch.full((m, n), 7.0)
            others = (told, mean) if function is thin.split else tensors(told, mean)
            function(mine, owed, torch.from_numpy(base), *others)
            found.append((mine.numpy().tobytes(), owed.numpy().tobytes()))
        assert found[0] == found[1] == found[2], (m, n, rank)


class Elsewhere:
    """Lets `module` take tensors of the processor's memory for those of a GPU's."""

    def __init__(self, module: Any) -> None:
        self.module, self.lock, self.split = module, threading.Lock(), kernels.split
        self.calls = 0

    def __enter__(self) -> Elsewhere:
        self.before = self.module.on_host, self.module.host
        self.module.on_host = lambda tensor: False
        self.module.host = lambda tensor: tensor.numpy().copy()
        kernels.split = self.one_at_a_time
        gpu.split(torch.device("cpu"))  # tried once, and not by three threads
        return self

    def __exit__(self, *_: object) -> None:
        self.module.on_host, self.module.host = self.before
        kernels.split = self.split

    def one_at_a_time(self, *given: torch.Tensor) -> None:  # the interpreter cannot do more
        with self.lock:
            self.calls += 1
            self.split(*given)


def means() -> None:
    """Ranks whose gradients lie on a GPU have the bits of ranks on the processor, and owe what those would owe."""
    shapes = {"kernel": (48, 12, 3, 3), "wide": (30, 400), "small": (4, 4), "bias": (48,)}
    pair = Pair(codec_from({"codec": "ecsq", "bits": 2.0}), codec_from({"codec": "ecsq", "bits": 2.0}))

    def some(rng: np.random.Generator) -> list[Array]:
        return [rng.standard_normal(shape).astype(np.float32) for shape in shapes.values()]

    def steps(mean: ThinMean | PlainMean, peers: ThreadPeers) -> list[bytes]:
        rng, owed, found = (
            np.random.default_rng(peers.rank),
            [array * 0 for array in some(np.random.default_rng())],
            [],
        )
        for _ in range(3):
            arrays, tags = some(rng), [peers.tag() for _ in range(4)]
            given = tensors(*arrays), tensors(*owed)
            assert mean.mean(tuple(shapes), *given, tags, peers.tag()) is None
            found += [array.tobytes() for array in (*arrays, *owed)]
        return found

    def thinly(peers: ThreadPeers) -> list[bytes]:
        return steps(ThinMean(peers, shapes, 2, pair, pair), peers)

    def plainly(peers: ThreadPeers) -> list[bytes]:
        return steps(PlainMean(peers, shapes, pair), peers)

    for module, way in ((thin, thinly), (reduce, plainly)):
        expected = together(3, way)
        gpu.split.cache_clear()
        with Elsewhere(module) as elsewhere:
            assert together(3, way) == expected, way
        # three ranks, three steps, two matrices; and the attempt, for where Triton fails torch would do it
        assert elsewhere.calls == (19 if module is thin else 1), elsewhere.calls


def compiled() -> None:
    """What is compiled for GPUs rounds every product, flushes nothing to zero and approximates nothing."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = dict.fromkeys(("whole", "owed", "base", "told", "mean"), "*fp32")
    constants = {"RANK": 32, "TALL": 32, "WIDE": 128}
    signature = pointers | {"m": "i32", "n": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernels._split, signature=signature, constexprs=constants)
    for capability in (75, 80, 90):
        done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=kernels._UNFUSED)
        assembly = done.asm["ptx"]
        for word in ("fma.", ".ftz", ".approx", "mma", ".tf32"):
            assert word not in assembly, (capability, word)
        assert all(
            f"{word}.f32" in assembly or f"{word}.rn.f32" in assembly for word in ("mul", "sub", "add")
        )
        assert done.asm["cubin"][:4] == b"\x7fELF"


if __name__ == "__main__":
    {"split": split, "means": means, "compiled": compiled}[sys.argv[1]]()
