"""A branch of drawn rounds: commits made by the code that commits a run's, without a run behind them."""

from __future__ import annotations

from types import SimpleNamespace

from branches_models import Training
from phloem import canonical
from phloem.branches import packs
from phloem.branches.drafts import Draft
from phloem.branches.records import Commit, now
from phloem.branches.repository import Repository
from phloem.codecs.ecsq import Ecsq
from phloem.codecs.registry import codec_from
from phloem.job.branching import Publisher, import_state, record_of
from phloem.rounds.plan import Choice
from phloem.tensors import State
from phloem.wire import frame as frames


class Line(Publisher):
    """What a `Publisher` is once it has found its run; it is given frames instead of reading them from a directory."""

    def __init__(
        self, repo: Repository, state: State, training: Training, step: float, branch: str = "trunk"
    ):
        self.repo, self.branch, self.author, self.sign, self.name = repo, branch, "site", None, "drawn"
        self.layout, self.state, self.training = training.layout, state, training
        self.round, choice = 0, Choice({"codec": "ecsq", "step": step, "effort": "fast"})
        self.codec = codec_from(choice.config)
        self.plan = SimpleNamespace(down_in=lambda number: choice)  # type: ignore[assignment]
        self.head = import_state(repo, branch, None, state, message="the first model", author=self.author)

    def next(self) -> int:
        """Encodes the next update, commits the state that it gives, and says how many bytes the frame has."""
        frame = frames.pack(self.codec, self.training.update(self.round), self.layout)
        decoded = frames.unpack(frame, self.layout).decode()
        after = self.layout.named(
            [a + b for a, b in zip(self.layout.arrays(self.state), decoded, strict=True)]
        )
        record = record_of(after, self.layout)
        with self.repo.folder.scratch() as scratch:
            draft = Draft(self.repo.folder, self.repo.objects, scratch)
            state = draft.add(packs.STATE, record)
            self._add_frame(draft, frame, state, self._state_id, after)
            commit = Commit(
                kind="round",
                parents=(self.head,) if self.head else (),
                state=state,
                author=self.author,
                time=now(),
                message=f"drawn: round {self.round}",
                coding=self.plan.down_in(self.round).config,
                recipe={"round": self.round, "plan": canonical.digest(b"drawn")},
            )
            self.head = self.repo.publish(draft, commit, self.branch, self.head)
        self.state, self.round = after, self.round + 1
        return len(frame)


def step_for(training: Training, bits: float) -> float:
    """The step at which an update takes so many bits per parameter."""
    frame = frames.pack(Ecsq(bits=bits), training.update(0), training.layout)
    return Ecsq.last_step(frames.unpack(frame, training.layout).body)
