"""Building from source: the architectures that are asked for.

TORCH_CUDA_ARCH_LIST and CUDAARCHS decide what extensions and engines are compiled for. A list without the
card's architecture builds without a complaint and ends with "no kernel image is available" when it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pascaline.doctor.cards import cards, dotted
from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.hardware.torch_builds import has_code_for

# The names that torch's extension builder knows (torch.utils.cpp_extension).
_NAMED = {
    "maxwell": "5.0;5.2",
    "pascal": "6.0;6.1",
    "volta": "7.0",
    "turing": "7.5",
    "ampere": "8.0;8.6",
    "ada": "8.9",
    "hopper": "9.0",
    "blackwell": "10.0;10.3;12.0",
}
_EXPECTED = "lists that name every card here, or no list"


def _look(machine: Machine) -> Iterator[Finding]:
    found = cards(machine)
    wanted = sorted({card.capability for card in found})
    lists = {
        "TORCH_CUDA_ARCH_LIST": (_torch_list, ";".join(dotted(each) for each in wanted)),
        "CUDAARCHS": (_cmake_list, ";".join(dotted(each).replace(".", "") for each in wanted)),
    }
    given = {name: value for name in lists if (value := machine.environ.get(name))}
    if not given:
        yield ok("no list is set: builds ask the card", _EXPECTED)
    for name, value in given.items():
        read, right = lists[name]
        architectures = read(value)
        without = [card for card in found if not has_code_for(architectures, card.capability)]
        for card in without:
            seen = f"{name}={value!r} leaves out {card.name} ({dotted(card.capability)})"
            yield warn(seen, _EXPECTED, f'export {name}="{right}"')
        if not without:
            yield ok(f"{name}={value!r}", _EXPECTED)


def _torch_list(value: str) -> list[str]:
    """ "6.0 6.1+PTX;Volta" as "sm_60", "sm_61", "compute_61", "sm_70"."""
    architectures = []
    for entry in re.split(r"[\s;]+", value.strip()):
        name, _, ptx = entry.partition("+")
        for number in _NAMED.get(name.lower(), name).split(";"):
            digits = number.replace(".", "")
            architectures.append(f"sm_{digits}")
            if ptx == "PTX":
                architectures.append(f"compute_{digits}")
    return architectures


def _cmake_list(value: str) -> list[str]:
    """ "61-real;75" as "sm_61", "sm_75", "compute_75". Source: CMake's CUDA_ARCHITECTURES."""
    architectures = []
    for entry in value.split(";"):
        digits, _, only = entry.strip().partition("-")
        if entry.strip() in ("native", "all", "all-major"):
            return ["compute_50"]
        architectures += [f"{kind}_{digits}" for kind in ("sm", "compute") if only in ("", _CMAKE[kind])]
    return architectures


_CMAKE = {"sm": "real", "compute": "virtual"}
CHECK = Check("build_architectures", _look)
