"""Free memory of the card, and who holds the rest.

Other processes on the card take memory and time from ours. What a container's neighbours hold is counted,
but they cannot be named from inside.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.core.units import format_bytes
from pascaline.doctor.cards import NO_CARD
from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.hardware.probe import InstalledGpu

_TOLERATED = 0.1
"""Of the memory: what a desktop takes, and what the driver keeps for itself."""
_EXPECTED = "nine tenths of the card's memory free"


def _look(machine: Machine) -> Iterator[Finding]:
    gpus = machine.gpus().gpus
    if not gpus:
        yield ok(NO_CARD, _EXPECTED)
    for gpu in gpus:
        yield _examine(gpu)


def _examine(gpu: InstalledGpu) -> Finding:
    name = f"card {gpu.index} ({gpu.name})"
    if gpu.memory_bytes is None or gpu.free_memory_bytes is None:
        return ok(f"{name} does not tell", _EXPECTED)
    used_bytes = gpu.memory_bytes - gpu.free_memory_bytes
    seen = f"{name}: {format_bytes(gpu.free_memory_bytes)} of {format_bytes(gpu.memory_bytes)} free"
    if used_bytes <= _TOLERATED * gpu.memory_bytes:
        return ok(seen, _EXPECTED)
    holders = [each for each in gpu.processes if each.used_bytes is None or each.used_bytes > 64 << 20]
    if not holders:
        return warn(f"{seen}; who holds the rest is not visible here", _EXPECTED, "nvidia-smi  # on the host")
    described = [
        f"{each.name or 'a process'} ({each.pid})"
        + (f" {format_bytes(each.used_bytes)}" if each.used_bytes is not None else "")
        for each in holders
    ]
    remedy = "# if they are not needed:\nkill " + " ".join(str(each.pid) for each in holders)
    return warn(f"{seen}; held by {', '.join(described)}", _EXPECTED, remedy)


CHECK = Check("gpu_memory", _look)
