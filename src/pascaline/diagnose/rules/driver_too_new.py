"""The driver no longer knows the card

## Pattern
After an update `nvidia-smi` finds no device, though the card is there.

## Evidence
A driver branch above 580 with a card of compute capability 5.0 to 7.2; or the kernel log's "supported
through the NVIDIA 580.xx Legacy drivers … will ignore this GPU"; or open kernel modules on a card without
a GSP.

## Cause
R580 is the last branch for Maxwell, Pascal and Volta. The open kernel modules support Turing and newer
only.

## Remedy
Install branch 580 with the proprietary modules and hold it: `apt install nvidia-driver-580`, then
`apt-mark hold nvidia-driver-580` (Arch: nvidia-580xx-dkms; NixOS: `nvidiaPackages.legacy_580`).

## Saving
None to predict: nothing ran.

## References
- https://github.com/NixOS/nixos-hardware/issues/1880 (GTX 1050 with 595.71.05)
- https://github.com/zzzhouuu/truenas-nvidia-drivers/issues/20 (Tesla P4 with open modules)
"""

from __future__ import annotations

import re

from pascaline.diagnose.finding import Found
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.diagnose.software import driver_branch

_ERROR = re.compile(
    r"supported through the\s+(?:NVRM:\s*)?NVIDIA 580\.xx Legacy drivers|will ignore\s+(?:NVRM:\s*)?this GPU"
    r"|not supported by open\s+(?:NVRM:\s*)?nvidia\.ko",
    re.I,
)
_LAST_BRANCH = 580
_FIRST_KEPT = (7, 5)


def check(run: Run) -> Found | None:
    """A branch that dropped the card, or the driver's own word for it."""
    error = run.note_with(_ERROR)
    branch = driver_branch(run.record)
    dropped = run.chip is not None and run.chip.version < _FIRST_KEPT and (branch or 0) > _LAST_BRANCH
    if error is None and not dropped:
        return None
    evidence = [f"The driver says: “{' '.join(error[0].split())}”."] if error else []
    if branch is not None and run.chip is not None:
        evidence.append(
            f"Driver branch R{branch}; {run.chip.name} is of compute capability {run.chip.capability}."
        )
    return Found(
        evidence=" ".join(evidence),
        cause=(
            f"R{_LAST_BRANCH} is the last driver branch for compute capability 5.0 to 7.2, with its"
            " proprietary modules."
        ),
        remedy=(
            f"Install that branch and hold it: apt install nvidia-driver-{_LAST_BRANCH} && apt-mark hold"
            f" nvidia-driver-{_LAST_BRANCH}; then reboot."
        ),
    )


RULE = Rule("PAS012", "driver-too-new", check)
