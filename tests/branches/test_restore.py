"""Chains of frames: cut into parts, added in one go, and the same bits whatever the frames are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phloem import kernels
from phloem.branches import packs
from phloem.branches.bodies import Body
from phloem.branches.drafts import Draft
from phloem.branches.records import Commit, now
from phloem.branches.repository import Repository
from phloem.branches.restore import Restored
from phloem.codecs.lossless import Lossless
from phloem.codecs.registry import codec_from
from phloem.files import sections
from phloem.job.branching import import_state, record_of
from phloem.kernels import parts
from phloem.seeds import generator
from phloem.tensors import Layout, State
from phloem.wire import frame as frames

SHAPES = {"a": (700,), "b.weight": (90, 50), "c": (0, 3), "d.bias": (900,), "e.weight": (30, 60), "f": ()}
#: What the rounds of a run were encoded with: kinds that can be added in one go, and others between them.
FAST = {"codec": "ecsq", "step": 0.002, "effort": "fast"}
ROUNDS: list[dict[str, Any]] = [
    FAST,
    FAST,
    {"codec": "ecsq", "bits": 0.5, "effort": "balanced"},
    FAST,
    {"codec": "fp16"},
    FAST,
    FAST,
    FAST,
]


@pytest.fixture(params=[pytest.param("reference", marks=pytest.mark.slow), "native"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sections of at most 2,000 parameters, and each of the kernels."""
    if request.param not in kernels.available():
        pytest.skip("the native kernels are not built")
    parts.partition.cache_clear()
    monkeypatch.setattr(parts, "PART_LARGEST", 2000)
    monkeypatch.setattr(sections, "MOST_PARAMETERS", 2000)
    before = kernels.backend_name()
    kernels.use(request.param)
    yield
    kernels.use(before)
    parts.partition.cache_clear()


def drawn(*labels: str | int) -> State:
    draw = generator(0, *labels)
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def run_of(
    repo: Repository, rounds: list[dict[str, Any]], *, key_of_the_wire: bool
) -> list[tuple[str, State]]:
    """A branch of a run's rounds, each as the frame that travelled; the states, by id."""
    state = drawn("first")
    state["a"][:50] = -0.0  # becomes +0.0 with the first round, wherever nothing is added
    layout = Layout.of(state)
    head = None if key_of_the_wire else import_state(repo, "trunk", None, state, message="first", author="me")
    found: list[tuple[str, State]] = []
    for number, coding in enumerate([None, *rounds] if key_of_the_wire else rounds):
        with repo.folder.scratch() as scratch:
            draft = Draft(repo.folder, repo.objects, scratch)
            base = repo.objects.entry(head).state if head else None
            if coding is None:
                frame, name = (
                    frames.pack(Lossless(), layout.arrays(state), layout, key_frame=True),
                    "lossless",
                )
            else:
                update = [1e-3 * array for array in layout.arrays(drawn("round", number))]
                frame = frames.pack(codec_from(coding), [np.asarray(a, np.float32) for a in update], layout)
                name = coding["codec"]
                decoded = frames.unpack(frame, layout).decode()
                state = layout.named([a + b for a, b in zip(layout.arrays(state), decoded, strict=True)])
            digest = draft.add(packs.STATE, record_of(state, layout))
            draft.add_frame(frame, digest, base, "wire", name)
            commit = Commit("update", (head,) if head else (), digest, "me", now(), "a round")
            head = repo.publish(draft, commit, "trunk", head)
        found.append((digest, state))
    return found


@pytest.mark.parametrize("key_of_the_wire", [False, True])
@pytest.mark.usefixtures("small")
def test_every_round_of_a_run_is_restored_to_the_bit(tmp_path: Path, key_of_the_wire: bool) -> None:
    with Repository.create(tmp_path / ".phloem") as repo:
        found = run_of(repo, ROUNDS, key_of_the_wire=key_of_the_wire)
        for digest, state in found:
            restored = Restored(repo.objects, digest)
            for spec, raw in restored.iterate():
                assert raw.tobytes() == state[spec.name].tobytes()
            assert {spec.name for spec, _ in restored.iterate({"a", "f"})} == {"a", "f"}
            for spec in reversed(restored.contents.specs):
                assert restored.read(spec).tobytes() == state[spec.name].tobytes()
        assert len(Restored(repo.objects, found[-1][0]).chain) == len(ROUNDS) + 1


@pytest.mark.usefixtures("small")
def test_frames_of_the_wire_are_decoded_in_the_parts_of_their_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame is read once, and let go of afterwards."""
    with Repository.create(tmp_path / ".phloem") as repo:
        [*_, (digest, _)] = run_of(repo, [FAST] * 4, key_of_the_wire=False)
        restored = Restored(repo.objects, digest)
        assert [part.names for part in restored.parts] == [
            ("a",),
            ("b.weight",),
            ("c", "d.bias"),
            ("e.weight", "f"),
        ]
        reads = []
        really = Body._read
        monkeypatch.setattr(Body, "_read", lambda body: reads.append(body) or really(body))
        assert len(list(restored.iterate())) == len(SHAPES)
        assert len(reads) == 4  # the key-frame's sections
        shared = {
            body.shared[0]
            for part in restored.parts
            for _, bodies in part.steps
            for body in bodies
            if body.shared
        }
        assert len(shared) == 4
        assert all(one._opened is None for one in shared)
