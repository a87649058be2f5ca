"""Runs one program as several ranks of torch.distributed (gloo), over loopback or over lines of `links`.

    links = {f"site {i}": Link(100e6, 100e6, rtt_seconds=0) for i in range(4)}
    for told in run_ranks([sys.executable, "train.py"], links):
        print(told["seconds"], told["line"]["up_bytes"])

where train.py calls `init_process_group("gloo")` and ends by printing one JSON object. `python benchmarks/ranks.py`
checks the lines: seconds of an all-reduce beside those that the rate allows.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from links import Link, Network, why_not

_PORT = 29500  # in a namespace of its own every port is free
_MORTAL = [sys.executable, "-SE", __file__, "mortal"]
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def run_ranks(
    argv: Sequence[str],
    links: Mapping[str, Link] | None = None,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float = 600.0,
    ranks: int = 4,
) -> list[dict[str, Any]]:
    """What each rank's process of `argv` told, in the order of ranks: the JSON object on the last line of its stdout.

    With `links` every site is a rank, in their order, and "line" is added: the fields of `links.Count`, the bytes of
    the whole run, with the processes' finding each other. Without `links`, `ranks` processes share the loopback device
    and "line" is None. Each process has one OpenMP thread unless `env`, which is added to this process's, says
    otherwise, and finds the variables from which `init_process_group("gloo")` takes everything.

    Raises: RuntimeError, where a rank fails or tells no JSON object, with the end of its stderr; TimeoutError. All
    ranks are killed then; they die with this process, too.
    """
    if links is None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        envs = _environments(ranks, "127.0.0.1", port, "lo", env)
        told = _run([_starter(subprocess.Popen, argv, own) for own in envs], timeout_seconds)
        return [{**one, "line": None} for one in told]
    sites = list(links)
    with Network(links, meet=True) as network:
        master, device = network.address(sites[0]), network.device(sites[0])
        envs = _environments(len(sites), master, _PORT, device, env)
        before = network.counts()
        starters = [
            _starter(lambda *a, site=site, **k: network.popen(site, *a, **k), argv, own)
            for site, own in zip(sites, envs, strict=True)
        ]
        told = _run(starters, timeout_seconds)
        after = network.counts()
        return [
            {**one, "line": {k: v - vars(before[site])[k] for k, v in vars(after[site]).items()}}
            for site, one in zip(sites, told, strict=True)
        ]


def _environments(
    ranks: int, address: str, port: int, device: str, env: Mapping[str, str] | None
) -> list[dict[str, str]]:
    shared = {"OMP_NUM_THREADS": "1", **(env or {}), "WORLD_SIZE": str(ranks)}
    shared |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": device}
    return [{**os.environ, **shared, "RANK": str(rank)} for rank in range(ranks)]


_Start = Callable[[], "subprocess.Popen[str]"]


def _starter(popen: Callable[..., Any], argv: Sequence[str], env: Mapping[str, str]) -> _Start:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a session of its own: what a rank starts is killed with it
    return lambda: popen([*_MORTAL, *argv], env=env, start_new_session=True, **pipes)


def _run(starters: Sequence[_Start], timeout_seconds: float) -> list[dict[str, Any]]:
    ranks: dict[Future[tuple[str, str]], tuple[int, subprocess.Popen[str]]] = {}
    told: dict[int, dict[str, Any]] = {}
    with ThreadPoolExecutor(len(starters)) as pool:
        try:
            for rank, start in enumerate(starters):
                process = start()
                ranks[pool.submit(process.communicate)] = rank, process
            for future in as_completed(ranks, timeout_seconds):
                rank, process = ranks[future]
                told[rank] = _told(rank, process.returncode, *future.result())
        except TimeoutError:
            still = sorted(rank for rank, _ in ranks.values() if rank not in told)
            raise TimeoutError(f"ranks {still} have not ended after {timeout_seconds} seconds") from None
        finally:
            for future, (_, process) in ranks.items():
                if not future.done():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
    return [told[rank] for rank in range(len(starters))]


def _told(rank: int, status: int, out: str, err: str) -> dict[str, Any]:
    lines = out.strip().splitlines()
    if status == 0 and lines:
        with contextlib.suppress(ValueError):
            found = json.loads(lines[-1])
            if isinstance(found, dict):
                return found
    raise RuntimeError(
        f"rank {rank}: expected status 0 and a JSON object on the last line, found status {status} and "
        f"{lines[-1:]}; the end of its stderr:\n{err[-3000:]}"
    )


def _become(argv: Sequence[str]) -> None:
    """Turns this process into `argv`, killed by the kernel (Linux) when the process that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execvp(argv[0], argv)


# ---- What the lines do: an all-reduce ----------------------------------------------------------------------------


def all_reduce(values: int, runs: int) -> list[str]:
    """The program that prints seconds of each of `runs` all-reduces of so many float32, and whether sums are right."""
    return [sys.executable, __file__, "all-reduce", str(values), str(runs)]


def _all_reduce(values: int, runs: int) -> None:
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    seconds, right = [], True
    for _ in range(runs):
        tensor = torch.full((values,), rank + 1.0)
        distributed.barrier()
        started = time.perf_counter()
        distributed.all_reduce(tensor)
        seconds.append(time.perf_counter() - started)
        right = right and bool((tensor == ranks * (ranks + 1) / 2).all())
    distributed.destroy_process_group()
    print(json.dumps({"rank": rank, "seconds": seconds, "right": right}))


def ideal_seconds(link: Link, size_bytes: int, ranks: int) -> float:
    """Of a ring all-reduce: 2 (n-1)/n of the bytes cross each line, up and down at once, 1448 in 1500 of a packet."""
    rate = min(link.up_bits_per_second, link.down_bits_per_second)
    return 2 * (ranks - 1) / ranks * size_bytes * 8 / rate * 1500 / 1448


def _check(ranks: int = 4, values: int = 1_000_000) -> None:
    print(
        f"all-reduce of {4 * values} bytes, {ranks} ranks: seconds by the rate, measured (median, the slowest)"
    )
    slow, fast, local = (10e6, 10e6), (100e6, 100e6), Link(1e9, 1e9, 0, burst_seconds=0.002)
    links = [
        (Link(*slow, 0.01), 3),
        (Link(*slow, 0), 3),
        (Link(*fast, 0.002), 5),
        (Link(*fast, 0), 5),
        (local, 21),
    ]
    for link, runs in links:
        told = run_ranks(all_reduce(values, runs), {f"site {i}": link for i in range(ranks)})
        name = f"{link.up_bits_per_second / 1e6:.0f} Mbit/s, {link.rtt_seconds} s"
        _row(name, ideal_seconds(link, 4 * values, ranks), told)
        moved = [one["line"][f"{way}_bytes"] for one in told for way in ("up", "down")]
        print(f"{'':24s} each line and way: {min(moved)} to {max(moved)} bytes")
    _row("loopback", 0.0, run_ranks(all_reduce(values, 11), ranks=ranks))


def _row(name: str, ideal: float, told: Sequence[Mapping[str, Any]]) -> None:
    assert all(one["right"] for one in told)
    seconds = [s for one in told for s in one["seconds"]]
    print(f"{name:24s} {ideal:8.4f} {statistics.median(seconds):8.4f} {max(seconds):8.4f}", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["mortal", *argv]:
            _become(argv)
        case ["all-reduce", values, runs]:
            _all_reduce(int(values), int(runs))
        case []:
            reason = why_not()
            if reason is not None:
                sys.exit(reason)
            _check()
        case _:
            sys.exit("usage: python benchmarks/ranks.py")
