"""A card, as a place where products are measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import pynvml
import torch

from pascaline.bench import paths
from pascaline.bench.product import Backend, Path
from pascaline.bench.timing import Sample
from pascaline.core.errors import UnknownGpuError
from pascaline.hardware.gpus import Gpu, find_gpu
from pascaline.hardware.probe import InstalledGpu, installed_gpus

_NOT_TOLD = (RuntimeError, pynvml.NVMLError)
"""What torch raises where there is no NVML, or one that does not tell."""


class CudaMachine:
    """The card that torch computes on.

    Its limits are the table's at the clock that NVML reads in the middle of each sample.
    """

    kind: Backend = "cuda"
    threads: int | None = None
    sample_s = 0.1
    shape_s = 7.0
    STEADY, STEADY_SAMPLES = 0.01, 5
    LEAST_WARMING_S, MOST_WARMING_S = 1.0, 8.0
    WORTH_A_GRAPH_S = 2e-3
    READ_AT = 1.6
    """The clock is read after so many times the length of a sample, which begins at 1 and ends at 2."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._installed = _installed(device)
        properties = torch.cuda.get_device_properties(device)
        self.name = self._installed.name if self._installed else properties.name
        self.cache_bytes = int(getattr(properties, "L2_cache_size", 0)) or 64 << 20
        self._notes = _busy_notes(device, self._installed)
        self._gpu: Gpu | None = None
        try:
            gib = properties.total_memory / 2**30
            self._gpu = find_gpu(self.name, memory_gib=gib, sms=properties.multi_processor_count)
        except UnknownGpuError as error:
            self._notes.append(f"limits are not known: {error}")

    def notes(self) -> list[str]:
        return list(dict.fromkeys(self._notes))

    def paths(self) -> tuple[Path, ...]:
        return paths.cuda_paths(self._device)

    def warm(self, run: Callable[[], None]) -> None:
        clocks: list[float] = []
        began = time.monotonic()
        self.time(run, 1, 0.0)
        times = max(1, round(self.sample_s / max(self.time(run, 1, 0.0).seconds, 1e-6)))
        while (elapsed_s := time.monotonic() - began) < self.MOST_WARMING_S:
            clock_mhz = self.time(run, times, self.sample_s).clock_mhz
            latest = clocks[-self.STEADY_SAMPLES :]
            is_steady = len(latest) == self.STEADY_SAMPLES and min(latest) >= (1 - self.STEADY) * max(latest)
            if elapsed_s >= self.LEAST_WARMING_S and (is_steady or clock_mhz is None):
                break
            if clock_mhz is not None:
                clocks.append(clock_mhz)
        else:
            self._notes.append(f"the clock was not steady after {self.MOST_WARMING_S:.0f} s of work")
        if not clocks:
            self._notes.append("NVML does not tell the clock: limits are those at the card's highest")

    def time(self, run: Callable[[], None], times: int, expected_s: float, /) -> Sample:
        # torch types its events' making alone not.
        # torch gives its events no types.
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
        stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
        torch.cuda.synchronize(self._device)
        began = time.monotonic()
        if expected_s:
            # As long of the same before: the clock follows the work late. PERF: an H100 that had slowed
            # down for tensor cores was read at 1560 MHz in the middle of a sample in fp32, which has 1890.
            for _ in range(times):
                run()
        start.record()
        for _ in range(times):
            run()
        stop.record()
        clock_mhz = None
        if expected_s:
            time.sleep(max(0.0, self.READ_AT * expected_s - (time.monotonic() - began)))
            clock_mhz = self._clock_mhz()
        stop.synchronize()
        return Sample(start.elapsed_time(stop) / 1e3, clock_mhz)

    def shortened(self, run: Callable[[], None], once_s: float, /) -> Callable[[], None]:
        """A CUDA graph: by few rows, Python takes longer to launch a product than the card to compute it."""
        if once_s > self.WORTH_A_GRAPH_S:
            return run
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError:  # something in it waits for the card
            return run
        return graph.replay

    def operations_per_s(self, clock_mhz: float | None, /) -> Mapping[str, float]:
        if self._gpu is None:
            return {}
        limits = dict(self._gpu.roofline(clock_mhz).operations_per_s)
        if "tensor_bf16" in limits:
            # NVIDIA A100 and H100 Tensor Core GPU architecture white papers; GA102, AD102 and GB202 likewise.
            limits["tensor_tf32"] = limits["tensor_bf16"] / 2
        return limits

    def bytes_per_s(self) -> float | None:
        return None if self._gpu is None else self._gpu.bandwidth_gb_per_s * 1e9

    def free_bytes(self) -> int:
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def _clock_mhz(self) -> float | None:
        try:
            return float(torch.cuda.clock_rate(self._device)) or None
        except _NOT_TOLD:
            return None


def _installed(device: torch.device) -> InstalledGpu | None:
    """What NVML says of the card that torch calls `device`: they number cards differently."""
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    known = [gpu for gpu in installed_gpus().gpus if gpu.uuid]
    return next((gpu for gpu in known if uuid and uuid in str(gpu.uuid)), None)


def _busy_notes(device: torch.device, gpu: InstalledGpu | None) -> list[str]:
    """What others do on the card, as far as this process may see."""
    notes = []
    others = [] if gpu is None else [each for each in gpu.processes if each.pid != os.getpid()]
    if others:
        names = ", ".join(f"{each.name or 'a process'!r:.60} ({each.pid})" for each in others[:5])
        notes.append(f"other processes hold memory of this card and may slow it down: {names}")
    try:
        busy_percent = torch.cuda.utilization(device)
    except _NOT_TOLD:
        busy_percent = 0
    if busy_percent > 5:
        notes.append(f"the card was at work {busy_percent} % of the time before the first product")
    return notes
