"""Which instruction set the CPU kernels use: the fastest, or the one that the user names."""

from __future__ import annotations

import pytest

from pascaline.core.errors import ConfigError
from pascaline.kernels.cpu import native

pytestmark = pytest.mark.skipif(not native.runnable(), reason="no CPU kernels for this processor")


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", native.library.__wrapped__)


def test_the_user_names_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for instructions in native.runnable():
        monkeypatch.setenv("PASCALINE_CPU_INSTRUCTIONS", instructions.name)
        library = native.library()
        if not instructions.library.exists():
            assert library == f"{instructions.library.name} is not built"
        else:
            assert not isinstance(library, str)
            assert library.name == instructions.name


def test_one_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASCALINE_CPU_INSTRUCTIONS", "mmx")
    with pytest.raises(ConfigError, match=r"PASCALINE_CPU_INSTRUCTIONS is 'mmx' .*avx2"):
        native.library()
