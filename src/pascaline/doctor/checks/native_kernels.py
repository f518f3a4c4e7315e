"""The native CPU kernels: built, loaded and the fastest for this processor.

Without them plain torch computes on the CPU, several times slower.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import pip_install
from pascaline.doctor.torch_facts import TorchFacts, torch_facts

_EXPECTED = "a native library for the fastest instructions of this processor"


def _look(machine: Machine) -> Iterator[Finding]:
    facts = torch_facts(machine)
    if facts.error is not None:
        yield warn("not loaded: torch does not import", _EXPECTED, "# see torch")
    elif facts.native is None:
        yield warn(f"none: {facts.native_reason}", _EXPECTED, _remedy(machine, facts))
    elif facts.native_reason:
        chosen = machine.environ.get("PASCALINE_CPU_INSTRUCTIONS")
        seen = f"{facts.native} is used, and no faster ones: {facts.native_reason}"
        yield ok(seen, _EXPECTED) if chosen else warn(seen, _EXPECTED, _remedy(machine, facts))
    else:
        yield ok(f"{facts.native} is used by {facts.threads} threads", _EXPECTED)


def _remedy(machine: Machine, facts: TorchFacts) -> str:
    if "PASCALINE_CPU_INSTRUCTIONS" in (facts.native_reason or ""):
        return "unset PASCALINE_CPU_INSTRUCTIONS"
    if facts.checkout is not None:
        script = f"{facts.checkout}/scripts/build_native.py"
        return f"{shlex.quote(machine.python.executable)} {shlex.quote(script)}"
    return pip_install(machine, "--force-reinstall", "--no-deps", "pascaline")


CHECK = Check("native_kernels", _look)
