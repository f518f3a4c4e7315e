"""Small kernels, compiled and disassembled."""

from __future__ import annotations

import functools

import pytest
from disassembler import KernelCode, disassemble

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.nvrtc import Nvrtc, find_nvrtc, nvrtc_libraries

CHIPS = tuple(f"sm_{number}" for number in (50, 52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 120))

needs_nvrtc = pytest.mark.skipif(not nvrtc_libraries(), reason="no NVRTC is installed here")


def nvrtc_for(architecture: str) -> Nvrtc | None:
    """None where none that is installed makes code for it: torch's for old cards ends at sm_90."""
    try:
        return find_nvrtc(architecture)
    except UnsupportedError:
        return None


@functools.cache
def compiled(source: str, architecture: str, *options: str) -> bytes:
    """The cubin of `source`; skips the test where nothing here makes one."""
    nvrtc = nvrtc_for(architecture)
    if nvrtc is None:
        pytest.skip(f"no NVRTC for {architecture} is installed here")
    return nvrtc.compile(source, architecture, options=options).cubin


def code_of(source: str, architecture: str, *options: str) -> KernelCode:
    """The only kernel of `source`."""
    (code,) = disassemble(compiled(source, architecture, *options)).values()
    return code
