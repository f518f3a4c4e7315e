"""Which card an installed one is; one that the table does not have is filled from device attributes."""

from __future__ import annotations

from dataclasses import replace

from pascaline.core.errors import UnknownGpuError
from pascaline.hardware.architectures import Architecture, architectures, capability_numbers
from pascaline.hardware.gpus import Gpu, find_gpu
from pascaline.hardware.probe import InstalledGpu

_MEMORY_TOLERANCE = 0.15
"""Drivers keep up to about a tenth for themselves (error correction in GDDR takes a sixteenth)."""


def identify(installed: InstalledGpu) -> Gpu:
    """The table's card, with the highest clock, SMs and memory that this one has; else `estimated_gpu`.

    Raises
    ------
    UnknownGpuError : it is not in the table, and the driver does not tell enough about it.
    """
    memory_gib = None if installed.memory_bytes is None else installed.memory_bytes / 2**30
    try:
        gpu = find_gpu(installed.name, memory_gib=memory_gib, sms=installed.sms)
    except UnknownGpuError:
        return estimated_gpu(installed)
    if installed.sms is not None and installed.sms != gpu.sms:  # a part of a card, or another of its name
        gpu = replace(gpu, sms=installed.sms, is_estimated=True)
    if memory_gib is not None and abs(memory_gib / gpu.memory_gib - 1) > _MEMORY_TOLERANCE:
        gpu = replace(gpu, memory_gib=round(memory_gib, 2), is_estimated=True)
    if installed.max_sm_mhz:  # builders' boards allow more than the maker's
        gpu = replace(gpu, max_mhz=installed.max_sm_mhz)
    return gpu


def estimated_gpu(installed: InstalledGpu) -> Gpu:
    """A card from what its driver tells: memory moves two words a clock on every kind that NVML clocks.

    Rates an SM a clock are its architecture's, or those of the nearest older one, which `source` says. Limits
    of product lines (GeForce's tensor rates) are unknown and left out: the estimate errs upwards.

    Raises
    ------
    UnknownGpuError : an attribute that is needed is missing, or the chip is older than Maxwell.
    """
    needed = {
        "compute capability": installed.compute_capability,
        "number of SMs": installed.sms,
        "highest SM clock": installed.max_sm_mhz,
        "highest memory clock": installed.max_memory_mhz,
        "width of the memory bus": installed.memory_bus_bits,
        "memory": installed.memory_bytes,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise UnknownGpuError(
            f"{installed.name!r:.80} is in no table, and its driver does not tell its {', '.join(missing)}",
            remedy="Name a card like it with --gpu. All names: pascaline gpus",
        )
    capability = str(installed.compute_capability)
    nearest = _nearest_architecture(capability)
    source = "estimated from what the driver tells"
    if nearest.compute_capability != capability:
        source += (
            f"; rates an SM a clock are those of {nearest.compute_capability}, the nearest that is known"
        )
    bus_bytes = (installed.memory_bus_bits or 0) / 8
    clock_mhz = installed.max_sm_mhz or 0
    return Gpu(
        name=installed.name,
        aliases=(),
        architecture=replace(nearest, compute_capability=capability),
        sms=installed.sms or 0,
        boost_mhz=clock_mhz,
        max_mhz=clock_mhz,
        memory_gib=round((installed.memory_bytes or 0) / 2**30, 2),
        bandwidth_gb_per_s=round(2 * (installed.max_memory_mhz or 0) * bus_bytes / 1000, 1),
        l2_mib=(installed.l2_bytes or 0) / 2**20,
        power_w=installed.power_limit_w or 0.0,
        source=source,
        is_estimated=True,
    )


def _nearest_architecture(capability: str) -> Architecture:
    """The same, or the newest that is older: of the same major version where there is one."""
    wanted = capability_numbers(capability)
    older = [
        known for known in architectures().values() if capability_numbers(known.compute_capability) <= wanted
    ]
    if not older:
        raise UnknownGpuError(f"a card of compute capability {capability}", expected="5.0 or newer (Maxwell)")
    return max(older, key=lambda known: capability_numbers(known.compute_capability))
