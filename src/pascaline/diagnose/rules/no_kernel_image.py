"""No machine code for this card

## Pattern
The first kernel fails: "no kernel image is available for execution on the device".

## Evidence
That error in the record's notes, or torch's list of architectures (`torch.cuda.get_arch_list()`) without
one that runs on the card: machine code for x.y runs on x.z with z ≥ y, PTX on anything newer.

## Cause
The binaries were built without the card's architecture: wheels drop old ones (torch's default wheels hold
Maxwell and Pascal up to 2.7, Volta up to 2.10), and old ones do not know new cards. Build files drop them
silently, too.

## Remedy
Capability below 7.0: `pip install torch==2.7.1`. 7.0: `pip install torch==2.10.0`. Newer than the
binaries: a newer torch. For extensions: build with `TORCH_CUDA_ARCH_LIST` set to the card's capability.
`pascaline doctor` prints what fits; pascaline's own kernels are compiled for the card at first use.

## Saving
None to predict: the run failed.

## References
- https://github.com/Kaggle/kaggle-cli/issues/1151 (P100 with torch for CUDA 12.8)
- https://github.com/vllm-project/vllm/issues/5547
- NVIDIA, CUDA C++ Programming Guide 12, binary and PTX compatibility
"""

from __future__ import annotations

import re

from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import Found
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.diagnose.software import binaries

_ERROR = re.compile(
    r"no kernel image is available|cudaErrorNoKernelImageForDevice|CUDA_ERROR_NO_BINARY_FOR_GPU"
    r"|is not compatible with the current PyTorch installation"
    r"|the provided PTX was compiled with an unsupported toolchain",
    re.I,
)
_LAST_OF_PASCAL, _LAST_OF_VOLTA = "2.7.1", "2.10.0"


def check(run: Run) -> Found | None:
    """The error, or a list of architectures that cannot run on the card."""
    error = run.note_with(_ERROR)
    held = binaries(run.record)
    lacks = run.chip is not None and bool(held) and not any(_runs(binary, run.chip) for binary in held)
    if error is None and not lacks:
        return None
    name = f"{run.chip.name} ({run.chip.sm})" if run.chip else "this card"
    evidence = [f"The record says: “{error[0]}”."] if error else []
    if held:
        evidence.append(f"Torch holds {', '.join(f'{kind}_{major}{minor}' for kind, major, minor in held)}.")
    return Found(
        evidence=" ".join(evidence),
        cause=f"The binaries hold neither machine code nor PTX that runs on {name}.",
        remedy=f"{_install(run.chip)} For extensions built from source set TORCH_CUDA_ARCH_LIST"
        + (f"={run.chip.capability}" if run.chip else " to the card's capability")
        + " and rebuild; pascaline doctor names all that does not fit.",
    )


def _runs(binary: tuple[str, int, int], chip: Chip) -> bool:
    kind, major, minor = binary
    if kind == "compute":
        return (major, minor) <= chip.version
    return major == chip.version[0] and minor <= chip.version[1]


def _install(chip: Chip | None) -> str:
    if chip is None:
        return "Install a torch that holds the card's architecture."
    if chip.version < (7, 0):
        return f"pip install torch=={_LAST_OF_PASCAL}, the last of PyPI's that runs on {chip.sm}."
    if chip.version == (7, 0):
        return f"pip install torch=={_LAST_OF_VOLTA}, the last that runs on Volta."
    return "pip install --upgrade torch."


RULE = Rule("PAS010", "no-kernel-image", check)
