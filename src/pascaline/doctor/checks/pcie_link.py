"""The PCI Express link of each card.

A reduced number of lanes (a slot with fewer, a riser, a loose contact) makes loading a model and splitting it
over cards slower; once it is loaded, a single card does not care. A lower generation while idle is normal.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import NO_CARD
from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import sudo
from pascaline.hardware.probe import InstalledGpu

# Payload of a lane in GB/s by generation, after line coding. Source: PCI-SIG's transfer rates.
_LANE_GB_PER_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
_FEWEST_LANES = 4
_EXPECTED = "as many lanes as card and slot have, and at least 4"


def _look(machine: Machine) -> Iterator[Finding]:
    gpus = machine.gpus().gpus
    if not gpus:
        yield ok(NO_CARD, _EXPECTED)
    for gpu in gpus:
        yield _examine(machine, gpu)


def _examine(machine: Machine, gpu: InstalledGpu) -> Finding:
    link, name = gpu.pcie, f"card {gpu.index} ({gpu.name})"
    if link.width is None:
        return ok(f"{name} does not tell", _EXPECTED)
    at_most = link.max_width or link.width
    generation = link.max_generation or link.generation
    seen = f"{name}: {link.width} of {at_most} lanes"
    if generation in _LANE_GB_PER_S:
        rate = link.width * _LANE_GB_PER_S[generation]
        seen += f" of generation {generation}, {rate:.1f} GB/s to load with"
    if link.width >= at_most and link.width >= _FEWEST_LANES:
        return ok(seen, _EXPECTED)
    slot = (gpu.pci_bus_id or "")[-12:].lower()
    remedy = sudo(machine, f"lspci -vv -s {slot} | grep -e LnkCap: -e LnkSta:") + (
        "\n# then switch off: seat the card again, clean its contacts, or take a slot with more lanes"
    )
    return warn(seen, _EXPECTED, remedy)


CHECK = Check("pcie_link", _look)
