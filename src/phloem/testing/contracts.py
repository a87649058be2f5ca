# ruff: noqa: D102  (a test's name is its sentence)
"""What every codec has to keep, as a test class: inherit it, set `codec`, and pytest does the rest.

    from phloem.testing.contracts import CodecContract

    class TestMyCodec(CodecContract):
        codec = MyCodec(level=3)

A property that the codec declares (`lossless`, `unbiased`, `commutes_with_sum`) is tested; one that it does
not declare is not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from phloem import canonical
from phloem.codecs.base import Codec, Hints
from phloem.errors import ConfigError, FormatError
from phloem.seeds import generator
from phloem.tensors import Array, Layout, state_digest
from phloem.testing.elsewhere import digests_elsewhere

MUTATIONS = 300  # bodies attacked below the checksum, per case
DRAWS = 400  # encodes of one update, for the test of bias
LARGEST_Z = (
    6.0  # |z| of a mean of DRAWS; by chance once in 10^9 coordinates, of which there are a few hundred
)
RARE = 20.7 / DRAWS  # ln(10^9): what is likelier than this shows in DRAWS


def cases() -> dict[str, dict[str, Any]]:
    """Updates that codecs have stumbled over, by what they are."""
    draw = generator(0, "codec contract")
    normal = draw.normal(size=(12, 10)).astype(np.float32)
    return {
        "a 0-d tensor": {"x": np.array(-1.5, np.float32)},
        "an empty tensor alone": {"x": np.zeros((0, 3), np.float32)},
        "an empty tensor between others": {
            "a": normal[0],
            "b": np.zeros((3, 0, 2), np.float32),
            "c": normal[1],
        },
        "one value": {"x": np.array([0.25], np.float32)},
        "a 4-d tensor": {"conv": draw.laplace(size=(4, 3, 3, 3)).astype(np.float32)},
        "a transposed and a strided view": {"s": normal[::3, ::2], "t": normal.T},
        "zeros": {"x": np.zeros((7, 9), np.float32)},
        "zeros of both signs": {"x": np.array([0.0, -0.0, 1.0, -0.0], np.float32)},
        "one spike in zeros": {"x": np.eye(1, 1000, 500, dtype=np.float32)},
        "a constant": {"x": np.full((5, 5), 3.0, np.float32)},
        "subnormal values": {"x": np.array([1e-40, -1e-42, 1e-45, 0.0] * 5, np.float32)},
        "nearly the largest values": {"x": np.array([3e38, -3e38, 1.0, 0.0] * 5, np.float32)},
        "forty orders of magnitude": {"x": (10.0 ** np.linspace(-30, 10, 64)).astype(np.float32)},
        "heavy tails": {"x": draw.standard_t(2, size=(30, 20)).astype(np.float32)},
        "half precision": {"x": normal.astype(np.float16)},
    }


class CodecContract:
    """The tests; see the module's first lines."""

    codec: ClassVar[Codec]

    def test_every_case_comes_back_in_its_shapes_finite_and_in_memory_of_its_own(self) -> None:
        for what, update, layout, body in self._encoded():
            arrays = self.codec.decode(body, layout)
            assert [array.shape for array in arrays] == [spec.shape for spec in layout.specs], what
            for array in arrays:
                assert isinstance(array, np.ndarray), what
                assert array.dtype == np.float32, what
                assert np.isfinite(array).all(), what
                assert array.flags.writeable, what
                assert array.flags.c_contiguous, what
            assert not any(np.shares_memory(a, b) for a in arrays for b in update.values()), what

    def test_equal_updates_give_equal_bodies_and_are_not_written_to(self) -> None:
        for what, update, layout, body in self._encoded():
            before = {name: array.copy() for name, array in update.items()}
            assert self.codec.encode(layout.arrays(update), layout) == body, what
            assert all(np.array_equal(update[name], before[name]) for name in update), what

    def test_a_lossless_codec_gives_every_bit_back(self) -> None:
        if not self.codec.lossless:
            return
        for what, update, layout, body in self._encoded():
            for sent, came in zip(layout.arrays(update), self.codec.decode(body, layout), strict=True):
                assert sent.tobytes() == came.tobytes(), what

    def test_an_unbiased_codec_has_the_update_as_its_mean(self) -> None:
        """A bias of half a draw has z = 10 here and is found; a fixed error always is.

        An error may be so rare that no draw shows it, as when a value just above a grid point is rounded at random;
        so a share of the largest error, ln(10^9) ÷ DRAWS, is no bias. Neither is the rounding of float32 arithmetic.
        """
        if not self.codec.unbiased:
            return
        draw = generator(0, "bias")
        update = {
            "x": draw.normal(size=(8, 16)).astype(np.float32),
            "y": draw.laplace(size=64).astype(np.float32),
        }
        layout = Layout.of(update)
        wanted = np.concatenate([array.reshape(-1) for array in layout.arrays(update)]).astype(np.float64)
        total, squares, largest = np.zeros_like(wanted), np.zeros_like(wanted), 0.0
        for seed in range(DRAWS):
            arrays = self.codec.decode(
                self.codec.encode(layout.arrays(update), layout, Hints(seed=seed)), layout
            )
            error = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64) - wanted
            total += error
            squares += error * error
            largest = max(largest, float(np.abs(error).max()))
        mean = total / DRAWS
        spread = np.sqrt(np.maximum(squares / DRAWS - mean * mean, 0.0) / DRAWS)
        rounding = 2.0**-22 * float(np.abs(wanted).max())
        allowed = LARGEST_Z * spread + RARE * largest + rounding
        assert (np.abs(mean) <= allowed).all(), "the mean over many encodes is not the update"

    def test_a_codec_that_commutes_with_sum_gives_the_same_before_and_after_it(self) -> None:
        if not self.codec.commutes_with_sum:
            return
        draw = generator(0, "sum")
        parts = [{"x": draw.normal(size=(9, 7)).astype(np.float32)} for _ in range(2)]
        layout = Layout.of(parts[0])
        bodies = [self.codec.encode(layout.arrays(part), layout) for part in parts]
        after = [
            sum(pair) for pair in zip(*(self.codec.decode(body, layout) for body in bodies), strict=True)
        ]
        summed = type(self.codec).sum_bodies(bodies, layout)  # type: ignore[attr-defined]
        before = self.codec.decode(summed, layout)
        assert [array.tobytes() for array in before] == [array.tobytes() for array in after]

    def test_the_configuration_survives_json(self) -> None:
        config = canonical.plain(self.codec)
        again = canonical.loads(canonical.dumps(config))
        assert type(self.codec).from_config(again) == self.codec

    def test_a_configuration_cannot_be_changed_and_an_unknown_key_is_refused_by_name(self) -> None:
        config = {**canonical.plain(self.codec), "no_such_key": 1}
        error = _raised(ConfigError, lambda: type(self.codec).from_config(config))
        assert error is not None
        assert "no_such_key" in str(error)
        for field in dataclasses.fields(self.codec):  # type: ignore[arg-type]
            change = functools.partial(setattr, self.codec, field.name, 1)
            frozen = _raised(dataclasses.FrozenInstanceError, change)
            assert frozen is not None, "a codec is a frozen dataclass"

    def test_another_process_decodes_the_same_from_bytes_alone(self) -> None:
        bodies = [(layout, body) for _, _, layout, body in self._encoded()]
        here = [state_digest(layout.named(self.codec.decode(body, layout))) for layout, body in bodies]
        assert digests_elsewhere(type(self.codec), bodies) == here

    def test_every_truncation_and_every_extension_is_refused(self) -> None:
        for what, _, layout, body in self._encoded():
            for size in range(len(body)):
                refused = _decoded_or_refused(self.codec, body[:size], layout) is None
                assert refused, f"{what}: {size} of {len(body)} bytes"
            for byte in (b"\x00", b"\x01", b"\xff"):
                assert _decoded_or_refused(self.codec, body + byte, layout) is None, what

    def test_an_altered_body_is_refused_or_decodes_to_finite_arrays_of_the_layout(self) -> None:
        for what, _, layout, body in self._encoded():
            for altered in _altered(body, what):
                arrays = _decoded_or_refused(self.codec, altered, layout)
                if arrays is not None:
                    assert [array.shape for array in arrays] == [spec.shape for spec in layout.specs], what
                    assert all(np.isfinite(array).all() for array in arrays), f"{what}: {altered.hex()[:200]}"

    def test_random_bytes_are_refused_or_decode_to_finite_arrays_of_the_layout(self) -> None:
        draw = generator(0, "random bytes")
        layouts = [Layout.of(case) for case in cases().values()]
        for number in range(MUTATIONS):
            layout = layouts[number % len(layouts)]
            arrays = _decoded_or_refused(self.codec, draw.bytes(int(draw.integers(0, 80))), layout)
            assert arrays is None or all(np.isfinite(array).all() for array in arrays)

    def test_a_body_for_another_layout_is_never_more_than_that_layout(self) -> None:
        encoded = list(self._encoded())
        for what, _, _, body in encoded:
            for _, _, layout, _ in encoded:
                arrays = _decoded_or_refused(self.codec, body, layout)
                if arrays is not None:
                    assert [array.shape for array in arrays] == [spec.shape for spec in layout.specs], what

    def _encoded(self) -> Iterator[tuple[str, Mapping[str, Array], Layout, bytes]]:
        for what, update in cases().items():
            layout = Layout.of(update)
            yield what, update, layout, self.codec.encode(layout.arrays(update), layout)


def _altered(body: bytes, label: str) -> Iterator[bytes]:
    """Single bits flipped, bytes set to extremes, and stretches overwritten."""
    draw = generator(0, "altered", label)
    if not body:
        return
    for bit in draw.permutation(8 * len(body))[: MUTATIONS // 2]:
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    for _ in range(MUTATIONS // 4):
        overwritten = bytearray(body)
        overwritten[int(draw.integers(len(body)))] = int(draw.choice([0x00, 0x7F, 0x80, 0xFF]))
        yield bytes(overwritten)
    for _ in range(MUTATIONS // 4):
        start, noise = int(draw.integers(len(body))), draw.bytes(int(draw.integers(1, 9)))
        yield (body[:start] + noise + body[start + len(noise) :])[: len(body)]


def _decoded_or_refused(codec: Codec, body: bytes, layout: Layout) -> list[Array] | None:
    try:
        return codec.decode(body, layout)
    except FormatError:
        return None


def _raised(kind: type[Exception], call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except kind as error:
        return error
    return None
