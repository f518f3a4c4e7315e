"""NVRTC and CUDA's headers: what kernels are compiled with at first use.

NVRTC comes with torch's CUDA builds and needs no toolkit. NVRTC 13 starts at compute capability 7.5: for
older cards it must be one of CUDA 12. cuda_fp16.h comes with the runtime package.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import TURING, dotted, lowest
from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.kernel_trial import KernelTrial, kernel_trial
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import install_nvrtc

_EXPECTED = "NVRTC with code for {}, and cuda_fp16.h"


def _look(machine: Machine) -> Iterator[Finding]:
    card, trial = lowest(machine), kernel_trial(machine)
    remedy = install_nvrtc(machine, old=card is not None and card.capability < TURING)
    wanted = _EXPECTED.format(dotted(card.capability) if card else "any card")
    if trial.nvrtc is None:
        error = trial.error or "no NVRTC"
        if error.startswith("no NVRTC"):
            complain = fail if card is not None else warn
            yield complain(error, wanted, remedy)
        else:
            yield warn(f"not asked: {error}", wanted, "# see kernel")
        return
    seen = f"NVRTC {trial.nvrtc} for {_span(trial)}"
    yield ok(seen, wanted) if trial.headers else warn(f"{seen}, without cuda_fp16.h", wanted, remedy)


def _span(trial: KernelTrial) -> str:
    return f"{trial.architectures[0]} to {trial.architectures[-1]}" if trial.architectures else "no card"


CHECK = Check("nvrtc", _look)
