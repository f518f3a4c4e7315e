"""Python: its version, and whether the torch for this card has a build for it.

Pascaline needs 3.11 and 64 bits. The torch for Maxwell and Pascal ends at Python 3.13.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import dotted, right_torch
from pascaline.doctor.check import Check, Finding, fail, ok
from pascaline.doctor.machine import Machine

_OLDEST = (3, 11)
_FETCH_UV = "curl -LsSf https://astral.sh/uv/install.sh | sh"


def _look(machine: Machine) -> Iterator[Finding]:
    version, choice = machine.python.version, right_torch(machine)
    newest = choice.newest_python
    expected = (
        f"Python {dotted(_OLDEST)}" + (f" to {dotted(newest)}" if newest else " or newer") + ", 64 bits"
    )
    seen = f"Python {dotted(version)} ({machine.python.executable}), {machine.python.bits} bits"
    wanted = min(newest or (3, 13), (3, 13))
    make = f"uv venv --python {dotted(wanted)} && . .venv/bin/activate && uv pip install pascaline"
    remedy = make if machine.output("uv", "--version") is not None else f"{_FETCH_UV}\n{make}"
    if version[:2] < _OLDEST or machine.python.bits < 64:
        yield fail(seen, expected, remedy)
    elif newest is not None and version[:2] > newest:
        yield fail(f"{seen}: {choice.requirement} has no build for it", expected, remedy)
    else:
        yield ok(seen, expected)


CHECK = Check("python", _look)
