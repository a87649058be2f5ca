from __future__ import annotations

import numpy as np
import pytest

from phloem.codecs.registry import codec_from
from phloem.errors import ConfigError, FormatError, StateError
from phloem.planner import levels
from phloem.planner.device import Device, device_of, reference
from phloem.planner.levels import DOWN, LADDER, UP
from phloem.rounds.plan import Choice
from phloem.seeds import generator
from phloem.tensors import Layout
from phloem.wire import frame as frames


def test_levels_go_from_everything_to_almost_nothing() -> None:
    bits = [level.options[0].bits_up for level in LADDER]
    assert bits == sorted(bits, reverse=True)
    assert levels.names()[:2] == ("none", "bf16")
    assert levels.START in levels.names()


@pytest.mark.parametrize("level", LADDER, ids=levels.names())
def test_frames_take_the_bytes_that_are_expected_of_them(level: levels.Level) -> None:
    rng = generator(0, "levels")
    matrix = rng.standard_t(4, (600, 500)).astype(np.float32)
    layout = Layout.of({"weight": matrix})
    for option in level.options:
        for config, direction in ((option.up, UP), (option.down, DOWN)):
            frame = frames.pack(codec_from(config), [matrix], layout)
            assert len(frame) == pytest.approx(option.bytes(direction, matrix.size), rel=0.08, abs=64)


def test_an_order_names_a_choice_of_the_ladder_in_one_byte_that_never_changes_its_meaning() -> None:
    packed = {Choice(dict(config)).pack() for config in levels.configs()}
    assert packed == {bytes([place]) for place in range(len(levels.configs()))}
    for config in levels.configs():
        choice = Choice(dict(config))
        assert Choice.unpack(choice.pack()) == choice
    fast = "2 f, 1.86 b, 0.5 f, 1 f, 0.435 b, 0.93 b, 0.2 f, 0.4 f, 0.16 b, 0.348 b, 0.1 f, 0.08 b"
    golden = ["none", "bf16", *fast.split(", "), "0.05 f", "0.04 b", "0.02 f", "0.016 b"]
    assert [
        f"{config['bits']:g} {config['effort'][0]}" if "bits" in config else config["codec"]
        for config in levels.configs()
    ] == golden


@pytest.mark.parametrize("data", [b"\xff", b"[", b"{}x", b"[]", b"\x28"])
def test_what_is_no_choice_is_refused(data: bytes) -> None:
    with pytest.raises((FormatError, ConfigError)):
        Choice.unpack(data).codec  # noqa: B018


def test_the_reference_profile_has_every_option_and_a_damaged_one_is_refused(tmp_path: object) -> None:
    device = reference()
    for level in LADDER:
        for key in level.keys:
            assert 0 < device.seconds("encode", key, 10**6) < 10
    table = device.to_json()
    assert Device.from_json(table, "x") == device
    for change in (
        {"version": 9},
        {"costs": {}},
        {"costs": {"none": {"encode": [-1, 0]}}},
        {"memory_bytes": "?"},
    ):
        with pytest.raises(StateError, match="x"):
            Device.from_json({**table, **change}, "x")
    for wrong in (None, [], 7, {"version": 1}):
        with pytest.raises(StateError):
            Device.from_json(wrong, "x")


def test_a_profile_that_a_recipe_names_is_read_and_a_missing_one_is_one_sentence() -> None:
    assert device_of("") == reference()
    with pytest.raises(ConfigError, match="cannot be read"):
        device_of("/nowhere/profile.json")
