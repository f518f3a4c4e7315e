"""A kernel, compiled and run.

Compiles a small kernel to machine code: for the card here, or for one of each generation where there is none.
With a card it is loaded through the driver, run, and its result compared number by number. This is done by
another process, for a broken driver can end it.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import TURING, lowest
from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.kernel_trial import KernelTrial, kernel_trial
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import install_nvrtc, reboot, sudo

_EXPECTED = "machine code for the card, and the right numbers from it"


def _look(machine: Machine) -> Iterator[Finding]:
    trial, card = kernel_trial(machine), lowest(machine)
    if trial.error is None:
        yield _ran(machine, trial)
    elif not trial.error.startswith("no NVRTC"):
        remedy = sudo(machine, "dmesg | grep -i -e nvrm -e xid") + reboot(machine)
        yield fail(trial.error, _EXPECTED, remedy)
    elif trial.nvrtc is None:
        remedy = install_nvrtc(machine, old=card is not None and card.capability < TURING)
        yield warn("nothing to compile with", _EXPECTED, remedy)
    else:
        # Cards of two ages: each needs a compiler of its own, and both can be installed.
        both = [install_nvrtc(machine, old=old) for old in (True, False)]
        yield fail(trial.error, _EXPECTED, "\n".join(both))


def _ran(machine: Machine, trial: KernelTrial) -> Finding:
    compiled = f"compiled for {', '.join(trial.compiled_for)} in {trial.compile_s * 1e3:.0f} ms"
    if trial.ran_on:
        return ok(f"{compiled} and run on {', '.join(trial.ran_on)} with the right result", _EXPECTED)
    if machine.gpus().gpus and trial.driver_error and "CUDA_VISIBLE_DEVICES" not in machine.environ:
        # NVML needs the module nvidia alone; CUDA also nvidia_uvm, which a suspended machine can lose.
        remedy = sudo(machine, "modprobe -r nvidia_uvm") + " && " + sudo(machine, "modprobe nvidia_uvm")
        seen = f"the driver lists a card, CUDA does not: {trial.driver_error}"
        return fail(seen, _EXPECTED, remedy)
    return ok(f"{compiled}; no card to run it on", _EXPECTED)


CHECK = Check("kernel", _look)
