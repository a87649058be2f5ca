"""Phloem in Flower: compressed models in both directions, one line on each side.

On the client:   app = ClientApp(mods=[phloem.flower.mod()])
On the server:   strategy = phloem.flower.Compressed(FedAvg(), bits=0.1)

`coordinator_app` and `site_app` are the apps of `phloem build --engine flower`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phloem.engines.flower.apps import Source, server_app, site_app
from phloem.engines.flower.compressed import Compressed
from phloem.engines.flower.engine import FlowerEngine, Patience
from phloem.engines.flower.exchange import Transfer
from phloem.engines.flower.mod import mod
from phloem.engines.flower.project import read_nodes
from phloem.job.coordinate import Report, coordinate
from phloem.recipe import load_recipe

__all__ = ["Compressed", "Transfer", "coordinator_app", "mod", "site_app"]


def coordinator_app(recipe: Source) -> Any:
    """The ServerApp that builds `recipe` from sites that run `site_app`, as `phloem build` does.

    The run's configuration says where (`run`), where its ledger is (`ledger`), which node is which site (`nodes`), and
    how long to wait (`connect-seconds`, `answer-seconds`). Started again after a crash, it goes on after the last
    whole round.
    """
    loaded = load_recipe(recipe)
    say = logging.getLogger("flwr").info

    def main(grid: Any, config: Mapping[str, Any]) -> None:
        patience = Patience(
            float(config.get("connect-seconds", 600)), float(config.get("answer-seconds", 3600))
        )
        nodes = read_nodes(Path(str(config["nodes"]))) if config.get("nodes") else None
        root = Path(str(config.get("run") or Path("runs") / loaded.name))
        report = Report(Path(str(config["report"])) if config.get("report") else None)

        def say_both(words: str) -> None:
            say("phloem: %s", words)
            report.say(words)

        engine = FlowerEngine(grid, loaded.sites.all, nodes, patience, say_both)
        wanted = loaded
        if config.get("ledger") and loaded.ledger is not None:
            ledger = dataclasses.replace(loaded.ledger, folder=str(config["ledger"]))
            wanted = dataclasses.replace(loaded, ledger=ledger)
        coordinate(wanted, root, lambda *_: engine, say, report)

    return server_app(main)
