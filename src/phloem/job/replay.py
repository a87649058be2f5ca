"""Every merge of a run computed again from the frames, as its ledger says that it was made.

Nothing but the run's directory is needed: no data, no task. What comes out must be what the log says, bit for bit: the
trunks, the frames that brought them to the sites, and the model that was given out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from phloem import canonical
from phloem.engines.host import plan_for
from phloem.errors import FormatError, PhloemError, StateError
from phloem.job.directory import TRUNK, RunDirectory, reading
from phloem.job.record import without_nan
from phloem.ledger.commitments import FRAME, METRICS, WEIGHT, commitment
from phloem.ledger.entry import Entry
from phloem.ledger.findings import Findings
from phloem.ledger.kinds import DELTA, HELD
from phloem.ledger.salts import Salts
from phloem.recipe import Recipe
from phloem.rounds.coordinator import Coordinator
from phloem.rounds.plan import Choice, Plan
from phloem.rounds.result import Received
from phloem.store.files import Store
from phloem.tensors import Layout, State, state_digest
from phloem.wire import frame as frames

MODEL = "model.safetensors"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Input:
    """An update that was merged: its entry and sender, the commitments to its frame and to its weight."""

    index: int
    site: str
    frame: str
    weight: str


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge as the log has it."""

    index: int
    round: int
    inputs: tuple[Input, ...]
    weights: str
    rule: str
    output: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Said:
    """Another entry of a round: a frame that was broadcast, what was measured, a model that was given out."""

    index: int
    round: int
    fields: Mapping[str, Any]


class Merges:
    """Collects the merges of one run, and what goes with them, while its log is read."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.by_round: dict[int, Merge] = {}
        self.plan = ""
        self.broadcasts: dict[int, list[Said]] = {}
        self.measured: dict[int, list[Said]] = {}
        self.released: list[Said] = []
        self._updates: dict[int, Input] = {}

    def take(self, index: int, entry: Entry) -> None:
        """The next entry of the log."""
        said = entry.statement
        if said.run != self.run:
            return
        if said.kind == "genesis":
            self.plan = said["plan"]
        elif said.kind == "update":
            self._updates[index] = Input(index, said.sender, said["commit"], said["weight"])
        elif said.kind == "aggregate":
            inputs = tuple(self._updates.get(i, Input(i, "", "", "")) for i in said["inputs"])
            self.by_round[said["round"]] = Merge(
                index, said["round"], inputs, said["weights"], said["rule"], said["output"]
            )
        elif said.kind in ("broadcast", "eval", "model-release"):
            row = Said(index, said["round"], said.fields)
            if said.kind == "model-release":
                self.released.append(row)
            else:
                rows = self.broadcasts if said.kind == "broadcast" else self.measured
                rows.setdefault(row.round, []).append(row)


def replay(
    root: Path,
    merges: Merges,
    salts: Salts,
    findings: Findings,
    progress: Progress = lambda done, of: None,
) -> int:
    """How many rounds were merged again and came out as the log says; what did not is a finding.

    Raises:
        StateError: the run's directory lacks what a replay starts from. NotFoundError, FormatError: likewise.
    """
    directory = RunDirectory.open(root)[0]
    commits = {row["round"]: row for row in _commits(directory.store) if row["kind"] == "round"}
    plan, state = _start(directory.store)
    if not merges.plan:
        findings.add("missing-entry", f"the log has no run '{merges.run}', which the run's directory names")
        return 0
    if plan.digest != merges.plan:
        findings.add(
            "wrong-aggregate", "the run in the directory was made under another plan than the log says"
        )
        return 0
    for number in sorted(commits.keys() - merges.by_round.keys()):
        words = f"the run's directory has a merge of round {number}, and the log has none"
        findings.add("missing-entry", words, None, number)
    found = _Replay(directory, merges, salts, findings, Coordinator(plan, state))
    done = found.rounds(commits, progress)
    found.check_measured()
    found.check_models()
    return done


@dataclass(frozen=True)
class _Replay:
    directory: RunDirectory
    merges: Merges
    salts: Salts
    findings: Findings
    coordinator: Coordinator

    def rounds(self, commits: Mapping[int, Mapping[str, Any]], progress: Progress) -> int:
        """How many came out as the log says, until one did not."""
        of = len(self.merges.by_round)
        rule = canonical.digest(canonical.dumps(self.coordinator.plan.merge))
        frame = b""  # that brought the last merge to the sites
        for done, (number, merge) in enumerate(sorted(self.merges.by_round.items())):
            progress(done, of)
            self._check_trunk(number, frame)
            if merge.rule != rule:
                self._wrong(merge, "the log names another rule for this merge than the plan's")
                return done
            try:
                frame = self._merged(merge, commits.get(number))
            except _MissingError as error:
                words = f"round {number} cannot be merged again: {error}"
                self.findings.add("missing-payload", words, merge.index, number)
                return done
            except (_WrongError, PhloemError) as error:
                self._wrong(merge, str(error))
                return done
        self._check_trunk(self.coordinator.round, frame)
        progress(of, of)
        return of

    def _wrong(self, merge: Merge, words: str) -> None:
        self.findings.add("wrong-aggregate", words, merge.index, merge.round)

    def _merged(self, merge: Merge, commit: Mapping[str, Any] | None) -> bytes:
        """The frame that a merge gives, if it gives what was logged."""
        updates = list(self._updates(merge, commit))
        chosen = None if commit is None else commit.get("down")
        choice = None if chosen is None else Choice(dict(chosen))
        result = self.coordinator.merge_again(merge.round, updates, choice)
        states = {merge.output.get("state", result.state), result.state}
        whole = len(result.accepted) == len(updates) and len(states) == 1
        if result.chain.hex() != merge.output["chain"] or not whole:
            raise _WrongError("the updates of this round do not give the trunk that was logged")
        return result.frame

    def _updates(self, merge: Merge, commit: Mapping[str, Any] | None) -> Iterator[Received]:
        """The updates that a merge was made of, with the weights that it was made with: those that the sites signed."""
        if commit is None:
            raise _MissingError("the run's directory does not have this merge")
        examples = {row["site"]: row["examples"] for row in commit["inputs"]}
        weights = canonical.dumps({str(one.index): examples.get(one.site, 0) for one in merge.inputs})
        salt = self.salts.get(merge.weights)
        if salt is None:
            raise _MissingError("the salt of its weights is not here")
        if commitment(salt.salt, WEIGHT, weights) != merge.weights:
            raise _WrongError("the weights that the run's directory has are not those that were logged")
        sites = self.coordinator.plan.sites  # none in a plan that is open to all
        for one in merge.inputs:
            if sites and one.site not in sites:
                raise _WrongError(f"'{one.site}' was merged, and is no site of the plan")
            own = self.salts.get(one.weight)
            weight = b"%d" % examples.get(one.site, 0)
            if own is not None and commitment(own.salt, WEIGHT, weight) != one.weight:
                raise _WrongError(f"'{one.site}' was merged with another weight than it signed")
            found = self.salts.get(one.frame)
            if own is None or found is None or found.content not in self.directory.store:
                raise _MissingError(f"the frame or the weight of entry {one.index} is not here")
            try:
                frame = self.directory.store.get(found.content)
            except FormatError as error:
                raise _MissingError(f"the frame of entry {one.index} is damaged") from error
            yield Received(one.site, examples[one.site], frame)

    def _check_trunk(self, number: int, delta: bytes) -> None:
        """Whether the trunk of a round was broadcast, and given out, as it is."""
        for row in self.merges.released:
            if row.round == number:
                self._check_released(row)
        size = 4 * self.coordinator.layout.size
        for row in self.merges.broadcasts.get(number, []):
            form, commit = row.fields["form"], row.fields["commit"]
            salt = self.salts.get(commit)
            if salt is None:
                words = "what was broadcast cannot be checked: its salt is not here"
                self.findings.add("missing-payload", words, row.index, number)
                continue
            frame = b"" if form == HELD else delta if form == DELTA else self.coordinator.key_frame()
            sizes = (row.fields["bytes"], row.fields["rawBytes"])
            if commitment(salt.salt, FRAME, frame) != commit or sizes != (len(frame), size):
                words = f"what was broadcast as '{form}' is not the trunk of round {number}"
                self.findings.add("two-models", words, row.index, number)

    def check_measured(self) -> None:
        """Whether `rounds.jsonl` has the metrics that were committed to."""
        for record in self.directory.records():
            rows = self.merges.measured.get(record.round, [])
            content = canonical.dumps(without_nan(record.metrics))
            salts = [(self.salts.get(row.fields["metrics"]), row) for row in rows]
            known = [(salt.salt, row) for salt, row in salts if salt is not None]
            same = any(commitment(salt, METRICS, content) == row.fields["metrics"] for salt, row in known)
            if known and not same:
                words = f"the metrics of round {record.round} are not those that were committed to"
                self.findings.add("swapped-payload", words, known[-1][1].index, record.round)

    def check_models(self) -> None:
        """Whether the models that were given out are here, and the one that is here was given out."""
        for name in sorted({MODEL, *(row.fields["file"] for row in self.merges.released)}):
            data = self._content(name)
            rows = [row for row in self.merges.released if row.fields["file"] == name]
            newest = rows[-1].index if rows else None
            if data is None:
                if rows:
                    words = f"'{name}' was given out, and is not here"
                    self.findings.add("missing-payload", words, newest)
            elif canonical.digest(data) not in [row.fields["digest"] for row in rows]:
                words = f"the '{name}' that is here is not one that was given out"
                self.findings.add("wrong-release", words, newest)

    def _check_released(self, row: Said) -> None:
        """Whether a model that was given out, and is here, is the trunk of its round."""
        data = self._content(row.fields["file"])
        if data is None or canonical.digest(data) != row.fields["digest"]:
            return
        try:
            given = state_digest(load_tensors(data))
        except (SafetensorError, PhloemError, KeyError, TypeError, ValueError):
            given = None  # no model at all, or of other types than ours
        if given != state_digest(self.coordinator.state):
            words = "the model that was given out is not what the merges give"
            self.findings.add("wrong-release", words, row.index)

    def _content(self, name: str) -> bytes | None:
        """The content of a file of the run; None where there is none of that name in its directory."""
        path = self.directory.root / name
        return path.read_bytes() if Path(name).name == name and path.is_file() else None


class _MissingError(Exception):
    """What a replay needs is not here."""


class _WrongError(Exception):
    """What is here is not what the log says."""


def _commits(store: Store) -> Iterator[dict[str, Any]]:
    head = store.read(TRUNK)
    while head is not None:
        row = canonical.loads(store.get(head))
        yield row
        head = row["parents"][0] if row["parents"] else None


def _start(store: Store) -> tuple[Plan, State]:
    """The plan and the first state, from the run's first commit."""
    with reading(f"the run in {store.root}"):
        *_, first = _commits(store)
        if first["kind"] != "genesis":
            raise StateError(f"the history of the run in {store.root} has no beginning")
        recipe = Recipe.from_json(canonical.loads(store.get(first["recipe"])))
        layout = Layout.from_json(store.get(first["layout"]))
        arrays = frames.unpack(store.get(first["frame"]), layout).decode()
        state = layout.named(arrays)
        return plan_for(recipe, state), state
