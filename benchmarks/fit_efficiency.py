"""Fit the shares of their limits that cards reach to published speeds, and say how far the model is off.

    python benchmarks/fit_efficiency.py

Reads published_figures.toml, fits on half of its figures, writes src/pascaline/hardware/efficiency.toml and
prints the error on the other half. Exits with 1 where that is too large, or where a figure is above a roof.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness.efficiency_file import efficiency_toml
from harness.machine import RESULTS, now, software
from harness.published import read_figures, read_library_figures
from harness.speed_model import (
    GROUPS,
    Case,
    Factors,
    cases_of,
    errors,
    errors_of_unseen_cards,
    fit,
    group_of,
    halves,
    predicted_s,
    roof_s,
)

import pascaline
from pascaline.cli.ending import run
from pascaline.core.files import write_atomically
from pascaline.report.run_record import Row, RunRecord, write_record

EFFICIENCY = Path(pascaline.__file__).parent / "hardware" / "efficiency.toml"
CASE = "efficiency"
MOST_MEDIAN_ERROR = 0.25
WORST = 10


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    figures = read_figures()
    fitted, held_out = (cases_of(half) for half in halves(figures))
    not_counted = cases_of(figure for figure in figures if figure.not_counted)
    factors = fit(fitted)
    unseen = errors_of_unseen_cards([*fitted, *held_out])
    write_atomically(EFFICIENCY, efficiency_toml(factors, unseen, read_library_figures()).encode())
    cases = [*fitted, *held_out, *not_counted]
    above = [case.figure for case in cases if roof_s(case)[0] > case.published_s]
    notes = [
        *_table("fitted on", fitted, factors),
        *_table("held out", held_out, factors),
        *_table("not counted", not_counted, factors),
        f"of cards that were not fitted on: {len(unseen)} figures, median error {_middle(unseen):.1%}",
        *(f"above its roof: {figure.name} ({figure.url})" for figure in above),
    ]
    sys.stdout.write("\n".join([*notes, *_worst(held_out, factors)]) + "\n")
    created = now()
    record = RunRecord(
        kind="bench",
        created=created,
        software=software("pascaline", "numpy"),
        rows=[_row(case, factors) for case in cases],
        notes=notes,
    )
    path = RESULTS / "published" / f"{created[: len('2000-01-31')]}-{CASE}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(record, path)
    return 1 if above or _median(held_out, factors) > MOST_MEDIAN_ERROR else 0


def _row(case: Case, factors: Factors) -> Row:
    figure, work = case.figure, case.work
    bound_s, bound_by = roof_s(case)
    return Row(
        module=figure.name,
        op=f"{figure.engine}: {figure.arithmetic}",
        phase=figure.phase,
        measured_s=case.published_s,
        predicted_s=predicted_s(case, factors),
        bound_s=bound_s,
        bound_by=bound_by,
        flop_by_type={figure.arithmetic: float(np.sum(work.count * work.linear))},
        bytes=int(np.sum(work.count * work.moved_bytes)),
    )


def _median(cases: Sequence[Case], factors: Factors) -> float:
    return float(np.median(np.abs(errors(cases, factors))))


def _middle(unseen: Sequence[tuple[Case, float]]) -> float:
    return statistics.median(abs(error) for _, error in unseen)


def _table(title: str, cases: Sequence[Case], factors: Factors) -> list[str]:
    """Median errors, by phase and by group of cards."""
    cards = len({case.figure.card.name for case in cases})
    lines = [f"{title}: {len(cases)} figures of {cards} cards, median error {_median(cases, factors):.1%}"]
    for phase in ("prefill", "decode"):
        of_phase = [case for case in cases if case.figure.phase == phase]
        if not of_phase:
            continue
        lines.append(f"  {phase}: {len(of_phase)}, {_median(of_phase, factors):.1%}")
        for group in GROUPS:
            members = [case for case in of_phase if group_of(case.figure.card) == group]
            if members:
                lines.append(f"    {group}: {len(members)}, {_median(members, factors):.1%}")
    return lines


def _worst(cases: Sequence[Case], factors: Factors) -> list[str]:
    signed = errors(cases, factors)
    order = np.argsort(-np.abs(signed))[:WORST]
    named = ((signed[index], cases[index].figure) for index in order)
    return [
        "worst of those held out:",
        *(f"  {error:+.0%} {figure.name} ({figure.engine})" for error, figure in named),
    ]


if __name__ == "__main__":
    run(main)
