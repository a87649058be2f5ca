"""A repository of models: branches of commits, each an exact state, most of them a small frame against the one before.

>>> import numpy as np, pathlib, tempfile
>>> from safetensors.numpy import save_file
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> trunk = np.linspace(-1, 1, 1 << 16, dtype=np.float32).reshape(256, 256)
>>> save_file({"w": trunk}, folder / "base.safetensors")
>>> save_file({"w": trunk + np.float32(1e-3) * np.sin(50 * trunk)}, folder / "tuned.safetensors")
>>> repo = Repository.create(folder / ".phloem")
>>> first = repo.commit(folder / "base.safetensors", message="the model that we start from")
>>> repo.branch("clinic")
>>> second = repo.commit(folder / "tuned.safetensors", branch="clinic", bits=0.5)
>>> second.bytes < 6000, [entry.subject for entry in repo.log("clinic")]
(True, ['tuned.safetensors', 'the model that we start from'])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from phloem.branches import history, keeping, packs
from phloem.branches.catalog import Catalog, Entry
from phloem.branches.drafts import Draft
from phloem.branches.folder import NAME, Folder, find, moved
from phloem.branches.naming import Naming
from phloem.branches.objects import Objects, Place
from phloem.branches.records import Commit, Drift, check_author, now
from phloem.branches.refs import Refs, check_name
from phloem.branches.verbs import Verbs
from phloem.errors import ConfigError, ConflictError

Progress = Callable[[str, int, int], None]
#: Signs what it is given: the verifier key, and the signature in base64.
Sign = Callable[[bytes], Mapping[str, str]]
DEFAULT_CODING: Mapping[str, Any] = {"codec": "ecsq", "bits": 0.5, "effort": "fast"}


def silent(what: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True)
class Committed:
    """What a commit made.

    Attributes:
        digest: of the commit.
        state: the id of its state.
        bytes: what the repository took up for the state: frames, in bytes.
        full_bytes: the size of the state uncompressed.
        drift: how far the state is from the model that was given; None where nothing was lost.
        times: what restoring it costs, in times of reading it uncompressed.
    """

    digest: str
    branch: str
    state: str
    bytes: int
    full_bytes: int
    parameters: int
    drift: Drift | None
    times: float


class Repository(Naming, Verbs):
    """An open repository. Close it, or use it in a `with` statement."""

    def __init__(self, place: Place, catalog: Catalog) -> None:
        self.place = place
        self.objects = Objects(place, catalog)
        self._seen: Refs | None = None

    @classmethod
    def create(cls, root: str | Path) -> Self:
        """A new repository in the directory `root`, which is usually called `.phloem`.

        Raises:
            ConfigError: there is one already. StoreError: the disk refuses.
        """
        return cls._at(Folder.create(Path(root)))

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """The repository at `where`: its directory, one that has it as `.phloem`, or a URL that fsspec knows.

        Raises:
            ConfigError: there is none. StateError: it is of another version, or damaged.
        """
        if "://" in str(where):
            from phloem.branches.bucket import Bucket

            return cls(Bucket(str(where)), Catalog(None))
        path = Path(where)
        if (path / NAME / "format.json").exists():
            path = path / NAME
        return cls._at(Folder(path))

    @classmethod
    def _at(cls, folder: Folder) -> Self:
        return cls(folder, Catalog(folder.catalog_path))

    def close(self) -> None:
        """Closes its files."""
        self.objects.catalog.close()
        if isinstance(self.place, Folder):
            self.place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- names and history -----------------------------------------------------------------------------------

    @property
    def refs(self) -> Refs:
        """The table of names, as it is now; what they lead to is known."""
        found = self.place.refs()
        if found != self._seen:  # others made commits
            self.objects.refresh()
            self._seen = found
        return found

    @property
    def folder(self) -> Folder:
        """Where it is written.

        Raises:
            ConfigError: it is one that can only be read.
        """
        if not isinstance(self.place, Folder):
            raise ConfigError(
                f"{self.place.url} can be read, pushed to and pulled from; commits are made in a directory",
                hint=f"phloem init; phloem pull {self.place.url}",
            )
        return self.place

    def resolve(self, text: str) -> str:
        """The commit that a text names: a branch, a tag, the beginning of a digest, "trunk~3".

        Raises:
            ConfigError: it names none.
        """
        return history.resolve(text, self.refs, self.objects)

    def show(self, text: str) -> Commit:
        """A commit, as it was written."""
        return self.objects.commit(self.resolve(text))

    def log(self, *texts: str, everything: bool = False) -> Iterator[Entry]:
        """The history of these commits (by default of the current branch, or of every name), newest first."""
        refs = self.refs
        commits = self.objects.catalog.commits()
        if everything:
            heads = [*refs.branches.values(), *refs.tags.values()]
        else:
            heads = [history.resolve(text, refs, self.objects) for text in texts or ("@",)]
        heads.sort(key=lambda digest: commits[digest].time if digest in commits else "", reverse=True)
        return history.in_order(heads, commits)

    # -- states ----------------------------------------------------------------------------------------------

    def commit(
        self,
        model: str | Path,
        *,
        branch: str | None = None,
        message: str | None = None,
        author: str = "unknown",
        bits: float | None = None,
        rank: int | None = None,
        lossless: bool = False,
        coding: Mapping[str, Any] | None = None,
        adapters: Mapping[str, Path] | None = None,
        metrics: Mapping[str, float] | None = None,
        examples: int | None = None,
        site: str | None = None,
        change_dtypes: bool = False,
        sign: Sign | None = None,
        out: Path | None = None,
        progress: Progress = silent,
    ) -> Committed:
        """Commits a model to a branch: exactly, if it is the first, else coded against the branch's head.

        Args:
            model: a safetensors file, or a Hugging Face directory.
            branch: by default the current one.
            message: what to say of it; by default the file's name.
            author: who makes it.
            bits: how many bits per parameter the update may take (by default 0.5).
            rank: code the change of every matrix as two thin ones of so many columns: for fine-tuned models.
            lossless: keep every bit instead.
            coding: a codec's configuration instead of `bits`: {"codec": "ecsq", "nmse": 0.01}.
            adapters: LoRA adapters that the state has as well, as tensors of their own.
            metrics: what was measured of the model.
            examples: how many examples it was trained on.
            site: who trained it.
            change_dtypes: let tensors have other types than on the branch.
            sign: signs the commit.
            out: where the committed state goes, to continue training from.
            progress: told what is being done, and how far it is.

        Raises:
            ConfigError: the model is not one of this branch, or cannot be coded so. ConflictError: the branch moved
                meanwhile; the commit is kept, and the message says how to get at it. StoreError: the disk failed.
        """
        from phloem.branches.committing import commit_of, store_model
        from phloem.branches.restore import Restored
        from phloem.codecs.lowrank import factored
        from phloem.files.companions import companions
        from phloem.files.dtypes import CODED
        from phloem.files.models import open_model
        from phloem.files.writing import write_model

        folder, name = self.folder, branch or self.refs.current
        check_name(name)
        said = Commit(
            kind="update",
            parents=(),
            state="0" * 64,
            author=check_author(author),
            time=now(),
            message=message or Path(model).name,
            metrics=metrics or {},
            examples=examples,
            site=site,
        )
        said.check()  # before anything is coded
        code = _coding(bits, rank, coding, lossless=lossless)
        head = self.refs.branches.get(name)
        if head is None and self.refs.branches:
            raise ConfigError(f"there is no branch '{name}'", hint=f"phloem branch {name}")
        with folder.scratch() as scratch, open_model(model, adapters or {}) as opened:
            draft = Draft(folder, self.objects, scratch)
            base = None if head is None else Restored(self.objects, self.objects.entry(head).state)
            if rank is not None:
                coded = [spec for spec in opened.contents.specs if spec.dtype in CODED]
                code = dict(factored(coded, code["bits"], rank))
            source = opened
            if adapters:  # joined into one file
                joined = scratch / "joined.safetensors"
                write_model(opened, joined)
                source = open_model(joined)
            with source:
                stored = store_model(
                    draft, source, base, code, change_dtypes=change_dtypes, out=out, progress=progress
                )
            if base is not None and stored.state == base.state:
                raise ConfigError(
                    f"nothing to commit: '{name}' has this very state already",
                    hint="or what changed is less than these bits can say: give more --bits, or --lossless",
                )
            files = {
                n: draft.add(packs.FILE, data) for n, data in companions(Path(model), adapters or {}).items()
            }
            commit = commit_of(
                stored,
                code,
                kind="import" if head is None else "update",
                parents=() if head is None else (head,),
                author=author,
                time=now(),
                message=message or Path(model).name,
                metrics=metrics or {},
                examples=examples,
                site=site,
                files=files,
                metadata=_kept(opened.contents.metadata),
            )
            digest = self.publish(draft, commit, name, head, sign)
            return Committed(
                digest,
                name,
                stored.state,
                draft.frame_bytes,
                opened.size_bytes,
                stored.parameters,
                stored.drift,
                stored.times,
            )

    def publish(
        self, draft: Draft, commit: Commit, branch: str, head: str | None, sign: Sign | None = None
    ) -> str:
        """Adds a commit and what it needs, then moves the branch from `head` to it; gives its digest.

        Raises:
            ConflictError: the branch is elsewhere by now; the commit is kept.
        """
        if sign is not None:
            commit = replace(commit, signature=sign(commit.unsigned()))
        commit.check()
        digest = draft.add_commit(commit)
        draft.publish()

        def change(refs: Refs) -> Refs:
            found = refs.branches.get(branch)
            if found != head:
                raise moved(branch, head, found)
            return refs.with_branch(branch, digest)

        try:
            self.folder.move(keeping.checked(self.objects, change))
        except ConflictError as error:
            raise ConflictError(
                error.message, hint=f"the commit is kept: phloem branch {branch}-2 {digest[:12]}, and merge"
            ) from error
        keeping.tidy(self.folder, self.objects)
        return digest

    def restored(self, text: str = "@") -> Any:
        """The state of a commit, to be read tensor by tensor (`phloem.branches.restore.Restored`)."""
        from phloem.branches.restore import Restored

        commit = self.show(text)
        return Restored(self.objects, commit.state, dict(commit.metadata))

    def checkout(
        self,
        text: str,
        out: str | Path,
        *,
        only: str | None = None,
        dtype: str | None = None,
        progress: Progress = silent,
        **options: Any,
    ) -> Any:
        """Writes the model of a commit to a safetensors file or a directory, every tensor checked.

        Args:
            text: names the commit.
            out: a `.safetensors` file, or a directory.
            only: the tensors in whose names this regular expression is found.
            dtype: "bf16", "fp16" or "fp32": casts float tensors.
            progress: told what is being done, and how far it is.
            options: as `phloem.files.writing.write_model`.

        Raises:
            ConfigError: the words do not fit. FormatError: what is stored is damaged; nothing is written.
        """
        from phloem.files.writing import write_model

        commit = self.show(text)
        files = {name: self.objects.get(digest) for name, digest in commit.files.items()}
        with self.restored(text) as state:
            return write_model(
                state, Path(out), only=only, dtype=dtype, companions=files, progress=progress, **options
            )


def open_repo(where: str | Path | None = None) -> Repository:
    """The repository at `where` (a directory or a URL), or the one of this directory or of the nearest above it.

    Raises:
        ConfigError: there is none.
    """
    if where is not None:
        return Repository.open(where)
    found = find(Path.cwd())
    if found is None:
        raise ConfigError(
            "there is no repository here, nor in a directory above", hint="make one: phloem init"
        )
    return Repository.open(found)


def _coding(
    bits: float | None, rank: int | None, coding: Mapping[str, Any] | None, *, lossless: bool
) -> dict[str, Any]:
    if (bits is not None) + (coding is not None) + lossless > 1:
        raise ConfigError("give one of bits, coding and lossless")
    if rank is not None and (coding is not None or lossless):
        raise ConfigError("a rank goes with bits alone", hint="leave out the other, or the rank")
    if lossless:
        return {"codec": "lossless"}
    return (
        dict(coding) if coding is not None else {**DEFAULT_CODING, **({} if bits is None else {"bits": bits})}
    )


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file says of itself that is true of any values."""
    return {key: text for key, text in metadata.items() if key == "format"}
