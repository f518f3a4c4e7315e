"""Building from source: which torch CMake finds.

CMAKE_PREFIX_PATH names folders that CMake searches before all others. If it leads to another torch than
the one that Python imports, what is built does not load, or crashes; unset, CMake may find none.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.toolkit import NO_TOOLKIT, toolkit
from pascaline.doctor.torch_facts import torch_facts

_NAME = "CMAKE_PREFIX_PATH"
_CONFIG = "share/cmake/Torch/TorchConfig.cmake"
_EXPECTED = f"{_NAME} leading to the torch that Python imports"


def _look(machine: Machine) -> Iterator[Finding]:
    if toolkit(machine) is None:
        yield ok(NO_TOOLKIT, _EXPECTED)
        return
    ours, value = torch_facts(machine).folder, machine.environ.get(_NAME)
    conda = machine.environ.get("CONDA_PREFIX")
    if conda and conda != machine.python.prefix:
        seen = f"conda's {conda} is active, but Python is that of {machine.python.prefix}: builds mix the two"
        yield warn(seen, "one environment", "conda deactivate")
    if ours is None:
        yield ok("no torch to build against", _EXPECTED)
        return
    remedy = f"export {_NAME}={shlex.quote(f'{ours}/share/cmake')}"
    if not value:
        building = "TORCH_CUDA_ARCH_LIST" in machine.environ
        seen = f"{_NAME} is not set"
        # A list of architectures is only of use to somebody who builds.
        yield warn(seen, _EXPECTED, remedy) if building else ok(seen, _EXPECTED)
        return
    found = [torch for entry in re.split("[;:]", value) if entry for torch in _torches(machine, entry)]
    other = [torch for torch in found if machine.path(torch).resolve() != machine.path(ours).resolve()]
    if found and found[0] in other:
        yield warn(f"{_NAME} leads to {found[0]}, but Python imports {ours}", _EXPECTED, remedy)
    else:
        yield ok(f"{_NAME}={value!r}", _EXPECTED)


def _torches(machine: Machine, entry: str) -> Iterator[str]:
    """The folders of the torches that CMake finds below one entry."""
    if machine.is_there(f"{entry}/Torch/TorchConfig.cmake"):
        yield entry.removesuffix("/share/cmake")
    if machine.is_there(f"{entry}/{_CONFIG}"):
        yield entry
    for name in machine.names(f"{entry}/lib"):
        torch = f"{entry}/lib/{name}/site-packages/torch"
        if name.startswith("python3") and machine.is_there(f"{torch}/{_CONFIG}"):
            yield torch


CHECK = Check("build_cmake", _look)
