"""Totals of records of a few layers, and causes that compete for the same time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pascaline.core.errors import CheckpointError
from pascaline.diagnose.diagnosis import diagnose
from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.rules import half_arithmetic_without_units
from pascaline.diagnose.run import Run, measured_run
from pascaline.report.run_record import RecordedKernel, Row, RunRecord

CHECKED_IN = half_arithmetic_without_units.check.__module__


def _run(*rows: Row, layers: int | None = None) -> Run:
    model: dict[str, object] = {} if layers is None else {"num_hidden_layers": layers}
    return measured_run(RunRecord(kind="imported", created=None, model=model, rows=list(rows)), None)


def _row(module: str, s: float, op: str = "linear", *kernels: RecordedKernel) -> Row:
    return Row(module=module, op=op, measured_s=s, kernels=list(kernels))


def test_a_layer_stands_for_its_siblings_by_its_share_of_the_layers_time() -> None:
    run = _run(
        _row("model", 10.5, "module"),
        _row("model.embed_tokens", 0.5, "embedding"),
        _row("model.layers", 10.0, "module"),
        _row("model.layers.0", 2.0, "module"),  # the first carries first-call costs
        _row("model.layers.0.q_proj", 1.5),
        _row("model.layers.0.norm", 0.5, "rms_norm"),
        layers=8,
    )
    assert run.total_s == 10.5
    by_module = {row.row.module: row for row in run.rows}
    assert by_module["model.layers.0.q_proj"].whole_s == pytest.approx(7.5)
    assert by_module["model.layers.0.q_proj"].layers_per_recorded == 8
    assert by_module["model.embed_tokens"].whole_s == 0.5


def test_the_layers_time_is_what_the_model_leaves_for_them() -> None:
    run = _run(_row("model", 9.0, "module"), _row("model.norm", 1.0), _row("model.layers.3.q_proj", 2.0))
    assert run.total_s == 9.0
    assert run.rows[1].whole_s == pytest.approx(8.0)
    assert run.rows[1].layers_per_recorded == 4


def test_without_totals_layers_are_multiplied() -> None:
    run = _run(_row("lm_head", 1.0), _row("model.layers.0.q_proj", 2.0), layers=5)
    assert run.total_s == pytest.approx(11.0)


def test_all_layers_recorded_stand_for_themselves() -> None:
    run = _run(_row("h.0.c_fc", 2.0), _row("h.1.c_fc", 3.0), layers=2)
    assert [row.whole_s for row in run.rows] == [2.0, 3.0]
    assert run.total_s == 5.0


def test_prefill_and_decode_are_added() -> None:
    rows = [
        Row(module="model.layers.0.q_proj", op="linear", phase=phase, measured_s=s)
        for phase, s in (("prefill", 1.0), ("decode", 4.0))
    ]
    assert _run(*rows).total_s == 5.0


@pytest.mark.parametrize("time", [-1.0, 1e300, float("inf"), float("nan")])
def test_impossible_times_are_refused(time: float) -> None:
    with pytest.raises(CheckpointError, match="took"):
        _run(_row("model", time))


def test_a_path_of_very_many_parts_is_refused() -> None:
    with pytest.raises(CheckpointError, match="dots"):
        _run(_row("a." * 1000, 1.0))


def _rule(code: str, *savings: tuple[int, str | None, float]) -> Rule:
    """A rule that claims what is left of these."""

    def check(run: Run) -> Found | None:
        there = {row.index for row in run.rows}
        named = {(row.index, kernel.name) for row in run.rows for kernel in row.kernels}
        left = [
            Saving(row, kernel, s)
            for row, kernel, s in savings
            if (row in there if kernel is None else (row, kernel) in named)
        ]
        return Found("e", "c", "r", tuple(left)) if left else None

    check.__module__ = CHECKED_IN  # whose docstring is the title
    return Rule(code, code.lower(), check)


def test_the_stronger_cause_takes_a_row_and_the_weaker_keeps_what_is_left() -> None:
    record = RunRecord(kind="imported", created=None, rows=[_row("a", 6.0), _row("b", 4.0)])
    weak = _rule("WEAK", (0, None, 3.0), (1, None, 1.0))
    strong = _rule("STRONG", (0, None, 5.0))
    findings = diagnose(record, rules=(weak, strong)).findings
    assert [(finding.code, finding.saves_s) for finding in findings] == [("STRONG", 5.0), ("WEAK", 1.0)]
    assert [finding.predicted_total_s for finding in findings] == [5.0, 9.0]
    assert findings[1].modules == ("b",)


def test_a_kernel_is_taken_from_its_row_alone() -> None:
    kernels = [RecordedKernel(name="gemm", calls=1, s=3.0), RecordedKernel(name="dequant", calls=1, s=1.0)]
    record = RunRecord(kind="imported", created=None, rows=[_row("a", 4.0, "linear", *kernels)])
    first = _rule("FIRST", (0, "gemm", 2.5))
    second = _rule("SECOND", (0, "dequant", 1.0), (0, "gemm", 2.0))
    findings = diagnose(record, rules=(second, first)).findings
    assert [(finding.code, finding.kernels) for finding in findings] == [
        ("SECOND", ("dequant", "gemm")),
    ]


def test_the_last_resort_is_asked_of_what_no_other_rule_explains() -> None:
    record = RunRecord(kind="imported", created=None, rows=[_row("a", 6.0), _row("b", 4.0)])
    last = replace(_rule("LAST", (0, None, 5.9), (1, None, 3.9)), is_last_resort=True)
    findings = diagnose(record, rules=(last, _rule("KNOWN", (0, None, 1.0)))).findings
    assert [(finding.code, finding.saves_s) for finding in findings] == [("LAST", 3.9), ("KNOWN", 1.0)]


def test_causes_of_next_to_nothing_are_left_out() -> None:
    record = RunRecord(kind="imported", created=None, rows=[_row("a", 100.0)])
    assert diagnose(record, rules=(_rule("TINY", (0, None, 0.1)),)).findings == ()


def test_a_record_without_times_has_no_savings() -> None:
    record = RunRecord(kind="imported", created=None, notes=["no kernel image is available"])
    diagnosis = diagnose(record)
    [finding] = diagnosis.findings
    assert finding.slug == "no-kernel-image"
    assert finding.saves_s is None
    assert finding.predicted_total_s is None
    assert diagnosis.total_s is None
