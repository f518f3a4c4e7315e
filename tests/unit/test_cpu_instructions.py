"""Which instruction set the CPU kernels use: the fastest, or the one that the user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from pascaline.core.errors import ConfigError
from pascaline.hardware import instruction_sets
from pascaline.hardware.instruction_sets import runnable
from pascaline.kernels.cpu import native

pytestmark = pytest.mark.skipif(not runnable(), reason="no CPU kernels for this processor")


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "library", native.library.__wrapped__)


def test_the_user_names_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for instructions in runnable():
        monkeypatch.setenv("PASCALINE_CPU_INSTRUCTIONS", instructions.name)
        library = native.library()
        if not instructions.library.exists():
            assert library == f"{instructions.library.name} is not built"
        else:
            assert not isinstance(library, str)
            assert library.name == instructions.name


@pytest.mark.parametrize(
    ("machine", "line", "expected"),
    [
        ("x86_64", "flags\t\t: fpu avx avx2 fma f16c", ["avx2"]),
        ("aarch64", "Features\t: fp asimd atomics asimdhp asimddp", ["neon-dotprod"]),
        ("aarch64", "Features\t: fp asimd evtstrm crc32", []),
        ("riscv64", "isa\t\t: rv64imafdcv", []),
    ],
)
def test_what_runs_is_read_from_the_system(
    monkeypatch: pytest.MonkeyPatch, machine: str, line: str, expected: list[str]
) -> None:
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor\t: 0\n{line}\nprocessor\t: 1\n{line}\n")
    monkeypatch.setattr(instruction_sets, "processor_flags", instruction_sets.processor_flags.__wrapped__)
    assert [each.name for each in runnable()] == expected


def test_one_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASCALINE_CPU_INSTRUCTIONS", "mmx")
    with pytest.raises(ConfigError, match=r"PASCALINE_CPU_INSTRUCTIONS is 'mmx' .*avx2"):
        native.library()
