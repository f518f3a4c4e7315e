"""The processor: vector instructions, threads and clock governor.

The native CPU kernels need AVX2 on x86, or dot products on ARM. One thread a core computes, and no more
than a container's quota grants: more are all stopped at once when the quota is spent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import sudo
from pascaline.doctor.torch_facts import torch_facts
from pascaline.hardware.instruction_sets import INSTRUCTION_SETS, flags_in

_CPUS = "/sys/devices/system/cpu"
_EXPECTED = "AVX2 or ARM dot products, and a thread a core within the quota"


def _look(machine: Machine) -> Iterator[Finding]:
    flags = flags_in(machine.text("/proc/cpuinfo") or "")
    ours = [each for each in INSTRUCTION_SETS if each.machine == machine.architecture]
    best = next((each for each in ours if each.flags <= flags), None)
    if best is None:
        lacking = ", ".join(sorted(ours[-1].flags - flags)) if ours else machine.architecture
        remedy = "# plain torch computes on the CPU, several times slower: use a card, or a newer processor"
        yield warn(f"no native CPU kernels for this processor ({lacking} is lacking)", _EXPECTED, remedy)
    yield from _threads(machine)
    yield from _governor(machine)
    yield ok(f"{machine.architecture} with {best.name if best else 'plain torch'}", _EXPECTED)


def _threads(machine: Machine) -> Iterator[Finding]:
    threads, cores = torch_facts(machine).threads, _cores(machine)
    if threads is None or not cores:
        return
    granted = machine.granted_processors()
    best = cores if granted is None else min(cores, max(1, math.ceil(granted)))
    name = "PASCALINE_THREADS" if machine.environ.get("PASCALINE_THREADS") else "OMP_NUM_THREADS"
    because = (
        f"{name} is {machine.environ[name]}" if machine.environ.get(name) else "this process may use no more"
    )
    if granted is not None and threads > best:
        seen = f"{threads} threads compute ({because}), but the quota grants {granted:g} processors"
        yield warn(seen, _EXPECTED, f"export PASCALINE_THREADS={best}")
    elif 2 * threads <= best and machine.environ.get(name):
        yield warn(
            f"{threads} of {best} cores compute: {because}", _EXPECTED, f"export PASCALINE_THREADS={best}"
        )


def _cores(machine: Machine) -> int:
    names = [name for name in machine.names(_CPUS) if name.removeprefix("cpu").isdecimal()]
    siblings = {machine.text(f"{_CPUS}/{name}/topology/thread_siblings_list") or name for name in names}
    return len(siblings)


def _governor(machine: Machine) -> Iterator[Finding]:
    folder = f"{_CPUS}/cpu0/cpufreq"
    governor, scaling = machine.text(f"{folder}/scaling_governor"), machine.text(f"{folder}/scaling_driver")
    # The processor itself decides under these two, whatever their governor is called.
    if governor == "powersave" and scaling not in ("intel_pstate", "amd-pstate-epp"):
        remedy = "echo performance | " + sudo(machine, f"tee {_CPUS}/cpu*/cpufreq/scaling_governor")
        yield warn("the governor powersave holds the clock at its lowest", _EXPECTED, remedy)


CHECK = Check("processor", _look)
