"""A consortium's own records from a CSV file, with the columns that the recipe names."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from phloem.errors import ConfigError, nearest
from phloem.tensors import Array

if TYPE_CHECKING:
    import _csv

LARGEST = float(np.finfo(np.float32).max)
"""Numbers beyond this are infinite in float32."""


@dataclass(frozen=True)
class Table:
    """Numbers, a yes-or-no label and a site for every row."""

    features: Array
    labels: npt.NDArray[np.int64]
    sites: npt.NDArray[np.str_]
    digest: str
    """SHA-256 of the file, in hexadecimal."""


def read_csv(path: str, *, features: Sequence[str], label: str, site: str) -> Table:
    """The table in the UTF-8 file `path`, whose first line names the columns.

    Features are numbers, the label is 0 or 1, the site is a name.

    Raises:
        ConfigError: no such file, a column it lacks, no rows, or a value that is not what its column holds.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        hint = "check 'csv' in the recipe; a relative path starts at the current directory"
        raise ConfigError(f"the data file '{path}' cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the data file '{path}' is not UTF-8 text", hint="save it as CSV in UTF-8"
        ) from error
    lines = csv.reader(io.StringIO(text, newline=""))
    records = _records(lines, path)
    columns = next(records, [])
    for name in (*features, label, site):
        if name not in columns:
            near = nearest(name, columns)
            hint = f"did you mean '{near}'?" if near else f"it has {', '.join(columns) or 'no columns'}"
            raise ConfigError(f"the data file '{path}' has no column '{name}'", hint=hint)
    numbers, labels, sites = [], [], []
    for record in records:
        if not record:
            continue  # an empty line
        row = dict(zip(columns, record, strict=False))
        where = f"line {lines.line_num} of '{path}'"
        numbers.append([_number(row.get(name), name, where) for name in features])
        wanted = _number(row.get(label), label, where)
        if wanted not in (0, 1):
            raise ConfigError(f"{where}: the label '{label}' must be 0 or 1, found {row[label]!r}")
        labels.append(int(wanted))
        sites.append(row.get(site, "").strip())
    if not numbers:
        raise ConfigError(f"the data file '{path}' has no rows")
    return Table(
        features=np.array(numbers, np.float32),
        labels=np.array(labels, np.int64),
        sites=np.array(sites),
        digest=hashlib.sha256(data).hexdigest(),
    )


def _records(lines: _csv.Reader, path: str) -> Iterator[list[str]]:
    try:
        yield from lines
    except csv.Error as error:
        hint = "quote fields that hold commas or quotes"
        raise ConfigError(f"line {lines.line_num} of '{path}' is not CSV: {error}", hint=hint) from error


def _number(text: str | None, column: str, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) <= LARGEST:
        hint = "fill gaps and turn categories into numbers first"
        raise ConfigError(f"{where}: column '{column}' must be a number, found {text!r}", hint=hint)
    return value
