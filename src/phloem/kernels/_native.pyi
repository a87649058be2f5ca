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
def extent_of_sum(
    arrays: Sequence[npt.NDArray[np.float32]],
    others: Sequence[npt.NDArray[np.float32]],
    sums: Sequence[npt.NDArray[np.float32]],
) -> tuple[float, int]: ...
def encode(
    arrays: Sequence[npt.NDArray[np.float32]],
    pieces: npt.NDArray[np.int64],
    significand: int,
    exponent: int,
    weighted: bool,
    importances: Sequence[int],
    threads: int,
    /,
) -> bytes: ...
def decode(
    body: bytes,
    arrays: Sequence[npt.NDArray[np.float32]],
    pieces: npt.NDArray[np.int64],
    significand: int,
    exponent: int,
    weighted: bool,
    put: int,
    threads: int,
) -> None: ...

class Opened:
    def __init__(
        self,
        body: bytes,
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        pieces: npt.NDArray[np.int64],
        significand: int,
        exponent: int,
        weighted: bool,
    ) -> None: ...
    def put(
        self,
        first: int,
        arrays: Sequence[npt.NDArray[np.float32]],
        first_part: int,
        last_part: int,
        put: int,
        threads: int,
    ) -> None: ...

def add_all(
    bodies: Sequence[Opened],
    first: int,
    arrays: Sequence[npt.NDArray[np.float32]],
    first_part: int,
    last_part: int,
    threads: int,
) -> None: ...
def subtract_encoded(
    body: bytes,
    arrays: Sequence[npt.NDArray[np.float32]],
    pieces: npt.NDArray[np.int64],
    significand: int,
    exponent: int,
    weighted: bool,
    threads: int,
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
def load_logistic_tables(
    stretch_middle: npt.NDArray[np.int16],
    stretch_tail: npt.NDArray[np.int16],
    squash: npt.NDArray[np.uint16],
    log16: npt.NDArray[np.uint8],
    rates: npt.NDArray[np.uint32],
    priors: npt.NDArray[np.uint32],
    /,
) -> None: ...
def adaptive_pack(
    values: Sequence[npt.NDArray[np.float32]],
    inverses: Sequence[float],
    indices: Sequence[npt.NDArray[np.int32]],
    held: Sequence[npt.NDArray[np.int8]],
    shapes: Sequence[tuple[int, int]],
    mixing: bool,
    states: int,
    highest: Sequence[int],
    /,
) -> bytes: ...
def adaptive_unpack(
    body: bytes,
    indices: Sequence[npt.NDArray[np.int32]],
    held: Sequence[npt.NDArray[np.int8]],
    shapes: Sequence[tuple[int, int]],
    mixing: bool,
    states: int,
    highest: Sequence[int],
    /,
) -> None: ...
def adaptive_centres(
    x: npt.NDArray[np.float32], indices: npt.NDArray[np.int32], inverse: float, states: int, /
) -> list[int]: ...
def adaptive_values(
    indices: npt.NDArray[np.int32],
    states: int,
    values: npt.NDArray[np.float32],
    step: float,
    put: int,
    out: npt.NDArray[np.float32],
    /,
) -> None: ...
def trellis_quantise(
    arrays: Sequence[npt.NDArray[np.float32]],
    indices: Sequence[npt.NDArray[np.int32]],
    states: int,
    weight: int,
    magnitude_highest: int,
    step: float,
    /,
) -> None: ...
def trellis_states(indices: npt.NDArray[np.int32], found: npt.NDArray[np.uint8], states: int, /) -> None: ...
def trellis_reconstruct(
    indices: npt.NDArray[np.int32], values: npt.NDArray[np.float32], states: int, step: float, /
) -> int: ...
def add_products(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], total: npt.NDArray[np.float32]
) -> None: ...
def orthonormal(rows: npt.NDArray[np.float64], /) -> None: ...
def scale_rows_and_columns(
    matrix: npt.NDArray[np.float32], rows: npt.NDArray[np.float32], columns: npt.NDArray[np.float32], /
) -> None: ...
def squares_of_rows_and_columns(
    matrix: npt.NDArray[np.float32],
    unit: float,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    /,
) -> None: ...
def hadamard(vector: npt.NDArray[np.float32], size: int, scale: float, /) -> None: ...
def flip(vector: npt.NDArray[np.float32], seed: int, /) -> None: ...
