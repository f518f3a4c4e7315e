"""Fixtures of the kernels' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from native_libraries import Use, load

from pascaline.kernels.cpu import native


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """See `native_libraries.Use`."""
    loaded: dict[str, native.Library] = {}

    def use_library(name: str, threads: int) -> None:
        if name not in loaded:
            loaded[name] = load(name)
        loaded[name].use_threads(threads)
        monkeypatch.setattr(native, "library", lambda: loaded[name])

    yield use_library
    for library in loaded.values():
        library.use_threads(1)
