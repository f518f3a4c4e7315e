"""Which torch a machine needs, by its cards and their driver.

Standard library only and in one file: the set-up reads it by its path, before anything is installed.

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

import re
from collections.abc import Sequence
from dataclasses import dataclass

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


def has_code_for(architectures: Sequence[str], capability: Capability) -> bool:
    """Whether binaries built for `architectures` ("sm_60", "compute_90"…) run on a card of `capability`.

    Machine code of 6.0 runs on 6.1, but not on 7.0 and not on 5.2; PTX ("compute_…") on all that is newer.
    What ends with "a" is for one chip, with "f" for one major version.
    Source: the CUDA programming guide, "Binary compatibility" and "PTX compatibility".
    """
    return any(_runs_on(architecture, capability) for architecture in architectures)


def _runs_on(architecture: str, capability: Capability) -> bool:
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if match is None:
        return False
    built_for = int(match[2]), int(match[3])
    if match[4] == "a":
        return built_for == capability
    if match[1] == "compute" and not match[4]:
        return built_for <= capability
    return built_for[0] == capability[0] and built_for[1] <= capability[1]


def parse_driver(text: str) -> tuple[int, ...] | None:
    """Find the driver's version in NVML's or the kernel module's answer: 580.65.06 is (580, 65, 6)."""
    match = re.search(r"(?<![\d.])(\d{3})\.(\d+)(?:\.(\d+))?(?![\d.])", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else None


def _describe(card: Card) -> str:
    return f"{card.name} (compute capability {_dotted(card.capability)})"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
