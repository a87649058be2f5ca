"""The same twenty versions of a model kept by others and by us: bytes, and seconds to commit and to check out.

Two histories of drawn models (`branches_models.py`; a GPT's 27 tensors, 29 MB as float32): in `dense` every weight
changes in every version, in `sparse` one in a hundred. All are files on one disk, durable (synced, where the peer
leaves that to us). Peers:

- copies of the file; each file by zstd; XOR with the version before and zstd-3, plain and with bytes of equal
  significance together (in the manner of BitX). Written here, they run in this process.
- git-lfs and git-theta by `git add`, `git commit`, `git checkout`, each a process, in a repository and a home of
  their own. git-theta stores what changed in each tensor, whole or (`sparse`) as coordinates; it is asked for the
  second where few weights change. It takes a few versions only, because it takes seconds for each; the bytes of the
  others are added as the mean of its later ones.
- ours by `phloem commit` and `phloem checkout`, each a process as well: about half of the seconds is starting
  Python. Versions are committed from the files, as the others are. 0.5 and 0.05 bits keep less than the file; what
  they keep is exact from then on.

zstd-19 codes two versions, and is counted as twenty of them.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zstandard
from safetensors.numpy import load_file, save_file

from branches_disk import folder_bytes
from branches_lossless import planes, whole, xored, zstd
from branches_models import Shapes, say, versions
from branches_time import copied, seconds

FEW = 5  # versions that a slow peer gets
SPARSE = 0.01
EARLIER = 10  # the version that is checked out beside the tip, counted from 1
ZERO = "zeros.safetensors"


class Kept(Protocol):
    """A way to keep versions: `bytes` so far, a model committed, version `number` checked out to `out`."""

    def commit(self, model: Path) -> None:
        """Keeps a model as the next version."""

    def checkout(self, number: int, out: Path) -> None:
        """Puts a version back."""

    def bytes(self) -> int:
        """What all versions take."""


class Coded:
    """Each version a file of its own, coded against the one before it if `against` says so."""

    def __init__(
        self,
        folder: Path,
        encode: Callable[[bytes], bytes],
        decode: Callable[[bytes], bytes],
        *,
        against: bool,
    ):
        self.folder, self.encode, self.decode, self.against = folder, encode, decode, against
        self.last = b""
        self.count = 0

    def commit(self, model: Path) -> None:
        data = model.read_bytes()
        path = self.folder / str(self.count)
        path.write_bytes(self.encode(xored(data, self.last) if self.against and self.count else data))
        with path.open("rb") as file:
            os.fsync(file.fileno())
        self.last, self.count = data, self.count + 1

    def checkout(self, number: int, out: Path) -> None:
        data = b""
        for step in range(number + 1) if self.against else [number]:
            found = self.decode((self.folder / str(step)).read_bytes())
            data = xored(found, data) if self.against and step else found
        out.write_bytes(data)
        with out.open("rb") as file:
            os.fsync(file.fileno())

    def bytes(self) -> int:
        return folder_bytes(self.folder)


class Git:
    """A git repository whose model goes through git-lfs, or through git-theta."""

    def __init__(self, folder: Path, theta: str | None = None, *, sparse: bool = False) -> None:
        self.folder, self.theta, self.sparse = folder / "work", theta, sparse
        self.folder.mkdir()
        path = (
            os.environ["PATH"] if theta is None else f"{Path(theta).parent}{os.pathsep}{os.environ['PATH']}"
        )
        self.environment = {
            **os.environ, "HOME": str(folder), "PATH": path, "TMPDIR": str(folder),
            "GIT_THETA_CHECKPOINT_TYPE": "safetensors",
        }  # fmt: skip
        save_file({}, folder / ZERO)
        self.git("config", "--global", "user.name", "bench")
        self.git("config", "--global", "user.email", "bench@example.org")
        self.git("init", "--quiet")
        self.git("lfs", "install")
        if theta is not None:
            self.git("theta", "install")
        self.git("theta" if theta else "lfs", "track", "model.safetensors")
        self.git("add", ".gitattributes")
        self.git("commit", "--quiet", "-m", "attributes")
        self.count = 0

    def git(self, *words: str) -> None:
        subprocess.run(
            ["git", *words], cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True
        )

    def commit(self, model: Path) -> None:
        shutil.copyfile(model, self.folder / "model.safetensors")
        if self.theta is None:
            self.git("add", "model.safetensors")
        elif (
            self.sparse and self.count
        ):  # it wants a file of updates, and works them out if there is none in it
            data = str(self.folder.parent / ZERO)
            self.git("theta", "add", "model.safetensors", "--update-type", "sparse", "--update-data", data)
        else:
            self.git("theta", "add", "model.safetensors")
        self.git("commit", "--quiet", "-m", f"version {self.count}")
        self.git("tag", f"v{self.count}")
        self.count += 1

    def checkout(self, number: int, out: Path) -> None:
        (self.folder / "model.safetensors").unlink(missing_ok=True)
        self.git("checkout", f"v{number}", "--", "model.safetensors")
        copied(self.folder / "model.safetensors", out)

    def bytes(self) -> int:
        return folder_bytes(self.folder / ".git")


class Ours:
    """A repository of ours, by its commands."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.words, self.count = folder, words, 0
        self.phloem("init")

    def phloem(self, *words: str) -> None:
        command = [str(Path(sys.executable).with_name("phloem")), *words]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)

    def commit(self, model: Path) -> None:
        self.phloem("commit", str(model), *(self.words if self.count else ()))
        self.count += 1

    def checkout(self, number: int, out: Path) -> None:
        self.phloem("checkout", f"trunk~{self.count - 1 - number}", "-o", str(out))

    def bytes(self) -> int:
        return folder_bytes(self.folder / ".phloem")


def measure(scratch: Path, shapes: Shapes, count: int, theta: str | None) -> dict[str, Any]:
    """Both histories, all peers."""
    started, answer = time.perf_counter(), {}
    for history, share in (("dense", None), ("sparse", SPARSE)):
        folder = scratch / history
        folder.mkdir()
        models = []
        for number, state in enumerate(versions(shapes, count, share=share)):
            models.append(folder / f"{number}.safetensors")
            save_file(state, models[-1])
        answer[history] = {}
        for name, (make, few) in peers(theta, sparse=share is not None).items():
            answer[history][name] = row = one(folder, models, make, few, lossy="bits" in name)
            size = f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else row["missing"]
            say(f"peers: {history}, {name}: {size}", started)
        shutil.rmtree(folder)
    return {
        "versions": count,
        "file_bytes": 4 * sum(int(np.prod(shape)) for shape in shapes.values()),
        "tensors": len(shapes),
        "starting": statistics.median([_version() for _ in range(5)]),
        "programs": {"git-lfs": _said("git", "lfs", "version"), "git": _said("git", "--version")},
        "histories": answer,
    }


Make = Callable[[Path], Kept]


def peers(theta: str | None, *, sparse: bool) -> Mapping[str, tuple[Make | None, int | None]]:
    """Every way by name: what makes it, and how many versions it gets (None: all)."""

    def coded(
        encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes], against: bool = False
    ) -> Make:
        return lambda folder: Coded(folder, encode, decode, against=against)

    unzip = zstandard.ZstdDecompressor().decompress
    plain = lambda data: data  # noqa: E731
    return {
        "copies": (coded(plain, plain), None),
        "zstd-3": (coded(lambda data: zstd(data, 3), unzip), None),
        "zstd-19": (coded(lambda data: zstd(data, 19), unzip), 2),
        "XOR + zstd-3": (coded(lambda data: zstd(data, 3), unzip, against=True), None),
        "XOR + planes + zstd-3": (
            coded(lambda data: zstd(_planes(data), 3), lambda data: _whole(unzip(data)), against=True),
            None,
        ),
        "git-lfs": (Git if shutil.which("git-lfs") else None, None),
        "git-theta": (None if theta is None else lambda folder: Git(folder, theta, sparse=sparse), FEW),
        "phloem, lossless": (lambda folder: Ours(folder, "--lossless"), None),
        "phloem, 0.5 bits": (lambda folder: Ours(folder, "--bits", "0.5"), None),
        "phloem, 0.05 bits": (lambda folder: Ours(folder, "--bits", "0.05"), None),
    }


def one(
    folder: Path, models: Sequence[Path], make: Make | None, few: int | None, *, lossy: bool
) -> dict[str, Any]:
    """One way: every version committed, the tip and an earlier one checked out, and compared."""
    if make is None:
        return {"missing": "not installed"}
    root, out = folder / "kept", folder / "out.safetensors"
    root.mkdir()
    given = models[:few]
    try:
        kept = make(root)
        empty, took, after = kept.bytes(), [], []
        for model in given:
            took.append(seconds(lambda model=model: kept.commit(model)))
            after.append(kept.bytes())
        tip, earlier = len(given) - 1, min(EARLIER, len(given)) - 1
        answer: dict[str, Any] = {"versions": len(given)}
        for what, number in (("earlier", earlier), ("tip", tip)):
            answer[f"{what}_number"] = number + 1
            answer[f"{what}_seconds"] = statistics.median(
                [seconds(lambda number=number: kept.checkout(number, out)) for _ in range(1 if few else 3)]
            )
            answer[f"{what}_error"] = distance(out, given[number], models[max(number - 1, 0)])
    except subprocess.CalledProcessError as error:
        return {"missing": f"failed: {error.stderr.strip().splitlines()[-1][:200]}"}
    finally:
        shutil.rmtree(root, ignore_errors=True)
    first, each = after[0] - empty, statistics.fmean(np.diff(after))
    return {
        **answer,
        "bytes": round(empty + first + each * (len(models) - 1)),
        "first_bytes": first,
        "each_bytes": each,
        "commit_seconds": statistics.median(took[1:]),
        "exact": not lossy and answer["tip_error"] == answer["earlier_error"] == 0.0,
    }


def distance(found: Path, wanted: Path, before: Path) -> float:
    """How far a version is from the one that was given, in times of what that one changed; 0 is equal bits."""
    mine, theirs, old = (load_file(path) for path in (found, wanted, before))
    if all(mine[name].tobytes() == theirs[name].tobytes() for name in theirs):
        return 0.0

    def norm(left: Any, right: Any) -> float:
        return float(np.sqrt(sum(np.square(left[n].astype(np.float64) - right[n]).sum() for n in theirs)))

    return norm(mine, theirs) / max(norm(theirs, old), 1e-300)


def _planes(data: bytes) -> bytes:
    """The planes of a safetensors file of float32; what does not fill an element comes first."""
    rest = len(data) % 4
    return data[:rest] + planes(data[rest:], 4)


def _whole(data: bytes) -> bytes:
    rest = len(data) % 4
    return data[:rest] + whole(data[rest:], 4)


def _version() -> float:
    phloem = str(Path(sys.executable).with_name("phloem"))
    return seconds(lambda: subprocess.run([phloem, "--version"], check=True, capture_output=True))


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not installed"
