"""From a record to its findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pascaline.diagnose.chip import chip_of
from pascaline.diagnose.finding import Finding, Found, Saving
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.rules import RULES, title_of
from pascaline.diagnose.run import Run, measured_run
from pascaline.report.numbers import rate, share
from pascaline.report.run_record import RunRecord

_LEAST_SHARE = 0.005
"""A cause that explains less of the run than this is not worth a user's time."""


@dataclass(frozen=True)
class Diagnosis:
    """What a record told.

    Parameters
    ----------
    findings : by what they save, the most first; those whose saving cannot be told come last.
    notes : what could not be looked at, and why.
    total_s : of the recorded run, unrecorded layers included; None where nothing was measured.
    gpu : the card that was diagnosed for, or None.
    reached : how near the linears are to the chip's roof, in words; None where that cannot be told.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    total_s: float | None
    gpu: str | None
    reached: str | None


def diagnose(record: RunRecord, gpu_name: str | None = None, rules: Sequence[Rule] = RULES) -> Diagnosis:
    """Find the causes of a run's slowness.

    Parameters
    ----------
    gpu_name : the card that ran, overriding the record's.

    Raises
    ------
    UnknownGpuError : `gpu_name` is in no table.
    CheckpointError : the record's times are impossible.
    """
    chip, notes = chip_of(record, gpu_name)
    run = measured_run(record, chip)
    findings = _settle(run, rules)
    return Diagnosis(
        findings=tuple(findings),
        notes=(*notes, *_gaps(run)),
        total_s=run.total_s or None,
        gpu=chip.name if chip else None,
        reached=_reached(run),
    )


def _settle(run: Run, rules: Sequence[Rule]) -> list[Finding]:
    """The strongest cause first takes the time that it explains; the others look at what is left."""
    findings: list[Finding] = []
    left = run
    waiting = [rule for rule in rules if not rule.is_last_resort]
    in_reserve = [rule for rule in rules if rule.is_last_resort]
    while waiting or in_reserve:
        answers = [(rule, found) for rule in waiting if (found := rule.check(left)) is not None]
        timed = [
            (rule, found) for rule, found in answers if _saves_s(found) >= _LEAST_SHARE * run.total_s > 0
        ]
        if timed:
            strongest, found = max(timed, key=lambda each: _saves_s(each[1]))
            findings.append(_finding(strongest, found, run))
            left = left.without(found.savings)
            waiting.remove(strongest)
        else:
            findings += [_finding(rule, found, run) for rule, found in answers if not found.savings]
            waiting, in_reserve = in_reserve, []
    return sorted(findings, key=lambda finding: -(finding.saves_s or 0.0))


def _saves_s(found: Found) -> float:
    return sum(saving.saves_s for saving in found.savings)


def _finding(rule: Rule, found: Found, run: Run) -> Finding:
    saves_s = min(_saves_s(found), run.total_s) if found.savings else None
    return Finding(
        code=rule.code,
        slug=rule.slug,
        title=title_of(rule),
        modules=found.modules or _modules(found.savings, run),
        kernels=found.kernels or _unique(saving.kernel for saving in found.savings),
        evidence=found.evidence,
        cause=found.cause,
        remedy=found.remedy,
        saves_s=saves_s,
        predicted_total_s=None if saves_s is None else run.total_s - saves_s,
    )


def _modules(savings: Sequence[Saving], run: Run) -> tuple[str, ...]:
    return _unique(run.record.rows[saving.row].module for saving in savings if saving.row >= 0)


def _unique(names: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _reached(run: Run) -> str | None:
    """ "the linears are at 67 % of the roof" """
    linears = [row for row in run.linears if row.whole_flop and row.whole_s > 0]
    if run.chip is None or run.chip.gpu is None or not linears:
        return None
    whole_s = sum(row.whole_s for row in linears)
    flop = sum(row.whole_flop or 0.0 for row in linears)
    roof = run.chip.roof("tensor_fp16") or run.chip.roof("fp32")
    if not roof:
        return None
    of_roof = f"{share(flop / whole_s, roof)} of the roof ({rate(flop / whole_s)} of {rate(roof)})"
    reached = f"the linears are at {of_roof}"
    moved = [row.whole_bytes for row in linears if row.whole_bytes is not None]
    limit = run.chip.bytes_per_s
    if len(moved) < len(linears) or not limit:
        return reached
    return f"{reached} and read at {share(sum(moved) / whole_s, limit)} of the memory's bandwidth"


def _gaps(run: Run) -> list[str]:
    """What the record lacks that rules would have used."""
    notes = []
    if run.total_s <= 0:
        notes.append("The record holds no measured times: nothing can be saved of them.")
    elif not any(row.whole_flop for row in run.rows):
        notes.append(
            "The record holds neither its number of tokens nor its arithmetic: rates cannot be computed,"
            " and rules that compare them with the chip's say nothing."
        )
    return notes
