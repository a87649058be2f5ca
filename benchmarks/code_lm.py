"""Code LM: bytes to the loss that dense fp32 DiLoCo reaches in 30 rounds, and the frontier of bytes against loss.

python benchmarks/code_lm.py headline --seeds 5
python benchmarks/code_lm.py frontier
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from measuring import EXAMPLES, geometric_mean, quiet, run, spread, write
from phloem.job.build import baseline
from phloem.recipe import Recipe, load_recipe

RECIPE = EXAMPLES / "code-lm.toml"
DENSE_ROUNDS = 30
FIRST_SEED = 1  # the recipe was found on seed 0
MOST_ROUNDS = 120
FRONTIER_ROUNDS = 40
BITS = (1.0, 0.3, 0.1, 0.05, 0.02)
OUTER = {
    "sgd": 'server={name="sgd", learning_rate=1.0}',
    "nesterov": 'server={name="nesterov", learning_rate=0.7, momentum=0.9}',
}


def dense(seed: int) -> Recipe:
    """fp32 DiLoCo with its own outer step."""
    return load_recipe(baseline(load_recipe(RECIPE, [f"seed={seed}"]), "fp32"), _rounds(DENSE_ROUNDS))


def _rounds(number: int) -> list[str]:
    return [
        f"rounds.max={number}",
        "rounds.stop=rounds",
        "run.keep_updates=false",
        "run.snapshot_every=100000",
    ]


def first_at(curve: Sequence[Sequence[float]], loss: float) -> Sequence[float] | None:
    """The first (round, loss, bytes) that is no worse than `loss`."""
    return next((point for point in curve if point[1] <= loss), None)


def headline(seeds: int) -> dict[str, object]:
    """Per seed: the dense loss after 30 rounds, and what the recipe needs to reach it."""
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        reference = run(dense(seed), f"code-lm seed {seed} dense fp32, {DENSE_ROUNDS} rounds")
        loss = reference["metric"]["value"]
        changes = [f"seed={seed}", *_rounds(MOST_ROUNDS), "rounds.stop=target", f"rounds.target={loss}"]
        ours = run(load_recipe(RECIPE, changes), f"code-lm seed {seed} phloem to loss {loss:.4f}")
        reached = ours["bytes_to_target"]
        dense_at = first_at(reference["curve"], loss)
        assert dense_at is not None
        rows.append(
            {
                "seed": seed,
                "dense_loss": loss,
                "dense_rounds": dense_at[0],
                "dense_bytes": dense_at[2],
                "dense_test_loss": reference["test"]["loss"],
                "rounds": ours["rounds_to_target"],
                "bytes": reached,
                "test_loss": ours["test"]["loss"],
                "best_loss_if_not_reached": None if reached else min(point[1] for point in ours["curve"]),
                "fewer_bytes": dense_at[2] / reached if reached else None,
                "bits_up": ours["bits_per_parameter_up"],
                "bits_down": ours["bits_per_parameter_down"],
                "control_bytes": ours["control_bytes"],
                "curve": ours["curve"],
                "dense_curve": reference["curve"],
            }
        )
    answer: dict[str, object] = {"seeds": rows}
    reached_rows = [row for row in rows if row["fewer_bytes"]]
    if reached_rows:
        ratios = [row["fewer_bytes"] for row in reached_rows]
        answer["fewer_bytes"] = {**spread(ratios), "geometric_mean": geometric_mean(ratios), "of": len(rows)}
        answer["rounds"] = spread([row["rounds"] for row in reached_rows])
    return answer


def frontier() -> dict[str, object]:
    """One seed: loss against bytes for every rate, with both outer steps, the same rate both ways."""
    reference = run(dense(0), f"code-lm dense fp32, {DENSE_ROUNDS} rounds")
    loss = reference["metric"]["value"]
    rows = []
    for outer, server in OUTER.items():
        for bits in BITS:
            changes = [f"up.bits={bits}", f"down.bits={bits}", server, *_rounds(FRONTIER_ROUNDS)]
            one = run(load_recipe(RECIPE, changes), f"code-lm {outer}, {bits} bits both ways")
            at = first_at(one["curve"], loss)
            rows.append(
                {
                    "outer": outer,
                    "bits": bits,
                    "loss": one["metric"]["value"],
                    "test_loss": one["test"]["loss"],
                    "total_bytes": one["total_bytes"],
                    "rounds_to_dense_loss": at[0] if at else None,
                    "fewer_bytes_to_dense_loss": reference["total_bytes"] / at[2] if at else None,
                    "curve": one["curve"],
                }
            )
    return {
        "dense": {"loss": loss, "total_bytes": reference["total_bytes"], "curve": reference["curve"]},
        "rounds": FRONTIER_ROUNDS,
        "rows": rows,
    }


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("headline", "frontier"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    command = f"python benchmarks/code_lm.py {options.part}"
    if options.part == "headline":
        result = headline(options.seeds)
        command += f" --seeds {options.seeds}"
    else:
        result = frontier()
    write(f"code_lm_{options.part}", command, {"recipe": "examples/code-lm.toml", **result})


if __name__ == "__main__":
    main()
