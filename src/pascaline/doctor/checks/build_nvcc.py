"""Building from source: nvcc against torch and against the card.

Extensions must be built with the CUDA that torch was built for (its major version at least). nvcc 13 no
longer compiles for Maxwell, Pascal and Volta; nvcc before 12.8 not yet for Blackwell.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import cards, dotted
from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import system_packages
from pascaline.doctor.toolkit import NO_TOOLKIT, Toolkit, toolkit
from pascaline.doctor.torch_facts import torch_facts
from pascaline.hardware.torch_builds import Capability

# First CUDA that compiles for a capability, newest first, and the first that no longer does for those below
# 7.5. Source: release notes of CUDA 11.0, 11.1, 11.8, 12.8 and 13.0.
_SINCE: tuple[tuple[Capability, tuple[int, int]], ...] = (
    ((10, 0), (12, 8)),
    ((8, 9), (11, 8)),
    ((8, 6), (11, 1)),
    ((8, 0), (11, 0)),
)
_DROPPED, _OLDEST_KEPT = (13, 0), (7, 5)


def _look(machine: Machine) -> Iterator[Finding]:
    found = toolkit(machine)
    built_for = torch_facts(machine).cuda
    expected = f"nvcc {built_for}, as torch was built" if built_for else "nvcc for the card"
    if found is None:
        yield ok(NO_TOOLKIT, expected)
        return
    wanted = built_for or _fitting(machine)
    yield ok(f"nvcc {dotted(found.version)} ({found.root})", expected)
    if built_for and built_for.split(".")[0] != str(found.version[0]):
        seen = f"nvcc {dotted(found.version)} ({found.nvcc}), but torch was built for CUDA {built_for}"
        yield warn(seen, expected, _remedy(machine, built_for))
    for card in cards(machine):
        fault = _fault(found, card.capability)
        if fault:
            seen = f"nvcc {dotted(found.version)} {fault} {card.name} ({dotted(card.capability)})"
            yield warn(seen, expected, _remedy(machine, wanted))


def _fault(found: Toolkit, capability: Capability) -> str | None:
    if found.version >= _DROPPED and capability < _OLDEST_KEPT:
        return "no longer compiles for"
    since = next((first for reached, first in _SINCE if capability >= reached), (0, 0))
    return "does not yet compile for" if found.version < since else None


def _fitting(machine: Machine) -> str:
    lowest = min((card.capability for card in cards(machine)), default=_OLDEST_KEPT)
    return "12.8" if lowest < _OLDEST_KEPT else "13.0"


def _remedy(machine: Machine, version: str) -> str:
    for root in machine.names("/usr/local"):
        if root == f"cuda-{version}":
            return f"export CUDA_HOME=/usr/local/{root} PATH=/usr/local/{root}/bin:$PATH"
    dashed = version.replace(".", "-")
    install = system_packages(machine, debian=f"cuda-toolkit-{dashed}", fedora=f"cuda-toolkit-{dashed}")
    return f"{install}\nexport CUDA_HOME=/usr/local/cuda-{version} PATH=/usr/local/cuda-{version}/bin:$PATH"


CHECK = Check("build_nvcc", _look)
