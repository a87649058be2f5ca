"""The plan: what both ends agree on before the first frame, by digest.

It sets *limits* (which codecs, how large a frame) and the rules that every replay needs (who takes part, how
updates are divided, which server step). Each frame names its own choice inside these limits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from phloem import canonical
from phloem.codecs.base import Codec
from phloem.codecs.registry import BY_NAME, codec_from
from phloem.errors import ConfigError, FormatError
from phloem.planner import levels
from phloem.pruning import Pruning
from phloem.rounds.merge import MergeRule
from phloem.seeds import seed_for
from phloem.tensors import Layout
from phloem.wire import frame as frames
from phloem.wire.frame import Frame

VERSION = 0
LARGEST_VALUE = 2.0**100  # in an update; anything above can only be an attack or a diverged site
KEY_FRAME_CODECS = ("lossless", "model", "none")  # of a whole state; `model` where weights are pruned
DIGEST_EVERY_ROUND_BELOW = 10_000_000  # parameters; SHA-256 of a larger state is not free


@dataclass(frozen=True)
class Choice:
    """One frame's codec, inside the plan's limits: what `choose` gives back."""

    config: dict[str, Any]

    @cached_property
    def codec(self) -> Codec:
        """The codec itself."""
        return codec_from(self.config)

    def to_json(self) -> bytes:
        """The choice as canonical JSON, for the ledger."""
        return canonical.dumps(self.config)

    def pack(self) -> bytes:
        """The choice for an order: one byte where it is in the ladder of levels, else canonical JSON."""
        if self.config in levels.configs():
            return bytes([levels.configs().index(self.config)])
        return self.to_json()

    @classmethod
    def unpack(cls, data: bytes) -> Choice:
        """The choice that an order holds.

        Raises:
            FormatError: it is none.
        """
        if len(data) == 1:
            known = levels.configs()
            if data[0] >= len(known):
                raise FormatError(f"an order names the choice {data[0]}, and there are {len(known)}")
            return cls(dict(known[data[0]]))
        config = canonical.loads(data)
        if not isinstance(config, dict):
            raise FormatError("an order's choice must be a codec's configuration")
        return cls(config)


@dataclass(frozen=True)
class Later:
    """The default choices from round `round` on: coarse frames while learning is fast, finer ones later."""

    round: int
    up: dict[str, Any]
    down: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What both ends agree on.

    Attributes:
        run: the recipe's name.
        seed: the run's seed; shared streams derive from it.
        sites: the names of all sites, sorted; a message names a site by its place here.
        layout: digest of the layout.
        initial_state: digest of the state that round 0 starts from; every site derives it itself.
        up, down: the default choices; an order may name another one inside the limits.
        later: defaults that take over in a later round, in the order of their rounds.
        codecs: the codecs that a frame may use.
        max_frame_bytes: no frame is longer.
        merge: how updates become the trunk's next step.
        clip_norm: a site scales its update down to this Euclidean norm; None leaves it.
        digest_every: every this many rounds both ends compare whole state digests (the chain id always).
        prune: when the trunk loses weights; None keeps them all.
    """

    run: str
    seed: int
    sites: tuple[str, ...]
    layout: str
    initial_state: str
    up: dict[str, Any]
    down: dict[str, Any]
    codecs: tuple[str, ...]
    max_frame_bytes: int
    merge: MergeRule = field(default_factory=MergeRule)
    clip_norm: float | None = None
    digest_every: int = 1
    later: tuple[Later, ...] = ()
    prune: Pruning | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        if list(self.sites) != sorted(set(self.sites)) or not self.sites:
            raise ConfigError("a plan lists its sites sorted by name, each once, and at least one")
        self._check_codecs()

    def _check_codecs(self) -> None:
        unknown = sorted(set(self.codecs) - set(BY_NAME))
        if unknown:
            raise ConfigError(f"the plan allows the codec '{unknown[0]}', which does not exist")
        for config in (self.up, self.down, *(c for stage in self.later for c in (stage.up, stage.down))):
            self.check(Choice(config))

    @cached_property
    def digest(self) -> str:
        """The plan's id in hexadecimal."""
        return canonical.digest(canonical.dumps(self))

    @cached_property
    def genesis(self) -> bytes:
        """The chain id of round 0: pins the plan, and with it layout and first state."""
        return hashlib.sha256(b"phloem.chain.v0\n" + bytes.fromhex(self.digest)).digest()

    def up_in(self, round_number: int) -> Choice:
        """The default choice of a site in this round."""
        return Choice(self._stage(round_number).up)

    def down_in(self, round_number: int) -> Choice:
        """The default choice of the coordinator in this round."""
        return Choice(self._stage(round_number).down)

    def _stage(self, round_number: int) -> Plan | Later:
        begun = [stage for stage in self.later if stage.round <= round_number]
        return begun[-1] if begun else self

    def frame_seed(self, sender: str, round_number: int) -> int:
        """Where the random numbers of one frame come from: another for every frame, the same in every replay."""
        return seed_for(self.seed, "frame", sender, round_number)

    def check(self, choice: Choice) -> Choice:
        """`choice`, if it lies inside the limits."""
        if choice.codec.name not in self.codecs:
            raise ConfigError(
                f"codec '{choice.codec.name}' is not in the plan", hint=f"allowed: {', '.join(self.codecs)}"
            )
        return choice

    def admit(self, frame: bytes, layout: Layout, *, key_frame: bool = False) -> Frame:
        """The frame's parts, if it is whole and inside the limits; both ends ask before they decode.

        Raises:
            FormatError: too long, damaged, of a codec that the plan does not have, or of the wrong kind.
        """
        if len(frame) > self.max_frame_bytes:
            raise FormatError(f"a frame of {len(frame)} bytes is outside the plan")
        parts = frames.unpack(frame, layout)
        if parts.is_key_frame != key_frame:
            found, wanted = ("delta frame", "key-frame") if key_frame else ("key-frame", "delta frame")
            raise FormatError(f"expected a {wanted}, found a {found}")
        allowed = self.codecs if not key_frame else KEY_FRAME_CODECS
        if parts.codec.name not in allowed:
            raise FormatError(f"codec '{parts.codec.name}' is not in the plan")
        return parts

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.sites)}

    def index(self, site: str) -> int:
        """The site's place in messages."""
        return self._places[site]

    def bitmap(self, names: set[str]) -> bytes:
        """The sites in `names` as one bit each, in the plan's order."""
        bits = sum(1 << place for place, name in enumerate(self.sites) if name in names)
        return bits.to_bytes(-(-len(self.sites) // 8), "little")

    def in_bitmap(self, bitmap: bytes, site: str) -> bool:
        """Whether the bit of `site` is set.

        Raises:
            FormatError: the bitmap is longer or shorter than the plan's sites need.
        """
        if len(bitmap) != -(-len(self.sites) // 8):
            raise FormatError(f"a list of {len(self.sites)} sites takes no {len(bitmap)} bytes")
        place = self.index(site)
        return bool(bitmap[place // 8] >> place % 8 & 1)

    def compares_state_in(self, round_number: int) -> bool:
        """Whether both ends compare state digests before this round."""
        return round_number % self.digest_every == 0


@dataclass(frozen=True)
class OpenPlan(Plan):
    """A plan whose sites are not known beforehand: they come while the run goes on, and are called by number.

    Site number n is called str(n) and has bit n in a bitmap, which is as long as its last bit needs.
    """

    def __post_init__(self) -> None:
        if self.sites:
            raise ConfigError("an open plan lists no sites")
        self._check_codecs()

    def bitmap(self, names: set[str]) -> bytes:
        """The sites in `names` as one bit each, without zero bytes at the end."""
        bits = sum(1 << self.index(name) for name in names)
        return bits.to_bytes(-(-bits.bit_length() // 8), "little")

    def in_bitmap(self, bitmap: bytes, site: str) -> bool:
        """Whether the bit of `site` is set."""
        place = self.index(site)
        return place // 8 < len(bitmap) and bool(bitmap[place // 8] >> place % 8 & 1)

    def index(self, site: str) -> int:
        """The site's number."""
        return int(site)


def limits_for(layout: Layout) -> dict[str, int]:
    """The plan's size limits for a layout: a frame never needs more than raw float32 and a little."""
    size = layout.size
    return {
        "max_frame_bytes": 5 * size + 64 * len(layout.specs) + 1024,
        "digest_every": 1 if size < DIGEST_EVERY_ROUND_BELOW else 10,
    }


def next_chain(chain: bytes, accepted: bytes, frame: bytes, digest: bytes | None = None) -> bytes:
    """The chain id after a merge: SHA-256 over the one before, who was merged, and the frame's digest, if known."""
    digest = digest or hashlib.sha256(frame).digest()
    link = len(accepted).to_bytes(4, "little") + accepted + digest
    return hashlib.sha256(chain + link).digest()
