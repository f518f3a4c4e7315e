"""The emulator's memories, which refuse every access that a card may only answer with garbage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_FIRST_ADDRESS = 0x7F00_0000_0000
_DISTANCE = 1 << 35
_FOUR_GIB = 1 << 32
_ALIGNMENT = 256
_GAP_BYTES = 256
POISON = 0xA5


class AccessError(Exception):
    """A kernel read or wrote where it may not."""


class GlobalMemory:
    """Named buffers, far apart: between them lies nothing, and what touches nothing is a fault.

    Each buffer of 512 bytes and more lies across a border of 4 GiB, so that an address whose upper half is
    computed wrongly is found.

    Parameters
    ----------
    buffers : contiguous; one that numpy calls read-only may not be written.
    """

    def __init__(self, buffers: Mapping[str, Array]) -> None:
        """Copy them in.

        Raises
        ------
        ValueError : one is not contiguous.
        """
        self._names = list(buffers)
        self._sizes = np.array([buffer.nbytes for buffer in buffers.values()], np.int64)
        self._is_constant = np.array([not buffer.flags.writeable for buffer in buffers.values()], bool)
        halves = self._sizes // 2 // _ALIGNMENT * _ALIGNMENT
        self._bases = _FIRST_ADDRESS + np.arange(len(buffers)) * _DISTANCE + _FOUR_GIB - halves
        padded = (self._sizes + _GAP_BYTES + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
        self._starts = np.concatenate([[0], np.cumsum(padded)]).astype(np.int64)
        self.data = np.full(int(self._starts[-1]), POISON, np.uint8)
        self.written = np.zeros(self.data.size, bool)
        for name, buffer in buffers.items():
            if not buffer.flags.c_contiguous:
                raise ValueError(f"the buffer {name} is not contiguous")
            self.content(name)[:] = buffer.reshape(-1).view(np.uint8)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def address(self, name: str) -> int:
        """Where the buffer starts."""
        return int(self._bases[self._names.index(name)])

    def content(self, name: str) -> Array:
        """Its bytes, now."""
        index = self._names.index(name)
        return self.data[self._starts[index] : self._starts[index] + self._sizes[index]]

    def locate(self, addresses: Array, nbytes: int, *, writes: bool) -> Array:
        """The positions in `data` of accesses of `nbytes`.

        Raises
        ------
        AccessError : one is outside of every buffer, not aligned, or writes what is constant.
        """
        _refuse_misaligned(addresses, nbytes)
        index = np.searchsorted(self._bases, addresses, side="right") - 1
        known = np.maximum(index, 0)
        offsets = addresses - self._bases[known]
        wrong = (index < 0) | (offsets + nbytes > self._sizes[known])
        if wrong.any():
            raise AccessError(self._outside(int(addresses[wrong][0]), nbytes))
        if writes and self._is_constant[known].any():
            raise AccessError(
                f"{self._names[int(known[self._is_constant[known]][0])]} is written, a constant"
            )
        found: Array = self._starts[known] + offsets
        return found

    def _outside(self, address: int, nbytes: int) -> str:
        if not self._names:
            return f"{nbytes} bytes at {address:#x}: there are no buffers"
        ends = self._bases + self._sizes
        nearest = int(np.argmin(np.maximum(self._bases - address, address - ends)))
        offset, size = address - int(self._bases[nearest]), int(self._sizes[nearest])
        return f"{nbytes} bytes at {self._names[nearest]} + {offset}, which has {size} bytes"


class PrivateMemory:
    """One piece of memory for each block (shared) or each thread (local), poisoned at the start.

    Parameters
    ----------
    kind : what messages call it.
    """

    def __init__(self, kind: str, owners: int, nbytes: int) -> None:
        self._kind, self._nbytes = kind, nbytes
        self._stride = -(-nbytes // 16) * 16
        self.data = np.full(owners * self._stride, POISON, np.uint8)

    def locate(self, owners: Array, addresses: Array, nbytes: int) -> Array:
        """The positions in `data` of accesses of `nbytes`.

        Raises
        ------
        AccessError : one is outside of the owner's piece, or not aligned.
        """
        _refuse_misaligned(addresses, nbytes)
        wrong = (addresses < 0) | (addresses + nbytes > self._nbytes)
        if wrong.any():
            where = int(addresses[wrong][0])
            raise AccessError(f"{nbytes} bytes at {where} of {self._nbytes} bytes of {self._kind} memory")
        found: Array = owners * self._stride + addresses
        return found


def load_word(data: Array, positions: Array, nbytes: int) -> Array:
    """uint32 values of 1, 2 or 4 bytes at aligned positions."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[nbytes]
    found: Array = data.view(kind)[positions // nbytes].astype(np.uint32)
    return found


def store_word(data: Array, positions: Array, nbytes: int, values: Array) -> None:
    """Write the low `nbytes` of uint32 values; the last of several to one position stays."""
    kind: Any = {1: np.uint8, 2: np.uint16, 4: np.uint32}[nbytes]
    data.view(kind)[positions // nbytes] = values.astype(kind)


def _refuse_misaligned(addresses: Array, nbytes: int) -> None:
    wrong = addresses % nbytes != 0
    if wrong.any():
        raise AccessError(f"{nbytes} bytes at {int(addresses[wrong][0]):#x}: not aligned")
