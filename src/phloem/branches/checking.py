"""`fsck`: is everything there, and is it what it was? Every byte is read; what is damaged or missing is named.

    damaged     an object whose content has another digest (bit rot), a pack that cannot be read, the table of names
    missing     what a name leads to and is not there: a commit, a file, what gives a state
    dangling    commits that no name leads to: all right, and all that is left of a branch whose name was lost
    harmless    what is put right in passing, such as the catalog

Bytes that are those that were written give the states that they gave, so that a plain check decodes one state only, the
current branch's, to see that this machine does. A `deep` one decodes every encoding of every state that names lead to:
it finds frames that never gave what their records say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phloem.branches import mending, packs
from phloem.branches.catalog import Catalog
from phloem.branches.decoding import Decoder, depth_first
from phloem.branches.folder import Folder
from phloem.branches.history import reachable
from phloem.branches.objects import Place
from phloem.branches.records import Encoding
from phloem.branches.refs import Refs
from phloem.branches.scanning import Scan, scan
from phloem.errors import ConfigError, PhloemError

if TYPE_CHECKING:
    from phloem.branches.repository import Repository

Progress = Callable[[str, int, int], None]
DAMAGED, MISSING, DANGLING, HARMLESS = "damaged", "missing", "dangling", "harmless"


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        severity: "damaged", "missing", "dangling" or "harmless".
        kind: "commit", "state", "encoding", "frame", "file", "pack", "names", "format" or "catalog".
        digest: of the object, or the name of the pack; empty for the last three.
        words: what is the matter, in a sentence.
    """

    severity: str
    kind: str
    digest: str
    words: str


@dataclass(frozen=True)
class Checked:
    """What `fsck` found.

    Attributes:
        findings: what is not as it should be, the worst first; empty if all is well.
        heads: commits that no name leads to, without those that came before them.
        commits: how many commits names lead to.
        copies, bytes: how many copies of objects were read, and their size.
        restored: how many encodings were decoded and gave their states to the bit.
        mended: what was put right, in words.
    """

    findings: tuple[Finding, ...]
    heads: tuple[str, ...]
    commits: int
    copies: int
    bytes: int
    restored: int
    mended: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all that names lead to is there, as it was committed, and nothing else is damaged."""
        return not any(one.severity in (DAMAGED, MISSING) for one in self.findings)


def fsck(
    repo: Repository,
    *,
    deep: bool = False,
    mend: bool = False,
    repair_from: Place | Repository | None = None,
    rebuild_names: bool = False,
    progress: Progress = lambda *_: None,
) -> Checked:
    """Checks a repository, puts right what it can if asked to, and gives what it found, afterwards.

    Args:
        repo: the repository.
        deep: decode every encoding of every state that a name leads to.
        mend: write damaged packs again from what is whole in them and elsewhere here, and leave out damaged frames
            that nothing needs.
        repair_from: another repository that has what is damaged or missing here; includes `mend`.
        rebuild_names: where the table of names is damaged, make it again of what can be read of it, and give other
            commits that no name leads to names of the form "found/…".
        progress: told what is being done, and how far it is.

    Raises:
        StoreError: the directory cannot be listed, or not be written where something is to be put right.
        ConfigError: it is in a bucket, and something is to be put right there.
    """
    place, mended = repo.place, []
    if mend or repair_from is not None or rebuild_names:
        if not isinstance(place, Folder):
            raise ConfigError(f"{place.url} can be checked, not mended", hint="push to it again")
        if rebuild_names:
            mended += mending.rebuild_names(place, progress)
        if mend or repair_from is not None:
            mended += mending.mend(place, repair_from, progress)
        repo.objects.refresh()
    found = scan(place, progress)
    check = _Check(found, deep=deep, progress=progress)
    findings = [*check.findings(), *_catalog(repo, found)]
    order = (DAMAGED, MISSING, DANGLING, HARMLESS)
    return Checked(
        tuple(sorted(findings, key=lambda one: order.index(one.severity))),
        tuple(check.heads),
        len(check.reached),
        found.copies,
        found.bytes,
        check.restored,
        tuple(mended),
    )


class _Check:
    """What follows from a scan."""

    def __init__(self, found: Scan, *, deep: bool, progress: Progress) -> None:
        self.scan, self.deep, self.progress = found, deep, progress
        self.known = found.objects.catalog.commits()
        refs = found.refs or Refs()
        mine = {*refs.branches.values(), *refs.tags.values()}  # what other places have need not be here
        self.named = {
            digest: names for digest, names in refs.names_of().items() if digest in mine | self.known.keys()
        }
        self.reached = reachable(self.named, self.known)
        self.heads: list[str] = []
        self.restored = 0

    def findings(self) -> Iterator[Finding]:
        """All of them."""
        yield from self._tables()
        yield from self._damages()
        yield from self._commits()
        bad: set[Encoding] = set()
        yield from self._decoded(bad)
        yield from self._states(frozenset(bad))
        yield from self._dangling()

    def _tables(self) -> Iterator[Finding]:
        place, refs = self.scan.objects.place, self.scan.refs
        if isinstance(place, Folder):
            try:
                Folder(place.root)
            except PhloemError as error:
                yield Finding(DAMAGED, "format", "", error.message)
        if refs is None:
            yield Finding(DAMAGED, "names", "", f"{self.scan.unnamed}; fsck --rebuild-names makes it again")
        elif refs.branches and refs.current not in refs.branches:
            yield Finding(
                HARMLESS, "names", "", f"the current branch '{refs.current}' is not there: phloem switch"
            )

    def _damages(self) -> Iterator[Finding]:
        for one in self.scan.damages:
            where = f" in the pack {one.pack[:12]}" if one.pack and one.kind != "pack" else ""
            other = "; another copy is whole" if one.digest in self.scan.whole else ""
            words = (
                one.why
                if one.kind == "pack"
                else f"the {one.kind} {one.digest[:12]}{where}: {one.why}{other}"
            )
            yield Finding(DAMAGED, one.kind, one.digest, words)

    def _commits(self) -> Iterator[Finding]:
        """Commits and files that are not there."""
        damaged = self.scan.damaged
        seen = self.scan.whole | damaged
        for digest, names in self.named.items():
            if digest not in self.known and digest not in damaged:
                yield Finding(
                    MISSING, "commit", digest, f"the commit {digest[:12]} of '{names[0]}' is missing"
                )
        told: set[str] = set()
        for here in self.reached:
            for parent in self.known[here].parents:
                if parent not in self.known and parent not in damaged and parent not in told:
                    told.add(parent)
                    words = f"the commit {parent[:12]}, from which {here[:12]} came, is missing"
                    yield Finding(MISSING, "commit", parent, words)
            for name, digest in self.scan.objects.commit(here).files.items():
                if digest not in seen and digest not in told:
                    told.add(digest)
                    words = f"the file '{name:.80}' of the commit {here[:12]} is missing"
                    yield Finding(MISSING, "file", digest, words)

    def _decoded(self, bad: set[Encoding]) -> Iterator[Finding]:
        """Encodings that do not give their states; they are added to `bad`."""
        ways, states = self.scan.ways(), {self.known[digest].state for digest in self.reached}
        records = {one: digest for digest, one in self.scan.encodings.items()}
        if self.deep:
            todo = [one for state in depth_first(ways, states) for one in ways.giving(state)]
        else:
            refs = self.scan.refs or Refs()
            head = refs.branches.get(refs.current, "")
            state = self.known[head].state if head in self.known else ""
            todo = ways.chain(state)[-1:] if state in ways.last else []
        decoder = Decoder(self.scan.objects, ways)
        for number, one in enumerate(todo):
            self.progress("restoring", number, len(todo))
            if one.base is not None and one.base not in ways.last:
                continue  # what it builds on does not come out
            try:
                decoder.check(one)
                self.restored += 1
            except PhloemError as error:
                bad.add(one)
                ways.remove(one)
                words = (
                    f"the frame {one.frame[:12]} does not give the state {one.state[:12]}: {error.message}"
                )
                yield Finding(DAMAGED, "encoding", records[one], words)

    def _states(self, bad: frozenset[Encoding]) -> Iterator[Finding]:
        """States that nothing gives, and frames that are not there."""
        ways, seen = self.scan.ways(bad), self.scan.whole | self.scan.damaged
        commit_of = {self.known[digest].state: digest for digest in sorted(self.reached)}
        catalog = self.scan.objects.catalog
        told: set[str] = set()
        for state, commit in sorted(commit_of.items()):
            if state not in seen:
                words = f"the record of the state {state[:12]} of the commit {commit[:12]} is missing"
                yield Finding(MISSING, "state", state, words)
            elif state not in ways.last:
                words = f"nothing that is whole gives the state {state[:12]} of the commit {commit[:12]}"
                yield Finding(MISSING, "state", state, words)
            for one in catalog.encodings(state):
                if one.frame not in seen and one.frame not in told:
                    told.add(one.frame)
                    words = f"the frame {one.frame[:12]}, which gives the state {state[:12]}, is missing"
                    yield Finding(MISSING, "frame", one.frame, words)

    def _dangling(self) -> Iterator[Finding]:
        alone = self.known.keys() - self.reached
        parents = {parent for digest in alone for parent in self.known[digest].parents}
        self.heads = sorted(
            alone - parents, key=lambda digest: (self.known[digest].time, digest), reverse=True
        )
        ways = self.scan.ways() if self.heads else None
        for digest in self.heads:
            entry = self.known[digest]
            count = len(reachable([digest], self.known) - self.reached)
            words = (
                f"no name leads to the commit {digest[:12]} ({entry.time}, '{entry.subject:.60}') and to "
                f"{count - 1} before it; phloem branch NAME {digest[:12]} gives it one"
            )
            if ways is not None and entry.state not in ways.last:
                words = (
                    f"no name leads to the commit {digest[:12]}, and what gives its state is no longer there"
                )
            yield Finding(DANGLING, "commit", digest, words)


def _catalog(repo: Repository, found: Scan) -> Iterator[Finding]:
    """A catalog that says something else than the packs, which is made again."""
    mine, right = repo.objects.catalog, found.objects.catalog
    repo.objects.refresh()
    same = mine.is_sound and set(mine.pack_names()) == set(right.pack_names())
    same = same and mine.commits() == right.commits()
    same = same and dict(mine.all_encodings()) == dict(right.all_encodings())
    same = same and all(_rows(mine, name) == _rows(right, name) for name in right.pack_names())
    if not same and set(repo.place.pack_names()) >= set(right.pack_names()):
        mine.renew()
        yield Finding(
            HARMLESS, "catalog", "", "the catalog said something else than the packs; it was made again"
        )


def _rows(catalog: Catalog, name: str) -> list[packs.Row]:
    return sorted(catalog.rows_of(name), key=lambda row: row.digest)
