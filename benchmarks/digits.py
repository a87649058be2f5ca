"""Digits: bytes to 97 % against fp32 and bf16 FedAvg, and final accuracy paired over splits.

python benchmarks/digits.py --seeds 5 --splits 24
"""

from __future__ import annotations

import argparse

from measuring import EXAMPLES, geometric_mean, paired, quiet, run, spread, write
from phloem.job.build import baseline
from phloem.recipe import load_recipe

RECIPE = EXAMPLES / "digits.toml"
FIRST_SPLIT = 100  # seeds of the splits, apart from the seeds of the headline
ROUNDS = 60  # of the paired comparison: both ends run them all


def headline(seeds: int) -> dict[str, object]:
    """Bytes and rounds to the target, per seed, for the recipe and the two baselines."""
    rows = []
    for seed in range(seeds):
        recipe = load_recipe(RECIPE, [f"seed={seed}"])
        row: dict[str, object] = {"seed": seed}
        found = {
            "phloem": run(recipe, f"digits seed {seed} phloem"),
            "fp32": run(baseline(recipe, "fp32"), f"digits seed {seed} fp32"),
            "bf16": run(baseline(recipe, "bf16"), f"digits seed {seed} bf16"),
        }
        for name, summary in found.items():
            row[name] = {
                "rounds": summary["rounds_to_target"],
                "bytes": summary["bytes_to_target"],
                "control_bytes": summary["control_bytes"],
                "seconds_on_link": summary["seconds_to_target"],
                "test_accuracy": summary["test"]["accuracy"],
                "bits_up": summary["bits_per_parameter_up"],
                "bits_down": summary["bits_per_parameter_down"],
                "state": summary["state_digest"],
            }
        ours = found["phloem"]
        for name in ("fp32", "bf16"):
            reached = ours["bytes_to_target"] and found[name]["bytes_to_target"]
            row[f"fewer_bytes_than_{name}"] = (
                found[name]["bytes_to_target"] / ours["bytes_to_target"] if reached else None
            )
            row[f"rounds_against_{name}"] = (
                ours["rounds_to_target"] / found[name]["rounds_to_target"] if reached else None
            )
        rows.append(row)
    answer: dict[str, object] = {"seeds": rows}
    for key in ("fewer_bytes_than_fp32", "fewer_bytes_than_bf16", "rounds_against_fp32"):
        values = [row[key] for row in rows if row[key] is not None]
        answer[key] = {**spread(values), "geometric_mean": geometric_mean(values), "of": len(rows)}
    return answer


def final_accuracy(splits: int) -> dict[str, object]:
    """Test accuracy after the same number of rounds, ours minus fp32's, in percentage points."""
    fixed = [f"rounds.max={ROUNDS}", "rounds.stop=rounds"]
    rows = []
    for seed in range(FIRST_SPLIT, FIRST_SPLIT + splits):
        recipe = load_recipe(RECIPE, [f"seed={seed}", *fixed])
        ours = run(recipe, f"digits split {seed} phloem, {ROUNDS} rounds")
        fp32 = run(baseline(recipe, "fp32"), f"digits split {seed} fp32, {ROUNDS} rounds")
        rows.append(
            {
                "seed": seed,
                "phloem": ours["test"]["accuracy"],
                "fp32": fp32["test"]["accuracy"],
                "phloem_bytes": ours["total_bytes"],
                "fp32_bytes": fp32["total_bytes"],
            }
        )
    return {
        "rounds": ROUNDS,
        "splits": rows,
        "points_against_fp32": paired([100 * (row["phloem"] - row["fp32"]) for row in rows]),
    }


def main() -> None:
    """Runs both parts and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--splits", type=int, default=24)
    options = parser.parse_args()
    quiet()
    write(
        "digits",
        f"python benchmarks/digits.py --seeds {options.seeds} --splits {options.splits}",
        {
            "recipe": "examples/digits.toml",
            "to_target": headline(options.seeds),
            "final": final_accuracy(options.splits),
        },
    )


if __name__ == "__main__":
    main()
