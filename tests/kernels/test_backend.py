from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from phloem import kernels
from phloem.errors import ConfigError


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = kernels.backend_name()
    yield
    kernels.use(before)


def test_the_chosen_kernels_are_used() -> None:
    for name in kernels.available():
        kernels.use(name)
        assert kernels.backend_name() == name


def test_the_reference_is_always_available() -> None:
    assert kernels.available()[0] == "reference"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="no kernels 'gpu'"):
        kernels.use("gpu")  # type: ignore[arg-type]


def test_falling_back_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "_native_or_none", lambda: None)
    with caplog.at_level(logging.WARNING):
        kernels.use("auto")
    assert kernels.backend_name() == "reference"
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()


def test_missing_native_kernels_are_an_error_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_native_or_none", lambda: None)
    with pytest.raises(ConfigError, match="not built"):
        kernels.use("native")
