"""Many states of one repository decoded one from another, so that each costs a frame and not a chain of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from phloem.branches.bodies import Build, Tensors
from phloem.branches.objects import Objects
from phloem.branches.records import Encoding
from phloem.branches.restore import Restored, linked
from phloem.branches.ways import Ways
from phloem.errors import FormatError
from phloem.tensors import tensor_digest

#: States that take no more than this together are held in memory while others are built on them.
_MOST_BYTES = 256 << 20


class Decoder:
    """Decodes encodings and says whether they give their states; larger models are restored by their whole chains."""

    def __init__(self, objects: Objects, ways: Ways) -> None:
        self._objects, self._ways = objects, ways
        self._held: OrderedDict[str, Tensors] = OrderedDict()
        self._bytes = 0

    def check(self, one: Encoding) -> None:
        """Nothing, if an encoding gives its state; what it is decoded against must be among the ways.

        Raises:
            FormatError: it gives another, or none. NotFoundError: something is not there.
        """
        if one.base is None or not self._may_hold(one.base):
            chain = [*(self._ways.chain(one.base) if one.base is not None else ()), one]
            self._restored(one.state, chain)
            return
        build = Build({name: raw.copy() for name, raw in self._base(one.base).items()})
        rows = {spec.name: (spec, digest) for spec, digest in self._objects.state(one.state)}
        build.types = {spec.name: spec.dtype for spec, _ in self._objects.state(one.base)}
        shapes = {spec.name: spec.shape for spec, _ in self._objects.state(one.base)}
        [link] = linked(self._objects, [one], [spec for spec, _ in rows.values()])
        if shapes != {name: spec.shape for name, (spec, _) in rows.items()}:
            raise FormatError("its base has other tensors")
        for body in link.bodies:
            body.apply(build, alone=False)
        for name, (spec, digest) in rows.items():
            if build.types[name] != spec.dtype or tensor_digest(build.tensors[name]) != digest:
                raise FormatError(f"tensor '{name:.80}' came out other than it was committed")
        self._hold(one.state, build.tensors)

    def _base(self, state: str) -> Tensors:
        if state not in self._held:
            self._restored(state, self._ways.chain(state))
        self._held.move_to_end(state)
        return self._held[state]

    def _may_hold(self, state: str) -> bool:
        return self._ways.size_of(state).bytes <= _MOST_BYTES // 4

    def _restored(self, state: str, chain: list[Encoding]) -> None:
        """Restores a state, every tensor checked."""
        hold = self._may_hold(state)
        tensors: Tensors = {}
        with Restored(self._objects, state, chain=chain) as restored:
            for spec, raw in restored.iterate():
                if hold:
                    tensors[spec.name] = raw
        if hold:
            self._hold(state, tensors)

    def _hold(self, state: str, tensors: Tensors) -> None:
        if state in self._held:
            return
        self._held[state] = tensors
        self._bytes += _size(tensors)
        while self._bytes > _MOST_BYTES:
            self._bytes -= _size(self._held.popitem(last=False)[1])


def depth_first(ways: Ways, states: set[str]) -> Iterator[str]:
    """States in an order in which each comes after the one that it is built on, soon where that is possible."""
    built: dict[str | None, list[str]] = {}
    for state in sorted(states & ways.last.keys()):
        built.setdefault(ways.last[state][1].base, []).append(state)
    among = {state for row in built.values() for state in row}
    todo = [state for base, row in built.items() if base not in among for state in row]
    while todo:
        here = todo.pop()
        yield here
        todo += built.get(here, ())


def _size(tensors: Tensors) -> int:
    return sum(raw.size for raw in tensors.values())
