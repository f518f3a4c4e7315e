"""The page of `pascaline diagnose --html`: one section a finding, with what its remedy takes off the run."""

from __future__ import annotations

from pascaline.diagnose.diagnosis import Diagnosis
from pascaline.diagnose.finding import Finding
from pascaline.report.numbers import seconds, share
from pascaline.report.page import escaped, page, web_file


def findings_page(diagnosis: Diagnosis, name: str) -> str:
    """The whole document; `name` is the record's file."""
    run = [f"<code>{escaped(name)}</code>"]
    if diagnosis.gpu:
        run.append(escaped(diagnosis.gpu))
    if diagnosis.total_s:
        run.append(f"{seconds(diagnosis.total_s)} recorded")
    sections = [_section(finding, diagnosis.total_s) for finding in diagnosis.findings]
    if not sections:
        reached = f": {escaped(diagnosis.reached)}" if diagnosis.reached else ""
        sections = [f"<p>Nothing found{reached}.</p>"]
    notes = "".join(f"<li>{escaped(note)}</li>" for note in diagnosis.notes)
    return page(
        "Why this run takes as long as it does",
        f"<p class='fine'>{' · '.join(run)}</p>"
        + "".join(sections)
        + (f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""),
        style=web_file("findings.css"),
    )


def _section(finding: Finding, total_s: float | None) -> str:
    parts = [
        ("Cause", escaped(finding.cause)),
        ("Evidence", escaped(finding.evidence)),
        ("Remedy", escaped(finding.remedy)),
        ("Modules", _names(finding.modules)),
        ("Kernels", _names(finding.kernels)),
    ]
    if finding.saves_s is not None and finding.predicted_total_s is not None and total_s:
        left = 100 * finding.predicted_total_s / total_s
        text = (
            f"{seconds(finding.saves_s)} of {seconds(total_s)} ({share(finding.saves_s, total_s)}):"
            f" {seconds(finding.predicted_total_s)} predicted"
        )
        bar = f"<i style='width:{left:.3f}%'></i><b style='width:{100 - left:.3f}%'></b>"
        parts.append(("Saves", f"{text}<div class='bar' role='img' aria-label='{escaped(text)}'>{bar}</div>"))
    listed = "".join(f"<dt>{heading}</dt><dd>{text}</dd>" for heading, text in parts if text)
    return (
        f"<section class='finding'><h2>{escaped(finding.title)}</h2><p class='fine'>{escaped(finding.code)}"
        f" {escaped(finding.slug)}</p><dl>{listed}</dl></section>"
    )


def _names(names: tuple[str, ...]) -> str:
    return "".join(f"<code>{escaped(name)}</code> " for name in names if name)
