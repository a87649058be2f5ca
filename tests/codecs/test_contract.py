"""Every codec keeps the contract, and the contract finds a codec that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from phloem.codecs.base import Held
from phloem.codecs.casts import BFloat16, NoCompression
from phloem.codecs.registry import BY_CODE, BY_NAME, CODECS, codec_from
from phloem.errors import ConfigError
from phloem.tensors import Array, Layout
from phloem.testing.contracts import CodecContract

CONFIGS = [
    {"codec": "none"},
    {"codec": "bf16"},
    {"codec": "int8"},
    {"codec": "int8", "block": 1},
    {"codec": "topk", "fraction": 0.2},
    {"codec": "topk", "fraction": 1.0, "indices": "raw32"},
    {"codec": "topk", "fraction": 0.3, "scope": "chunk", "chunk": 8},
    {"codec": "topk", "fraction": 0.1, "scope": "tensor"},
    {"codec": "sign"},
    {"codec": "lossless"},
    {"codec": "fp16"},
    {"codec": "fp8"},
    {"codec": "fp8", "format": "e5m2", "block": 7},
    {"codec": "int4"},
    {"codec": "int4", "block": 5},
    {"codec": "nf4"},
    {"codec": "bins"},
    {"codec": "bins", "bits": 8},
    {"codec": "qsgd"},
    {"codec": "qsgd", "levels": 1, "bucket": 16, "norm": "max"},
    {"codec": "qsgd", "levels": 300, "bucket": 1000},
    {"codec": "ternary"},
    {"codec": "randomk", "fraction": 0.3},
    {"codec": "threshold", "threshold": 0.5},
    {"codec": "threshold", "threshold": 1.0, "indices": "raw32"},
    {"codec": "hadamard"},
    {"codec": "hadamard", "block": 16, "rounds": 3},
    {"codec": "eden"},
    {"codec": "eden", "bits": 4, "block": 64},
    {"codec": "eden", "bits": 0.4},
    {"codec": "lowrank", "rank": 1},
    {"codec": "lowrank", "rank": 3, "iterations": 2},
    {"codec": "linear", "step": 0.01, "senders": 8},
    {"codec": "linear", "step": 0.5, "bits": 11, "senders": 4, "block": 16},
    {"codec": "zstd"},
    {"codec": "chain", "stages": [{"codec": "topk", "fraction": 0.2}, {"codec": "int8"}, {"codec": "zstd"}]},
    {"codec": "chain", "stages": [{"codec": "hadamard"}, {"codec": "qsgd", "levels": 3}]},
    {"codec": "chain", "stages": [{"codec": "lowrank", "rank": 1}, {"codec": "topk", "fraction": 0.5}]},
    {"codec": "chain", "stages": [{"codec": "randomk", "fraction": 0.5}, {"codec": "ecsq", "bits": 2.0}]},
    {"codec": "chain", "stages": [{"codec": "none"}, {"codec": "zstd", "level": 9}, {"codec": "zstd"}]},
    {"codec": "ecsq", "bits": 1.0},
    {"codec": "ecsq", "step": 0.01},
    {"codec": "ecsq", "nmse": 0.3},
    {"codec": "ecsq", "step": 0.01, "effort": "balanced"},
    {"codec": "ecsq", "nmse": 0.2, "effort": "best"},
    {"codec": "model"},
    {"codec": "model", "weights": {"codec": "int8"}, "vectors": {"codec": "bf16"}},
    {"codec": "model", "weights": {"codec": "ecsq", "bits": 3.0}, "mask": False},
]


def _contract(config: dict[str, object]) -> type[CodecContract]:
    name = "Test" + "".join(c for c in str(config).title().replace(".", "_") if c.isalnum() or c == "_")
    return type(name, (CodecContract,), {"codec": codec_from(config)})


for _config in CONFIGS:
    _made = _contract(_config)
    globals()[_made.__name__] = _made
del _made


def test_every_codec_is_under_contract() -> None:
    assert {config["codec"] for config in CONFIGS} == {codec.name for codec in CODECS}


def test_every_codec_has_a_name_and_a_code_of_its_own_that_fit_into_six_bits() -> None:
    assert len(BY_NAME) == len(BY_CODE) == len(CODECS)
    assert all(0 <= code < 64 for code in BY_CODE)


def test_these_codecs_declare_something() -> None:
    assert {codec.name for codec in CODECS if codec.lossless} == {"none", "lossless", "zstd"}
    assert {codec.name for codec in CODECS if codec.commutes_with_sum} == {"none", "linear"}
    unbiased = {"none", "lossless", "zstd", "qsgd", "ternary", "randomk", "hadamard", "eden", "linear"}
    assert {codec.name for codec in CODECS if codec.unbiased} == unbiased


@pytest.mark.parametrize("bad", [None, "", 3, ["none"], {"a": 1}, "nome", "TopK"])
def test_a_codec_that_does_not_exist_is_refused_in_a_sentence(bad: object) -> None:
    with pytest.raises(ConfigError, match="there is no codec"):
        codec_from({"codec": bad})


def test_a_misspelt_codec_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'topk'"):
        codec_from({"codec": "topc"})


@dataclass(frozen=True)
class Liar(BFloat16):
    """Declares what bfloat16 does not have."""

    lossless: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    commutes_with_sum: ClassVar[bool] = True

    @classmethod
    def sum_bodies(cls, bodies: Sequence[bytes], layout: Layout) -> bytes:
        halves = [(np.frombuffer(body, "<u2").astype(np.uint32) << 16).view(np.float32) for body in bodies]
        return ((halves[0] + halves[1]).view(np.uint32) >> 16).astype("<u2").tobytes()


@dataclass(frozen=True)
class Careless(NoCompression):
    """Does not look at the length of a body, nor at its values."""

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        vector = np.frombuffer((body + bytes(4 * layout.size))[: 4 * layout.size], "<f4").astype(np.float32)
        ends = np.cumsum([spec.size for spec in layout.specs])[:-1]
        parts = np.split(vector, ends)
        return [part.reshape(spec.shape).copy() for part, spec in zip(parts, layout.specs, strict=True)]


class _LiarsContract(CodecContract):
    codec = Liar()


class _CarelessContract(CodecContract):
    codec = Careless()


@pytest.mark.parametrize(
    "claim",
    [
        "test_a_lossless_codec_gives_every_bit_back",
        "test_an_unbiased_codec_has_the_update_as_its_mean",
        "test_a_codec_that_commutes_with_sum_gives_the_same_before_and_after_it",
    ],
)
def test_the_contract_finds_a_codec_that_declares_too_much(claim: str) -> None:
    with pytest.raises(AssertionError):
        getattr(_LiarsContract(), claim)()


@pytest.mark.parametrize(
    "carelessness",
    [
        "test_every_truncation_and_every_extension_is_refused",
        "test_an_altered_body_is_refused_or_decodes_to_finite_arrays_of_the_layout",
    ],
)
def test_the_contract_finds_a_codec_that_trusts_its_bytes(carelessness: str) -> None:
    with pytest.raises(AssertionError):
        getattr(_CarelessContract(), carelessness)()
