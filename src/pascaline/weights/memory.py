"""Memory for weights: large pages where the system has them.

A weight is several arrays, most of them smaller than what the C library or numpy ask large pages
for; touching fresh memory in small pages takes longer than copying a weight out of the page cache.
So arrays are cut from chunks. A chunk is freed with the last array in it.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from typing import Any

import numpy
from numpy.typing import DTypeLike, NDArray

CHUNK_BYTES = 64 << 20
_HUGE_PAGE_BYTES = 2 << 20
_ALIGNMENT = 64


class Arena:
    """Chunks that arrays of one kind are cut from; safe to use from several threads.

    Arrays that go early share no chunk with those that stay.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk: NDArray[numpy.uint8] = numpy.empty(0, numpy.uint8)
        self._used = 0

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array, aligned to 64 bytes."""
        item = numpy.dtype(dtype)
        nbytes = int(numpy.prod(shape, dtype=numpy.int64)) * item.itemsize
        with self._lock:
            if self._used + nbytes > len(self._chunk):
                self._chunk, self._used = _large_pages(max(CHUNK_BYTES, nbytes)), 0
            start, self._used = self._used, -(-(self._used + nbytes) // _ALIGNMENT) * _ALIGNMENT
            taken = self._chunk[start : start + nbytes]
        return taken.view(item).reshape(shape)

    def close_chunk(self) -> None:
        """Begin the next array in a chunk of its own, so that this one goes with the arrays in it."""
        with self._lock:
            self._chunk, self._used = numpy.empty(0, numpy.uint8), 0


def _large_pages(nbytes: int) -> NDArray[numpy.uint8]:
    memory = mmap.mmap(-1, nbytes + _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = numpy.frombuffer(memory, numpy.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE_BYTES
    return whole[start : start + nbytes]


_as_stored = Arena()
allocate = _as_stored.allocate
"""For weights as checkpoints have them."""


def give_back() -> None:
    """When weights are loaded: what they passed through goes back to the system."""
    _as_stored.close_chunk()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(ctypes.c_size_t(0))
