from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import zstandard

import phloem
from phloem import canonical, varint
from phloem.codecs.base import Hints
from phloem.codecs.classical import (
    Bins,
    Chain,
    Hadamard,
    Int8,
    LowRank,
    NoCompression,
    Qsgd,
    RandomK,
    Threshold,
    TopK,
    Zstd,
    chain,
)
from phloem.codecs.ecsq import Ecsq
from phloem.codecs.lowrank import factored
from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError, FormatError
from phloem.seeds import generator
from phloem.tensors import Layout

UPDATE = {
    "b": generator(0, "b").normal(size=50).astype(np.float32),
    "w": generator(0, "w").standard_t(3, size=(60, 40)).astype(np.float32),
}
LAYOUT = Layout.of(UPDATE)
ARRAYS = LAYOUT.arrays(UPDATE)


def nmse(decoded: list[Any]) -> float:
    lost = sum(float(np.square(a - d).sum()) for a, d in zip(ARRAYS, decoded, strict=True))
    return lost / sum(float(np.square(a).sum()) for a in ARRAYS)


def test_a_chain_of_topk_and_int8_is_int8_of_what_topk_keeps() -> None:
    both = chain(TopK(0.1), Int8(16))
    kept = TopK(0.1).apply(ARRAYS, LAYOUT, Hints())
    wanted = kept.side + Int8(16).encode(kept.arrays, kept.layout)
    assert both.encode(ARRAYS, LAYOUT) == bytes([2, TopK.code, Int8.code]) + wanted
    decoded = Chain.decode(both.encode(ARRAYS, LAYOUT), LAYOUT)
    plain = TopK.decode(TopK(0.1).encode(ARRAYS, LAYOUT), LAYOUT)
    for quantised, kept_array in zip(decoded, plain, strict=True):
        assert not quantised[kept_array == 0].any()
        assert np.abs(quantised - kept_array).max() <= np.abs(kept_array).max() / 127


def test_a_transform_alone_is_a_chain_without_its_head() -> None:
    for codec in (TopK(0.2), Threshold(1.5)):
        assert chain(codec).encode(ARRAYS, LAYOUT) == bytes([1, codec.code]) + codec.encode(ARRAYS, LAYOUT)


@pytest.mark.parametrize(
    ("stages", "largest_nmse"),
    [
        ((TopK(0.25, scope="chunk", chunk=64), Bins(2)), 0.6),
        ((LowRank(8), Int8()), 0.7),
        ((TopK(0.3), Hadamard(64), Qsgd(7, 64), Zstd()), 0.6),
        ((Hadamard(), Ecsq(bits=2.0)), 0.11),
        ((LowRank(20, iterations=3), TopK(0.5), Int8(), Zstd(9), Zstd(1)), 0.9),
    ],
)
def test_stages_work_together(stages: tuple[Any, ...], largest_nmse: float) -> None:
    codec = chain(*stages)
    body = codec.encode(ARRAYS, LAYOUT)
    assert len(body) < 4 * LAYOUT.size
    assert nmse(Chain.decode(body, LAYOUT)) < largest_nmse


def test_what_sparseloco_sends_takes_about_ten_bits_a_kept_value() -> None:
    update = {"w": generator(0, "sparse").normal(size=(256, 256)).astype(np.float32)}
    frame = phloem.encode(
        update,
        codec="chain",
        stages=[{"codec": "topk", "fraction": 1 / 64, "scope": "chunk"}, {"codec": "bins"}],
    )
    kept = 65536 // 64
    assert np.count_nonzero(phloem.decode(frame)["w"]) == kept
    assert 8 * len(frame) / kept < 7.6 + 2 + 1  # Rice gaps, values, everything else


def test_two_random_stages_do_not_share_their_random_numbers() -> None:
    codec = chain(RandomK(0.5), RandomK(0.5))
    decoded = [Chain.decode(codec.encode(ARRAYS, LAYOUT, Hints(seed=s)), LAYOUT)[1] for s in range(200)]
    kept = np.mean([np.count_nonzero(d) for d in decoded]) / decoded[0].size
    assert kept == pytest.approx(0.25, abs=0.01)


def test_a_chain_promises_what_all_its_stages_promise() -> None:
    assert chain(RandomK(0.1), Qsgd()).unbiased
    assert not chain(RandomK(0.1), Int8()).unbiased
    assert chain(NoCompression(), Zstd()).lossless
    assert not chain(Hadamard(), Zstd()).lossless
    assert not Chain.unbiased


def test_its_configuration_is_plain_tables_and_comes_back() -> None:
    codec = chain(TopK(0.01), Int8(), Zstd())
    config = canonical.loads(canonical.dumps(codec))
    assert config["stages"][1] == {"codec": "int8", "block": 128}
    assert Chain.from_config(config) == codec
    assert Chain(config["stages"]) == Chain([TopK(0.01), Int8(), Zstd()])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([], "expected 1 to 8 stages, found 0"),
        ([{"codec": "zstd"}] * 9, "found 9"),
        ([{"codec": "int8"}, {"codec": "topk"}], "'topk' cannot work on what 'int8' makes"),
        ([{"codec": "zstd"}, {"codec": "int8"}], "'int8' cannot work on what 'zstd' makes"),
        ([{"codec": "int8"}, {"codec": "sign"}], "'int8' and 'sign' are both quantisers"),
        ([{"codec": "chain", "stages": [{"codec": "int8"}]}], "a chain is no stage"),
        ([{"codec": "int9"}], "did you mean 'int8'"),
        ([{"codec": "int8", "blok": 3}], "did you mean 'block'"),
        ([{"codec": "threshold"}], "lacks 'threshold'"),
        (["int8"], "must be a table with 'codec'"),
        ("int8", "must be a list"),
        ({"codec": "int8"}, "must be a list"),
        (3, "must be a list"),
    ],
    ids=str,
)
def test_stages_that_make_no_sense_are_refused_in_a_sentence(stages: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Chain.from_config({"stages": stages})


def zstd_of(content: bytes, claimed: int | None = None) -> bytes:
    packed = zstandard.ZstdCompressor(level=3).compress(content)
    return varint.pack(len(content) if claimed is None else claimed) + packed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        bytes([9]) + bytes([19] * 9),
        bytes([2, 3]),
        bytes([1, 7, 1, 3]),  # a chain in a chain
        bytes([1, 63]),
        bytes([2, 3, 4]) + bytes(100),
        bytes([2, 3, 5]) + bytes(100),
        bytes([2, 19, 3]) + bytes(100),
        bytes([1, 19]) + varint.pack(1 << 60),
        bytes([1, 19]) + zstd_of(bytes(9800), 9801),
        bytes([1, 19]) + zstd_of(bytes(9801)),
        bytes([1, 19]) + zstd_of(bytes(9800)) + b"\0",
        bytes([1, 19, 0, 0]),
        bytes([1, 19])
        + varint.pack(9800)
        + zstandard.ZstdCompressor(write_content_size=False).compress(bytes(9800)),
    ],
)
def test_bodies_that_are_no_chain_are_refused(body: bytes) -> None:
    assert 4 * LAYOUT.size == 9800
    with pytest.raises(FormatError):
        Chain.decode(body, LAYOUT)


def test_a_small_frame_cannot_become_a_large_allocation() -> None:
    bomb = zstd_of(bytes(64 << 20))  # 64 MiB of zeros in a few kilobytes
    twice = bytes([2, 19, 19]) + zstd_of(bomb)
    tracemalloc.start()
    for body in (bytes([1, 19]) + bomb, twice):
        with pytest.raises(FormatError, match="expected at most"):
            Chain.decode(body, LAYOUT)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def tuned_layers() -> tuple[Layout, list[Any]]:
    """Changes of fine-tuned layers: a few strong directions, weaker ones, and noise; a vector besides."""
    draw, update = generator(0, "factored"), {}
    for name, (rows, columns) in {"attention": (96, 288), "mlp": (300, 100)}.items():
        left, right = draw.normal(size=(rows, 40)), draw.normal(size=(40, columns))
        spectrum = 2.0 ** -(np.arange(40)[:, None] ** 0.7)
        update[name] = (1e-3 * left @ (spectrum * right) + 3e-5 * draw.normal(size=(rows, columns))).astype(
            np.float32
        )
    update["norm"] = (1e-3 * draw.normal(size=96)).astype(np.float32)
    layout = Layout.of(update)
    return layout, layout.arrays(update)


def error_of(arrays: list[Any], decoded: list[Any]) -> float:
    lost = sum(float(np.square(a.astype(np.float64) - d).sum()) for a, d in zip(arrays, decoded, strict=True))
    return lost / sum(float(np.square(a.astype(np.float64)).sum()) for a in arrays)


@pytest.mark.parametrize("bits", [0.3, 0.7, 1.5])
def test_thin_matrices_lose_a_fraction_of_what_ecsq_does_where_changes_have_few_directions(
    bits: float,
) -> None:
    layout, arrays = tuned_layers()
    codec = codec_from(factored(layout.specs, bits, 16))
    body = codec.encode(arrays, layout)
    assert 8 * len(body) <= 1.05 * bits * layout.size
    plain = Ecsq.decode(Ecsq(bits=bits).encode(arrays, layout), layout)
    assert error_of(arrays, Chain.decode(body, layout)) < 0.4 * error_of(arrays, plain)
    assert codec.encode(arrays, layout) == body


def test_aligned_columns_are_those_of_the_singular_vectors() -> None:
    layout, arrays = tuned_layers()
    applied = LowRank(8, iterations=4, aligned=True).apply(arrays, layout, Hints())
    at = [spec.name for spec in layout.specs].index("attention")
    names = [spec.name for spec in applied.layout.specs]
    left, right = (applied.arrays[names.index(f"{at:08d}.{side}")].astype(np.float64) for side in "pq")
    for side in (left, right):
        gram = side.T @ side
        lengths = np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
        assert np.abs(gram / lengths - np.eye(8)).max() < 1e-3
    values = np.linalg.svd(arrays[at].astype(np.float64), compute_uv=False)[:8]
    assert np.sort((left**2).sum(0))[::-1] == pytest.approx(values, rel=0.03)
    assert (left**2).sum(0) == pytest.approx((right**2).sum(0), rel=1e-4)
    best = np.square(np.linalg.svd(arrays[at].astype(np.float64), compute_uv=False)[8:]).sum()
    assert np.square(left @ right.T - arrays[at]).sum() < 1.02 * best


def test_a_rank_that_a_matrix_does_not_have_and_a_matrix_of_zeros_are_no_trouble() -> None:
    layout = Layout.of({"w": np.zeros((40, 50), np.float32), "v": np.zeros((40, 50), np.float32)})
    one = np.outer(np.arange(40), np.ones(50)).astype(np.float32)
    codec = codec_from(factored(layout.specs, 2.0, 8))
    for arrays in ([one, np.zeros_like(one)], [np.zeros_like(one)] * 2):
        decoded = Chain.decode(codec.encode(arrays, layout), layout)
        assert error_of([*arrays, np.ones(1)], [*decoded, np.ones(1)]) < 1e-4


def test_a_rank_is_a_whole_number_and_aligned_is_yes_or_no() -> None:
    with pytest.raises(ConfigError, match="rank"):
        factored(LAYOUT.specs, 1.0, 0)
    with pytest.raises(ConfigError, match="true or false"):
        LowRank(4, aligned=1)  # type: ignore[arg-type]
