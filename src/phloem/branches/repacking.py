"""`repack`: the same bits in fewer bytes, tips that are restored quickly, nothing slower than it may be.

What it works towards, in this order:

    1. no state that a name leads to costs more than `chains.MOST_TIMES` times reading it (at a key-frame's cost if even
       that is more), or `chains.EXACT_FACTOR` times that where its smallest encoding is an exact difference
    2. the tip of a branch costs no more than `TIP_TIMES`, or as many times that: by the way that there is, by its
       difference from the trunk's tip, or by a key-frame, whichever takes the fewest bytes
    3. then as few bytes as it finds: it walks through the states, those that others are built on first, and leaves out
       every encoding without which all states stay within these limits (or at what they cost before)

The smallest encoding of each state always stays: mostly the update as it was committed, which cannot be made again.
On a line of commits this walk leaves the fewest key-frames; where branches part, it may leave a few more.

A new encoding is decoded, and every tensor of it checked, before it is added; only then others go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phloem.branches import collecting, keeping
from phloem.branches.chains import EXACT_FACTOR, MOST_TIMES, exact_difference
from phloem.branches.committing import applied, write_state
from phloem.branches.drafts import Draft, file_digest
from phloem.branches.folder import Folder
from phloem.branches.objects import Objects
from phloem.branches.records import Encoding
from phloem.branches.refs import TRUNK, Refs
from phloem.branches.restore import Restored
from phloem.branches.ways import Sizes, Ways, usable
from phloem.errors import ConfigError, FormatError, NotFoundError, StateError
from phloem.files.encoding import encode_file
from phloem.files.tensorfile import TensorFile
from phloem.tensors import tensor_digest

if TYPE_CHECKING:
    from phloem.branches.repository import Repository

Progress = Callable[[str, int, int], None]
#: A tip should not cost more than this many times reading it uncompressed.
TIP_TIMES = 1.3
#: Where nothing brings a tip there, a key-frame is worth its bytes if it makes it cheaper by this factor.
_WORTH = 0.9
LOSSLESS = "lossless"


@dataclass(frozen=True)
class Repacked:
    """What `repack` did.

    Attributes:
        bytes_before, bytes_after: of packs and frames.
        added: how many encodings were made.
        dropped: how many encodings nothing needed any more.
        packs_before, packs_after: how many packs there were, and are.
        tips: what restoring the tip of each branch costs now, in times of reading it uncompressed.
        most: what the slowest of all states costs.
    """

    bytes_before: int
    bytes_after: int
    added: int
    dropped: int
    packs_before: int
    packs_after: int
    tips: dict[str, float]
    most: float


def repack(
    repo: Repository,
    *,
    tip_times: float = TIP_TIMES,
    most_times: float = MOST_TIMES,
    progress: Progress = lambda *_: None,
) -> Repacked:
    """Chooses again how states are stored, and gives what came of it. No state changes by a bit.

    Raises:
        StateError: something that a name leads to is missing or damaged; nothing was removed.
        StoreError: the disk failed; nothing was lost.
    """
    folder, objects = repo.folder, repo.objects
    objects.refresh()
    bytes_before, packs_before = stored_bytes(folder), len(folder.pack_names())
    work = _Work(folder, objects, folder.refs(), tip_times, most_times, progress)
    work.add_what_is_needed()
    with folder.locked():
        objects.refresh()
        last = _Work(folder, objects, folder.refs(), tip_times, most_times, progress)
        dropped = last.drop_what_is_not()
        for group in keeping.alike_in_age(folder, keeping.small_packs(folder, objects)):
            keeping.combine(folder, objects, group)
    return Repacked(
        bytes_before,
        stored_bytes(folder),
        work.added,
        dropped,
        packs_before,
        len(folder.pack_names()),
        {name: last.ways.times(state) for name, state in sorted(last.tips.items())},
        max((last.ways.times(state) for state in last.states), default=0.0),
    )


def stored_bytes(folder: Folder) -> int:
    """The size of all packs and frames."""
    return sum(folder.pack(name).size for name in folder.pack_names()) + sum(folder.frames().values())


class _Work:
    """The states that stay, how they are given, and what they may cost."""

    def __init__(
        self,
        folder: Folder,
        objects: Objects,
        refs: Refs,
        tip_times: float,
        most_times: float,
        progress: Progress,
    ) -> None:
        self.folder, self.objects, self.progress = folder, objects, progress
        self.tip_times, self.most_times = tip_times, most_times
        live = collecting.live_in(folder, objects, refs, float("inf"), progress)
        there = usable(objects)
        self.records = {one: digest for digest, one in live.encodings.items() if digest in there}
        self.ways = Ways(self.records, Sizes(objects))
        self.states = live.states & self.ways.last.keys()
        self.named = live.named
        self.tips = {name: objects.entry(head).state for name, head in refs.branches.items()}
        trunk = refs.branches.get(TRUNK) or refs.branches.get(refs.current)
        self.trunk = None if trunk is None else objects.entry(trunk).state
        self.added = 0

    # -- adding ----------------------------------------------------------------------------------------------

    def add_what_is_needed(self) -> None:
        """Makes encodings for tips that cost too much, the trunk's first, then for all other states that do."""
        tips = sorted(set(self.tips.values()), key=lambda state: (state != self.trunk, state))
        for number, state in enumerate(tips):
            self.progress("tips", number, len(tips))
            limit = self.tip_times * self._factor(state)
            if self.ways.times(state) > limit:
                self._better(state, limit)
        states = self._in_order()
        for number, state in enumerate(states):
            self.progress("states", number, len(states))
            limit = self.most_times * self._factor(state)
            if self.ways.times(state) > limit:
                self._better(state, limit)

    def _factor(self, state: str) -> float:
        """How much slower a state may be than others, for the bytes that this saves."""
        smallest = min(self.ways.giving(state), key=lambda one: one.frame_bytes)
        return EXACT_FACTOR if exact_difference(smallest) else 1.0

    def _in_order(self) -> list[str]:
        """The states, none before those that its cheapest chain passes through."""
        return sorted(self.states, key=lambda state: (len(self.ways.chain(state)), state))

    def _better(self, state: str, limit: float) -> None:
        """Adds the smallest encoding that brings a state within the limit, or else the fastest that is worth it."""
        bases = [base for base in dict.fromkeys((None, self.trunk)) if self._may_help(state, base, limit)]
        if not bases:
            return
        with self.folder.scratch() as scratch:
            model, found = scratch / "state.safetensors", []
            try:
                write_state(Restored(self.objects, state), model, self.progress)
                for base in bases:
                    path = scratch / ("key.phl" if base is None else "difference.phl")
                    one = self._encoded(path, model, state, base, scratch)
                    if one is not None:
                        found.append((self.ways.times_with(one), one, path))
            except (FormatError, NotFoundError):
                return  # something is damaged: `fsck` says what, nothing is lost here
            within = [row for row in found if row[0] <= limit]
            if within:
                _, one, path = min(within, key=lambda row: row[1].frame_bytes)
            else:
                times, one, path = min(found, key=lambda row: row[0], default=(float("inf"), None, model))
                if one is None or times > _WORTH * self.ways.times(state):
                    return
            self._publish(path, one, scratch)

    def _may_help(self, state: str, base: str | None, limit: float) -> bool:
        """Whether a difference from a base is worth trying: there is none yet, and it would do if it took no bytes.

        A key-frame is always worth it, but not twice.
        """
        if base == state or any(
            one.base == base and one.codec == LOSSLESS for one in self.ways.giving(state)
        ):
            return False
        return (
            base is None or self.ways.times_with(Encoding(state, base, state, "file", LOSSLESS, 0)) <= limit
        )

    def _encoded(
        self, path: Path, model: Path, state: str, base: str | None, scratch: Path
    ) -> Encoding | None:
        """A lossless frame of a state, decoded and checked; None where the base has other tensors."""
        before = None
        if base is not None:
            before = scratch / "base.safetensors"
            if not before.exists():
                write_state(Restored(self.objects, base), before, self.progress)
        return lossless(self.objects, path, model, state, before, base, self.progress)

    def _publish(self, path: Path, one: Encoding, scratch: Path) -> None:
        draft = Draft(self.folder, self.objects, scratch)
        made = draft.add_frame(path, one.state, one.base, one.form, one.codec)
        with self.folder.locked():  # so that no gc comes between the frame and what names it
            draft.publish()
        self.ways.add(made)
        self.added += 1

    # -- dropping --------------------------------------------------------------------------------------------

    def drop_what_is_not(self) -> int:
        """Removes the encodings that are not needed, under the lock; gives how many."""
        tips = set(self.tips.values())
        limits = {
            state: max(
                self.ways.times(state),
                (self.tip_times if state in tips else self.most_times) * self._factor(state),
            )
            for state in self.states
        }
        dropped: set[Encoding] = set()
        order = self._in_order()
        for number, state in enumerate(order):
            if number % 64 == 0:
                self.progress("choosing", number, len(order))
            mine = [one for one in self.ways.giving(state) if one in self.records]
            smallest = min(mine, key=lambda one: one.frame_bytes, default=None)
            for one in sorted(mine, key=lambda one: -one.frame_bytes):
                if one is smallest:
                    continue
                before = self.ways.remove(one)
                if all(self.ways.times(each) <= limits.get(each, float("inf")) for each in before) and (
                    before.keys() <= self.ways.last.keys()
                ):
                    dropped.add(one)
                else:
                    self.ways.put_back(one, before)
        if dropped:
            dead = {self.records[one] for one in dropped}
            used = {one.frame for digest, one in self.objects.catalog.all_encodings() if digest not in dead}
            dead |= {one.frame for one in dropped} - used - self.named
            keeping.take_out(self.folder, self.objects, dead.__contains__)
        return len(dropped)


def lossless(
    objects: Objects,
    path: Path,
    model: Path,
    state: str,
    base: Path | None,
    base_state: str | None,
    progress: Progress,
) -> Encoding | None:
    """Writes a lossless frame of a state whose tensors lie in `model`, decodes it, and gives the encoding that it is.

    None where it cannot be coded against that base, which has other tensors.

    Raises:
        StateError: it does not come out as it went in, so that it must not be used.
    """
    try:
        encode_file(model, path, base=base, lossless=True, progress=progress)
    except ConfigError:
        if base is None:
            raise
        return None
    wanted = {spec.name: (spec, digest) for spec, digest in objects.state(state)}
    if base is None:
        found = {spec.name: (spec, tensor_digest(raw)) for spec, raw in applied(path, None)}
    else:
        with TensorFile.open(base) as old:
            found = {spec.name: (spec, tensor_digest(raw)) for spec, raw in applied(path, old)}
    if found != wanted:
        raise StateError(
            f"a new encoding of the state {state[:12]} does not give it, so it was thrown away",
            hint="nothing was changed; please report this",
        )
    return Encoding(state, base_state, file_digest(path), "file", LOSSLESS, path.stat().st_size)
