"""What the kernel says of TCP connections that some library below holds: `TCP_INFO` of this process's own sockets.

Nothing is sent, and no connection is touched: a descriptor is asked, never closed, duplicated or changed. Which sockets
carried a message shows in what they were given to send meanwhile, so that nothing need be known of the library.

What is used is the shortest round trip of late. The delivery rate is read, and used by nobody: it makes predictions
better on some lines and worse on others, and the first ones on none (benchmarks/adaptation_round_trip.py).

Linux only (`bytes_sent` since 4.19). Elsewhere, and where /proc or an option is missing, nothing is found.

Source: tcp(7); `struct tcp_info` in include/uapi/linux/tcp.h, which only ever grows at its end. Its shortest round trip
is the least of the samples (RFC 6298's, RFC 7323's time stamps among them) in `net.ipv4.tcp_min_rtt_wlen` seconds.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

_TCP, _TCP_INFO, _ESTABLISHED = 6, 11, 1  # <netinet/tcp.h>
_ROOM = 256
_STATE, _FLAGS = 0, 7  # offsets of single bytes
_NOT_SENT, _SENT, _AGAIN = 144, 200, 208
_MIN_ROUND_TRIP, _RATE = 148, 160
_LIMITED = 1 if sys.byteorder == "little" else 0x80  # of the flags: the first of a bit field
_UNKNOWN = 0xFFFFFFFF
_DESCRIPTORS = 1024  # more are not looked through: 2 ms, once
_AROUND = 1024  # bytes that a library may put around a message, for one of the peers
_ATTEMPTS = 3


@dataclass(frozen=True)
class Reading:
    """What the kernel says of a connection; 0 where it does not.

    Attributes:
        given: bytes that the program has given it to send, sent already or not.
        round_trip_seconds: the shortest of the last five minutes, where nobody has set another time.
        delivery_rate: bytes per second that lately came to be acknowledged. It is no line's goodput: of messages under
            a megabyte it is mostly limited by what there was to send, by slow start where it is not, and by nothing
            while a queue's burst lasts.
        limited: whether there was less to send than the line would have carried.
    """

    given: int
    round_trip_seconds: float
    delivery_rate: float
    limited: bool


Socket = tuple[int, int]
"""A descriptor, and the inode of the socket that it stands for: numbers of descriptors are used again."""


def parsed(said: bytes) -> Reading | None:
    """The reading in a `struct tcp_info`; None if the connection does not stand, or the kernel says too little.

    >>> parsed(b"") is None
    True
    """
    if len(said) < _AGAIN + 8 or said[_STATE] != _ESTABLISHED:
        return None
    waiting, shortest = struct.unpack_from("=2I", said, _NOT_SENT)
    (rate,) = struct.unpack_from("=Q", said, _RATE)
    sent, again = struct.unpack_from("=2Q", said, _SENT)
    return Reading(
        given=sent - again + waiting,
        round_trip_seconds=0.0 if shortest == _UNKNOWN else shortest / 1e6,
        delivery_rate=float(rate),
        limited=bool(said[_FLAGS] & _LIMITED),
    )


def readings(sockets: Iterable[Socket] | None = None) -> dict[Socket, Reading]:
    """What is said of these sockets, as far as they are still there; of all TCP connections of this process without.

    Takes about 2 µs for each descriptor of the process, 4 µs for each socket.
    """
    asking = _asking()
    if asking is None:
        return {}
    found = {}
    for descriptor, inode in _listed() if sockets is None else sockets:
        reading = _read(asking, descriptor)
        if reading is not None and _inode(descriptor) == inode:
            found[descriptor, inode] = reading
    return found


def carried(
    before: Mapping[Socket, Reading], after: Mapping[Socket, Reading], size: int, most: int
) -> list[Socket]:
    """The sockets that were given a message of `size` bytes between two readings; none, if more than `most` were."""
    found = [
        socket
        for socket, reading in after.items()
        if socket in before and size <= reading.given - before[socket].given <= size + _AROUND
    ]
    return found if len(found) <= most else []


class Watch:
    """The round trip to those that this process sends the same message, with `begin` before it and `end` after.

    The sockets that carried one are asked alone from then on. Where none is found three times, nobody looks again.
    """

    def __init__(self) -> None:
        self.known: tuple[Socket, ...] = ()
        self._before: dict[Socket, Reading] = {}
        self._left = _ATTEMPTS

    def begin(self) -> None:
        """Notes what every socket was given so far."""
        if self._left:
            self._before = readings(self.known or None)

    def end(self, size: int, peers: int) -> float:
        """The longest of the round trips to the peers that were sent `size` bytes each; in seconds, 0 is not known."""
        if not self._left:
            return 0.0
        now = readings(self._before)
        self.known = tuple(carried(self._before, now, size, peers))
        self._left = _ATTEMPTS if self.known else self._left - 1
        return max((now[socket].round_trip_seconds for socket in self.known), default=0.0)


@functools.cache
def _asking() -> Callable[..., int] | None:
    """The system's getsockopt. Python's own wants a socket object, which closes the descriptor when it goes."""
    if sys.platform != "linux":
        return None
    try:
        found: Callable[..., int] = ctypes.CDLL(None).getsockopt
    except (OSError, AttributeError):
        return None
    return found


def _read(asking: Callable[..., int], descriptor: int) -> Reading | None:
    said, length = ctypes.create_string_buffer(_ROOM), ctypes.c_uint32(_ROOM)
    if asking(descriptor, _TCP, _TCP_INFO, said, ctypes.byref(length)):
        return None  # closed meanwhile, or no TCP
    return parsed(said.raw[: length.value])


def _listed() -> list[Socket]:
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return []
    if len(names) > _DESCRIPTORS:
        return []
    found = [(int(name), _inode(int(name))) for name in names if name.isdigit()]
    return [(descriptor, inode) for descriptor, inode in found if inode]


def _inode(descriptor: int) -> int:
    """The number of the socket behind a descriptor; 0 if there is none."""
    try:
        about = os.fstat(descriptor)
    except OSError:
        return 0
    return about.st_ino if stat.S_ISSOCK(about.st_mode) else 0
