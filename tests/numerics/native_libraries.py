"""The native libraries that tests of the CPU's kernels run on; conftest.py has the fixture `use`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pascaline.hardware.instruction_sets import runnable
from pascaline.kernels.cpu import native

NEEDS_LIBRARY = pytest.mark.skipif(not runnable(), reason="no CPU kernels for this processor")
"""Where there are kernels for the processor, a library that is not built, or stale, fails the tests."""
RUNNABLE = [each.name for each in runnable()]
"""Names of the instruction sets, the fastest first."""

Use = Callable[[str, int], None]
"""`use(instruction set, threads)` for launches from now on."""


def load(name: str) -> native.Library:
    """A library of its own, with threads of its own."""
    return native.Library(next(each for each in runnable() if each.name == name))
