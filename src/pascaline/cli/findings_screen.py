"""Findings: a card for each on a terminal; elsewhere a line for each thing that is said."""

from __future__ import annotations

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from pascaline.cli.output import open_console, say
from pascaline.core.errors import printable
from pascaline.diagnose.diagnosis import Diagnosis
from pascaline.diagnose.finding import Finding
from pascaline.diagnose.names import listed
from pascaline.report.numbers import seconds, share

_WIDEST = 100


def print_findings(diagnosis: Diagnosis) -> None:
    """The strongest first; what was looked at when there is none; what could not be."""
    console = open_console(_WIDEST)
    for number, finding in enumerate(diagnosis.findings, start=1):
        heading = f"{number}. {finding.title}"
        lines = _lines(finding, diagnosis.total_s)
        if console.is_terminal:
            body = Group(*(Text.assemble((f"{name}: ", "bold"), text) for name, text in lines))
            width = min(console.width, _WIDEST)
            console.print(Panel(body, title=Text(heading), title_align="left", width=width))
        else:
            say(console, "\n".join((heading, *(f"   {name}: {text}" for name, text in lines), "")))
    for line in _closing(diagnosis):
        say(console, line)


def _lines(finding: Finding, total_s: float | None) -> list[tuple[str, str]]:
    lines = [("Cause", finding.cause), ("Evidence", finding.evidence), ("Remedy", finding.remedy)]
    modules = [module for module in finding.modules if module]
    if modules:
        lines.append(("Modules", listed(modules)))
    if finding.kernels:
        lines.append(("Kernels", listed(finding.kernels)))
    if finding.saves_s is not None and finding.predicted_total_s is not None and total_s:
        lines.append(
            (
                "Saves",
                f"{seconds(finding.saves_s)} of {seconds(total_s)} ({share(finding.saves_s, total_s)}):"
                f" {seconds(finding.predicted_total_s)} predicted",
            )
        )
    lines.append(("Rule", f"{finding.code} {finding.slug}"))
    return [(name, _one_line(text)) for name, text in lines]


def _closing(diagnosis: Diagnosis) -> list[str]:
    lines = []
    if not diagnosis.findings:
        total = f" in {seconds(diagnosis.total_s)}" if diagnosis.total_s else ""
        card = f" on {diagnosis.gpu}" if diagnosis.gpu else ""
        reached = f": {diagnosis.reached}" if diagnosis.reached else ""
        lines.append(f"Nothing found{total}{card}{reached}.")
    lines += [f"Note: {note}" for note in diagnosis.notes]
    return [_one_line(line) for line in lines]


def _one_line(text: str) -> str:
    """Records quote strangers: none of their lines may pass for one of ours."""
    return printable(text.replace("\n", " "))
