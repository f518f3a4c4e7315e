"""What is installed: every NVIDIA card of this machine, as the driver states it.

NVML answers without waking a card; where there is no NVML (some containers, Jetson boards) the CUDA driver
does. A machine with neither has no cards, and a reason. Nothing here raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pascaline.hardware.architectures import architectures
from pascaline.hardware.cuda_attributes import DriverGpu, driver_gpus

T = TypeVar("T")

# nvml.h, nvmlClocksEventReason*: bit -> what holds the clock down. Idle and a user's own setting among them.
_THROTTLE_REASONS = {
    0x01: "idle",
    0x02: "application clocks setting",
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clock setting",
}


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a card; `used_bytes` is None where the driver does not tell."""

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True)
class PcieLink:
    """Generation and lanes, now and at most. A card that idles lowers its generation, not its width."""

    generation: int | None
    max_generation: int | None
    width: int | None
    max_width: int | None


@dataclass(frozen=True)
class InstalledGpu:
    """One card; what the driver does not tell is None.

    Parameters
    ----------
    index, name, uuid, pci_bus_id : as NVML counts and names it ("NVIDIA TITAN X (Pascal)").
    compute_capability, sms, l2_bytes, memory_bus_bits : of the chip.
    memory_bytes, free_memory_bytes : as the driver states them; a little less than on the box.
    max_sm_mhz, max_memory_mhz : the highest clocks that the driver allows; `sm_mhz`, `memory_mhz`: now.
    power_w, power_limit_w, temperature_c, performance_state : now; P0 is 0.
    throttle_reasons : what holds the clock down now, in words.
    persistence_mode, ecc : switched on.
    """

    index: int
    name: str
    uuid: str | None = None
    pci_bus_id: str | None = None
    compute_capability: str | None = None
    sms: int | None = None
    l2_bytes: int | None = None
    memory_bus_bits: int | None = None
    memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    max_sm_mhz: int | None = None
    max_memory_mhz: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    performance_state: int | None = None
    throttle_reasons: tuple[str, ...] = ()
    persistence_mode: bool | None = None
    ecc: bool | None = None
    pcie: PcieLink = PcieLink(None, None, None, None)
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class Installed:
    """The machine's cards, in NVML's order.

    Parameters
    ----------
    gpus : empty when there is none, or none that a driver speaks for.
    reason : why `gpus` is empty, or why only the CUDA driver answered; None when NVML did.
    driver : version of the display driver, "580.95.05".
    cuda : the newest CUDA that the driver serves, "13.0".
    """

    gpus: tuple[InstalledGpu, ...]
    reason: str | None
    driver: str | None = None
    cuda: str | None = None


def installed_gpus() -> Installed:
    """Ask NVML, then the CUDA driver. Takes some milliseconds; never raises."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _from_cuda_driver(f"NVML: {error}")
    try:
        count = _told(pynvml.nvmlDeviceGetCount) or 0
        handles = [(index, _told(pynvml.nvmlDeviceGetHandleByIndex, index)) for index in range(count)]
        described = [_describe(index, handle) for index, handle in handles if handle is not None]
        found = _completed(tuple(described))
        return Installed(
            gpus=found,
            reason=None if found else "NVML: no card, or none that this process may see",
            driver=_told(pynvml.nvmlSystemGetDriverVersion),
            cuda=_cuda_version(_told(pynvml.nvmlSystemGetCudaDriverVersion)),
        )
    finally:
        _told(pynvml.nvmlShutdown)


def _from_cuda_driver(reason: str) -> Installed:
    answer = driver_gpus()
    if not answer.gpus:
        return Installed((), f"{reason}; CUDA driver: {answer.reason}", cuda=_cuda_version(answer.version))
    found = tuple(_from_attributes(index, gpu) for index, gpu in enumerate(answer.gpus))
    return Installed(found, reason, cuda=_cuda_version(answer.version))


def _completed(gpus: tuple[InstalledGpu, ...]) -> tuple[InstalledGpu, ...]:
    """With the CUDA driver's count of SMs where NVML's answer was not enough to tell it."""
    if all(gpu.sms is not None for gpu in gpus):
        return gpus
    by_bus_id = {_bus_key(gpu.pci_bus_id): gpu for gpu in driver_gpus().gpus}
    return tuple(
        gpu
        if gpu.sms is not None or (known := by_bus_id.get(_bus_key(gpu.pci_bus_id))) is None
        else replace(gpu, sms=known.sms, l2_bytes=known.l2_bytes)
        for gpu in gpus
    )


def _bus_key(pci_bus_id: str | None) -> str:
    """NVML writes the domain with eight digits, the CUDA driver with four."""
    domain, _, rest = (pci_bus_id or "").casefold().partition(":")
    return f"{domain.lstrip('0')}:{rest}"


def _from_attributes(index: int, gpu: DriverGpu) -> InstalledGpu:
    return InstalledGpu(
        index=index,
        name=gpu.name,
        pci_bus_id=gpu.pci_bus_id,
        compute_capability=gpu.compute_capability,
        sms=gpu.sms,
        l2_bytes=gpu.l2_bytes,
        memory_bus_bits=gpu.memory_bus_bits,
        memory_bytes=gpu.memory_bytes,
        max_sm_mhz=gpu.max_sm_mhz,
        max_memory_mhz=gpu.max_memory_mhz,
    )


def _describe(index: int, handle: object) -> InstalledGpu:
    """One card as NVML tells it; each question may fail by itself, and older drivers know fewer."""
    import pynvml

    ask = functools.partial(_ask, handle)
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    capability_name = None if capability is None else "{}.{}".format(*capability)
    memory = ask("nvmlDeviceGetMemoryInfo")
    pci = ask("nvmlDeviceGetPciInfo")
    ecc = ask("nvmlDeviceGetEccMode")
    persistence = ask("nvmlDeviceGetPersistenceMode")
    reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0  # the name that old drivers know, too
    milliwatts = ask("nvmlDeviceGetPowerUsage")
    limit_milliwatts = ask("nvmlDeviceGetEnforcedPowerLimit")
    return InstalledGpu(
        index=index,
        name=ask("nvmlDeviceGetName") or "NVIDIA GPU",
        uuid=ask("nvmlDeviceGetUUID"),
        pci_bus_id=None if pci is None else _text(pci.busId),
        compute_capability=capability_name,
        sms=_sms(capability_name, ask("nvmlDeviceGetNumGpuCores")),
        memory_bus_bits=ask("nvmlDeviceGetMemoryBusWidth"),
        memory_bytes=None if memory is None else int(memory.total),
        free_memory_bytes=None if memory is None else int(memory.free),
        max_sm_mhz=ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM),
        max_memory_mhz=ask("nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM),
        sm_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
        memory_mhz=ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
        power_w=None if milliwatts is None else milliwatts / 1000,
        power_limit_w=None if limit_milliwatts is None else limit_milliwatts / 1000,
        temperature_c=ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        performance_state=ask("nvmlDeviceGetPerformanceState"),
        throttle_reasons=tuple(text for bit, text in _THROTTLE_REASONS.items() if reasons & bit),
        persistence_mode=None if persistence is None else bool(persistence),
        ecc=None if ecc is None else bool(ecc[0]),
        pcie=PcieLink(
            generation=ask("nvmlDeviceGetCurrPcieLinkGeneration"),
            max_generation=ask("nvmlDeviceGetMaxPcieLinkGeneration"),
            width=ask("nvmlDeviceGetCurrPcieLinkWidth"),
            max_width=ask("nvmlDeviceGetMaxPcieLinkWidth"),
        ),
        processes=_processes(ask("nvmlDeviceGetComputeRunningProcesses") or ()),
    )


def _ask(handle: object, question: str, *more: object) -> Any:
    import pynvml

    return _told(getattr(pynvml, question), handle, *more)


def _told(ask: Callable[..., T], *arguments: object) -> T | None:
    """The answer, or None where this driver or card has none."""
    import pynvml

    try:
        return ask(*arguments)
    except (pynvml.NVMLError, UnicodeDecodeError, AttributeError):
        return None


def _processes(running: Any) -> tuple[GpuProcess, ...]:
    import pynvml

    return tuple(
        GpuProcess(
            pid=int(each.pid),
            name=_told(pynvml.nvmlSystemGetProcessName, each.pid),
            used_bytes=None if each.usedGpuMemory is None else int(each.usedGpuMemory),
        )
        for each in running
    )


def _sms(compute_capability: str | None, cores: int | None) -> int | None:
    """NVML counts fp32 lanes, of which an SM has a known number; the CUDA driver need not be woken."""
    known = architectures().get(compute_capability or "")
    if known is None or not cores:
        return None
    return cores // known.fp32_lanes_per_sm


def _cuda_version(number: int | None) -> str | None:
    return None if not number else f"{number // 1000}.{number % 1000 // 10}"


def _text(raw: str | bytes) -> str:
    return raw if isinstance(raw, str) else raw.decode(errors="replace")
