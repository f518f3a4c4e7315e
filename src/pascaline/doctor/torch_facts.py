"""What a process that imports torch said (`pascaline.engine.environment`)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pascaline.doctor.machine import Machine

PATIENCE_S = 60.0
"""Importing torch from a cold disk takes 20 s, and waking eight cards another 10."""


def command(machine: Machine) -> tuple[str, ...]:
    """`-P`: what lies in the current folder must not stand in for an installed module."""
    return (machine.python.executable, "-P", "-m", "pascaline.engine.environment")


@dataclass(frozen=True)
class TorchFacts:
    """One look at torch.

    Parameters
    ----------
    version, folder, cuda : None where it does not import; `cuda` also where it was built for the CPU.
    architectures : that it has code for ("sm_60", "compute_90").
    error : why it does not import.
    available, device_error : whether it can use a card, and what it said when it looked for one.
    tried : for each card that it sees "ok", or what a small computation ended with.
    libstdcxx : the C++ library that was loaded.
    native, native_reason : the CPU kernels in use, or why there are none or no faster ones.
    threads : that will compute.
    checkout : the repository that Pascaline runs from, None for an installed wheel.
    """

    version: str | None = None
    folder: str | None = None
    cuda: str | None = None
    architectures: tuple[str, ...] = ()
    error: str | None = None
    available: bool = False
    device_error: str | None = None
    tried: tuple[str, ...] = ()
    libstdcxx: str | None = None
    native: str | None = None
    native_reason: str | None = None
    threads: int | None = None
    checkout: str | None = None


def torch_facts(machine: Machine) -> TorchFacts:
    """Ask; the process is started once."""
    ran = machine.run(command(machine), PATIENCE_S)
    if ran is None:
        return TorchFacts(error=f"{machine.python.executable} does not start")
    if ran.code is None:
        return TorchFacts(error=f"it takes more than {PATIENCE_S:.0f} s")
    if ran.code != 0:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        ended = f"signal {-ran.code}" if ran.code < 0 else f"exit code {ran.code}"
        return TorchFacts(error=f"its process ended with {ended}: {last}")
    try:
        facts = json.loads(ran.stdout.strip().splitlines()[-1])
        for name in ("architectures", "tried"):
            facts[name] = tuple(facts.get(name, ()))
        fields = TorchFacts.__dataclass_fields__
        return TorchFacts(**{key: value for key, value in facts.items() if key in fields})
    except (ValueError, IndexError, TypeError, AttributeError):
        return TorchFacts(error="what it printed cannot be read")
