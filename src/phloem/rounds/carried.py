"""What the ledger says of an order: in which form it brings the trunk."""

from __future__ import annotations

from phloem.ledger.exchange import Carried
from phloem.ledger.kinds import DELTA, HELD, KEY_FRAME
from phloem.wire import frame as frames
from phloem.wire.messages import Order


def carried_by(order: Order, digest: str = "") -> Carried:
    """The frame that brings the trunk of the order's round, the last one where there are more.

    `digest` is that of the newest delta frame, where it is known.
    """
    if not order.items:
        return Carried(HELD)
    frame = order.items[-1].frame
    if order.key_chain is not None:
        return Carried(KEY_FRAME, frame, frames.codec_name(frame))
    return Carried(DELTA, frame, frames.codec_name(frame), digest)
