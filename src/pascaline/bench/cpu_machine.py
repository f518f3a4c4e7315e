"""The processor, as a place where products are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
import torch

from pascaline.bench import paths
from pascaline.bench.product import Backend, Path
from pascaline.bench.timing import Sample
from pascaline.core.threads import compute_threads
from pascaline.hardware.native_loops import Exercise, MemoryReads
from pascaline.hardware.processor import last_cache_bytes, processor_name
from pascaline.kernels.cpu import native

PASSES = 30
"""Of the loops that measure limits; the fastest counts."""
QUIET = 0.05
"""What others may take of a machine that is called quiet."""


@dataclass(frozen=True)
class _Work:
    """Processor seconds so far: of all programs, of this one; and of the clock, for all processors."""

    all_s: float
    own_s: float
    offered_s: float

    @classmethod
    def so_far(cls) -> _Work:
        busy, own = psutil.cpu_times(), psutil.Process().cpu_times()
        all_s = sum(busy) - busy.idle - getattr(busy, "iowait", 0.0) - getattr(busy, "guest", 0.0)
        return cls(all_s, own.user + own.system, time.monotonic() * (psutil.cpu_count() or 1))

    def others_since(self, before: _Work) -> float:
        """What other programs had since then, as a share of all processors."""
        others_s = (self.all_s - before.all_s) - (self.own_s - before.own_s)
        return max(0.0, others_s / max(self.offered_s - before.offered_s, 1e-9))


class CpuMachine:
    """The processor, by as many threads as the engine takes."""

    kind: Backend = "cpu"
    sample_s = 0.02
    shape_s = 5.0

    def __init__(self) -> None:
        self.name = processor_name()
        self.threads: int | None = compute_threads()
        self.cache_bytes = last_cache_bytes()
        self._notes: list[str] = []
        self._reads: MemoryReads | None = None
        self._limits: Mapping[str, float] = {}
        self._clock_mhz: float | None = None
        torch.set_num_threads(compute_threads())
        library = native.library()
        if isinstance(library, str):
            self._notes.append(f"limits are not known, because no native library measures them: {library}")
        else:
            loops = library.loops
            fp32, int8 = (loops.operations_per_s(what, PASSES) for what in (Exercise.fp32, Exercise.int8))
            # fp64 is derived: half as many numbers a vector.
            self._limits = {"fp64": fp32 / 2, "fp32": fp32, "int8": int8}
            self._clock_mhz = loops.clock_mhz(PASSES)
            self._reads = MemoryReads(loops)
        self._began = _Work.so_far()

    def notes(self) -> list[str]:
        others = _Work.so_far().others_since(self._began)
        if others < QUIET:
            return self._notes
        return [
            *self._notes,
            f"other processes took {others:.0%} of this machine meanwhile: figures are too low, and scatter",
        ]

    def paths(self) -> tuple[Path, ...]:
        return paths.cpu_paths()

    def warm(self, run: Callable[[], None]) -> None:
        """The loops that measured the limits have done so."""

    def time(self, run: Callable[[], None], times: int, _expected_s: float, /) -> Sample:
        began = time.perf_counter()
        for _ in range(times):
            run()
        return Sample(time.perf_counter() - began, self._clock_mhz)

    def shortened(self, run: Callable[[], None], _once_s: float, /) -> Callable[[], None]:
        return run

    def operations_per_s(self, _clock_mhz: float | None, /) -> Mapping[str, float]:
        return self._limits

    def bytes_per_s(self) -> float | None:
        """Measured anew: on a shared host it changes with what its other guests do."""
        return None if self._reads is None else self._reads()

    def free_bytes(self) -> int:
        return int(psutil.virtual_memory().available)
