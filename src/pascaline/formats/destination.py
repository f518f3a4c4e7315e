"""Where weights are loaded to: this machine's memory, or a card's, at the speed that its bus allows."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy
import torch
from numpy.typing import NDArray

from pascaline.core.threads import compute_threads
from pascaline.weights.memory import allocate

_ALIGNMENT = 8


class Destination(ABC):
    """A device's memory; `outputs_at_once` bounds what is taken apart there at a time."""

    device: torch.device
    outputs_at_once: int

    @abstractmethod
    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype, *, stays: bool = True) -> torch.Tensor:
        """An uninitialised tensor, of a weight, or of what it passes through and does not stay."""

    @abstractmethod
    def bring(self, data: memoryview) -> torch.Tensor:
        """A file's bytes there, flat uint8; maybe a view of the file."""


class Memory(Destination):
    """This machine's, where files are mapped: nothing is copied on the way."""

    device = torch.device("cpu")
    outputs_at_once = 256  # a few MiB, however large the weight

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype, *, stays: bool = True) -> torch.Tensor:
        if not stays:
            return torch.empty(shape, dtype=dtype)
        flat = torch.from_numpy(allocate((int(numpy.prod(shape)) * dtype.itemsize,), numpy.uint8))
        return flat.view(dtype).view(shape)

    def bring(self, data: memoryview) -> torch.Tensor:
        raw = numpy.frombuffer(data, numpy.uint8)
        return torch.from_numpy(raw.copy() if raw.ctypes.data % _ALIGNMENT else raw)


IN_MEMORY = Memory()


class Card(Destination):
    """A card's. Bytes go through two buffers of pinned memory: one is filled while the other is copied.

    Several threads fill, since one reads files slower than the bus takes them. Copies have a stream of their
    own, and run beside what turns the weights before into their form.
    """

    outputs_at_once = 4096
    CHUNK_BYTES = 32 << 20
    _MOST_THREADS = 8

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_card = device.type == "cuda"  # else the same by plain copies, which tests compare
        self._stream = torch.cuda.Stream(device) if self._is_card else None  # type: ignore[no-untyped-call]  # torch's own
        self._count = min(self._MOST_THREADS, max(compute_threads(), 1))
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="weights")
        buffers = [
            (
                torch.empty(self.CHUNK_BYTES, dtype=torch.uint8, pin_memory=self._is_card),
                torch.cuda.Event() if self._is_card else None,  # type: ignore[no-untyped-call]  # torch's own
            )
            for _ in range(2)
        ]
        self._buffers: Iterator[tuple[torch.Tensor, torch.cuda.Event | None]] = itertools.cycle(buffers)

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype, *, stays: bool = True) -> torch.Tensor:  # noqa: ARG002 - all memory is alike
        return torch.empty(shape, dtype=dtype, device=self.device)

    def bring(self, data: memoryview) -> torch.Tensor:
        source = numpy.frombuffer(data, numpy.uint8)
        with self._copying():
            # Of the copies' own stream: what is computed there before has nothing to wait for.
            there = torch.empty(len(source), dtype=torch.uint8, device=self.device)
            for start in range(0, len(source), self.CHUNK_BYTES):
                piece = source[start : start + self.CHUNK_BYTES]
                buffer, copied = next(self._buffers)
                if copied is not None:
                    copied.synchronize()
                self._fill(buffer.numpy()[: len(piece)], piece)
                there[start : start + len(piece)].copy_(buffer[: len(piece)], non_blocking=True)
                if copied is not None:
                    copied.record()
        if self._stream is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self._stream)
            there.record_stream(computing)
        return there

    def close(self) -> None:
        """Wait for all copies, and give back what they took."""
        self._threads.shutdown()
        self._buffers = iter(())
        if self._stream is not None:
            self._stream.synchronize()
            torch.cuda.empty_cache()

    def _copying(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _fill(self, target: NDArray[numpy.uint8], piece: NDArray[numpy.uint8]) -> None:
        """Copy a piece of a file, whose pages come in on the way, by all threads."""
        each = max(-(-len(piece) // self._count), 1 << 20)
        starts = range(0, len(piece), each)

        def copy(start: int) -> None:
            numpy.copyto(target[start : start + each], piece[start : start + each])

        list(self._threads.map(copy, starts))
