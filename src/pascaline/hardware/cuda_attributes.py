"""The CUDA driver's own description of its devices.

Source of names and numbers: cuda.h, CUdevice_attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.core.errors import CudaError
from pascaline.hardware.cuda_driver import Device, device_count, driver_version

_CLOCK_RATE_KHZ = 13
_MULTIPROCESSORS = 16
_MEMORY_CLOCK_RATE_KHZ = 36
_MEMORY_BUS_BITS = 37
_L2_BYTES = 38


@dataclass(frozen=True)
class DriverGpu:
    """A CUDA device; clocks are the highest, in MHz, and what the driver does not tell is None."""

    name: str
    pci_bus_id: str
    compute_capability: str
    sms: int
    memory_bytes: int
    l2_bytes: int | None
    memory_bus_bits: int | None
    max_sm_mhz: int | None
    max_memory_mhz: int | None


@dataclass(frozen=True)
class DriverAnswer:
    """What the driver says; `reason` tells why `gpus` is empty, `version` is 13000 for CUDA 13.0."""

    gpus: tuple[DriverGpu, ...]
    reason: str | None = None
    version: int | None = None


def driver_gpus() -> DriverAnswer:
    """All CUDA devices that this process may see. Never raises."""
    try:
        version = driver_version()
        found = tuple(_describe(Device(ordinal)) for ordinal in range(device_count()))
    except CudaError as error:
        return DriverAnswer((), error.seen)
    except AttributeError as error:  # a library of that name that is no CUDA driver
        return DriverAnswer((), f"it is no CUDA driver ({error})")
    return DriverAnswer(found, None if found else "it sees no device", version)


def _describe(device: Device) -> DriverGpu:
    return DriverGpu(
        name=device.name,
        pci_bus_id=device.pci_bus_id,
        compute_capability=device.compute_capability,
        sms=device.attribute(_MULTIPROCESSORS),
        memory_bytes=device.memory_bytes,
        l2_bytes=_known(device, _L2_BYTES),
        memory_bus_bits=_known(device, _MEMORY_BUS_BITS),
        max_sm_mhz=_mhz(_known(device, _CLOCK_RATE_KHZ)),
        max_memory_mhz=_mhz(_known(device, _MEMORY_CLOCK_RATE_KHZ)),
    )


def _known(device: Device, attribute: int) -> int | None:
    """None where the driver has no answer, or says 0 (as for the clocks of some boards)."""
    try:
        return device.attribute(attribute) or None
    except CudaError:
        return None


def _mhz(khz: int | None) -> int | None:
    return None if khz is None else khz // 1000
