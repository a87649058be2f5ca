"""Models in directories: what is read, and every index and link that is refused."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.files.folders import FORMAT, adapter, index, sharded, where
from tests.files.models import mixed, moved, network, read, write

from phloem.errors import ConfigError, FormatError, PhloemError, StoreError
from phloem.files import decode_file, encode_file, models
from phloem.files.models import open_model

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def found(path: Path, **options: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    with open_model(path, **options) as model:
        assert [spec.name for spec in model.contents.specs] == sorted(
            spec.name for spec in model.contents.specs
        )
        assert all(model.spec(spec.name) == spec for spec in model.contents.specs)
        assert model.size_bytes == sum(model.read(spec).size for spec in model.contents.specs)
        return {
            spec.name: (spec.dtype, spec.shape, model.read(spec).tobytes()) for spec in model.contents.specs
        }


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A model of two shards."""
    return sharded(tmp_path / "model", network(), 2)


def refused(folder: Path, said: str, kind: type[PhloemError] = FormatError) -> None:
    with pytest.raises(kind, match=said) as caught:
        open_model(folder)
    assert "\n" not in str(caught.value)


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_directory_of_shards_has_the_tensors_of_all(tmp_path: Path, count: int) -> None:
    whole = write(tmp_path / "whole", mixed())
    assert found(sharded(tmp_path / "model", mixed(), count)) == read(whole)


def test_a_file_and_a_directory_with_one_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    single = write(folder / "model.safetensors", mixed(), FORMAT)
    assert found(folder) == found(single) == read(single)
    index(folder, {"weight_map": dict.fromkeys(mixed(), "model.safetensors")})
    assert found(folder) == read(single)


def test_metadata_are_what_all_shards_say(two: Path) -> None:
    with open_model(two) as model:
        assert model.contents.metadata == FORMAT
    tensors = {name: (dtype, np.array(a)) for name, (dtype, a) in network().items()}
    write(
        two / FIRST,
        {n: tensors[n] for n, shard in where(two).items() if shard == FIRST},
        FORMAT | {"of": "us"},
    )
    with open_model(two) as model:
        assert model.contents.metadata == FORMAT


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here to count open files in")
    tensors = {f"layers.{number:02d}": ("float32", np.full(3, number, np.float32)) for number in range(40)}
    folder = sharded(tmp_path / "model", tensors, 20)
    before, most = len(os.listdir("/proc/self/fd")), 0
    with open_model(folder) as model:
        for spec in (*model.contents.specs, *reversed(model.contents.specs)):
            assert model.read(spec).tobytes() == tensors[spec.name][1].tobytes()
            most = max(most, len(os.listdir("/proc/self/fd")))
        assert most <= before + models._MOST_OPEN + 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_that_is_replaced_while_the_model_is_open_is_an_error(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_MOST_OPEN", 1)
    with open_model(two) as model:
        names = {shard: name for name, shard in where(two).items()}
        model.read(model.spec(names[FIRST]))
        model.read(model.spec(names[SECOND]))
        shutil.copy(two / FIRST, two / "copy")
        (two / "copy").replace(two / FIRST)
        with pytest.raises(StoreError, match="was written to while the model was read"):
            model.read(model.spec(names[FIRST]))


def test_directories_are_encoded_and_decoded_like_files(tmp_path: Path) -> None:
    base, new = mixed(), moved(mixed(), mixed("update", 0.01))
    base_folder, new_folder = sharded(tmp_path / "base", base, 3), sharded(tmp_path / "new", new, 2)
    base_file, new_file = write(tmp_path / "b", base, FORMAT), write(tmp_path / "n", new, FORMAT)
    for options in ({"bits": 6.0}, {"lossless": True}):
        encode_file(new_folder, tmp_path / "f", base=base_folder, **options)
        encode_file(new_file, tmp_path / "g", base=base_file, **options)
        assert (tmp_path / "f").read_bytes() == (tmp_path / "g").read_bytes()
        decode_file(tmp_path / "f", tmp_path / "o", base=base_folder)
        decode_file(tmp_path / "f", tmp_path / "p", base=base_file)
        assert (tmp_path / "o").read_bytes() == (tmp_path / "p").read_bytes()
    assert (tmp_path / "o").read_bytes() == new_file.read_bytes()


def test_a_directory_and_a_file_are_compared_by_name(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "new", network(), 2)
    tensors = network()
    del tensors["layers.2.norm.weight"]
    with pytest.raises(ConfigError, match=r"base has no tensor 'layers\.2\.norm\.weight', which .*new has"):
        encode_file(folder, tmp_path / "f", base=write(tmp_path / "base", tensors), bits=1.0)


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = (
        tmp_path / "models--us--it" / "snapshots" / "0123",
        tmp_path / "models--us--it" / "blobs",
    )
    blobs.mkdir(parents=True)
    snapshot.parent.mkdir()
    folder = sharded(snapshot, network(), 2)
    for path in list(folder.iterdir()):
        path.rename(blobs / f"{len(path.name):064x}{path.name[:8]}{path.name[10:11]}")
        path.symlink_to(Path("../../blobs") / f"{len(path.name):064x}{path.name[:8]}{path.name[10:11]}")
    assert found(folder) == read(write(tmp_path / "whole", network()))


def test_a_link_to_a_file_beside_it_is_followed(two: Path) -> None:
    wanted = found(two)
    (two / FIRST).rename(two / "elsewhere")
    (two / FIRST).symlink_to("elsewhere")
    assert found(two) == wanted


def test_the_directory_itself_may_be_a_link(two: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(two)
    assert found(tmp_path / "link") == found(two)


# -- what is refused -------------------------------------------------------------------------------


def test_a_directory_without_a_model_says_what_is_there(tmp_path: Path) -> None:
    refused(
        tmp_path,
        r"expected model.safetensors or .*index.json in .*, found no \.safetensors file",
        ConfigError,
    )
    write(tmp_path / "model.fp16.safetensors", network())
    refused(tmp_path, r"found model.fp16.safetensors \(name a file, such as", ConfigError)


def test_a_directory_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: object) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("phloem.files.folders.os.listdir", forbidden)
    refused(tmp_path, "cannot be read: Permission denied", ConfigError)


def test_an_adapter_without_its_base_is_no_model(tmp_path: Path) -> None:
    refused(adapter(tmp_path / "lora"), "holds an adapter and no model .give it beside its base", ConfigError)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere cannot be read: No such file", ConfigError)


def test_a_model_and_an_index_of_another_are_not_chosen_between(two: Path) -> None:
    write(two / "model.safetensors", network("other"))
    refused(two, "which may be two models", ConfigError)


@pytest.mark.parametrize("shards", [1, 2])
def test_pickles_are_refused_with_the_line_that_converts_them(tmp_path: Path, shards: int) -> None:
    pytest.importorskip("torch")
    names = ["pytorch_model.bin"] if shards == 1 else [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    made = (
        f"torch.save({{'w{number}': torch.arange(6.0).reshape(2, 3).t()}}, {str(tmp_path / name)!r})"
        for number, name in enumerate(names)
    )
    pasted(f'python -c "import torch; {"; ".join(made)}"')
    with pytest.raises(ConfigError, match="are pickles") as caught:
        open_model(tmp_path)
    pasted((caught.value.hint or "").removeprefix("convert them once: "))
    wanted = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    for number in range(shards):
        assert found(tmp_path)[f"w{number}"] == ("float32", (3, 2), wanted.tobytes())
    with open_model(tmp_path) as model:
        assert model.contents.metadata == FORMAT
    assert (tmp_path / "model.safetensors").exists() == (shards == 1)


def pasted(line: str) -> None:
    """Runs a line as a user pastes it to a shell; the house bans pickles, so it is not part of this file."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(line, shell=True, check=True, env=os.environ | {"PATH": path})


@pytest.mark.parametrize(
    "name",
    [
        *("../model-00001-of-00002.safetensors", "/etc/model.safetensors", "a/b.safetensors", "..", ""),
        *(
            "a\\b.safetensors",
            "a\0.safetensors",
            "a\n.safetensors",
            "model-00001-of-00002.bin",
            "modeling.py",
        ),
        *("x" * 300 + ".safetensors", "./model-00001-of-00002.safetensors", "\ud800.safetensors"),
    ],
    ids=ascii,
)
def test_an_index_names_plain_files_of_its_directory(two: Path, name: str) -> None:
    shutil.copy(two / FIRST, two.parent / FIRST)
    index(two, {"weight_map": where(two) | {"embed.weight": name}})
    refused(two, "where the name of a .safetensors file of that very directory belongs")


@pytest.mark.parametrize("name", [FIRST, "model.safetensors.index.json"])
def test_a_link_out_of_the_directory_is_refused(two: Path, tmp_path: Path, name: str) -> None:
    (two / name).rename(tmp_path / "private")
    for target in (tmp_path / "private", Path("../private")):
        (two / name).unlink(missing_ok=True)
        (two / name).symlink_to(target)
        refused(two, "is a link that leads out of its directory", ConfigError)


def test_a_link_of_a_single_file_that_leads_out_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(write(tmp_path / "private", network()))
    refused(folder, "leads out of its directory", ConfigError)


def test_a_cache_whose_files_lie_elsewhere_is_not_followed(tmp_path: Path) -> None:
    snapshot, private = tmp_path / "it" / "snapshots" / "0123", tmp_path / "private"
    snapshot.mkdir(parents=True)
    private.mkdir()
    write(private / "secret", network())
    (tmp_path / "it" / "blobs").symlink_to(private)
    (snapshot / "model.safetensors").symlink_to("../../blobs/secret")
    refused(snapshot, "leads out of its directory", ConfigError)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("nowhere.safetensors"),
        lambda path: path.symlink_to(path.name),
    ],
    ids=["directory", "fifo", "dangling link", "loop"],
)
def test_a_shard_that_is_no_file_is_refused(two: Path, make: Callable[[Path], None]) -> None:
    (two / FIRST).unlink()
    make(two / FIRST)
    refused(two, "is not a file that can be read", ConfigError)


def test_a_missing_shard_is_named(two: Path) -> None:
    (two / SECOND).unlink()
    refused(two, f"has no file '{SECOND}', which its index names .was the model copied or downloaded")


def test_a_shard_cut_short_is_refused(two: Path) -> None:
    os.truncate(two / SECOND, 1000)
    refused(two, "is not a whole safetensors file")


def test_a_tensor_that_its_shard_lacks_is_named(two: Path) -> None:
    index(two, {"weight_map": where(two) | {"head.weight": FIRST}})
    refused(two, f"says that tensor 'head.weight' lies in {FIRST}, which has none")


def test_a_tensor_that_the_index_does_not_name_is_refused(two: Path) -> None:
    """transformers would load it, others not."""
    named = where(two)
    del named["layers.1.norm.weight"]
    index(two, {"weight_map": named})
    refused(
        two, r"holds a tensor 'layers\.1\.norm\.weight' that its index does not name .*write the index again"
    )


def test_a_tensor_in_two_shards_is_refused(two: Path) -> None:
    both = {name: network()[name] for name, shard in where(two).items() if shard == SECOND}
    write(two / SECOND, both | {"embed.weight": network()["embed.weight"]})
    refused(two, f"tensor 'embed.weight' lies in {FIRST} and again in .*{SECOND}")


def test_a_tensor_that_the_index_puts_elsewhere_is_refused(two: Path) -> None:
    named = where(two)
    index(two, {"weight_map": named | {"embed.weight": SECOND}})
    refused(two, f"tensor 'embed.weight' lies in .*{FIRST}, and its index says {SECOND}")


def test_two_links_to_one_shard_are_a_tensor_in_two(two: Path) -> None:
    (two / SECOND).unlink()
    (two / SECOND).symlink_to(FIRST)
    refused(two, "again in")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not the JSON of an index"),
        ("{", "is not the JSON of an index"),
        ("[" * 100_000, "is not the JSON of an index"),
        ('{"weight_map": {"w": 1' + "0" * 5000 + "}}", "is not the JSON of an index"),
        ('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', "it has 'w' twice"),
        ('{"weight_map": {}, "weight_map": {"w": "a.safetensors"}}', "it has 'weight_map' twice"),
        ("[]", "to have a 'weight_map' from tensors to files"),
        ("null", "to have a 'weight_map' from tensors to files"),
        ("{}", "to have a 'weight_map' from tensors to files"),
        ('{"weight_map": {}}', "to have a 'weight_map' from tensors to files"),
        ('{"weight_map": ["a.safetensors"]}', "to have a 'weight_map' from tensors to files"),
        ('{"weight_map": {"w": 1}}', "to have a 'weight_map' from tensors to files"),
        ('{"weight_map": {"w": ["a.safetensors"]}}', "to have a 'weight_map' from tensors to files"),
        ('{"weight_map": {"w": null}}', "to have a 'weight_map' from tensors to files"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_index_is_refused(two: Path, text: str, said: str) -> None:
    (two / "model.safetensors.index.json").write_text(text)
    refused(two, re.escape(said))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_an_index_is_utf_8(two: Path, encoding: str) -> None:
    text = json.dumps({"weight_map": where(two) | {"ü": FIRST}}, ensure_ascii=False)
    (two / "model.safetensors.index.json").write_bytes(text.encode(encoding))
    refused(two, "is not the JSON of an index")


def test_an_index_that_none_needs_is_not_read_to_its_end(two: Path) -> None:
    with (two / "model.safetensors.index.json").open("r+b") as file:
        file.truncate(models.LARGEST_INDEX_BYTES + 1)
    refused(two, "has more than 64 MiB, which no index needs")


def test_a_name_is_shown_without_what_a_terminal_would_obey(two: Path) -> None:
    index(two, {"weight_map": where(two) | {"\x1b[2J\n": FIRST}})
    refused(two, r"tensor '\?\[2J\?' lies in")
