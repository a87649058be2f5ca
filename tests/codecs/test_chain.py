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
