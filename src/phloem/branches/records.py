"""What a repository writes down about models, as canonical JSON: each record is named by the SHA-256 of its bytes.

A *commit* says which state a branch had, which commits it came from, and how far the state is from what its author
really had. A merge's *recipe* says how the state follows from those of the parents, so that anyone can compute it
again. An *encoding* says how one state is stored: in a frame, alone or against a base. A state may have many encodings;
none is part of its name. (The record of a state itself is `phloem.tensors.state_record`.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Self

from phloem import canonical
from phloem.errors import ConfigError, FormatError

VERSION = 1
#: No record is larger than this; a state of 65,536 tensors with long names is below it.
LARGEST_RECORD = 64 << 20
_MOST_PARENTS = 4096
_LARGEST = 1.7e308
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True)
class Drift:
    """How far a committed state is from the model that was given, measured when it was committed.

    Attributes:
        relative: ‖committed − given‖ ÷ ‖given − base‖, over all tensors that were coded with loss.
        largest: the largest |committed − given|.
    """

    relative: float
    largest: float


@dataclass(frozen=True)
class Commit:
    """One commit.

    Attributes:
        kind: "import" (a model as it was given), "update" (coded against the first parent), "merge" or "round".
        parents: the commits that it came from, the branch's own first.
        state: the id of its state.
        author: who made it, in a form that they chose.
        time: when, in UTC.
        message: what they say of it; the first line is its subject.
        coding: how the update was coded: the codec's configuration; empty where nothing was lost.
        drift: what that lost, or None.
        recipe: how a merge, or a round, came about.
        metrics: what was measured of the state.
        examples: how many examples it was trained on, where that is said.
        site: who trained it, where that is said.
        files: small files that belong to the model (its configuration, its tokenizer), as blobs by name.
        metadata: what the model's file said of itself.
        signature: the verifier key and the signature over the record without it, or empty.
    """

    kind: str
    parents: tuple[str, ...]
    state: str
    author: str
    time: str
    message: str
    coding: Mapping[str, Any] = field(default_factory=dict)
    drift: Drift | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    examples: int | None = None
    site: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    signature: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The first line of the message."""
        return self.message.partition("\n")[0]

    def pack(self) -> bytes:
        """The record's bytes: what is empty is left out."""
        said = {f.name: canonical.plain(getattr(self, f.name)) for f in fields(self)}
        kept = {key: value for key, value in said.items() if key in _ALWAYS or value not in (None, {}, [])}
        return canonical.dumps({**kept, "kind": "commit", "of": self.kind, "version": VERSION})

    def check(self) -> None:
        """Nothing, if this is a commit that can be read again.

        Raises:
            ConfigError: something in it is not of the form that it has.
        """
        if not all(map(_is_number, self.metrics.values())):
            raise ConfigError("a commit's metrics are finite numbers")
        try:
            Commit.unpack(self.pack())
        except (FormatError, ConfigError) as error:
            raise ConfigError(error.message) from error

    def unsigned(self) -> bytes:
        """What a signature signs: the record without one."""
        return Commit(**{**_values(self), "signature": {}}).pack()

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The commit that `data` writes down.

        Raises:
            FormatError: it is not one, of this version, in its one form.
        """
        said = _record(data, "commit")
        kind = said.pop("of", None)
        known = {f.name for f in fields(cls)} - {"kind"}
        if not set(said) <= known or not _ALWAYS - {"kind"} <= set(said):
            raise FormatError("expected a commit, found other keys than a commit has")
        _check_texts(kind, said)
        _check_tables(said)
        if "drift" in said:
            said["drift"] = _drift(said["drift"])
        found = cls(kind=kind, **{**said, "parents": tuple(said["parents"])})
        if found.pack() != data:  # an empty table that is written out, say
            raise FormatError("a commit is written in another form than its one")
        return found


def _check_texts(kind: Any, said: Mapping[str, Any]) -> None:
    texts = (kind, said["author"], said["time"], said["message"], said.get("site", ""))
    if not all(isinstance(text, str) for text in texts):
        raise FormatError("a commit's kind, author, time, message and site are texts")
    author = said["author"]
    is_name = _NAME.fullmatch(author) and author.isprintable()
    if kind not in KINDS or not _TIME.fullmatch(said["time"]) or not is_name:
        raise FormatError("a commit's kind, time or author is not of the form that it has")
    parents = said["parents"]
    if not isinstance(parents, list) or len(parents) > _MOST_PARENTS:
        raise FormatError("a commit's parents are a short list of digests")
    for digest in (*parents, said["state"]):
        check_digest(digest)
    examples = said.get("examples")
    if examples is not None and (type(examples) is not int or examples < 0):
        raise FormatError("a commit's number of examples is a whole number")


def _check_tables(said: Mapping[str, Any]) -> None:
    for key in ("coding", "recipe", "metrics", "files", "metadata", "signature"):
        if not isinstance(said.get(key, {}), dict):
            raise FormatError(f"a commit's {key} is a table")
    for digest in said.get("files", {}).values():
        check_digest(digest)
    if not all(_is_number(value) for value in said.get("metrics", {}).values()):
        raise FormatError("a commit's metrics are finite numbers")
    for key in ("metadata", "signature"):
        if not all(isinstance(text, str) for text in said.get(key, {}).values()):
            raise FormatError(f"a commit's {key} is a table of texts")


KINDS = ("import", "update", "merge", "round")
_ALWAYS = {"kind", "parents", "state", "author", "time", "message"}


@dataclass(frozen=True)
class Encoding:
    """How one state is stored.

    Attributes:
        state: the state that it gives.
        base: the state that the frame is decoded against, or None for one that stands for itself.
        frame: the digest of the frame.
        form: "file", a stand-alone frame (`phloem.files`), or "wire", one whose layout is the base's (or, without a
            base, the state's own).
        codec: what coded it, with the effort where a codec has one: "lossless", "ecsq/fast".
        frame_bytes: the size of the frame.
    """

    state: str
    base: str | None
    frame: str
    form: str
    codec: str
    frame_bytes: int

    def pack(self) -> bytes:
        """The record's bytes."""
        return canonical.dumps({**_values(self), "kind": "encoding", "version": VERSION})

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The encoding that `data` writes down.

        Raises:
            FormatError: it is not one.
        """
        said = _record(data, "encoding")
        if set(said) != {f.name for f in fields(cls)}:
            raise FormatError("expected an encoding, found other keys than one has")
        for digest in (said["state"], said["frame"], *([said["base"]] if said["base"] is not None else [])):
            check_digest(digest)
        if (
            said["form"] not in ("file", "wire")
            or type(said["frame_bytes"]) is not int
            or not 0 <= said["frame_bytes"] < 1 << 63
        ):
            raise FormatError("an encoding's form or size is not of the form that it has")
        if not isinstance(said["codec"], str) or len(said["codec"]) > 200:
            raise FormatError("an encoding's codec is a short text")
        if said["base"] == said["state"]:
            raise FormatError("an encoding's base is the state that it gives")
        return cls(**said)


def _is_number(value: Any) -> bool:
    """Whether it is a number that a double holds."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def check_digest(text: Any) -> str:
    """The digest, if it is one: SHA-256, 64 lower-case hexadecimal digits.

    Raises:
        FormatError: it is something else.
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise FormatError(f"expected a SHA-256 digest in hexadecimal, found {text!r:.80}")
    return text


def check_author(text: str) -> str:
    """The author's name, if a commit may carry it.

    Raises:
        ConfigError: it is empty, too long, or holds control characters.
    """
    if not _NAME.fullmatch(text) or not text.isprintable():
        raise ConfigError("an author is a text of 1 to 200 characters without control characters")
    return text


def now() -> str:
    """The time as a commit writes it, in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _record(data: bytes, kind: str) -> dict[str, Any]:
    if len(data) > LARGEST_RECORD:
        raise FormatError(f"a record of {len(data)} bytes is larger than any")
    said = canonical.loads(data)
    if not isinstance(said, dict) or said.pop("kind", None) != kind:
        raise FormatError(f"expected the record of a {kind}, found another")
    if said.pop("version", None) != VERSION:
        raise FormatError(f"the record of this {kind} is of another version than {VERSION}")
    return said


def _drift(said: Any) -> Drift:
    if not isinstance(said, dict) or set(said) != {"relative", "largest"}:
        raise FormatError("a commit's drift has two numbers, relative and largest")
    if not all(type(v) in (int, float) and 0 <= v < float("inf") for v in said.values()):
        raise FormatError("a commit's drift has two numbers, relative and largest")
    return Drift(float(said["relative"]), float(said["largest"]))


def _values(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in fields(record)}
