"""How a command ends, `pascaline` and the repository's scripts alike.

Exit codes: 0 done; 1 a check failed, or something broke (the reader of our output left, too, of which nothing
is said); 2 a user's mistake, told in one message; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
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
    name = name or Path(sys.argv[0]).stem
    _prepare_streams()
    try:
        try:
            sys.exit(main())
        except SystemExit:
            sys.stdout.flush()  # now, while it can be told that it could not be written
            raise
    except PascalineError as error:
        _tell(f"{name}: {error}")
        sys.exit(1 if isinstance(error, EngineError) else 2)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _tell(f"{name}: cannot write the output: {error.strerror}")
        elif error.errno != errno.EPIPE or not _reader_left():
            raise
        sys.exit(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on another ends it at once
        sys.exit(INTERRUPTED)
    finally:
        _drop_unwritten()


def _prepare_streams() -> None:
    """Have all of them, and let them write any character: a terminal that is not UTF-8 lacks "±" and bars.

    Python has none where a file descriptor was closed (`>&-`), and files would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _tell(message: str) -> None:
    """On stderr, whose disk may be full as well."""
    with contextlib.suppress(OSError):
        sys.stderr.write(message + "\n")


def _reader_left() -> bool:
    """Whether the pipe that broke was our output's, and not that to another process of ours."""
    streams = select.poll()
    for stream in (sys.stdout, sys.stderr):
        streams.register(stream.fileno(), 0)  # for no event: what is told is errors and ends alone
    return bool(streams.poll(0))


def _drop_unwritten() -> None:
    """What cannot be written would be complained of again when Python ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
