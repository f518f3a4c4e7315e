"""What no input may do: fail otherwise than with a PascalineError, take long, or take memory.

Time is this thread's processor time, because machines that fuzz are busy, and there is more of it where a
processor is slow. Memory is the peak of the
resident set while one input is read (Linux: the kernel's high-water mark, set back before each).
"""

from __future__ import annotations

import functools
import os
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

MAX_SECONDS = 2.0
"""On a processor that adds up `_PACE_NUMBERS` in `_PACE_S`: slower ones have more."""
_PACE_NUMBERS, _PACE_S = 1_000_000, 0.06
MAX_EXTRA_BYTES = 64 << 20
MAX_MESSAGE = 4000


@dataclass(frozen=True)
class Finding:
    """`kind` and `place` tell findings apart, `detail` is for people."""

    kind: str
    place: str
    detail: str


class Oracle:
    """Runs a reader on one input after another.

    Parameters
    ----------
    expected : the base class of the errors that are answers.
    """

    def __init__(self, expected: type[Exception]) -> None:
        self._expected = expected
        self._marks = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self.accepted = 0
        self.refused = 0

    def check(self, read: Callable[[], object], nbytes: int) -> Finding | None:
        """None where an input of so many bytes was read, or refused as it should be."""
        os.write(self._marks, b"5")
        resident = _resident_bytes()
        began = time.thread_time()
        problem: Finding | None = None
        try:
            read()
            self.accepted += 1
        except self._expected as error:
            self.refused += 1
            problem = _of_message(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            detail = "".join(traceback.format_exception(error, limit=-12))
            return Finding(type(error).__name__, _place(error), detail)
        took = time.thread_time() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident
        if took > MAX_SECONDS * _slowness():
            return Finding("slow", "", f"{took:.2f} s")
        if grown > MAX_EXTRA_BYTES + 1.1 * nbytes:
            return Finding("memory", "", f"{grown >> 20} MiB for {nbytes} bytes")
        return problem


@functools.cache
def _slowness() -> float:
    """Of this processor, as one or more."""
    times = []
    for _ in range(5):
        began, total = time.thread_time(), 0
        for number in range(_PACE_NUMBERS):
            total += number
        times.append(time.thread_time() - began)
    return max(1.0, min(times) / _PACE_S)


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _place(error: BaseException) -> str:
    """The innermost line of the product."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/pascaline/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/pascaline/')[2]}:{frames[-1].lineno}" if frames else ""


def _of_message(error: Exception) -> Finding | None:
    message = str(error)
    try:
        message.encode()
    except UnicodeEncodeError:
        return Finding("message that is no text", _place(error), ascii(message)[:500])
    if len(message) > MAX_MESSAGE:
        return Finding("message that is too long", _place(error), message[:500])
    if not message.replace("\n", "").isprintable():
        return Finding("message with control characters", _place(error), ascii(message)[:500])
    return None
