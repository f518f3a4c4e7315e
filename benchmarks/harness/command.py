"""How a script of this folder ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

_INTERRUPTED = 130
"""What shells say of a process that Ctrl-C ended."""


def run(main: Callable[[], int | None]) -> NoReturn:
    """With the exit code that `main` returns; after Ctrl-C without a traceback."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
