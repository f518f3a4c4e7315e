"""Which torch this machine needs: its NVIDIA cards and their driver are asked, then a table decides."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

RULES = Path(__file__).resolve().parents[1] / "src" / "pascaline" / "hardware" / "torch_builds.py"

if TYPE_CHECKING:
    from pascaline.hardware.torch_builds import (
        CPU_INDEX,
        Card,
        Machine,
        TorchChoice,
        choose_torch,
        parse_driver,
    )
else:
    # By its path: nothing that the package imports is installed yet.
    sys.path.append(str(RULES.parent))
    from torch_builds import CPU_INDEX, Card, Machine, TorchChoice, choose_torch, parse_driver

__all__ = [
    "CPU_INDEX",
    "RULES",
    "Card",
    "Machine",
    "TorchChoice",
    "choose_torch",
    "cpu_index_has",
    "detect_machine",
    "hardware_fingerprint",
    "parse_driver",
]


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
