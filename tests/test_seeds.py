from __future__ import annotations

import hashlib
import itertools

from hypothesis import given
from hypothesis import strategies as st

from phloem.seeds import generator, seed_for

labels = st.lists(st.text(max_size=6) | st.integers(-5, 5), max_size=4)


@given(st.integers(0, 2**62), labels, labels)
def test_different_labels_name_different_streams(
    root: int, one: list[str | int], other: list[str | int]
) -> None:
    assert (seed_for(root, *one) == seed_for(root, *other)) == (one == other)


def test_labels_are_never_run_together() -> None:
    seeds = [seed_for(0, "a", "bc"), seed_for(0, "ab", "c"), seed_for(0, "abc"), seed_for(0, "a", "b", "c")]
    seeds += [seed_for(0, 1), seed_for(0, "1"), seed_for(1), seed_for(1, 0)]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_is_63_bits_of_the_documented_hash() -> None:
    total = hashlib.sha256(b"phloem.seed")
    for text in (b"int:7", b"str:train", b"int:3"):
        total.update(len(text).to_bytes(4, "little") + text)
    assert seed_for(7, "train", 3) == int.from_bytes(total.digest()[:8], "little") >> 1 < 2**63


def test_equal_labels_give_equal_numbers_and_leave_the_global_state_alone() -> None:
    draws = [generator(3, "x", n).random(50).tolist() for n in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_streams_of_neighbouring_labels_are_not_correlated() -> None:
    draws = [generator(0, "site", n).normal(size=4000) for n in range(6)]
    for one, other in itertools.combinations(draws, 2):
        assert abs(float((one * other).mean())) < 0.08  # five standard deviations
