"""pascaline doctor: what is wrong with this machine's set-up, and the commands that mend it."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import typer

from pascaline.cli.options import JsonOption
from pascaline.cli.output import print_json
from pascaline.cli.progress_bars import ProgressBars

if TYPE_CHECKING:
    from pascaline.doctor.check import Finding, Status

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def doctor(as_json: JsonOption = False) -> None:
    """Examine card, driver, torch, compilers, memory and network, and say what mends what is wrong."""
    from pascaline.doctor.machine import this_machine
    from pascaline.doctor.run import examine

    with ProgressBars() as report:
        results = [(check.name, finding) for check, finding in examine(this_machine(), report)]
    if as_json:
        print_json({"checks": [_as_json(name, finding) for name, finding in results]})
    else:
        _print(results)
    if any(finding.status == "fail" for _, finding in results):
        raise typer.Exit(1)


def _as_json(name: str, finding: Finding) -> dict[str, str]:
    return {
        "name": name,
        "status": finding.status,
        "seen": finding.seen,
        "expected": finding.expected,
        "remedy": finding.remedy,
    }


def _print(results: list[tuple[str, Finding]]) -> None:
    """A line for what is well; for the rest also what would be right, and the commands."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    indent = max(len(name) for name, _ in results) + 3
    # In a file or a pipe every text is one line, for those who search it.
    room = max(20, console.width - indent - 1) if console.is_terminal else None
    for name, finding in results:
        mark, colour = _MARKS[finding.status]
        first, *more = _wrapped(finding.seen, room)
        console.print(Text.assemble((mark, colour), f" {name}".ljust(indent - 1), first))
        lines = [(line, "") for line in more]
        if finding.status != "ok":
            lines += [(line, "dim") for line in _wrapped(f"expected: {finding.expected}", room)]
            # Not wrapped: a command broken in two is none to paste.
            lines += [
                (line, "dim" if line.startswith("#") else "bold") for line in finding.remedy.splitlines()
            ]
        for line, style in lines:
            console.print(Text(" " * indent + line, style=style))
    console.print(Text(f"\n{_summary([finding.status for _, finding in results])}"))


def _wrapped(text: str, room: int | None) -> list[str]:
    return [text] if room is None else textwrap.wrap(text, room, break_on_hyphens=False)


def _summary(statuses: list[Status]) -> str:
    counts = Counter(statuses)
    if not counts["warn"] and not counts["fail"]:
        return f"{len(statuses)} checks, all well."
    parts = [f"{len(statuses)} checks: {counts['ok']} well"]
    if counts["warn"]:
        parts.append(f"{counts['warn']} to look at")
    if counts["fail"]:
        parts.append(f"{counts['fail']} failed")
    return ", ".join(parts) + ". The last lines of each are the commands that mend it."
