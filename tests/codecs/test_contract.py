"""Every codec keeps the contract, and the contract finds a codec that does not."""

from __future__ import annotations

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
    {"codec": "topk", "fraction": 1.0},
    {"codec": "sign"},
    {"codec": "lossless"},
    {"codec": "ecsq", "bits": 1.0},
    {"codec": "ecsq", "step": 0.01},
    {"codec": "ecsq", "nmse": 0.3},
    {"codec": "model"},
    {"codec": "model", "weights": {"codec": "int8"}, "vectors": {"codec": "bf16"}},
    {"codec": "model", "weights": {"codec": "ecsq", "bits": 3.0}, "mask": False},
]


def _contract(config: dict[str, object]) -> type[CodecContract]:
    name = "Test" + "".join(f"{key}{value}".title().replace(".", "_") for key, value in config.items())
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


def test_only_lossless_codecs_are_unbiased_and_only_none_commutes_with_sums() -> None:
    declared = {codec.name: (codec.lossless, codec.unbiased, codec.commutes_with_sum) for codec in CODECS}
    exact = {"none": (True, True, True), "lossless": (True, True, False)}
    assert declared == {name: exact.get(name, (False,) * 3) for name in declared}


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

    def sum_of_bodies(self, left: bytes, right: bytes) -> bytes:
        halves = [
            (np.frombuffer(body, "<u2").astype(np.uint32) << 16).view(np.float32) for body in (left, right)
        ]
        return ((halves[0] + halves[1]).view(np.uint32) >> 16).astype("<u2").tobytes()


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
