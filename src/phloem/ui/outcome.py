"""What came out of a run, and of its baselines: the rows and the headline that table and report share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phloem.recipe import Recipe
from phloem.ui.figures import (
    MISSING,
    is_share,
    metric_text,
    metric_words,
    rate_text,
    ratio_text,
    size_text,
    target_text,
    time_text,
)

THIS = "this recipe"
LABELS: Mapping[str, str] = {"fp32": "uncompressed fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Outcome:
    """One run as a row: figures up to the target where there is one, otherwise of the whole run.

    `reached` is None where the recipe has no target; where it is False, `size_bytes` and `seconds` are what
    was spent without reaching it.
    """

    label: str
    metric: str
    stop: float | None
    test: float | None
    target: float | None
    reached: bool | None
    rounds: int
    size_bytes: int
    seconds: float
    bits_up: float
    bits_down: float

    @property
    def rounds_text(self) -> str:
        """The rounds to the target, or that it was not reached."""
        return f"not reached in {self.rounds}" if self.reached is False else f"{self.rounds}"

    @property
    def spent(self) -> str:
        """Bytes and rounds."""
        return f"{size_text(self.size_bytes)} over {_rounds(self.rounds)}"

    @property
    def goal(self) -> str:
        """The target with its metric; empty without one."""
        if self.target is None:
            return ""
        text = target_text(self.metric, self.target)
        name = metric_words(self.metric)
        return f"{text} {name}" if is_share(self.metric) else f"{name} {text}"


def outcome(summary: Mapping[str, Any], label: str = THIS) -> Outcome:
    """The row of one `summary.json`."""
    name = summary["metric"]["name"]
    reached = None if summary["target"] is None else summary["rounds_to_target"] is not None
    return Outcome(
        label=label,
        metric=name,
        stop=summary["metric"]["value"],
        test=summary["test"].get(name),
        target=summary["target"],
        reached=reached,
        rounds=summary["rounds_to_target"] if reached else summary["rounds"],
        size_bytes=summary["bytes_to_target"] if reached else summary["total_bytes"],
        seconds=summary["seconds_to_target"] if reached else summary["seconds"],
        bits_up=summary["bits_per_parameter_up"],
        bits_down=summary["bits_per_parameter_down"],
    )


def outcomes(summary: Mapping[str, Any]) -> list[Outcome]:
    """This run first, then the baselines that were run."""
    others = summary.get("compare") or {}
    return [outcome(summary), *(outcome(others[name], LABELS[name]) for name in LABELS if name in others)]


def against(row: Outcome, base: Outcome) -> str | None:
    """How the bytes of `row` compare with those of `base`; None where that would compare unlike things.

    >>> a = Outcome("a", "accuracy", 0.97, 0.96, 0.97, True, 20, 1000, 1.0, 0.02, 0.02)
    >>> b = Outcome("b", "accuracy", 0.97, 0.96, 0.97, True, 10, 50_000, 1.0, 32.0, 32.0)
    >>> against(a, b), against(b, a)
    ('50× fewer', '50× more')
    """
    if row.reached is not base.reached or row.reached is False or not row.size_bytes or not base.size_bytes:
        return None
    if row.reached is None and row.rounds != base.rounds:
        return None
    ratio = base.size_bytes / row.size_bytes
    return f"{ratio_text(ratio)} fewer" if ratio >= 1 else f"{ratio_text(1 / ratio)} more"


def cells(rows: list[Outcome]) -> list[tuple[str, list[str]]]:
    """The table by columns: a heading (in one or two lines), and a text per row."""
    first = rows[0]
    base = next((row for row in rows if row.label.endswith("fp32")), None)
    goal = "" if first.target is None else f"to {target_text(first.metric, first.target)}"
    return [
        ("", [row.label for row in rows]),
        (f"{metric_words(first.metric)}\n(stop)", [metric_text(row.metric, row.stop) for row in rows]),
        (f"{metric_words(first.metric)}\n(test)", [metric_text(row.metric, row.test) for row in rows]),
        (f"rounds\n{goal}", [row.rounds_text for row in rows]),
        (f"bytes\n{goal}", [_bytes_text(row) for row in rows]),
        *([("against\nfp32", [_against(row, base) for row in rows])] if base is not None else []),
        ("bits/param.\nup", [rate_text(row.bits_up) for row in rows]),
        ("bits/param.\ndown", [rate_text(row.bits_down) for row in rows]),
        (
            f"simulated\ntime {goal}".rstrip(),
            ["–" if row.reached is False else time_text(row.seconds) for row in rows],
        ),
    ]


def _bytes_text(row: Outcome) -> str:
    return f"{size_text(row.size_bytes)} spent" if row.reached is False else size_text(row.size_bytes)


def _against(row: Outcome, base: Outcome) -> str:
    return (None if row is base else against(row, base)) or MISSING


def headline(summary: Mapping[str, Any]) -> str:
    """The run in one sentence, computed from what was measured; never claims what was not reached."""
    text = _sentence(outcomes(summary))
    return text[:1].upper() + text[1:]


def _sentence(rows: list[Outcome]) -> str:
    this = rows[0]
    base = next((row for row in rows if row.label == LABELS["fp32"]), None)
    if this.reached is None:
        return _without_target(this, base)
    if not this.reached:
        text = f"{this.goal} was not reached: {this.spent}"
        return f"{text}; fp32 reaches it with {base.spent}." if base and base.reached else f"{text}."
    if base is None:
        return f"{this.goal} with {this.spent}, both ways and everything counted."
    if not base.reached:
        return f"{this.goal} with {this.spent}; fp32 did not reach it with {base.spent}."
    same = this.rounds == base.rounds
    rounds = "as many rounds" if same else f"{ratio_text(this.rounds / base.rounds)} the rounds"
    return f"{against(this, base)} bytes than fp32 to {this.goal}, in {rounds}."


def _without_target(this: Outcome, base: Outcome | None) -> str:
    score = f"{metric_words(this.metric)} {metric_text(this.metric, this.test)} on the test data"
    if base is None:
        return f"{score} with {this.spent}, both ways and everything counted."
    fewer, other = against(this, base), metric_text(base.metric, base.test)
    if fewer is None:
        return f"{score} with {this.spent}; fp32 has {other} with {base.spent}."
    return f"{fewer} bytes than fp32 over {_rounds(this.rounds)}: {score}, fp32 has {other}."


def _rounds(count: int) -> str:
    return f"{count} round" if count == 1 else f"{count} rounds"


def codec_text(table: Mapping[str, Any]) -> str:
    """A codec and its main setting.

    >>> codec_text({"codec": "ecsq", "bits": 0.02, "effort": "fast"})
    'ecsq at 0.02 bits'
    >>> codec_text({"codec": "chain", "stages": [{"codec": "topk", "fraction": 0.1}, {"codec": "zstd"}]})
    'topk at fraction 0.1, then zstd'
    """
    name = str(table["codec"])
    if name == "none":
        return "uncompressed"
    if name == "chain":
        return ", then ".join(codec_text(stage) for stage in table["stages"])
    if "bits" in table:
        return f"{name} at {table['bits']:g} bit{'s' * (table['bits'] != 1)}"
    for key in ("step", "nmse", "fraction", "block"):
        if key in table:
            return f"{name} at {key} {table[key]:g}"
    return name


_FOR = {
    "time": "the least time",
    "bytes": "the fewest bytes",
    "budget": "a budget of bytes",
    "deadline": "a deadline",
}


def codecs_text(recipe: Recipe) -> str:
    """The codecs of both directions, in as few words as they take."""
    if recipe.adapts:
        return f"codecs chosen every round for {_FOR[recipe.adapt.objective]}"
    texts = [_both(recipe.up, recipe.down)]
    texts += [f"{_both(stage.up, stage.down)} from round {stage.round + 1}" for stage in recipe.later]
    return "; ".join(texts)


def _both(up: Mapping[str, Any], down: Mapping[str, Any]) -> str:
    if up == down:
        return f"{codec_text(up)} both ways"
    return f"{codec_text(up)} up, {codec_text(down)} down"


def measured_text(summary: Mapping[str, Any]) -> str:
    """The seconds that were really spent, apart from the simulated clock."""
    return (
        f"training {time_text(summary['train_seconds'])}, codec {time_text(summary['codec_seconds'])}, "
        f"the whole run {time_text(summary['wall_seconds'])}"
    )
