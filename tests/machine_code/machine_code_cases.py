"""Small kernels, compiled and disassembled."""

from __future__ import annotations

import functools

import pytest
from disassembler import KernelCode, disassemble

from pascaline.hardware.nvrtc import find_nvrtc, nvrtc_libraries

CHIPS = tuple(f"sm_{number}" for number in (50, 52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 120))

needs_nvrtc = pytest.mark.skipif(not nvrtc_libraries(), reason="no NVRTC is installed here")


@functools.cache
def compiled(source: str, architecture: str, *options: str) -> bytes:
    """The cubin of `source`."""
    return find_nvrtc(architecture).compile(source, architecture, options=options).cubin


def code_of(source: str, architecture: str, *options: str) -> KernelCode:
    """The only kernel of `source`."""
    (code,) = disassemble(compiled(source, architecture, *options)).values()
    return code
