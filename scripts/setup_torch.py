"""Which torch this machine needs: the NVIDIA cards and their driver are asked, then a table decides.

The limits, read from the wheels and NVIDIA's release notes:

| lowest compute capability | driver | torch | built for | architectures in it |
| --- | --- | --- | --- | --- |
| 5.0 to 6.2 (Maxwell, Pascal) | any | 2.7.1 | CUDA 12.6 | 5.0 to 9.0; no build for Python 3.14 |
| 7.0, 7.2 (Volta) | any | 2.10.0 | CUDA 12.8 | 7.0 to 12.0 |
| 7.5 and newer | older than 580 | 2.10.0 | CUDA 12.8 | 7.0 to 12.0 |
| 7.5 and newer | 580 and newer | the newest | CUDA 13 | 7.5 and newer |
| no card | | 2.13.0 | the CPU | |
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_TORCH = "torch==2.13.0"
OLDEST_CAPABILITY = (5, 0)
OLDEST_DRIVER = 525  # the first that runs CUDA 12 programs
CUDA_13_DRIVER = 580

Capability = tuple[int, int]


@dataclass(frozen=True)
class Card:
    """An NVIDIA card as CUDA reports it."""

    name: str
    capability: Capability


@dataclass(frozen=True)
class Machine:
    """What decides about torch: CUDA's cards, the driver, and why CUDA sees no card where one is."""

    cards: tuple[Card, ...] = ()
    driver: tuple[int, ...] | None = None
    trouble: str | None = None


@dataclass(frozen=True)
class TorchChoice:
    """A pip requirement for torch, why it was chosen, and what it costs.

    Sizes are in MB (1e6 bytes), summed over torch and all that it requires (Linux x86-64 wheels):
    `download_mb` packed, `disk_mb` unpacked, None if not known. `newest_python` is the newest (major, minor)
    it has a build for, None if not known.
    """

    requirement: str
    reason: str
    download_mb: int | None
    disk_mb: int | None
    for_cpu: bool = False
    newest_python: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def choose_torch(machine: Machine, newest: str, override: str | None = None) -> TorchChoice:
    """Choose torch for `machine`; `newest` is the project's own requirement, `override` beats every rule."""
    if override:
        return TorchChoice(override, "as PASCALINE_TORCH asks", download_mb=None, disk_mb=None)
    usable = [card for card in machine.cards if card.capability >= OLDEST_CAPABILITY]
    notes = [machine.trouble] if machine.trouble else []
    notes += [
        f"{_describe(card)} is not used: Pascaline starts at compute capability 5.0"
        for card in machine.cards
        if card not in usable
    ]
    if not usable:
        reason = "no usable NVIDIA card, so the build for the CPU"
        return TorchChoice(
            CPU_TORCH, reason, 200, 700, for_cpu=True, newest_python=(3, 14), notes=tuple(notes)
        )
    if machine.driver and machine.driver[0] < OLDEST_DRIVER:
        driver = _dotted(machine.driver)
        notes.append(f"driver {driver} is too old for CUDA 12: install {OLDEST_DRIVER} or newer")
    lowest = min(usable, key=lambda card: card.capability)
    capability = _dotted(lowest.capability)
    if lowest.capability < (7, 0):
        notes += [
            f"{_describe(card)} is not used: torch 2.7.1 has no code for it; PASCALINE_TORCH can choose one"
            for card in usable
            if card.capability >= (10, 0)
        ]
        reason = f"{_describe(lowest)}; 2.7.1 is the last with code for compute capability {capability}"
        return TorchChoice("torch==2.7.1", reason, 3_000, 5_300, newest_python=(3, 13), notes=tuple(notes))
    if lowest.capability < (7, 5):
        reason = f"{_describe(lowest)}; 2.10.0 is the last with code for compute capability {capability}"
    elif machine.driver is None or machine.driver[0] < CUDA_13_DRIVER:
        driver = _dotted(machine.driver) if machine.driver else "of unknown version"
        reason = f"{_describe(lowest)}, driver {driver}; newer than 2.10.0 needs driver {CUDA_13_DRIVER}"
    else:
        reason = f"{_describe(lowest)}, driver {_dotted(machine.driver)}; the newest runs here"
        return TorchChoice(newest, reason, 3_000, 5_500, notes=tuple(notes))
    return TorchChoice("torch==2.10.0", reason, 4_200, 7_200, newest_python=(3, 14), notes=tuple(notes))


def detect_machine() -> Machine:
    """Ask the CUDA driver for every card, whatever CUDA_VISIBLE_DEVICES hides just now."""
    driver = _driver_version()
    present = _pci_cards()
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        cards, failure = _cuda_cards()
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden
    trouble = None
    if not cards and (present or driver):
        trouble = f"an NVIDIA card or its driver is here, but CUDA cannot use it: {failure}"
    return Machine(tuple(cards), driver, trouble)


def hardware_fingerprint() -> str:
    """Text that changes when a card or the driver does; takes a few ms and wakes no card."""
    driver = _driver_version_of_kernel() or _modified("/usr/lib/wsl/lib/libcuda.so.1")
    library = _load("libcuda.so.1") is not None
    return f"driver {driver}, libcuda {library}, cards {' '.join(_pci_cards()) or None}"


def cpu_index_has(requirement: str, timeout_s: float = 5.0) -> bool:
    """Whether PyTorch's index of CPU builds can be reached and lists the pinned `requirement`."""
    listed: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=timeout_s) as answer:
                page = answer.read().decode(errors="replace")
        except (OSError, ValueError):
            return
        listed.append(requirement.replace("==", "-") in page)  # files are named torch-2.13.0…whl

    # In a thread, because looking up a name can outlast any socket timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return listed == [True]


def _describe(card: Card) -> str:
    return f"{card.name} (compute capability {_dotted(card.capability)})"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _load(library: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


def _cuda_cards() -> tuple[list[Card], str]:
    """Return the cards that CUDA can use, and in words why there are none."""
    cuda = _load("libcuda.so.1")
    if cuda is None:
        return [], "libcuda.so.1 is not found (a container needs `--gpus all`, a machine the driver)"
    status = cuda.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return [], f"its driver answers with CUDA error {status} (after a driver update: restart the machine)"
    cards = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        calls = (
            cuda.cuDeviceGet(ctypes.byref(device), index),
            cuda.cuDeviceGetName(name, len(name), device),
            cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),  # COMPUTE_CAPABILITY_MAJOR
            cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),  # COMPUTE_CAPABILITY_MINOR
        )
        if not any(calls):
            cards.append(Card(name.value.decode(errors="replace"), (major.value, minor.value)))
    return cards, "the driver lists no card that it can use"


def _driver_version() -> tuple[int, ...] | None:
    text = _driver_version_of_kernel() or _driver_version_of_nvml()
    return parse_driver(text) if text else None


def parse_driver(text: str) -> tuple[int, ...] | None:
    """Find the driver's version in NVML's or the kernel module's answer: 580.65.06 is (580, 65, 6)."""
    match = re.search(r"(?<![\d.])(\d{3})\.(\d+)(?:\.(\d+))?(?![\d.])", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else None


def _driver_version_of_kernel() -> str | None:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None


def _driver_version_of_nvml() -> str | None:
    nvml = _load("libnvidia-ml.so.1")
    if nvml is None or nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(96)
    status = nvml.nvmlSystemGetDriverVersion(text, len(text))
    nvml.nvmlShutdown()
    return text.value.decode(errors="replace") if status == 0 else None


def _pci_cards() -> list[str]:
    """List the NVIDIA display devices as `slot:device id`; empty where the bus is not visible (WSL)."""
    cards = []
    for device in sorted(Path("/sys/bus/pci/devices").glob("*")):
        try:
            vendor, kind, model = (
                (device / name).read_text().strip() for name in ("vendor", "class", "device")
            )
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            cards.append(f"{device.name}:{model}")
    return cards


def _modified(path: str) -> str | None:
    try:
        return str(Path(path).stat().st_mtime_ns)
    except OSError:
        return None
