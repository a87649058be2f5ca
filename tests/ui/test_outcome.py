from __future__ import annotations

from tests.ui.made import recipe, rounds, summary_of

from phloem.recipe import Recipe
from phloem.ui.outcome import against, cells, codecs_text, headline, outcomes


def test_the_headline_compares_bytes_and_rounds_to_the_target(to_target: Recipe) -> None:
    base = summary_of(to_target, rounds([0.5, 0.91], scale=100))
    summary = summary_of(to_target, rounds([0.4, 0.6, 0.8, 0.92]), fp32=base)
    # 2 rounds of 3 * (15000 + 10) bytes against 4 rounds of 3 * (150 + 10).
    assert headline(summary) == "47× fewer bytes than fp32 to 90 % accuracy, in 2.0× the rounds."


def test_more_bytes_than_fp32_are_called_more(to_target: Recipe) -> None:
    base = summary_of(to_target, rounds([0.95]))
    summary = summary_of(to_target, rounds([0.5, 0.95]), fp32=base)
    assert headline(summary).startswith("2.0× more bytes than fp32")


def test_a_target_that_was_not_reached_gives_no_ratio(to_target: Recipe) -> None:
    base = summary_of(to_target, rounds([0.95], scale=100))
    summary = summary_of(to_target, rounds([0.4] * 10), fp32=base)
    assert headline(summary) == (
        "90 % accuracy was not reached: 4.80 kB over 10 rounds; fp32 reaches it with 45.0 kB over 1 round."
    )
    this, fp32 = outcomes(summary)
    assert this.rounds_text == "not reached in 10"
    assert against(this, fp32) is None


def test_a_baseline_that_does_not_reach_the_target_is_said_so(to_target: Recipe) -> None:
    base = summary_of(to_target, rounds([0.1] * 10, scale=100))
    text = headline(summary_of(to_target, rounds([0.95]), fp32=base))
    assert "fp32 did not reach it" in text
    assert "fewer" not in text


def test_without_a_target_the_whole_run_counts() -> None:
    made = recipe(rounds={"max": 2})
    base = summary_of(made, rounds([0.5, 0.8], scale=10))
    text = headline(summary_of(made, rounds([0.5, 0.7]), fp32=base))
    assert (
        text == "9.4× fewer bytes than fp32 over 2 rounds: accuracy 70.0 % on the test data, fp32 has 80.0 %."
    )


def test_runs_of_different_length_without_a_target_are_not_compared() -> None:
    made = recipe(rounds={"max": 2})
    base = summary_of(made, rounds([0.5] * 3, scale=10))
    assert "fewer" not in headline(summary_of(made, rounds([0.5, 0.7]), fp32=base))


def test_alone_the_headline_says_what_was_spent(to_target: Recipe) -> None:
    text = headline(summary_of(to_target, rounds([0.95])))
    assert text == "90 % accuracy with 480 B over 1 round, both ways and everything counted."


def test_a_nan_metric_is_a_dash_in_the_table(to_target: Recipe) -> None:
    summary = summary_of(to_target, rounds([float("nan")] * 10))
    texts = dict(cells(outcomes(summary)))
    assert texts["accuracy\n(stop)"] == ["–"]
    assert texts["rounds\nto 90 %"] == ["not reached in 10"]


def test_the_codecs_of_later_rounds_are_said_with_the_round_that_they_begin_in() -> None:
    plain = recipe(up={"bits": 0.5}, down={"codec": "topk", "fraction": 0.1})
    assert codecs_text(plain) == "ecsq at 0.5 bits up, topk at fraction 0.1 down"
    staged = recipe(up={"bits": 0.5}, down={"bits": 0.5}, later=[{"round": 9, "down": {"bits": 1.0}}])
    assert codecs_text(staged) == (
        "ecsq at 0.5 bits both ways; ecsq at 0.5 bits up, ecsq at 1 bit down from round 10"
    )
