"""NVIDIA cards as the bus and as the driver list them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pascaline.doctor.machine import Machine
from pascaline.hardware.torch_builds import (
    OLDEST_CAPABILITY,
    Capability,
    Card,
    TorchChoice,
    choose_torch,
    parse_driver,
)
from pascaline.hardware.torch_builds import Machine as TorchInputs

_DEVICES = "/sys/bus/pci/devices"
# Device ids of Maxwell, Pascal and Volta, chips GM108 to GV100: the PCI id repository (pci-ids.ucw.cz).
_OLDEST_LEGACY, _OLDEST_TURING = 0x1340, 0x1E00
TURING: Capability = (7, 5)
NEWEST_TORCH = "torch>=2.11"
"""The first whose default build is for CUDA 13."""
NO_CARD = "no NVIDIA card: the CPU is used"


@dataclass(frozen=True)
class PciCard:
    """A display device of NVIDIA's: where it is, what it is, and the kernel's driver that has it."""

    slot: str
    device_id: int
    kernel_driver: str | None

    @property
    def is_legacy(self) -> bool:
        """Maxwell, Pascal or Volta: R580 is the last driver, and open kernel modules leave it out."""
        return _OLDEST_LEGACY <= self.device_id < _OLDEST_TURING

    def __str__(self) -> str:
        return f"{self.slot} (10de:{self.device_id:04x})"


def pci_cards(machine: Machine) -> list[PciCard]:
    """All of them; none on systems that do not show the bus (WSL, some containers)."""
    cards = []
    for slot in machine.names(_DEVICES):
        folder = f"{_DEVICES}/{slot}"
        kind = machine.text(f"{folder}/class") or ""
        if machine.text(f"{folder}/vendor") != "0x10de" or not kind.startswith("0x03"):
            continue
        try:
            device_id = int(machine.text(f"{folder}/device") or "", 16)
        except ValueError:
            continue
        cards.append(PciCard(slot, device_id, machine.link(f"{folder}/driver")))
    return cards


def kernel_driver_version(machine: Machine) -> str | None:
    """The first line of the loaded kernel module's version file."""
    text = machine.text("/proc/driver/nvidia/version")
    return text.splitlines()[0] if text else None


def driver_version(machine: Machine) -> tuple[int, ...] | None:
    """By the driver, else by its kernel module: (580, 65, 6)."""
    return parse_driver(machine.gpus().driver or kernel_driver_version(machine) or "")


def driver_name(machine: Machine) -> str:
    """Its version as NVIDIA writes it, "580.65.06"; "unknown" if it does not tell."""
    match = re.search(r"\d{3}\.\d+(\.\d+)?", machine.gpus().driver or kernel_driver_version(machine) or "")
    return match[0] if match else "unknown"


def capability(text: str | None) -> Capability | None:
    """("6.1") is (6, 1)."""
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def cards(machine: Machine) -> list[Card]:
    """What the driver serves, with its capability."""
    return [
        Card(gpu.name, found)
        for gpu in machine.gpus().gpus
        if (found := capability(gpu.compute_capability)) is not None
    ]


def right_torch(machine: Machine) -> TorchChoice:
    """By the rules that set-up follows."""
    inputs = TorchInputs(tuple(cards(machine)), driver_version(machine))
    return choose_torch(inputs, NEWEST_TORCH)


def lowest(machine: Machine) -> Card | None:
    """The card that limits what can be installed."""
    usable = [card for card in cards(machine) if card.capability >= OLDEST_CAPABILITY]
    return min(usable, key=lambda card: card.capability, default=None)


def dotted(version: tuple[int, ...] | None) -> str:
    """(6, 1) is "6.1"."""
    return ".".join(str(part) for part in version) if version else "unknown"
