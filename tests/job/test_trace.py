"""One update followed from a site's tensor to the trunk's commit, and a whole run replayed by a stranger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tests.tiny import Blobs, table

import phloem
from phloem import canonical
from phloem.engines.base import Answer
from phloem.engines.local import LocalEngine
from phloem.rounds import events
from phloem.rounds.plan import next_chain
from phloem.seeds import seed_for
from phloem.store.files import Store
from phloem.tensors import Layout, State, state_digest
from phloem.wire import frame as frames
from phloem.wire.messages import Order, Reply

SITE, ROUND = "site-1", 2
NONE = {"codec": "none"}


def commits(root: Path) -> list[dict[str, Any]]:
    """Every commit of the trunk, oldest first, read from the store alone."""
    store, found = Store(root), []
    digest = store.read("trunk")
    while digest is not None:
        found.append(canonical.loads(store.get(digest)))
        digest = found[-1]["parents"][0] if found[-1]["parents"] else None
    return found[::-1]


def arrays_of(root: Path, digest: str, layout: Layout) -> State:
    return layout.named(frames.unpack(Store(root).get(digest), layout).decode())


def test_one_update_is_the_same_bytes_from_the_sites_tensor_to_the_trunks_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[events.Event] = []
    carried: list[tuple[dict[str, bytes], dict[str, Answer]]] = []
    deliver = LocalEngine.deliver

    def watched(engine: LocalEngine, orders: dict[str, bytes]) -> dict[str, Answer]:
        answers = deliver(engine, orders)
        carried.append((orders, answers))
        return answers

    monkeypatch.setattr(LocalEngine, "deliver", watched)
    recipe = table(up=NONE, down=NONE)
    run = phloem.build(recipe, out=tmp_path / "run", emit=heard.append)
    root, task = run.path, Blobs(["site-0", "site-1", "site-2"], 0)
    genesis, *rounds = commits(root)
    layout = Layout.from_json(Store(root).get(genesis["layout"]))

    # what the site learned: trained here once more, from the states that the store has
    state, memory = arrays_of(root, genesis["frame"], layout), {}
    for number in range(ROUND + 1):
        trained, memory, examples, _ = task.train(
            state, task.shard(SITE), memory, seed_for(0, "train", SITE, number)
        )
        before, state = state, {
            name: np.asarray(state[name] + step)
            for name, step in arrays_of(root, rounds[number]["frame"], layout).items()
        }  # fmt: skip
    update = {name: np.asarray(trained[name] - before[name]) for name in layout.names}

    # send: the reply carries it
    orders, answers = carried[ROUND]
    reply = Reply.unpack(answers[SITE].message)
    assert (reply.round, reply.site, reply.examples) == (ROUND, 1, examples)
    assert Order.unpack(orders[SITE]).chain == reply.chain
    sent = layout.named(frames.unpack(reply.frame, layout).decode())
    assert state_digest(sent) == state_digest(update)

    # receive: the events name it by its digest
    digest = canonical.digest(reply.frame)
    for kind in (events.UpdateSent, events.UpdateReceived):
        assert [e.frame for e in heard if isinstance(e, kind) and (e.round, e.site) == (ROUND, SITE)] == [
            digest
        ]

    # close: the commit names it and the store holds these very bytes
    commit = rounds[ROUND]
    assert {"site": SITE, "examples": examples, "frame": digest} in commit["inputs"]
    assert Store(root).get(digest) == reply.frame
    assert [row["site"] for row in commit["inputs"]] == ["site-0", "site-1", "site-2"]

    # merge: the mean of what was sent, in float64, and it is the trunk's step
    total = sum(row["examples"] for row in commit["inputs"])
    step = arrays_of(root, commit["frame"], layout)
    for name in layout.names:
        parts = [row["examples"] * arrays_of(root, row["frame"], layout)[name].astype(np.float64)
                 for row in commit["inputs"]]  # fmt: skip
        # each later round's step also pays what the float32 rounding of the sum left owed
        assert np.allclose(step[name], sum(parts) / total, rtol=1e-6, atol=1e-9)

    # order: every site is sent that frame, and told that this update was merged
    for order in carried[ROUND + 1][0].values():
        item = Order.unpack(order).items[-1]
        assert item.frame == Store(root).get(commit["frame"])
        assert item.accepted == b"\x07"

    # the sites' state is the commit's
    reached = [e for e in heard if isinstance(e, events.StateReached) and e.round == ROUND + 1]
    assert {event.site for event in reached} == {"site-0", "site-1", "site-2"}
    assert {event.state for event in reached} == {commit["state"]} == {state_digest(state)}
    assert {event.chain for event in reached} == {commit["chain"]}


def test_a_stranger_with_the_frames_replays_the_run_to_the_same_bits(tmp_path: Path) -> None:
    faults = {"participation": 0.7, "dropout": 0.2, "late": 0.2}
    run = phloem.build(table(count=4, rounds=8, sites=faults, up={"codec": "sign"}), out=tmp_path / "run")
    genesis, *rounds = commits(run.path)
    store = Store(run.path)
    layout = Layout.from_json(store.get(genesis["layout"]))
    plan = canonical.loads(store.get(genesis["plan"]))
    assert canonical.digest(store.get(genesis["plan"])) == rounds[0]["plan"] == run.summary["plan"]
    state = arrays_of(run.path, genesis["frame"], layout)
    assert state_digest(state) == genesis["state"] == plan["initial_state"]
    chain = bytes.fromhex(genesis["chain"])
    for commit in rounds:
        merged = {row["site"] for row in commit["inputs"]}
        bits = sum(1 << place for place, site in enumerate(plan["sites"]) if site in merged)
        frame = store.get(commit["frame"])
        chain = next_chain(chain, bits.to_bytes(1, "little"), frame)
        step = layout.named(frames.unpack(frame, layout).decode())
        state = {name: np.asarray(state[name] + step[name]) for name in state}
        assert (chain.hex(), state_digest(state)) == (commit["chain"], commit["state"])
        assert not merged & set(commit["refused"])
    assert state_digest(state) == run.summary["state_digest"] == state_digest(run.state)
    assert any(commit["refused"] for commit in rounds)


def test_the_model_file_and_the_summary_name_the_state_that_the_run_returns(tmp_path: Path) -> None:
    run = phloem.build(table(), out=tmp_path / "run")
    with safe_open(run.path / "model.safetensors", "np") as file:
        assert file.metadata() == {"phloem.state": run.summary["state_digest"]}
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert state_digest(stored) == state_digest(run.state) == run.summary["state_digest"]
    assert stored["scale"].shape == ()
    assert json.loads((run.path / "summary.json").read_text()) == json.loads(json.dumps(run.summary))
