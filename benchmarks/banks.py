"""Banks: average precision against pooled data and against every bank alone, paired over seeds.

python benchmarks/banks.py --seeds 5
"""

from __future__ import annotations

import argparse

from alone import train_alone
from measuring import EXAMPLES, paired, quiet, run, spread, write
from phloem.job.build import baseline
from phloem.recipe import load_recipe

FIRST_SEED = 10  # seeds 0 to 9 were looked at while the generator and the task were designed


def main() -> None:
    """Runs every seed all ways and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        recipe = load_recipe(EXAMPLES / "banks.toml", [f"seed={seed}"])
        ours = run(recipe, f"banks seed {seed} phloem")
        fp32 = run(baseline(recipe, "fp32"), f"banks seed {seed} fp32")
        singles = {site: train_alone(recipe, site)["average_precision"] for site in recipe.sites.all}
        rows.append(
            {
                "seed": seed,
                "phloem": ours["test"]["average_precision"],
                "fp32_federated": fp32["test"]["average_precision"],
                "pooled": train_alone(recipe, None)["average_precision"],
                "best_single_bank": max(singles.values()),
                "single_banks": singles,
                "phloem_bytes": ours["total_bytes"],
                "fp32_bytes": fp32["total_bytes"],
            }
        )
    write(
        "banks",
        f"python benchmarks/banks.py --seeds {options.seeds}",
        {
            "recipe": "examples/banks.toml",
            "average_precision": spread([row["phloem"] for row in rows]),
            "against_pooled": paired([row["phloem"] - row["pooled"] for row in rows]),
            "against_best_single_bank": paired([row["phloem"] - row["best_single_bank"] for row in rows]),
            "against_fp32": paired([row["phloem"] - row["fp32_federated"] for row in rows]),
            "fewer_bytes_than_fp32": spread([row["fp32_bytes"] / row["phloem_bytes"] for row in rows]),
            "seeds": rows,
        },
    )


if __name__ == "__main__":
    main()
