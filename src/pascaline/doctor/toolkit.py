"""The CUDA toolkit, for those who build from source. Pascaline needs none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pascaline.doctor.machine import Machine

_USUAL = "/usr/local/cuda"
NO_TOOLKIT = "no nvcc: nothing is built from source here, and Pascaline needs none"


@dataclass(frozen=True)
class Toolkit:
    """`root` is the folder that nvcc's `bin` lies in, `version` that of CUDA: (12, 6)."""

    nvcc: str
    root: str
    version: tuple[int, int]


def toolkit(machine: Machine) -> Toolkit | None:
    """As torch's extension builder finds it: CUDA_HOME, else nvcc on PATH, else the usual place."""
    configured = machine.environ.get("CUDA_HOME") or machine.environ.get("CUDA_PATH")
    roots = ([configured] if configured else []) + [_USUAL]
    candidates = [f"{root}/bin/nvcc" for root in roots]
    if not configured:
        candidates.insert(0, "nvcc")
    for nvcc in candidates:
        said = machine.output(nvcc, "--version")
        version = re.search(r"release (\d+)\.(\d+)", said or "")
        if version:
            root = nvcc.removesuffix("/bin/nvcc") if "/" in nvcc else _USUAL
            return Toolkit(nvcc, root, (int(version[1]), int(version[2])))
    return None
