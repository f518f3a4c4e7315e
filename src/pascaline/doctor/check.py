"""A check: one question about the machine, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from pascaline.core.errors import PascalineError, printable
from pascaline.doctor.machine import Machine

Status = Literal["ok", "warn", "fail"]
_ORDER: tuple[Status, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters
    ----------
    status : "warn" costs speed or works by luck, "fail" stops something from working.
    seen : a sentence without its full stop.
    expected : what would have been right.
    remedy : the command that mends it, one a line, to be pasted into a shell; a line that is no command
        starts with "#". Empty where all is well.
    """

    status: Status
    seen: str
    expected: str = ""
    remedy: str = ""


def ok(seen: str, expected: str = "") -> Finding:
    """All is well."""
    return Finding("ok", seen, expected)


def warn(seen: str, expected: str, remedy: str) -> Finding:
    """It works, but slowly or by luck."""
    return Finding("warn", seen, expected, remedy)


def fail(seen: str, expected: str, remedy: str) -> Finding:
    """Something does not work."""
    return Finding("fail", seen, expected, remedy)


@dataclass(frozen=True)
class Check:
    """One question. `look` gives at least one finding; several where several things can be wrong at once."""

    name: str
    look: Callable[[Machine], Iterable[Finding]]

    def run(self, machine: Machine) -> Finding:
        """All its findings as one, the worst first; what it must not do is end the others."""
        try:
            findings = sorted(self.look(machine), key=lambda each: -_ORDER.index(each.status))
        except PascalineError as error:
            return warn(str(error), "an answer", f"# {error.remedy or 'nothing else depends on this answer'}")
        worst = findings[0].status
        told = [each for each in findings if each.status != "ok"] or findings
        # Processes, folders and environment variables are named by others.
        return Finding(
            worst,
            _in_one_line("; ".join(dict.fromkeys(each.seen for each in told))),
            _in_one_line("; ".join(dict.fromkeys(each.expected for each in told if each.expected))),
            printable("\n".join(dict.fromkeys(each.remedy for each in told if each.remedy))),
        )


def _in_one_line(text: str) -> str:
    return printable(text.replace("\n", " "))
