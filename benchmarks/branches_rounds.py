"""What a round of a run takes in a repository, and what the bits cost: code-lm and digits, committed as they train.

Each seed trains a recipe of examples/ with `phloem.build(..., branch="lm", repo=...)`, and once more uncompressed:
the same outer step on the same sites' float32 updates. `commit` is what the history needs of a round: the commit,
the record of its state, the encoding and the frame, with their lines in the pack's index. `all` is everything that
the repository takes but its first model, by round: the sites' frames, kept so that the round can be merged again,
and the key-frames that make restoring fast. Both are read from the files on the disk.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

import phloem
from branches_disk import BARE, sizes
from branches_models import say
from measuring import EXAMPLES, spread
from phloem.branches.repository import Repository
from phloem.job.build import baseline
from phloem.job.rounds_again import replay_rounds
from phloem.recipe import Recipe, load_recipe

RECIPE = EXAMPLES / "code-lm.toml"
FIRST_SEED = 1  # the recipe was found on seed 0, and the bits below tried on it
#: As many bits down as a hundredth of the model allows, with some left for the records; the same up.
MORE = ("up.bits=0.3", "down.bits=0.28")
#: Digits at its recipe's bits (0.03 up, 0.05 down), on seeds that nothing was chosen with.
FIRST_DIGITS, DIGITS_ROUNDS = 100, 40
PROCESSES = 2  # of digits; of one thread each
INDEX_ROW_BYTES = 57  # of a pack, for each object


def measure(scratch: Path, seeds: int, rounds: int) -> dict[str, Any]:
    """All seeds of code-lm: uncompressed, and with more bits than the recipe has."""
    started, rows = time.perf_counter(), []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        fixed = [f"seed={seed}", f"rounds.max={rounds}", "rounds.stop=rounds"]
        plain = baseline(replace(load_recipe(RECIPE, fixed), compare={}), "fp32")
        row: dict[str, Any] = {"seed": seed, "uncompressed": losses(plain, scratch)}
        say(f"bytes: seed {seed} uncompressed, loss {row['uncompressed']['stop']:.4f}", started)
        found = row["0.3/0.28"] = on_branch(load_recipe(RECIPE, [*fixed, *MORE]), scratch)
        say(
            f"bytes: seed {seed} at 0.3/0.28 bits, loss {found['stop']:.4f}, a commit "
            f"{100 * found['commit_share']:.2f} % of the model, all {100 * found['all_share']:.2f} %",
            started,
        )
        rows.append(row)
    differences = [row["0.3/0.28"]["stop"] - row["uncompressed"]["stop"] for row in rows]
    answer = {
        "rounds": rounds,
        "bits": list(MORE),
        "commit_share": spread([row["0.3/0.28"]["commit_share"] for row in rows]),
        "largest_commit_share": spread([row["0.3/0.28"]["largest_commit_share"] for row in rows]),
        "all_share": spread([row["0.3/0.28"]["all_share"] for row in rows]),
        "loss_difference": {**spread(differences), "mean": statistics.fmean(differences)},
        "uncompressed_loss": spread([row["uncompressed"]["stop"] for row in rows]),
        "seeds": rows,
    }
    if seeds > 1:
        answer["loss_deviation_of_seeds"] = statistics.stdev(row["uncompressed"]["stop"] for row in rows)
    return answer


def digits(scratch: Path, seeds: int) -> dict[str, Any]:
    """All seeds of digits: uncompressed, and with the recipe's bits."""
    started = time.perf_counter()
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(digits_of, range(FIRST_DIGITS, FIRST_DIGITS + seeds), repeat(scratch)))
    differences = [100 * (row["phloem"]["accuracy"] - row["uncompressed"]["accuracy"]) for row in rows]
    say("bytes: rounds of digits", started)
    return {
        "rounds": DIGITS_ROUNDS,
        "commit_share": spread([row["phloem"]["commit_share"] for row in rows]),
        "all_share": spread([row["phloem"]["all_share"] for row in rows]),
        "points": {**spread(differences), "mean": statistics.fmean(differences)},
        "points_deviation_of_seeds": 100 * statistics.stdev(row["uncompressed"]["accuracy"] for row in rows),
        "seeds": rows,
    }


def digits_of(seed: int, scratch: Path) -> dict[str, Any]:
    """One seed of digits."""
    torch.set_num_threads(1)
    scratch = scratch / f"digits-{seed}"
    scratch.mkdir()
    fixed = [f"seed={seed}", f"rounds.max={DIGITS_ROUNDS}", "rounds.stop=rounds"]
    recipe = load_recipe(EXAMPLES / "digits.toml", fixed)
    plain = losses(baseline(replace(recipe, compare={}), "fp32"), scratch)
    return {"seed": seed, "uncompressed": plain, "phloem": on_branch(recipe, scratch)}


def losses(recipe: Recipe, scratch: Path) -> dict[str, Any]:
    """The last losses of a run."""
    run = phloem.build(recipe, out=scratch / "run")
    shutil.rmtree(scratch / "run")
    return _losses(run)


def _losses(run: phloem.Run) -> dict[str, Any]:
    return {
        "stop": run.summary["metric"]["value"],
        "test": run.summary["test"]["loss"],
        "accuracy": run.summary["test"].get("accuracy"),
        "curve": [record.metric for record in run.records],
    }


def on_branch(recipe: Recipe, scratch: Path) -> dict[str, Any]:
    """A run on a branch: losses, and bytes by round; the rounds are merged again from the repository alone."""
    with Repository.create(scratch / "repo") as repo:
        before = sizes(repo)["total"]
        run = phloem.build(recipe, out=scratch / "run", branch="lm", repo=repo.folder.root)
        repo.objects.refresh()
        found, rounds = sizes(repo), len(run.records)
        commits = {entry.digest: repo.show(entry.digest) for entry in repo.log("lm")}
        again = replay_rounds(repo, commits)
        full = (run.path / "model.safetensors").stat().st_size
        first = repo.objects.encodings(repo.show(f"lm~{rounds}").state)[0].frame_bytes
        frames = [
            one.frame_bytes
            for commit in commits.values()
            for one in repo.objects.encodings(commit.state)
            if one.base is not None
        ]
    records = (sum(found[kind] for kind in BARE) - found["frames"]) / (rounds + 1)
    commit = sum(frames) / rounds + records + len(BARE) * INDEX_ROW_BYTES
    shutil.rmtree(scratch / "run")
    shutil.rmtree(scratch / "repo")
    return {
        **_losses(run),
        "full_bytes": full,
        "commit_bytes": commit,
        "commit_share": commit / full,
        "largest_commit_share": (max(frames) + commit - sum(frames) / rounds) / full,
        "all_share": (found["total"] - before - first) / rounds / full,
        "by round": {kind: found[kind] / rounds for kind in found if not kind.endswith("number")},
        "first_model": first,
        "on_disk": found,
        "key-frames": found["key-frames, number"] - 1,
        "merged_again": {"rounds": again[0], "wrong": again[1], "undecided": again[2]},
        "bits_down": run.summary["bits_per_parameter_down"],
    }
