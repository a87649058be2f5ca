"""`bits="auto"`: the planner's controller chooses every round's level, from what the rounds before took on the wire.

There is no coordinator to ask: every rank has the same controller, and tells it the same. What an update took to make
comes with the update; what the exchange of frames took, all ranks tell each other right after it, and with it the round
trip that the kernel knows of the connections that carried their frames. From that meeting every rank's clock runs anew,
so that all know at the next one who was ready when: the time that a rank waits for slower ones is no time on the line.
"""

from __future__ import annotations

import math
import statistics
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from phloem.engines.torch.peers import Peers
from phloem.errors import ConfigError
from phloem.planner import levels
from phloem.planner.control import Controller
from phloem.planner.costs import Seen
from phloem.planner.decision import label
from phloem.planner.settings import Adapting
from phloem.rounds.adapting import AdaptiveChoice
from phloem.rounds.result import RoundResult
from phloem.tcp import Watch
from phloem.wire.messages import Report

AUTO = "auto"
#: The coarsest level that momentum outside bears: it was seen to fail with less than a bit.
FINE = "2"
_TIMES = struct.Struct("<3d")  # seconds to the exchange's start, and to its end from there; the round trip's
_SHORTEST = 1e-6  # seconds: what an exchange takes at least


def first(bits: str, codec: str | Mapping[str, Any] | None, effort: str) -> dict[str, Any]:
    """The codec that the plan of such a run names: that of a first round of which nothing is known.

    Raises:
        ConfigError: `bits` is another word, or the other options contradict it.
    """
    if bits != AUTO:
        raise ConfigError(f"'bits' must be a number or '{AUTO}', found {bits!r:.60}")
    if codec is not None:
        raise ConfigError("'bits' and 'codec' say both what frames are like", hint="give one of the two")
    if effort != "fast":
        raise ConfigError(f"'effort' goes with a number of bits: bits='{AUTO}' chooses efforts, too")
    return levels.first_config()


def exchange_seconds(times: Sequence[Sequence[float]]) -> float:
    """What an exchange took, from every rank's (seconds from the meeting to its start, seconds from then to its end).

    Nothing is complete before the last rank has started, so it counts from there. Clocks began when the meeting's last
    message came, which is up to a latency later at one rank than at another; the mean over the ranks has that cancel.

    >>> exchange_seconds([(1.0, 5.0), (3.0, 3.0)])
    3.0
    """
    last = max(ready for ready, _ in times)
    return max(statistics.fmean(took - (last - ready) for ready, took in times), _SHORTEST)


def round_trip_seconds(told: Sequence[float]) -> float:
    """The line's round trip, from that of each rank to its farthest peer: their median; 0 if no rank knows any.

    The median, since an exchange's seconds are a mean over the ranks, and one rank's kernel may say anything.

    >>> round_trip_seconds([0.04, 0.0, 0.05, math.nan])
    0.04
    """
    known = [one for one in told if 0.0 < one < math.inf]
    return statistics.median_low(known) if known else 0.0


class Leveling(AdaptiveChoice):
    """The choice of ranks that send their frames to each other; `starts` comes before every exchange.

    `ended` comes right after it, and `meet` once its updates are merged.
    """

    def __init__(self, peers: Peers, parameters: int, momentum: bool = False) -> None:
        """`momentum`: the outer step has some, and wants fine frames."""
        others = peers.world - 1
        settings = Adapting(coarsest=FINE if momentum else levels.LADDER[-1].name)
        if not others:  # a rank alone has no line, and loses nothing by sending everything
            settings = Adapting(coarsest=levels.LADDER[0].name)
        super().__init__(Controller((), parameters, settings=settings, owes=False, peers=max(others, 1)))
        self._peers, self._watch, self._round_trip = peers, Watch(), 0.0
        self.begin()

    def begin(self) -> None:
        """Says that all ranks have met just now."""
        self._met = time.perf_counter()

    def starts(self) -> None:
        """Says that this rank's message is handed over next."""
        self._watch.begin()

    def ended(self, size: int) -> None:
        """Says that all ranks' messages have come, of which this one's had `size` bytes."""
        self._round_trip = self._watch.end(size, self._peers.world - 1)

    def meet(self, ready: float, seconds: float, sent: Mapping[str, int], result: RoundResult) -> None:
        """Tells all ranks how long the exchange took here, and the controller what it took at all of them.

        It began here at `ready`, on the clock of `time.perf_counter`, and every worker `sent` a message of so many
        bytes to each of the others. Without any, the round's updates are of another time, and teach nothing.

        Raises:
            StateError: a rank did not come in time; it is named.
        """
        message = _TIMES.pack(ready - self._met, seconds, self._round_trip)
        told = [_TIMES.unpack(one) for one in self._peers.gather(message, _TIMES.size)]
        self.begin()
        if sent:
            took = exchange_seconds([times for *times, _ in told])
            round_trip = round_trip_seconds([one for *_, one in told])
            self.controller.observe(
                result.round,
                self._seen(took, round_trip, sent, result),
                frame_bytes=len(result.frame),
                loss=0.0,  # nobody knows one
                norm=result.norm,
            )

    def _seen(
        self, took: float, round_trip: float, sent: Mapping[str, int], result: RoundResult
    ) -> dict[str, Seen]:
        frames = {update.site: len(update.frame) for update in result.accepted}
        seen = dict.fromkeys(sent, Seen())
        for name, frame in frames.items():
            report = result.reports.get(name, Report())
            seen[name] = Seen(
                up_bytes=sent[name] * (self._peers.world - 1),
                up_seconds=took,
                encode_seconds=report.encode_seconds,
                train_seconds=report.train_seconds,
                lost=-1.0 if report.lost is None else report.lost,
                frame_bytes=frame,
                round_trip_seconds=round_trip,
            )
        return seen

    def words(self, worker: int) -> str:
        """The level of a worker's update in this round: "0.05 fast"."""
        assert self.decision is not None
        return label(self.decision.up[str(worker)])
