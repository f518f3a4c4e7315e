"""The processor that a benchmark ran on, and where its results go."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path

import psutil
import torch

from harness.json_lines import first_environment
from pascaline.report.run_record import Cpu, RunRecord, write_record

RESULTS = Path(__file__).resolve().parents[1] / "results"

_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Those that matrix kernels are written for, as /proc/cpuinfo spells them."""

_BANDWIDTH_BYTES = 1 << 29
_BANDWIDTH_PASSES = 6


def physical_cores() -> int:
    """Cores of this machine that this process may use; hyperthreads are not counted."""
    allowed = len(os.sched_getaffinity(0))
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


def measured_cpu(threads: int) -> Cpu:
    """The processor, with its memory's measured read bandwidth."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return Cpu(
        name=info.get("model name", platform.processor() or platform.machine()),
        threads=threads,
        instruction_sets=[name for name in _INSTRUCTION_SETS if name in flags],
        read_gb_per_s_measured=round(read_bandwidth(threads) / 1e9, 2),
    )


@functools.cache
def _large_array() -> torch.Tensor:
    return torch.ones(_BANDWIDTH_BYTES // 4, dtype=torch.float32)


def read_bandwidth(threads: int) -> float:
    """Bytes a second of summing an array far larger than the caches, the best of several passes.

    It changes with what other machines on the same host do: to be measured beside what it bounds.
    """
    torch.set_num_threads(threads)
    array = _large_array()
    best = float("inf")
    for _ in range(_BANDWIDTH_PASSES):
        began = time.perf_counter()
        array.sum()
        best = min(best, time.perf_counter() - began)
    return _BANDWIDTH_BYTES / best


def software(*packages: str) -> dict[str, str]:
    """Versions of Python, the kernel and installed packages."""
    versions = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "linux": platform.release(), **versions}


def thread_settings() -> str:
    """The user's variables that change how threads wait and how many there are, if any is set."""
    given = first_environment()
    names = sorted(name for name in given if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_")))
    return " ".join(f"{name}={given[name]}" for name in names) or "none set"


def load_average() -> str:
    """Of the last minute; a benchmark beside other work is worth little."""
    return f"{os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs"


def write_result(record: RunRecord, cpu: Cpu, case: str) -> Path:
    """Write the record to its `result_path`."""
    path = result_path(cpu, record.created or "undated", case)
    write_record(record, path)
    return path


def result_path(cpu: Cpu, created: str, case: str) -> Path:
    """results/<machine>/<date>-<case>.json, its folder made; the day's latest run stays."""
    return _result_path(cpu.name, created, case)


def card_result_path(gpu: str, case: str) -> Path:
    """As `result_path`, of what is measured on a card today."""
    return _result_path(gpu, now(), case)


def _result_path(name: str, created: str, case: str) -> Path:
    machine = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    day = created[: len("2000-01-31")]
    path = RESULTS / machine / f"{day}-{case}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def now() -> str:
    """The time for a record: ISO 8601, UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
