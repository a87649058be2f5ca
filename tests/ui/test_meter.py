from __future__ import annotations

from phloem.ui.meter import Meter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_short_work_says_nothing() -> None:
    told: list[str] = []
    clock = Clock()
    with Meter(told.append, redraw=True, clock=clock) as meter:
        for done in range(10):
            clock.now = 0.19 * done
            meter("encoding", done, 10)
    assert told == []


def test_long_work_draws_one_line_again_and_clears_it() -> None:
    told: list[str] = []
    clock = Clock()
    with Meter(told.append, redraw=True, clock=clock) as meter:
        for done in range(1, 4):
            clock.now = 2.0 * done
            meter("decoding" if done == 3 else "checking base.safetensors", done, 4)
    assert [line.rstrip() for line in told[:3]] == [
        "\rchecking base.safetensors: 25 % of 4 B",
        "\rchecking base.safetensors: 50 % of 4 B",
        "\rdecoding: 75 % of 4 B",
    ]
    assert len(told[2]) == len(told[1]), "the shorter line covers the longer one"
    assert told[3].strip(" \r") == ""


def test_a_log_gets_a_line_every_five_seconds() -> None:
    told: list[str] = []
    clock = Clock()
    with Meter(told.append, redraw=False, clock=clock) as meter:
        for second in range(20):
            clock.now = float(second)
            meter("encoding, pass 1", second * 100_000_000, 2_000_000_000)
    assert told == [f"encoding, pass 1: {share} % of 2.00 GB\n" for share in (10, 35, 60, 85)]
