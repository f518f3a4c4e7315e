"""This machine's processor as the planner sees it: probed in a quarter of a second, without torch.

Memory bandwidth and the rates of products are measured now, by the native library's own loops where there
is one; what its kernels reach of them is for plan/chips.py to say. `pascaline bench gemm --save` measures the
kernels themselves.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy
import psutil

from pascaline.core.threads import compute_threads
from pascaline.hardware.instruction_sets import FOLDER, InstructionSet, fault_of, runnable, settled
from pascaline.hardware.measured import MeasuredRates, load_measured
from pascaline.hardware.native_loops import Exercise, NativeLoops
from pascaline.hardware.processor import last_cache_bytes, processor_name
from pascaline.hardware.roofline import Roofline

_LEAST_BYTES, _MOST_BYTES = 48 << 20, 192 << 20
_PASSES = 6
_PRODUCT_SIZE = 640
_PRODUCTS = (Exercise.fp32, Exercise.int8)
LAUNCH_S = 2e-6
"""A step of the native library's program meets all threads at a barrier."""


@dataclass(frozen=True)
class Cpu:
    """A processor.

    Parameters
    ----------
    instructions : of the native kernels that run here, None where plain torch computes.
    threads : that compute.
    operations_per_s, bytes_per_s : of all of them together, measured now; "int8" with native kernels only.
    memory_bytes : of the machine.
    measured : what `bench gemm --save` found, if it was run.
    """

    name: str
    instructions: str | None
    threads: int
    operations_per_s: Mapping[str, float]
    bytes_per_s: float
    memory_bytes: int
    measured: MeasuredRates | None = None

    def roofline(self) -> Roofline:
        """What cannot be beaten: the larger of what was measured now and what was saved."""
        rates = dict(self.operations_per_s)
        saved = {} if self.measured is None else self.measured.operations_per_s
        for arithmetic in rates:
            rates[arithmetic] = max(rates[arithmetic], saved.get(arithmetic, 0.0))
        return Roofline(
            name=self.name,
            kind="cpu",
            compute_capability=None,
            operations_per_s=rates,
            bytes_per_s=max(self.bytes_per_s, (self.measured and self.measured.bytes_per_s) or 0.0),
            memory_bytes=self.memory_bytes,
            launch_s=LAUNCH_S,
        )


def probe_cpu(tell: Callable[[str], None]) -> Cpu:
    """Measure this machine; `tell` receives a sentence when saved rates are passed over.

    Raises
    ------
    ConfigError : PASCALINE_THREADS or PASCALINE_CPU_INSTRUCTIONS is wrong.
    """
    threads = compute_threads()
    instructions, rates = _fastest_native(threads) or (None, {"fp32": _fp32_operations_per_s()})
    name = processor_name()
    return Cpu(
        name=name,
        instructions=instructions,
        threads=threads,
        operations_per_s=rates,
        bytes_per_s=_bytes_per_s(threads),
        memory_bytes=int(psutil.virtual_memory().total),
        measured=load_measured(name, tell),
    )


def why_plain_torch() -> str:
    """Why no native kernels compute here."""
    if not runnable():
        return "native kernels need an x86 processor with AVX2, or an ARM one with dot products"
    faults = (fault_of(each.library, FOLDER, each) for each in settled())
    return f"{'; '.join(fault or 'a library does not load' for fault in faults)}: `make setup` builds them"


def _bytes_per_s(threads: int) -> float:
    """Of reading an array larger than the caches, the best of some passes."""
    nbytes = min(max(4 * last_cache_bytes(), _LEAST_BYTES), _MOST_BYTES)
    parts = numpy.array_split(numpy.ones(nbytes // 8, numpy.int64), threads)
    with ThreadPoolExecutor(threads) as pool:
        return nbytes / _best_of(lambda: list(pool.map(numpy.max, parts)))


def _fastest_native(threads: int) -> tuple[str, dict[str, float]] | None:
    """The instruction set that the engine takes, the fastest whose library loads, with its rates."""
    for instructions in settled():
        if fault_of(instructions.library, FOLDER, instructions) is None:
            rates = _native_rates(instructions, threads)
            if rates:
                return instructions.name, rates
    return None


def _native_rates(instructions: InstructionSet, threads: int) -> dict[str, float]:
    """By arithmetic; nothing where the library does not load.

    One thread is measured, for other work would hold several up; all of them do as much each.
    """
    try:
        library = ctypes.CDLL(str(instructions.library))
        loops, use_threads = NativeLoops(library), library.pascaline_use_threads
    except (OSError, AttributeError):
        return {}
    use_threads(1)
    try:
        return {what.name: threads * loops.operations_per_s(what, _PASSES) for what in _PRODUCTS}
    finally:
        use_threads(threads)  # an engine of this process has the same library


def _fp32_operations_per_s() -> float:
    """Of numpy's matrix product, whose library takes all cores that it may; the best of some."""
    x = numpy.ones((_PRODUCT_SIZE, _PRODUCT_SIZE), numpy.float32)
    out = numpy.empty_like(x)
    return 2.0 * _PRODUCT_SIZE**3 / _best_of(lambda: numpy.matmul(x, x, out=out))


def _best_of(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some passes; whatever else the machine does only slows them down."""
    best = float("inf")
    for _ in range(_PASSES):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best
