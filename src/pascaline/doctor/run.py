"""All checks, one after another."""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.core.progress import ProgressCallback, Stage
from pascaline.doctor.check import Check, Finding
from pascaline.doctor.checks import CHECKS
from pascaline.doctor.machine import Machine

EXPECTED_S = 6.0
"""Importing torch and compiling a kernel, each in a process of its own, and asking the hub."""


def examine(machine: Machine, report: ProgressCallback) -> Iterator[tuple[Check, Finding]]:
    """Run each check and give what it found, as soon as it is known."""
    with Stage(report, "examining this machine", len(CHECKS), "checks", EXPECTED_S) as stage:
        for check in CHECKS:
            finding = check.run(machine)
            stage.advance(1)
            yield check, finding
