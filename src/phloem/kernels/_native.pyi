from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

class FormatError(ValueError): ...

def load_tables(
    half_octaves: npt.NDArray[np.float64],
    octaves: npt.NDArray[np.float64],
    logs: npt.NDArray[np.int64],
    ladder_costs: npt.NDArray[np.int64],
    class_costs: npt.NDArray[np.int64],
    class_means: npt.NDArray[np.uint64],
    class_thresholds: npt.NDArray[np.float32],
    class_offsets: npt.NDArray[np.float32],
    ladder: npt.NDArray[np.uint32],
    /,
) -> None: ...
def simd_levels() -> list[str]: ...
def set_simd(name: str, /) -> None: ...
def extent(arrays: Sequence[npt.NDArray[np.float32]], /) -> tuple[float, int]: ...
def energy(
    arrays: Sequence[npt.NDArray[np.float32]], others: Sequence[npt.NDArray[np.float32]], /
) -> float: ...
def encode(
    arrays: Sequence[npt.NDArray[np.float32]],
    significand: int,
    exponent: int,
    magnitude_highest: int,
    step: float,
    /,
) -> bytes: ...
def decode(
    body: bytes,
    outputs: Sequence[npt.NDArray[np.float32]],
    significand: int,
    exponent: int,
    magnitude_highest: int,
    step: float,
    /,
) -> None: ...
def planes_split(
    words: npt.NDArray[np.uint8], itemsize: int, turned: bool, planes: npt.NDArray[np.uint8], /
) -> None: ...
def planes_merge(
    planes: npt.NDArray[np.uint8], itemsize: int, turned: bool, words: npt.NDArray[np.uint8], /
) -> None: ...
def differences_ends(base: npt.NDArray[np.uint8], itemsize: int, exponent_bits: int, /) -> list[int]: ...
def differences_split(
    words: npt.NDArray[np.uint8],
    base: npt.NDArray[np.uint8],
    itemsize: int,
    exponent_bits: int,
    planes: npt.NDArray[np.uint8],
    /,
) -> None: ...
def differences_merge(
    planes: npt.NDArray[np.uint8],
    base: npt.NDArray[np.uint8],
    itemsize: int,
    exponent_bits: int,
    words: npt.NDArray[np.uint8],
    /,
) -> None: ...
def block_encode(data: npt.NDArray[np.uint8], /) -> bytes: ...
def block_decode(body: npt.NDArray[np.uint8], start: int, out: npt.NDArray[np.uint8], /) -> int: ...
