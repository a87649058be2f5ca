"""What users may rely on, in one list.

A change here is a change of the interface: `python -m tests.test_surface` prints the new list for
tests/surface.txt, and the change log says why.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import phloem
from phloem import errors
from phloem.codecs.registry import CODECS
from phloem.job import directory
from phloem.recipe import Recipe
from phloem.rounds import events, plan
from phloem.wire import frame

SURFACE = Path(__file__).resolve().parent / "surface.txt"


def surface() -> Iterator[str]:
    for name in sorted(phloem.__all__):
        value = getattr(phloem, name)
        if inspect.isfunction(value):
            yield f"phloem.{name}({', '.join(inspect.signature(value).parameters)})"
        else:
            yield f"phloem.{name}"
            if not issubclass(value, Exception):
                methods = [key for key in vars(value) if not key.startswith("_")]
                yield from (f"phloem.{name}.{key}" for key in sorted(methods))
    for codec in sorted(CODECS, key=lambda codec: codec.code):
        fields = ", ".join(field.name for field in dataclasses.fields(codec))  # type: ignore[arg-type]
        yield f"codec {codec.code} {codec.name}({fields})"
    for name, kind in sorted(inspect.getmembers(errors, inspect.isclass)):
        if issubclass(kind, errors.PhloemError):
            yield f"error {name}({', '.join(base.__name__ for base in kind.__bases__)})"
    for kind in events.Event.__args__:
        yield f"event {kind.__name__}({', '.join(field.name for field in dataclasses.fields(kind))})"
    yield from _flower()
    yield f"version of frames {frame.VERSION}"
    yield f"version of plans {plan.VERSION}"
    yield f"version of run directories {directory.VERSION}"
    yield from _keys(Recipe, "recipe")


def _flower() -> Iterator[str]:
    """What `phloem.flower` offers, read from the source: it may not be importable here."""
    package = Path(phloem.__file__).parent
    found = {}
    for path in (package / "flower.py", *(package / "engines" / "flower").glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = node
            elif isinstance(node, ast.ClassDef) and node.name == "Compressed":
                found[node.name] = next(n for n in node.body if getattr(n, "name", "") == "__init__")
    for name in ("Compressed", "coordinator_app", "mod", "site_app"):
        arguments = [a.arg for a in (*found[name].args.args, *found[name].args.kwonlyargs) if a.arg != "self"]
        yield f"phloem.flower.{name}({', '.join(arguments)})"


def _keys(cls: type[Any], where: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, default = hints[field.name], "needed"
        if field.default is not dataclasses.MISSING:
            default = repr(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = "" if dataclasses.is_dataclass(hint) else repr(field.default_factory())
        arguments = typing.get_args(hint)
        nested = next((part for part in (hint, *arguments) if dataclasses.is_dataclass(part)), None)
        kind = hint if arguments or isinstance(hint, types.UnionType) else hint.__name__
        shown = "" if nested is hint else f": {kind} = {default}".replace("phloem.recipe.tables.", "")
        yield f"{where}.{field.name}{shown}"
        if nested is not None and nested is not hint and nested.__name__ == "Link":
            continue
        if nested is not None:
            assert isinstance(nested, type)
            yield from _keys(nested, f"{where}.{field.name}")


def test_the_public_surface_is_the_one_that_was_written_down() -> None:
    assert list(surface()) == SURFACE.read_text("utf-8").splitlines()


def test_every_public_name_is_there_and_documented() -> None:
    for name in phloem.__all__:
        assert (getattr(phloem, name).__doc__ or "").strip(), f"phloem.{name} has no docstring"
    assert set(phloem.__all__) <= set(dir(phloem))


if __name__ == "__main__":
    print("\n".join(surface()))
