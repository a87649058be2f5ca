"""Models written to files and to directories: what is in them, and that they appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from tests.files.folders import FORMAT, adapter, all_in, sharded, tensors_in, where
from tests.files.models import mixed, network, read, write

from phloem.errors import ConfigError, FormatError, StoreError
from phloem.files import modeldir
from phloem.files.dtypes import CODED, Raw
from phloem.files.models import open_model
from phloem.files.sources import Stream, Tensors
from phloem.files.writing import write_model
from phloem.seeds import generator
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents

CONFIG = {"config.json": b'{"model_type": "llama"}'}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write(tmp_path / "single.safetensors", mixed(), FORMAT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sharded(tmp_path / "folder", mixed(), 3)


def written(source: Path, out: str | Path, **options: Any) -> Any:
    with open_model(source) as model:
        return write_model(model, out, **options)


class Restored:
    """Tensors that come once, in an order of their own."""

    def __init__(self, source: Tensors, order: list[str]) -> None:
        self.contents, self._source, self._order = source.contents, source, order
        self.asked: set[str] | None = None

    def iterate(self, names: set[str] | None = None) -> Iterator[tuple[TensorSpec, Raw]]:
        self.asked = names
        for name in self._order:
            if names is None or name in names or name == "mask":  # its section is decoded anyway
                yield self._source.spec(name), self._source.read(self._source.spec(name))


# -- what is written -------------------------------------------------------------------------------


def test_a_file_is_written_as_the_library_writes_it(single: Path, folder: Path, tmp_path: Path) -> None:
    for source in (single, folder):
        made = written(source, tmp_path / "out.safetensors", companions=CONFIG)
        assert (tmp_path / "out.safetensors").read_bytes() == single.read_bytes()
    assert made.to_json() == {
        "path": str(tmp_path / "out.safetensors"),
        "files": ["out.safetensors"],
        "tensors": len(mixed()),
        "parameters": sum(np.size(array) for _, array in mixed().values()),
        "bytes": single.stat().st_size,
        "beyond": 0,
    }


@pytest.mark.parametrize("size", [None, 1, 500, 3000, 1 << 30])
def test_a_directory_holds_the_same_tensors(
    single: Path, folder: Path, tmp_path: Path, size: int | None
) -> None:
    for number, source in enumerate((single, folder)):
        out = tmp_path / f"out{number}"
        made = written(source, out, shard_bytes=size, companions=CONFIG)
        assert tensors_in(out) == read(single)
        names = sorted(path.name for path in out.glob("*.safetensors"))
        assert (names, made.tensors) == (list(made.files), len(mixed()))
        assert made.bytes == sum((out / name).stat().st_size for name in names)
        for name in names:
            with safe_open(out / name, "np") as file:
                assert file.metadata() == FORMAT
                data = sum(len(row[2]) for row in read(out / name).values())
                assert size is None or data <= size or len(read(out / name)) == 1
        assert (out / "config.json").read_bytes() == CONFIG["config.json"]
        assert (names == ["model.safetensors"]) == (size is None or size > 10_000)
        written(out, tmp_path / "back.safetensors")
        assert (tmp_path / "back.safetensors").read_bytes() == single.read_bytes()
    assert all_in(tmp_path / "out0") == all_in(tmp_path / "out1")


def test_the_index_is_the_one_that_transformers_writes(tmp_path: Path) -> None:
    """json.dumps({"metadata": …, "weight_map": …}, indent=2, sort_keys=True) + "\\n", by hand."""
    tensors: dict[str, Any] = {
        "lm_head.weight": ("float32", np.zeros((2, 3), np.float32)),
        "model.embed_tokens.weight": ("bfloat16", np.zeros((2, 3), np.float32)),
        "model.größe": ("int64", np.zeros((), np.int64)),
    }
    written(write(tmp_path / "m", tensors, FORMAT), tmp_path / "out", shard_bytes=36)
    assert (tmp_path / "out" / "model.safetensors.index.json").read_bytes() == (
        b"{\n"
        b'  "metadata": {\n'
        b'    "total_size": 44\n'
        b"  },\n"
        b'  "weight_map": {\n'
        b'    "lm_head.weight": "model-00001-of-00002.safetensors",\n'
        b'    "model.embed_tokens.weight": "model-00001-of-00002.safetensors",\n'
        b'    "model.gr\\u00f6\\u00dfe": "model-00002-of-00002.safetensors"\n'
        b"  }\n"
        b"}\n"
    )
    assert tensors_in(tmp_path / "out") == read(tmp_path / "m")


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_a_stream_is_written_in_whatever_order_it_comes(
    single: Path, tmp_path: Path, out: str, backwards: bool
) -> None:
    order = sorted(mixed(), reverse=backwards, key=lambda name: (len(name), name))
    with open_model(single) as model:
        stream = Restored(model, order)
        assert isinstance(stream, Stream)
        write_model(stream, tmp_path / out, **({} if out.endswith("safetensors") else {"shard_bytes": 700}))
        assert stream.asked is None
        write_model(stream, tmp_path / "few.safetensors", only="^fp")
        assert stream.asked == {name for name in mixed() if name.startswith("fp")}
    found = read(tmp_path / out) if out.endswith("safetensors") else tensors_in(tmp_path / out)
    assert found == read(single)
    assert set(read(tmp_path / "few.safetensors")) == stream.asked


def test_only_and_dtype_together(single: Path, tmp_path: Path) -> None:
    wanted = {"bf16", "fp16", "fp32", "fp64", "fp8", "fp8 of another kind"}
    for out in ("out.safetensors", "out"):
        made = written(single, tmp_path / out, only=r"^fp|bf", dtype="bf16")
        found = read(tmp_path / out if out.endswith("s") else tmp_path / out / "model.safetensors")
        assert set(found) == wanted
        for name, (dtype, shape, data) in found.items():
            before = read(single)[name]
            assert shape == before[1]
            assert dtype == ("bfloat16" if before[0] in CODED else before[0])
            assert name != "bf16" or data == before[2]
            assert before[0] in CODED or data == before[2]
        assert (made.tensors, made.beyond) == (6, 0)


def test_values_that_a_type_cannot_hold_are_counted(tmp_path: Path) -> None:
    values = np.array([1.0, 65504.0, 65519.0, 65520.0, -1e5, np.inf, np.nan], np.float32)
    source = write(
        tmp_path / "m", {"a": ("float32", values), "b": ("float64", values.astype(np.float64) * 1e9)}
    )
    made = written(source, tmp_path / "out", dtype="fp16", shard_bytes=1)
    assert made.beyond == 2 + 5
    with np.errstate(invalid="ignore"):
        found = load_file(tmp_path / "out" / "model-00001-of-00002.safetensors")["a"].astype(np.float32)
    assert np.array_equal(found, [1, 65504, 65504, 65504, -65504, np.inf, np.nan], equal_nan=True)
    assert written(source, tmp_path / "o.safetensors", dtype="fp32").beyond == 0


def test_metadata_that_may_no_longer_be_true_stay_behind(tmp_path: Path) -> None:
    told = FORMAT | {"digest": "4f" * 32}
    source = write(tmp_path / "m", network(), told)
    for options, kept in (
        ({}, told),
        ({"only": "embed"}, FORMAT),
        ({"dtype": "fp16"}, FORMAT),
        ({"dtype": "fp32"}, told),
        ({"metadata": {"a": "b"}}, {"a": "b"}),
        ({"metadata": {}}, {}),
    ):
        written(source, tmp_path / "out.safetensors", **options)
        with open_model(tmp_path / "out.safetensors") as model:
            assert model.contents.metadata == kept


def test_what_ends_in_safetensors_is_a_file_and_all_else_a_directory(single: Path, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").mkdir()
    for out in ("new", "new.v2", "slash.safetensors/", "there.safetensors"):
        written(single, f"{tmp_path}/{out}")
        assert read(tmp_path / out / "model.safetensors") == read(single)
    written(single, tmp_path / "file.safetensors")
    assert (tmp_path / "file.safetensors").is_file()


def test_a_file_may_be_written_over_its_own_source(single: Path, tmp_path: Path) -> None:
    wanted = {name: row for name, row in read(single).items() if name == "fp32"}
    written(single, single, only="^fp32$")
    assert read(single) == wanted


def test_a_link_stays_and_what_it_leads_to_is_replaced(single: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "model").mkdir()
    (tmp_path / "link").symlink_to("deep/model")
    written(single, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "deep" / "model" / "model.safetensors") == read(single)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


# -- what may be replaced --------------------------------------------------------------------------


def model_there(place: Path) -> Path:
    """A model as somebody else wrote it."""
    sharded(place, network(), 2)
    adapter(place / "french")
    for name in ("config.json", "README.md", "french/README.md", "tokenizer.json"):
        (place / name).write_text("old")
    return place


def test_an_empty_directory_gives_way_and_keeps_its_mode(single: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    written(single, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    assert list(all_in(tmp_path / "out")) == ["model.safetensors"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_model_gives_way_to_another_only_where_that_is_said(
    single: Path, tmp_path: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(modeldir, "_exchange", lambda one, two: False)
    out = model_there(tmp_path / "out")
    before = all_in(out)
    with pytest.raises(ConfigError, match="is a directory with files in it, such as README"):
        written(single, out)
    assert all_in(out) == before
    written(single, out, replace=True, companions=CONFIG)
    assert set(all_in(out)) == {"model.safetensors", "config.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "single.safetensors"]


def test_a_directory_may_be_written_over_its_own_source(folder: Path, single: Path) -> None:
    written(folder, folder, replace=True)
    assert all_in(folder) == {"model.safetensors": single.read_bytes()}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "notes.txt",
            "train.py",
            ".git/config",
            "optimizer.pt",
            "pytorch_model.bin",
            "checkpoint-1/config.json",
        ),
        *("french/train.py", "french/more/config.json", "german/README.md"),
    ],
)
def test_a_directory_with_anything_else_is_never_replaced(single: Path, tmp_path: Path, name: str) -> None:
    out = model_there(tmp_path / "out")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = all_in(out)
    with pytest.raises(ConfigError, match=f"holds {name.partition('/')[0]}, which is no part of a model"):
        written(single, out, replace=True)
    assert all_in(out) == before


def test_a_link_to_an_adapter_is_no_part_of_a_model(single: Path, tmp_path: Path) -> None:
    out = model_there(tmp_path / "out")
    (out / "german").symlink_to(adapter(tmp_path / "lora"))
    with pytest.raises(ConfigError, match="holds german, which is no part of a model"):
        written(single, out, replace=True)


def test_a_file_is_not_replaced_by_a_directory(single: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("years of work")
    for options in ({}, {"replace": True}):
        with pytest.raises(ConfigError, match=r"out is not a directory.*name a directory to write"):
            written(single, tmp_path / "out", **options)
    with pytest.raises(ConfigError, match=r"missing.* cannot be written: No such file"):
        written(single, tmp_path / "missing" / "out")
    with pytest.raises(ConfigError, match=r"missing.* cannot be written: No such file"):
        written(single, tmp_path / "missing" / "out.safetensors")


# -- calls and sources that are wrong --------------------------------------------------------------


@pytest.mark.parametrize("out", ["out.safetensors", "out"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only": "("}, "expected a regular expression, found '.': missing"),
        (
            {"only": "decoder"},
            r"'decoder' is found in none of 20 names .such as 'bf16', 'complex', 'counter'",
        ),
        ({"dtype": "int8"}, "dtype: expected one of bf16, fp16, fp32, found 'int8'"),
        ({"companions": {"modeling.py": b""}}, "'modeling.py' is no small file that belongs to a model"),
        ({"companions": {"../config.json": b""}}, "is no small file that belongs to a model"),
        ({"shard_bytes": 0}, "shard_bytes: "),
        ({"shard_bytes": -5}, "shard_bytes: "),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_before_anything_is_made(
    single: Path, tmp_path: Path, out: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        written(single, tmp_path / out, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["single.safetensors"]


def test_a_file_has_no_shards(single: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shard_bytes: a file has no shards"):
        written(single, tmp_path / "out.safetensors", shard_bytes=1000)


def test_a_tensor_of_a_reserved_name_is_refused(single: Path, tmp_path: Path) -> None:
    with open_model(single) as model:
        stream = Restored(model, [])
        stream.contents = Contents((TensorSpec("__metadata__", (3,)),))
        with pytest.raises(ConfigError, match="'__metadata__', a name that it reserves"):
            write_model(stream, tmp_path / "out")


@pytest.mark.parametrize("out", ["out.safetensors", "out"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda order: order[:-1], "tensor 'uint8' did not come"),
        (lambda order: [*order, order[0]], "tensor 'bf16' came twice"),
        (lambda order: [order[0], *order], "tensor 'bf16' came twice"),
    ],
    ids=["missing", "twice at the end", "twice"],
)
def test_a_stream_that_gives_something_else_is_refused(
    single: Path, tmp_path: Path, out: str, change: Callable[[list[str]], list[str]], said: str
) -> None:
    with open_model(single) as model, pytest.raises(FormatError, match=said):
        write_model(Restored(model, change(sorted(mixed()))), tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["single.safetensors"]


def test_a_stream_whose_tensors_are_others_is_refused(single: Path, tmp_path: Path) -> None:
    with open_model(single) as model:
        stream = Restored(model, sorted(mixed()))
        one = stream.contents.specs[0]
        stream.contents = Contents((TensorSpec(one.name, one.shape, "float16"), *stream.contents.specs[1:]))
        with pytest.raises(
            FormatError, match="tensor 'bf16' came twice, or is not what the source said of it"
        ):
            write_model(stream, tmp_path / "out")


# -- disks and processes that fail -----------------------------------------------------------------

LARGE = {
    f"layers.{i}": ("float32", generator(0, f"w{i}").normal(size=5000).astype(np.float32)) for i in range(6)
}


@pytest.mark.parametrize("limit", [100, 900, 50_000])
@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_a_file_that_may_not_grow_is_one_error_and_leaves_nothing(
    tmp_path: Path, limit: int, out: str
) -> None:
    source = write(tmp_path / "m", LARGE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StoreError, match=f"{out} could not be written: File too large"):
            written(source, tmp_path / out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("free", [0, 10_000, 50_000, 100_000])
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_a_full_disk_is_one_error_and_what_was_there_stays(
    tmp_path: Path, small_disk: Path, out: str, there: bool, free: int
) -> None:
    source, small = write(tmp_path / "m", LARGE), write(tmp_path / "s", dict(list(LARGE.items())[:2]))
    options = {} if out.endswith("s") else {"shard_bytes": 30_000, "replace": True}
    if there:
        written(small, small_disk / out, companions=CONFIG, **options)
    disk = os.statvfs(small_disk)
    (small_disk / "full").write_bytes(bytes(disk.f_bavail * disk.f_bsize - free))
    before = all_in(small_disk)
    with pytest.raises(StoreError, match=r"could not be written: No space left.*nothing was left behind"):
        written(source, small_disk / out, companions=CONFIG, **options)
    assert all_in(small_disk) == before
    assert {path.name for path in small_disk.iterdir()} == {"full", *([out] if there else [])}


def test_an_interruption_leaves_nothing(single: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        assert (what, total) == ("writing", sum(len(row[2]) for row in read(single).values()))
        if done > total // 2:
            raise KeyboardInterrupt

    for out in ("out", "out.safetensors"):
        with pytest.raises(KeyboardInterrupt):
            written(single, tmp_path / out, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["single.safetensors"]


KILLED = """
import hashlib, os, shutil, signal, sys
from pathlib import Path
import phloem.kernels
from phloem.files import modeldir
from phloem.files.models import open_model
from phloem.files.writing import write_model

source, old, room, out = map(Path, sys.argv[1:5])
if sys.argv[6] == "False":
    modeldir._exchange = lambda one, two: False

def state(place):
    if not place.exists():
        return "nothing"
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    total = hashlib.sha256()
    for path in files:
        total.update(str(path.relative_to(place)).encode() + path.read_bytes())
    return total.hexdigest()

def child(place, moment):
    seen = 0
    def count(*_):
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, args):
        if event.startswith(("os.", "open", "shutil.", "ctypes.")):
            count()
    with open_model(source) as model:
        sys.addaudithook(hook)
        write_model(model, place, progress=count, **eval(sys.argv[5]))
    os._exit(0)

moment, code = 0, 1
while code:
    moment += 1
    here = room / str(moment)
    here.mkdir()
    place = here / out
    if old.is_dir():
        shutil.copytree(old, place)
    elif old.exists():
        shutil.copy(old, place)
    process = os.fork()
    if process == 0:
        child(place, moment)
    code = os.waitpid(process, 0)[1]
    assert code in (0, signal.SIGKILL), code
    print(state(place))
    shutil.rmtree(here)
"""


@pytest.mark.parametrize(
    ("out", "options", "there", "exchange"),
    [
        ("out.safetensors", {}, False, True),
        ("out.safetensors", {}, True, True),
        ("out", {"shard_bytes": 30_000, "companions": CONFIG}, False, True),
        ("out", {"shard_bytes": 30_000, "companions": CONFIG, "replace": True}, True, True),
        ("out", {"companions": CONFIG, "replace": True}, True, False),
    ],
    ids=["a new file", "a file", "a new directory", "a directory", "a directory in two steps"],
)
def test_a_process_killed_at_any_moment_leaves_the_old_model_or_the_new_one(
    tmp_path: Path, out: str, options: dict[str, Any], there: bool, exchange: bool
) -> None:
    source, old = write(tmp_path / "m", LARGE), tmp_path / "old"
    if there:
        model_there(old) if out == "out" else write(old, network())
    (tmp_path / "room").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, source, old, tmp_path / "room", out, repr(options), str(exchange)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    states = done.stdout.split()
    assert len(states) >= 10
    first, last = states[0], states[-1]
    assert (first == "nothing") != there
    changed = states.index(last)
    assert set(states[changed:]) == {last}
    if there and not exchange:  # for a moment it has no name
        assert set(states[:changed]) <= {first, "nothing"}
        assert states.count("nothing") <= 1
    else:
        assert set(states[:changed]) == {first}


MEASURE = """
import os, re, sys
from pathlib import Path
import phloem.kernels
from phloem.files.models import open_model
from phloem.files.writing import write_model

def highest():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

most = 0
def progress(*_):
    global most
    most = max(most, len(os.listdir("/proc/self/fd")))

def work(source):
    for out, options in (("out", eval(sys.argv[3])), ("out.safetensors", {})):
        with open_model(source) as model:
            write_model(model, Path(sys.argv[2]) / out, progress=progress, replace=True, **options)

work(sys.argv[1] + ".small")  # what is loaded once is loaded
before, files = highest(), len(os.listdir("/proc/self/fd"))
work(sys.argv[1])
print(highest() - before, most - files)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to read the peak from")
@pytest.mark.parametrize("options", [{"shard_bytes": 9 << 20}, {"dtype": "bf16", "shard_bytes": 1}], ids=str)
def test_memory_is_bounded_by_the_largest_tensor_and_few_files_are_open(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    largest, count = 4 << 20, 24
    draw = generator(0, "large")
    arrays = [draw.normal(size=(1024, 1024)).astype(np.float32) for _ in range(3)]
    sharded(tmp_path / "m", {f"layers.{i}": ("float32", arrays[i % 3]) for i in range(count)}, 12)
    sharded(tmp_path / "m.small", {"layers.0": ("float32", arrays[0][:9])}, 1)
    (tmp_path / "to").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "m", tmp_path / "to", repr(options)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, files = map(int, done.stdout.split())
    assert peak < 3.5 * largest, f"{peak / largest:.1f} tensors"
    assert files <= 20
    assert len(where(tmp_path / "to" / "out")) == count


def test_what_the_library_loads_is_what_was_there(folder: Path, tmp_path: Path) -> None:
    written(folder, tmp_path / "out", shard_bytes=2000, only="^(fp32|fp16|int|uint|mask|counter|no)")
    arrays = {
        name: a for path in (tmp_path / "out").glob("*.safetensors") for name, a in load_file(path).items()
    }
    for name, array in arrays.items():
        assert np.array_equal(array, mixed()[name][1].astype(array.dtype))
        assert array.dtype.name == mixed()[name][0]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(arrays) == set(index["weight_map"])
    assert index["metadata"] == {"total_size": sum(array.nbytes for array in arrays.values())}
    assert all(
        re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", shard) for shard in index["weight_map"].values()
    )
