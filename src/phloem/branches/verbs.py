"""The verbs of `Repository` that have modules of their own: each loads its module when it is first said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from phloem.branches.advising import Advice
    from phloem.branches.checking import Checked
    from phloem.branches.collecting import Collected
    from phloem.branches.comparing import Difference
    from phloem.branches.joining import MergeResult
    from phloem.branches.repacking import Repacked
    from phloem.branches.repository import Repository
    from phloem.branches.squashing import Squashed
    from phloem.branches.sync import Pulled, Pushed
    from phloem.branches.verifying import Verified


class Verbs:
    """What `Repository` does besides commits and names. Options and errors are those of the functions named."""

    def merge(self, *names: str, **options: Any) -> MergeResult:
        """Merges branches into `into`, by default the current one: `phloem.branches.joining.merge`."""
        from phloem.branches.joining import merge

        return merge(self._repository, names, **options)

    def verify(self, text: str = "@", **options: Any) -> Verified:
        """Checks a commit, all that it came from, and its state: `phloem.branches.verifying.verify`."""
        from phloem.branches.verifying import verify

        return verify(self._repository, text, **options)

    def diff(self, first: str, second: str = "@", base: str | None = None, **options: Any) -> Difference:
        """How two commits' states differ: `phloem.branches.comparing.compare_commits`."""
        from phloem.branches.comparing import compare_commits

        repo = self._repository
        commits = [repo.resolve(text) for text in (first, second, *([] if base is None else [base]))]
        return compare_commits(repo.objects, *commits, **options)

    def advise(self, *names: str, **options: Any) -> Advice:
        """Whether to merge branches: `phloem.branches.advising.advise`."""
        from phloem.branches.advising import advise

        return advise(self._repository, names, **options)

    def push(
        self, where: str | Path = "origin", branches: Sequence[str] | None = None, **options: Any
    ) -> Pushed:
        """Brings branches to another place: `phloem.branches.sync.push`."""
        from phloem.branches.sync import push

        return push(self._repository, where, branches, **options)

    def pull(
        self, where: str | Path = "origin", branches: Sequence[str] | None = None, **options: Any
    ) -> Pulled:
        """Brings what another place has: `phloem.branches.sync.pull`."""
        from phloem.branches.sync import pull

        return pull(self._repository, where, branches, **options)

    def squash(self, branch: str | None = None, onto: str | None = None, **options: Any) -> Squashed:
        """Makes one commit of a branch's history: `phloem.branches.squashing.squash`."""
        from phloem.branches.squashing import squash

        return squash(self._repository, branch, onto, **options)

    def repack(self, **options: Any) -> Repacked:
        """Chooses again how states are stored: `phloem.branches.repacking.repack`."""
        from phloem.branches.repacking import repack

        return repack(self._repository, **options)

    def gc(self, **options: Any) -> Collected:
        """Removes what no name leads to: `phloem.branches.collecting.gc`."""
        from phloem.branches.collecting import gc

        return gc(self._repository, **options)

    def fsck(self, **options: Any) -> Checked:
        """Checks every object: `phloem.branches.checking.fsck`."""
        from phloem.branches.checking import fsck

        return fsck(self._repository, **options)

    @property
    def _repository(self) -> Repository:
        return cast("Repository", self)
