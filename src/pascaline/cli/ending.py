"""How a command ends, `pascaline` and the repository's scripts alike.

Exit codes: 0 done; 1 a check failed, or something broke (the reader of our output left, too: Typer sees
to that); 2 a user's mistake, told in one message; 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pascaline.core.errors import EngineError, PascalineError

INTERRUPTED = 130
"""What shells say of a process that Ctrl-C ended."""


def run(main: Callable[[], int | None], name: str | None = None) -> NoReturn:
    """End with the exit code that `main` returns, or with that of its error, without a traceback.

    Parameters
    ----------
    name : that messages begin with; that of the script by default.
    """
    _open_streams()
    try:
        sys.exit(main())
    except PascalineError as error:
        sys.stderr.write(f"{name or Path(sys.argv[0]).stem}: {error}\n")
        sys.exit(1 if isinstance(error, EngineError) else 2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"{name or Path(sys.argv[0]).stem}: cannot write the output: {error.strerror}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on another ends it at once
        sys.exit(INTERRUPTED)
    finally:
        _flush()


def _open_streams() -> None:
    """Python has none where a file descriptor was closed (`>&-`), and files would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process


def _flush() -> None:
    """What is left for a reader that has gone would be complained of when Python ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
