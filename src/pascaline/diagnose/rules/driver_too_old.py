"""The driver is older than the CUDA that the software was built with

## Pattern
CUDA does not start: "The NVIDIA driver on your system is too old", "CUDA driver version is insufficient".

## Evidence
That error, or a driver branch below what the CUDA in use needs: 580 for CUDA 13, 525 for 12, 450 for 11.

## Cause
A newer minor version of CUDA runs on the driver of its major version; a newer major version needs a newer
driver.

## Remedy
A newer driver, if the card has one; R580 is the last for Maxwell, Pascal and Volta, and enough for CUDA
13, which has no machine code for them. Else software built for the driver's CUDA: for these cards torch
2.7.1 (CUDA 12.6), or 2.10.0 on Volta; on newer ones torch 2.10.0 with a driver below 580.

## Saving
None to predict: the run failed.

## References
- NVIDIA, CUDA Compatibility: minimum driver by CUDA version
- https://github.com/zai-org/ChatGLM3/issues/100 (found version 11060)
"""

from __future__ import annotations

import re

from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import Found
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.diagnose.software import cuda_major, driver_branch

_ERROR = re.compile(
    r"NVIDIA driver on your system is too old(?: \(found version (\d{4,6})\))?"
    r"|CUDA driver version is insufficient for CUDA runtime version|cudaErrorInsufficientDriver",
    re.I,
)
_LEAST_BRANCH = {11: 450, 12: 525, 13: 580}


def check(run: Run) -> Found | None:
    """The error, or versions that do not go together."""
    error = run.note_with(_ERROR)
    branch, cuda = driver_branch(run.record), cuda_major(run.record)
    needed = _LEAST_BRANCH.get(cuda) if cuda is not None else None
    too_old = branch is not None and needed is not None and branch < needed
    if error is None and not too_old:
        return None
    evidence = []
    if error is not None:
        found = error[1]
        version = f" (a driver for CUDA {int(found) // 1000}.{int(found) % 1000 // 10})" if found else ""
        evidence.append(f"The record says: “{error[0]}”{version}.")
    if too_old:
        evidence.append(f"Driver branch R{branch}; CUDA {cuda} needs R{needed} or newer.")
    return Found(
        evidence=" ".join(evidence),
        cause="The software was built with a newer major version of CUDA than the driver knows.",
        remedy=_remedy(run.chip),
    )


def _remedy(chip: Chip | None) -> str:
    if chip is not None and chip.version < (7, 0):
        return "pip install torch==2.7.1 (CUDA 12.6, driver R525 or newer); the card's last driver is R580."
    if chip is not None and chip.version == (7, 0):
        return "pip install torch==2.10.0 (CUDA 12.8), or driver R580, the last for this card."
    return "A newer driver (R580 or newer for CUDA 13), or pip install torch==2.10.0, built with CUDA 12.8."


RULE = Rule("PAS011", "driver-too-old", check)
