"""One process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pascaline.core.progress import ProgressCallback, Stage


@contextmanager
def alone(lock: Path, report: ProgressCallback, what: str) -> Iterator[None]:
    """Hold an exclusive lock on a file, which ends with the process whatever happens to it.

    Parameters
    ----------
    what : the work in the third person ("fetches the demo model"), shown while another process does it.
    """
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with Stage(report, f"waiting for another process that {what}", 0, "bytes"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
