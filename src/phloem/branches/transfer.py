"""Bringing what is planned to another repository: large frames first, each for itself, then packs with everything else.

What a killed process brought is not brought again. Who receives does not trust: every object is checked against its
digest, nothing is read into memory that is larger than its kind can be, and of a state that can be restored already no
other encoding is taken in (`phloem.branches.planning`), so that it stays restorable.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from phloem.branches import packs
from phloem.branches.blobs import Blob
from phloem.branches.bucket import Bucket
from phloem.branches.drafts import file_digest
from phloem.branches.folder import Folder
from phloem.branches.objects import Objects, Place
from phloem.branches.planning import Plan, Small, Target, check_record
from phloem.branches.receiving import receive
from phloem.errors import FormatError

Progress = Callable[[str, int, int], None]
#: Packs that are made here are not much larger.
_PACK_BYTES = 32 << 20
#: Frames up to this size are sent from memory, larger ones from their files, in parts.
_IN_MEMORY_BYTES = 16 << 20
_AT_ONCE = 4


@dataclass(frozen=True)
class Carried:
    """What travelled.

    Attributes:
        objects: how many.
        bytes: of packs and frames that were written.
        there: how many more were needed and there already.
    """

    objects: int
    bytes: int
    there: int


def carry(plan: Plan, source: Objects, target: Target, what: str, progress: Progress) -> Carried:
    """Brings what is planned to `target`, and makes it durable there. `what` is what progress calls it.

    Raises:
        FormatError: something is not what its name says; nothing that a name leads to has changed.
        StoreError: a place fails, or its disk is full; what was brought is kept.
    """
    total, done, written = plan.size_bytes, 0, 0
    if isinstance(target.place, Bucket) and total:
        target.place.make_ready()
    before = set(target.objects.catalog.pack_names())
    for size in _side_by_side(_frame_job(source, target, *row) for row in plan.frames.items()):
        done, written = done + size, written + size
        progress(what, done, total)
    for batch in _batches(plan.small.values()):
        name = target.place.add_pack([(one.kind, _content(source, one)) for one in batch])
        if name not in before:
            written += target.place.pack(name).size
        done += sum(one.size for one in batch)
        progress(what, done, total)
    return Carried(len(plan.frames) + len(plan.small), written, plan.there)


def _content(source: Objects, one: Small) -> bytes:
    """A small object's content, its digest checked."""
    if one.record is not None:
        return one.record
    if one.kind == packs.FRAME:
        return _checked(_frame(source, one.digest, one.size), one.digest)
    check_record(source, one.digest)
    return source.get(one.digest)


def _frame(source: Objects, digest: str, size: int) -> Blob:
    """A frame of the size that its encoding says."""
    if digest in source.catalog:
        check_record(source, digest)
    blob = source.frame(digest)
    if blob.size != size:
        raise FormatError(
            f"the frame {digest[:12]} of {source.place.url} has {blob.size} bytes, expected {size}"
        )
    return blob


def _checked(blob: Blob, digest: str) -> bytes:
    content = blob.read(0, blob.size)
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(blob)
    return content


def _damaged(blob: Blob) -> FormatError:
    return FormatError(
        f"{blob.name} is damaged: its content has another digest", hint="phloem fsck says more, where it lies"
    )


def _frame_job(source: Objects, target: Target, digest: str, size: int) -> Callable[[], int]:
    """What brings one large frame to its place, and gives its size."""
    blob = _frame(source, digest, size)
    if isinstance(target.place, Folder):
        return partial(receive, target.place, blob, digest)
    return partial(_send, source.place, target.place, blob, digest)


def _send(source: Place, bucket: Bucket, blob: Blob, digest: str) -> int:
    path = source.frame_path(digest) if isinstance(source, Folder) else None
    if blob.size > _IN_MEMORY_BYTES and path is not None and path.exists():
        if file_digest(path) != digest:
            raise _damaged(blob)
        bucket.add_frame(path, digest)
    else:
        bucket.add_frame(_checked(blob, digest), digest)
    return blob.size


def _batches(small: Iterable[Small]) -> Iterator[list[Small]]:
    """Packs' worth of objects, frames after records, so that records lie side by side."""
    batch: list[Small] = []
    weight = 0
    for one in small:
        batch.append(one)
        weight += one.size
        if weight >= _PACK_BYTES:
            yield _in_order(batch)
            batch, weight = [], 0
    if batch:
        yield _in_order(batch)


def _in_order(batch: list[Small]) -> list[Small]:
    return sorted(batch, key=lambda one: one.kind == packs.FRAME)


def _side_by_side(jobs: Iterable[Callable[[], int]]) -> Iterator[int]:
    """What the jobs give, in their order; a few run at a time, and each is made only when it may start."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running: deque[Future[int]] = deque()
        try:
            for job in jobs:
                running.append(pool.submit(job))
                if len(running) >= _AT_ONCE:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
