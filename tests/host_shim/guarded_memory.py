"""Memory of a card, as kernels are to be caught at its edges.

A buffer lies between pages that cannot be touched, its end as close to the next one as its alignment of
16 bytes allows; what is left between is filled with a pattern and looked at afterwards. Inputs cannot be
written.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy

ALIGNMENT = 16
"""The least that a kernel may count on: that of the widest loads."""

_NO_ACCESS, _READ, _WRITE = 0, mmap.PROT_READ, mmap.PROT_WRITE
_NO_RESERVE = 0x4000  # MAP_NORESERVE, which the mmap module does not name below Python 3.13
_SLACK = 0xA5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@dataclass(frozen=True)
class Sparse:
    """A buffer of any size of which only some pieces matter.

    Parameters
    ----------
    nbytes : of the whole.
    pieces : contiguous arrays by their offsets in bytes, each in pages of its own.
    has_zeros : elsewhere; otherwise nothing else can be touched.
    """

    nbytes: int
    pieces: Mapping[int, numpy.ndarray]
    has_zeros: bool = False


class GuardedBuffer:
    """One buffer at `address`; `close` gives it back."""

    def __init__(self, name: str, content: numpy.ndarray | Sparse) -> None:
        if isinstance(content, numpy.ndarray):
            assert content.flags.c_contiguous, f"{name} is not contiguous"
            content = Sparse(content.nbytes, {0: content} if content.nbytes else {})
        self.name, self.nbytes, self._pieces = name, content.nbytes, content.pieces
        self._has_zeros = content.has_zeros
        page = mmap.PAGESIZE
        inside = -(-self.nbytes // ALIGNMENT) * ALIGNMENT
        self._mapped = -(-inside // page) * page + 2 * page
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        start = _libc.mmap(None, self._mapped, _NO_ACCESS, flags, -1, 0)
        if start in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"{self._mapped} bytes of addresses for {name}")
        self._start: int = start
        self.address = start + self._mapped - page - inside
        self._windows: list[tuple[int, int]] = []  # addresses of whole pages
        if content.has_zeros:
            self._windows.append((start + page, start + self._mapped - page))
            self._protect(*self._windows[0], _READ | _WRITE)
            for offset, piece in self._pieces.items():
                self._piece(offset, piece.nbytes)[:] = piece.reshape(-1).view(numpy.uint8)
            return
        for offset, piece in self._pieces.items():
            first = (self.address + offset) // page * page
            last = -(-(self.address + offset + piece.nbytes) // page) * page
            if offset + piece.nbytes == self.nbytes:
                last = start + self._mapped - page
            assert all(last <= begin or first >= end for begin, end in self._windows), "pieces share a page"
            self._protect(first, last, _READ | _WRITE)
            self._windows.append((first, last))
            self._bytes(first, last)[:] = _SLACK
            self._piece(offset, piece.nbytes)[:] = piece.reshape(-1).view(numpy.uint8)

    def _protect(self, first: int, last: int, access: int) -> None:
        if _libc.mprotect(first, last - first, access) != 0:
            raise OSError(ctypes.get_errno(), f"no access to {last - first} bytes of {self.name}")

    @staticmethod
    def _bytes(first: int, last: int) -> numpy.ndarray:
        return numpy.ctypeslib.as_array((ctypes.c_uint8 * (last - first)).from_address(first))

    def _piece(self, offset: int, nbytes: int) -> numpy.ndarray:
        return self._bytes(self.address + offset, self.address + offset + nbytes)

    def make_read_only(self) -> None:
        for first, last in self._windows:
            self._protect(first, last, _READ)

    def fill(self, value: int) -> None:
        for offset, piece in self._pieces.items():
            self._piece(offset, piece.nbytes)[:] = value

    def content(self) -> list[numpy.ndarray]:
        """Copies of all pieces, as bytes."""
        return [self._piece(offset, piece.nbytes).copy() for offset, piece in self._pieces.items()]

    def copy_back(self) -> None:
        """Write what is there to the arrays that it was made from."""
        for offset, piece in self._pieces.items():
            piece.reshape(-1).view(numpy.uint8)[:] = self._piece(offset, piece.nbytes)

    def strays(self) -> list[int]:
        """Offsets, outside of the buffer's pieces, of bytes that were written; none are seen among zeros."""
        found: list[int] = []
        if self._has_zeros:
            return found
        for (first, last), (offset, piece) in zip(self._windows, self._pieces.items(), strict=True):
            begin = self.address + offset
            for start, stop in ((first, begin), (begin + piece.nbytes, last)):
                changed = numpy.flatnonzero(self._bytes(start, stop) != _SLACK)
                found += [start + int(each) - self.address for each in changed]
        return found

    def place(self, address: int) -> tuple[int, str]:
        """How far `address` is from the buffer, and where that is in words."""
        offset = address - self.address
        if 0 <= offset < self.nbytes:
            return 0, f"to byte {offset} of {self.name}, which may not be touched so"
        if offset < 0:
            return -offset, f"{-offset} bytes before {self.name}"
        return offset - self.nbytes, f"{offset - self.nbytes} bytes beyond the {self.nbytes} of {self.name}"

    def close(self) -> None:
        _libc.munmap(self._start, self._mapped)
