"""Hospitals: area under the ROC curve against training on the pooled records, paired over splits.

python benchmarks/hospitals.py --splits 24
"""

from __future__ import annotations

import argparse
import dataclasses

from alone import train_alone
from measuring import EXAMPLES, paired, quiet, run, spread, write
from phloem.job.build import baseline
from phloem.recipe import load_recipe


def main() -> None:
    """Runs every split three ways and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=24)
    options = parser.parse_args()
    quiet()
    rows = []
    for seed in range(options.splits):
        recipe = load_recipe(EXAMPLES / "hospitals.toml", [f"seed={seed}"])
        recipe = dataclasses.replace(recipe, ledger=None)  # whose bytes benchmarks/ledger_hospitals.py counts
        ours = run(recipe, f"hospitals split {seed} phloem")
        fp32 = run(baseline(recipe, "fp32"), f"hospitals split {seed} fp32")
        rows.append(
            {
                "seed": seed,
                "phloem": ours["test"]["auroc"],
                "fp32_federated": fp32["test"]["auroc"],
                "pooled": train_alone(recipe, None)["auroc"],
                "phloem_bytes": ours["total_bytes"],
                "phloem_control_bytes": ours["control_bytes"],
                "fp32_bytes": fp32["total_bytes"],
            }
        )
    write(
        "hospitals",
        f"python benchmarks/hospitals.py --splits {options.splits}",
        {
            "recipe": "examples/hospitals.toml",
            "auroc": spread([row["phloem"] for row in rows]),
            "auroc_against_pooled": paired([row["phloem"] - row["pooled"] for row in rows]),
            "auroc_against_fp32": paired([row["phloem"] - row["fp32_federated"] for row in rows]),
            "fewer_bytes_than_fp32": spread([row["fp32_bytes"] / row["phloem_bytes"] for row in rows]),
            "splits": rows,
        },
    )


if __name__ == "__main__":
    main()
