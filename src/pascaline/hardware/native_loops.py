"""What the processor does at most: measured by loops of the native library that do nothing else."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable
from enum import IntEnum

import numpy

from pascaline.core.errors import OutOfMemoryError
from pascaline.hardware.processor import last_cache_bytes

MOST_THREADS = 256
"""Of a library: `pool::MOST` of team.h."""

LEAST_S = 0.003
"""A loop runs so long: ticks of the clock are nothing beside it, and time slices of other programs longer."""
CACHES = 8
"""The memory that is read is so many times the last cache, between these bounds."""
LEAST_BYTES, MOST_BYTES = 256 << 20, 1 << 30


class Exercise(IntEnum):
    """What a loop does; see kernels/cpu/exercise.h."""

    fp32 = 0
    int8 = 1
    clocks = 2
    reads = 3


class NativeLoops:
    """The loops of a loaded library, on as many threads as it uses.

    Raises
    ------
    AttributeError : the library is of another version, and has none.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._exercise = library.pascaline_exercise
        self._exercise.restype = ctypes.c_int64
        self._exercise.argtypes = (
            ctypes.c_int32,
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.POINTER(ctypes.c_double),
        )

    def run(self, what: Exercise, rounds: int, data: numpy.ndarray | None = None) -> tuple[int, list[float]]:
        """Do one thing on all threads.

        Returns what it amounts to (operations or clocks of each thread, or bytes of all), and the seconds
        that each thread had of a processor.

        Raises
        ------
        OutOfMemoryError : there is no memory for what each thread needs, some KiB.
        """
        address, nbytes = (None, 0) if data is None else (data.ctypes.data, data.nbytes)
        seconds = (ctypes.c_double * MOST_THREADS)()
        amount = int(self._exercise(what, rounds, address, nbytes, seconds))
        if amount < 0:
            raise OutOfMemoryError("no memory to measure the processor's limits", remedy="Free memory")
        return amount, [each for each in seconds if each > 0.0]

    def operations_per_s(self, what: Exercise, passes: int) -> float:
        """Of all threads together, in the fastest of some passes.

        By the time that threads had of a processor: other programs do not count.
        """
        return self._best(what, sum, passes)

    def clock_mhz(self, passes: int) -> float:
        """While all threads do additions of 64-bit integers, each waiting for the one before."""
        return self._best(Exercise.clocks, max, passes) / 1e6

    def _best(self, what: Exercise, of: Callable[[Iterable[float]], float], passes: int) -> float:
        rounds, best = 1, 0.0
        while passes > 0:
            amount, seconds = self.run(what, rounds)
            if not seconds or min(seconds) < LEAST_S:
                rounds *= 2
            else:
                best = max(best, of(amount / each for each in seconds))
                passes -= 1
        return best


class MemoryReads:
    """All threads reading memory that no cache holds; each call is one pass, in bytes a second."""

    def __init__(self, loops: NativeLoops) -> None:
        nbytes = min(max(CACHES * last_cache_bytes(), LEAST_BYTES), MOST_BYTES)
        self._data = numpy.ones(nbytes, numpy.uint8)
        self._loops = loops

    def __call__(self) -> float:
        began = time.perf_counter()
        amount, _ = self._loops.run(Exercise.reads, 1, self._data)
        return amount / (time.perf_counter() - began)
