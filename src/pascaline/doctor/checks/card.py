"""The NVIDIA card and the kernel's driver for it.

Lists the cards on the PCI bus and what the kernel has bound to them. Without the NVIDIA driver (or with
nouveau, or with the card handed to a virtual machine) CUDA does not see a card that is there. No card at all
is no fault: the CPU is used.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import NO_CARD, PciCard, pci_cards
from pascaline.doctor.check import Check, Finding, fail, ok
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import driver, reboot, sudo

_EXPECTED = "the kernel driver nvidia for every NVIDIA card"


def _look(machine: Machine) -> Iterator[Finding]:
    cards = pci_cards(machine)
    if not cards:
        installed = machine.gpus().gpus  # WSL and some containers hide the bus
        yield ok(", ".join(gpu.name for gpu in installed) if installed else NO_CARD, _EXPECTED)
    for card in cards:
        yield _examine(machine, card, legacy=any(each.is_legacy for each in cards))


def _examine(machine: Machine, card: PciCard, *, legacy: bool) -> Finding:
    if card.kernel_driver == "nvidia":
        return ok(f"{card} has the driver nvidia", _EXPECTED)
    if card.kernel_driver == "nouveau":
        remedy = (
            sudo(
                machine,
                "sh -c \"printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' "
                '> /etc/modprobe.d/blacklist-nouveau.conf"',
            )
            + "\n"
            + driver(machine, legacy=legacy)
        )
        return fail(f"{card} is driven by nouveau, which has no CUDA", _EXPECTED, remedy)
    if card.kernel_driver == "vfio-pci":
        remedy = f"# take {card.slot} out of the virtual machine and of vfio-pci's ids, then" + reboot(
            machine
        )
        return fail(f"{card} is set aside for a virtual machine (vfio-pci)", _EXPECTED, remedy)
    if machine.text("/proc/driver/nvidia/version") is not None:
        # The module is loaded and left this one out: `driver` knows why.
        return ok(f"{card} is left out by the driver that is loaded: see driver", _EXPECTED)
    bound = f"the driver {card.kernel_driver}" if card.kernel_driver else "no driver"
    if machine.has_kernel_module("nvidia"):
        remedy = (
            sudo(machine, "modprobe nvidia")
            + "\n# if that fails, this says why:\n"
            + sudo(machine, "dmesg | grep -i -e nvrm -e nvidia")
        )
        return fail(f"{card} has {bound}, though NVIDIA's module is installed", _EXPECTED, remedy)
    return fail(f"{card} has {bound}", _EXPECTED, driver(machine, legacy=legacy))


CHECK = Check("card", _look)
