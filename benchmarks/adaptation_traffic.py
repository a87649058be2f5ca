"""A 25 M-parameter model's traffic: the controller on every cell's lines, with real frames and no training.

python benchmarks/adaptation_traffic.py

Frames are those of a ResNet-50's gradients, encoded at every level; their lengths, and 40 bytes around each, cross
the virtual lines. How many rounds a level takes is not known for such a model: here it is what the digits or the code
LM took at that level with the same seed (`adaptation.py fixed`), and sites report what frames left out there. The
controller begins with that task's table, which is of other seeds, or with the mean of the other tasks'.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptation import DEVICES, LEVELS, LINKS, TARGETS, recipe_of, summarised
from measuring import RESULTS, geometric_mean, quiet, write
from phloem import feedback as ef
from phloem.codecs.registry import codec_from
from phloem.feedback import Residual
from phloem.job.clock import Clock
from phloem.planner import levels
from phloem.planner.control import Controller
from phloem.planner.costs import Seen
from phloem.planner.device import DECODE, ENCODE, Device
from phloem.planner.levels import DOWN, LADDER, UP
from phloem.planner.policies import CAUTIOUS
from phloem.planner.rounds import Worth, strangers
from phloem.recipe import Recipe
from phloem.tensors import Array, Layout

TRAIN_SECONDS = 0.5
ENVELOPE = 40  # bytes of an order or a reply around its frame


def gradients() -> tuple[list[Array], Layout]:
    """A ResNet-50's gradients on a batch of noise."""
    import torch

    from ddp_rank import ResNet50

    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = ResNet50()
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(0, 1000, (4,))
    model(images, labels).backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    layout = Layout.of(found)
    return layout.arrays(found), layout


def sizes_of(update: Sequence[Array], layout: Layout) -> dict[str, int]:
    """The length of a frame of every configuration, by its JSON."""
    found = {}
    for config in levels.configs():
        frame, _ = ef.send(Residual(), update, codec_from(config), layout)
        found[json.dumps(config, sort_keys=True)] = len(frame) + ENVELOPE
        print(config, len(frame), file=sys.stderr, flush=True)
    return found


@dataclass
class Lines:
    """The rounds of one cell on its clock."""

    recipe: Recipe
    sizes: Mapping[str, int]
    parameters: int

    def __post_init__(self) -> None:
        self.clock = Clock(self.recipe)
        self.names = self.recipe.sites.all

    def size(self, config: Mapping[str, Any]) -> int:
        return self.sizes[json.dumps(dict(config), sort_keys=True)]

    def round(
        self,
        at: float,
        up: Mapping[str, Mapping[str, Any]],
        down: Mapping[str, Any],
        *,
        trains: bool = True,
    ) -> tuple[dict[str, Seen], float, float, dict[str, tuple[int, float, float]]]:
        """What each site's update took, seconds until the merge and of the way down, and what came down where."""
        clock, seen, longest = self.clock, {}, 0.0
        for name in self.names:
            encode = clock.codes(name, ENCODE, up[name], self.parameters)
            train = self.recipe.link_of(name).train_seconds if trains else 0.0
            sent = self.size(up[name])
            seconds = clock.sends(name, UP, sent, at + train + encode)
            longest = max(longest, train + encode + seconds)
            seen[name] = Seen(sent, seconds, 0, 0.0, encode, 0.0, train)
        longest += clock.merges(list(up.values()), down, self.parameters)
        brought = {}
        for name in self.names:
            size = self.size(down)
            seconds = clock.sends(name, DOWN, size, at + longest)
            brought[name] = size, seconds, clock.codes(name, DECODE, down, self.parameters)
        return seen, longest, max(one[1] + one[2] for one in brought.values()), brought


def fixed(lines: Lines, level: str, rounds: int | None) -> float | None:
    """The seconds of so many rounds at one level."""
    if rounds is None:
        return None
    option, at = LADDER[levels.index_of(level)].options[0], 0.0
    for _ in range(rounds):
        _, longest, down, _ = lines.round(at, dict.fromkeys(lines.names, option.up), option.down)
        at += longest + down
    return at


def auto(
    lines: Lines, controller: Controller, worth: Sequence[float], lost: Sequence[float], need: float
) -> dict[str, Any]:
    """The seconds until the chosen rounds are worth `need` uncompressed ones; sites report what frames left out."""
    at = done = before = 0.0
    came = {name: (ENVELOPE, lines.clock.sends(name, DOWN, ENVELOPE, 0.0), 0.0) for name in lines.names}
    inside = transfers = number = 0
    policies, last = [], dict[str, int]()
    while done < need and number < 2000:
        decision = controller.decide(number, lines.names)
        up = {name: decision.config(name) for name in lines.names}
        trains = decision.trains
        seen, longest, down, brought = lines.round(at, up, decision.config(None), trains=trains)
        told = {}
        for name, one in seen.items():
            size, seconds, decode = came[name]
            spent = one.encode_seconds, decode, one.train_seconds
            left_out = lost[last[name]] if name in last else -1.0
            told[name] = Seen(one.up_bytes, one.up_seconds, size, seconds, *spent, left_out)
        gained = statistics.mean(worth[level] for level, _ in decision.up.values()) * worth[decision.down[0]]
        # what is owed brings the trunk to where a round at these levels would have
        done += math.sqrt(gained) if trains else max(math.sqrt(gained) - before, 0.0)
        before = math.sqrt(gained)
        at += longest + down
        frame = lines.size(decision.config(None)) - ENVELOPE
        found = controller.observe(number, told, frame_bytes=frame, loss=1 / (1 + done), norm=1.0)
        inside, transfers = inside + found["covered"][0], transfers + found["covered"][1]
        last = {name: level for name, (level, _) in decision.up.items()}
        policies.append(decision.policy)
        came, number = brought, number + 1
    return {
        "seconds": at,
        "rounds": number,
        "covered": [inside, transfers],
        "policies": {name: policies.count(name) for name in dict.fromkeys(policies)},
    }


class WithoutLines(Controller):
    """Nobody tells it how long transfers took."""

    def observe(self, number: int, seen: Mapping[str, Seen], **rest: Any) -> dict[str, Any]:
        blind = {name: replace(one, up_seconds=0.0, down_seconds=0.0) for name, one in seen.items()}
        return super().observe(number, blind, **rest)


class WithoutDevices(Controller):
    """It thinks that coding takes no time anywhere, and is told so."""

    def __init__(self, *words: Any, **rest: Any) -> None:
        costs = {key: {ENCODE: (0.0, 0.0), DECODE: (0.0, 0.0)} for level in LADDER for key in level.keys}
        super().__init__(*words, **{**rest, "device": Device(costs)})

    def observe(self, number: int, seen: Mapping[str, Seen], **rest: Any) -> dict[str, Any]:
        free = {name: replace(one, encode_seconds=0.0, decode_seconds=0.0) for name, one in seen.items()}
        return super().observe(number, free, **rest)


class WithoutQuantile(Controller):
    """Its deadlines are for the median transfer alone."""

    def _proposals(self, *words: Any) -> dict[str, Any]:
        found = super()._proposals(*words)
        found.pop(CAUTIOUS, None)
        return found


ARMS: Mapping[str, type[Controller]] = {
    "no link signal": WithoutLines,
    "no device profile": WithoutDevices,
    "point instead of quantile": WithoutQuantile,
}


def controller_of(kind: type[Controller], recipe: Recipe, parameters: int, worth: Worth) -> Controller:
    """A controller that begins with this table."""
    made = kind(recipe.sites.all, parameters, settings=recipe.adapt, rounds=recipe.rounds.max)
    made.worth = worth
    return made


def main() -> None:
    """Every cell."""
    quiet()
    update, layout = gradients()
    sizes = sizes_of(update, layout)
    command = "python benchmarks/adaptation_traffic.py"
    result = {
        f"{task}, {'its own table' if own else 'a table of other tasks'}": cells_of(
            task, sizes, layout.size, own=own
        )
        for task in TARGETS
        for own in (True, False)
    }
    write("adaptation-traffic", command, {"parameters": layout.size, "frames": sizes, "rounds_of": result})


def cells_of(task: str, sizes: Mapping[str, int], parameters: int, *, own: bool) -> dict[str, Any]:
    """Every cell, where a level takes as many rounds as on this task; the ablations only with its own table."""
    rounds: dict[int, dict[str, int | None]] = {}
    left_out: dict[int, dict[str, float]] = {}
    for row in json.loads((RESULTS / f"adaptation-fixed-{task}.json").read_text())["rows"]:
        rounds.setdefault(row["seed"], {})[row["level"]] = row["rounds"]
        left_out.setdefault(row["seed"], {})[row["level"]] = row["lost"]
    rows: dict[str, Any] = {}
    worth_known = Worth.of(task) if own else Worth.mean([n for n in strangers() if n != task], least=1.0)
    ablated: dict[str, list[float]] = {arm: [] for arm in (ARMS if own else ())}
    for link in LINKS:
        for device in DEVICES:
            cell = rows.setdefault(
                f"{link} / {device}", {"auto": [], "fixed": {n: [] for n in LEVELS[1:]}, "runs": []}
            )
            for seed, took in sorted(rounds.items()):
                recipe = recipe_of(
                    "digits", seed, link, device, [f"link.train_seconds={TRAIN_SECONDS / DEVICES[device]}"]
                )
                lines = Lines(recipe, sizes, parameters)
                for level in LEVELS[1:]:
                    cell["fixed"][level].append(fixed(lines, level, took[level]))
                need = took["bf16"]
                assert need is not None
                worth = [1.0, *(need / (took[level] or math.inf) for level in LEVELS[1:])]
                lost = [0.0, *(left_out[seed][level] for level in LEVELS[1:])]
                found = auto(
                    lines, controller_of(Controller, recipe, parameters, worth_known), worth, lost, need
                )
                cell["auto"].append(found["seconds"])
                for arm in ablated:
                    blind = auto(
                        lines, controller_of(ARMS[arm], recipe, parameters, worth_known), worth, lost, need
                    )["seconds"]
                    ablated[arm].append(blind / found["seconds"])
                cell["runs"].append({"seed": seed, **found})
            print(task, own, link, device, [round(one) for one in cell["auto"]], file=sys.stderr, flush=True)
    arms = {
        arm: {"geometric_mean": geometric_mean(ratios), "worst": max(ratios)}
        for arm, ratios in ablated.items()
    }
    return {"ablations_over_auto": arms, **summarised(rows)}


if __name__ == "__main__":
    main()
