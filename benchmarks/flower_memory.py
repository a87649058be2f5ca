"""A server's memory while it merges a round, by number of sites: Flower's FedAvg, and Compressed around it.

    python benchmarks/flower_memory.py MODE MODEL SITES

prints JSON for one measurement (`plain` or `phloem`), in a process of its own: no network, and the sites' parts in
processes that end before. `replies` is what the server holds once all replies are there, `peak` the kernel's high-water
mark until the merged model exists, both beyond what the process held with the model and the strategy alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

APP = Path(__file__).with_name("flower_app")


def measured(mode: str, model: str, sites: int) -> dict[str, int]:
    """One measurement, in a process of its own."""
    argv = [sys.executable, __file__, mode, model, str(sites)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    print(f"memory {mode} {sites} sites: {found}", file=sys.stderr, flush=True)
    return found


def _kilobytes(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found
    return 1024 * int(found[1])


def _measure(mode: str, model: str, sites: int) -> dict[str, int]:
    sys.path.insert(0, str(APP))
    import bench_model
    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
    from flwr.proto.recorddict_pb2 import RecordDict as Proto
    from flwr.serverapp.strategy import FedAvg

    import phloem.flower
    from flower_grid import Sites

    with tempfile.TemporaryDirectory() as scratch:

        def trained(message: Message, context: Context) -> Message:
            state = {name: array.numpy() for name, array in message.content["arrays"].items()}
            out, _ = bench_model.train({"model": model, "seed": 0}, state, context.node_id, 1)
            record = ArrayRecord({name: Array(np.asarray(array)) for name, array in out.items()})
            metrics = MetricRecord({"num-examples": 100 + context.node_id})
            return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

        mod = phloem.flower.mod(initial=lambda _: bench_model.initial(model, 0))

        def answered(message: Message) -> bytes:
            """A site's reply, made by a child of this process, whose memory does not count."""
            node = message.metadata.dst_node_id
            context = Context(1, node, {"phloem-state": scratch}, RecordDict(), {})
            give, take = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(give)
                reply = mod(message, context, trained) if mode == "phloem" else trained(message, context)
                with os.fdopen(take, "wb") as out:
                    out.write(recorddict_to_proto(reply.content).SerializeToString())
                os._exit(0)
            os.close(take)
            with os.fdopen(give, "rb") as come:
                content = come.read()
            os.waitpid(child, 0)
            return content

        def content_of(message: Message) -> RecordDict:
            proto = Proto()
            proto.ParseFromString(answered(message))
            return recorddict_from_proto(proto)

        strategy: Any = FedAvg(min_train_nodes=sites, min_available_nodes=sites)
        if mode == "phloem":
            strategy = phloem.flower.Compressed(strategy, bits=0.05)
        first = bench_model.initial(model, 0)
        arrays = ArrayRecord({name: Array(array) for name, array in first.items()})
        del first
        grid = Sites(sites, content_of)
        messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
        before = _kilobytes("VmRSS")
        replies = grid.send_and_receive(messages)
        held = _kilobytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # VmHWM starts anew
        merged, _ = strategy.aggregate_train(1, replies)
        assert merged is not None
        peak = _kilobytes("VmHWM")
    size = sum(len(array.data) for array in merged.values())
    return {"model": size, "before": before, "replies": held - before, "peak": peak - before}


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
