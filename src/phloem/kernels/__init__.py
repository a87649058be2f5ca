"""The arithmetic of the codecs, twice and equal to the bit: NumPy (`reference`, the specification) and C++.

Callers ask for `backend()`. By default that is the native kernel where it was built and the reference
otherwise.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError
from phloem.kernels.decoder import Put
from phloem.kernels.efforts import AdaptiveKernels, Held
from phloem.kernels.steps import Step
from phloem.kernels.threads import set_threads

__all__ = ["Kernels", "Opened", "Put", "Step", "available", "backend", "backend_name", "set_threads", "use"]

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]
BackendName = Literal["auto", "reference", "native"]

_log = logging.getLogger(__name__)
_chosen: list[Kernels] = []  # none or one


class Opened(Protocol):
    """A body whose parts can be decoded alone, by several threads at a time (`reference.Opened`)."""

    def put(self, first: int, arrays: Sequence[FloatArray], put: Put) -> None:
        """As `ecsq_decode_into`, for the tensors from `first` on alone: those of whole parts."""
        ...


class Kernels(AdaptiveKernels, Protocol):
    """What both kernels offer. Arrays are C-contiguous float32; results are equal to the bit."""

    NAME: str

    def ecsq_extent(self, arrays: Sequence[FloatArray]) -> tuple[float, int]:
        """The largest magnitude, and the index of the first tensor with a NaN or an infinity (-1: none)."""
        ...

    def ecsq_energy(self, arrays: Sequence[FloatArray], others: Sequence[FloatArray] | None = None) -> float:
        """The sum of squares of the arrays, or of their differences from the others."""
        ...

    def ecsq_extent_of_sum(
        self,
        arrays: Sequence[FloatArray],
        others: Sequence[FloatArray],
        sums: Sequence[FloatArray] | None = None,
    ) -> tuple[float, int]:
        """As `ecsq_extent`, of the float32 sums, which are written into `sums` (the arrays themselves, even)."""
        ...

    def ecsq_encode(self, arrays: Sequence[FloatArray], step: Step, importances: Sequence[int] = ()) -> bytes:
        """The body of these tensors at this step, finer by quarters of an octave where importances are given."""
        ...

    def ecsq_decode(
        self, body: bytes | memoryview, shapes: Sequence[tuple[int, ...]], held: Held = None
    ) -> list[FloatArray]:
        """The tensors of a body, or FormatError."""
        ...

    def ecsq_decode_into(
        self,
        body: bytes | memoryview,
        arrays: Sequence[FloatArray],
        put: Put,
        held: Held = None,
        *,
        in_parts: bool = False,
    ) -> None:
        """Put the tensors of a body into arrays of zeros, or add or subtract them; or FormatError, nothing done."""
        ...

    def Opened(self, body: bytes | memoryview, shapes: Sequence[tuple[int, ...]]) -> Opened:  # noqa: N802
        """A body whose parts can be decoded alone."""
        ...

    def ecsq_add_all(self, bodies: Sequence[Any], first: int, arrays: Sequence[FloatArray]) -> None:
        """Add open bodies, one after another, to the tensors from `first` on; or FormatError."""
        ...

    def ecsq_subtract_encoded(self, body: bytes, arrays: Sequence[FloatArray], held: Held = None) -> None:
        """Subtract a body from the very arrays that it was encoded from: what its sender still owes."""
        ...

    def planes_split(self, words: Words, exponent_bits: int) -> Bytes:
        """The plain planes (`planes`). Shape: (bytes of an element, elements)."""
        ...

    def planes_merge(self, planes: Bytes, out: Words, exponent_bits: int) -> None:
        """Fills `out` with the elements of plain planes."""
        ...

    def differences_ends(self, base: Words, exponent_bits: int) -> list[int]:
        """Where each class of this base ends in the planes of differences."""
        ...

    def differences_split(self, words: Words, base: Words, exponent_bits: int) -> Bytes:
        """The planes of the differences, in class order. Shape: (bytes of an element, elements)."""
        ...

    def differences_merge(self, planes: Bytes, base: Words, out: Words, exponent_bits: int) -> None:
        """Fills `out` with the elements whose differences from `base` these planes hold."""
        ...

    def block_encode(self, data: Bytes) -> bytes:
        """The block of these bytes (`bytecoder`)."""
        ...

    def block_decode(self, body: Bytes, start: int, out: Bytes) -> int:
        """Fills `out` from the block at `start` of any kind but zstd; the position after it, or FormatError."""
        ...

    def trellis_quantise(
        self, arrays: Sequence[FloatArray], step: Step, states: int, weight: int = ...
    ) -> list[npt.NDArray[np.int32]]:
        """The indices of every tensor, flat, chosen by dependent quantisation with 4 or 8 states."""
        ...

    def trellis_states(self, indices: npt.NDArray[np.int32], states: int) -> npt.NDArray[np.uint8]:
        """The state in which each index of one tensor is coded."""
        ...

    def trellis_reconstruct(self, indices: npt.NDArray[np.int32], step: Step, states: int) -> FloatArray:
        """The values of one tensor's indices, or ConfigError."""
        ...

    def add_products(self, left: FloatArray, right: FloatArray, total: FloatArray) -> None:
        """Adds left (m × r) times right (r × n) to `total` in place, one rank after another."""
        ...

    def orthonormal(self, rows: npt.NDArray[np.float64]) -> None:
        """Makes the rows (r × m) orthonormal one after another, in place."""
        ...

    def scale_rows_and_columns(self, matrix: FloatArray, rows: FloatArray, columns: FloatArray) -> None:
        """Multiplies every value, in place, by its row's number, and then by its column's."""
        ...

    def squares_of_rows_and_columns(
        self, matrix: FloatArray, unit: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Sums over rows, and over columns, of the squares of value ÷ unit rounded to a whole number."""
        ...

    def hadamard(self, vector: FloatArray, size: int, scale: float) -> None:
        """Transforms every block of `size` values in place, and multiplies by `scale`."""
        ...

    def flip(self, vector: FloatArray, seed: int) -> None:
        """Turns the signs over, in place, that the stream `seed` names."""
        ...


def available() -> tuple[str, ...]:
    """The kernels that can be used here, the reference first."""
    return ("reference",) if _native_or_none() is None else ("reference", "native")


def use(name: BackendName) -> None:
    """Choose the kernels for this process from now on.

    Raises:
        ConfigError: the native kernels are asked for and were not built.
    """
    if name == "auto":
        native = _native_or_none()
        if native is None:
            _log.warning("native kernels are not built: using the NumPy reference (same results, slower)")
        chosen = native or _reference()
    elif name == "reference":
        chosen = _reference()
    elif name == "native":
        native = _native_or_none()
        if native is None:
            raise ConfigError(
                "The native kernels were not built.", hint="install a C++ compiler and reinstall phloem"
            )
        chosen = native
    else:
        raise ConfigError(f"There are no kernels '{name}'.", hint="known: auto, reference, native")
    _chosen[:] = [chosen]


def backend() -> Kernels:
    """The chosen kernels; chooses by itself on first use, and says so if it has to fall back."""
    if not _chosen:
        use("auto")
    return _chosen[0]


def backend_name() -> Literal["reference", "native"]:
    """The name of the chosen kernels."""
    return cast(Literal["reference", "native"], backend().NAME)


def _reference() -> Kernels:
    return cast(Kernels, importlib.import_module("phloem.kernels.reference"))


def _native_or_none() -> Kernels | None:
    try:
        return cast(Kernels, importlib.import_module("phloem.kernels.native"))
    except ImportError:
        return None
