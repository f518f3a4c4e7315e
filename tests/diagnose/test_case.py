"""The recorded case: what half arithmetic cost on a 12 GB Pascal card, and what was left afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recorded_case import FIXTURES

from pascaline.diagnose.diagnosis import Diagnosis, diagnose
from pascaline.diagnose.finding import Finding
from pascaline.report.importers import open_record

CASE = FIXTURES / "case_study"
HALF = CASE / "pascal_12gb_half_arithmetic.json"
MENDED = CASE / "pascal_12gb_fp32_accumulate.json"
A6000 = CASE / "rtx_a6000_half_arithmetic.json"
CARD = "TITAN X (Pascal)"
MEASURED_AFTER_S = 3.0983325251191854
LINEARS = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def _changed(path: Path, tmp_path: Path, **fields: object) -> Path:
    changed = {**json.loads(path.read_text()), **fields}
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    return tmp_path / "changed.json"


def _half(diagnosis: Diagnosis) -> Finding | None:
    slug = "half-arithmetic-without-units"
    return next((finding for finding in diagnosis.findings if finding.slug == slug), None)


def _last_names(finding: Finding) -> set[str]:
    return {module.rpartition(".")[2] for module in finding.modules}


def test_half_arithmetic_is_the_first_finding_and_its_prediction_is_what_was_measured_after() -> None:
    first = diagnose(open_record(HALF), CARD).findings[0]
    assert first.slug == "half-arithmetic-without-units"
    assert _last_names(first) == LINEARS
    assert "1/64" in first.cause
    assert "sm_61" in first.cause
    assert "fp32 accumulation" in first.remedy
    assert first.predicted_total_s == pytest.approx(MEASURED_AFTER_S, rel=0.10)
    assert first.saves_s == pytest.approx(134.81172338464856 - first.predicted_total_s)


def test_without_a_name_the_compute_capability_is_enough() -> None:
    diagnosis = diagnose(open_record(HALF))
    finding = _half(diagnosis)
    assert finding is not None
    assert finding.predicted_total_s == pytest.approx(MEASURED_AFTER_S, rel=0.15)
    assert any("--gpu" in note and "TITAN X (Pascal)" in note for note in diagnosis.notes)


def test_leaves_and_the_whole_are_enough(tmp_path: Path) -> None:
    """Hooks on some modules only: no layer, and no block of it, has a time of its own."""
    modules = json.loads(HALF.read_text())["modules"]
    blocks = ("layers", "layers.0", "self_attn", "mlp")
    kept = {name: s for name, s in modules.items() if not name.endswith(blocks)}
    first = diagnose(open_record(_changed(HALF, tmp_path, modules=kept)), CARD).findings[0]
    assert _last_names(first) == LINEARS
    assert first.predicted_total_s == pytest.approx(MEASURED_AFTER_S, rel=0.10)


@pytest.mark.parametrize("gpu", ["P40", "GTX 1080 Ti", "TITAN Xp", "Tesla P4"])
def test_it_is_found_for_every_card_of_that_capability(gpu: str) -> None:
    finding = _half(diagnose(open_record(HALF), gpu))
    assert finding is not None
    assert _last_names(finding) == LINEARS


@pytest.mark.parametrize("gpu", ["Tesla P100", "V100", "RTX A6000", "GTX 1660", "GTX 980", "RTX 4090"])
def test_it_is_not_claimed_of_chips_with_fast_half_or_none(gpu: str) -> None:
    assert _half(diagnose(open_record(HALF), gpu)) is None


@pytest.mark.parametrize("gpu", [None, "RTX A6000", "A40", CARD])
def test_it_is_not_found_on_the_a6000_whatever_it_is_called(gpu: str | None) -> None:
    """Its token count is unknown; as a Pascal card it would have been many times too fast."""
    assert _half(diagnose(open_record(A6000), gpu)) is None


def test_the_mended_run_is_at_the_library_rate_and_only_dp4a_goes_beyond() -> None:
    diagnosis = diagnose(open_record(MENDED), CARD)
    assert _half(diagnosis) is None
    finding = next(finding for finding in diagnosis.findings if finding.slug == "at-the-library-rate")
    assert _last_names(finding) == LINEARS
    assert "13.70 TFLOP/s" in finding.evidence  # the roof at 1911 MHz
    assert "library rate" in finding.evidence
    assert "dp4a" in finding.remedy
    assert finding.saves_s is not None
    assert 0.3 < finding.saves_s < 2.5  # dp4a has four times the rate, and engines reach a third of it


def test_the_rate_alone_shows_it_when_nothing_was_said(tmp_path: Path) -> None:
    record = open_record(_changed(HALF, tmp_path, dispatch={}))
    finding = _half(diagnose(record, CARD))
    assert finding is not None
    assert _last_names(finding) == LINEARS
    assert _half(diagnose(open_record(_changed(MENDED, tmp_path, dispatch={})), CARD)) is None


def test_unknown_tokens_are_bounded_by_what_memory_could_move(tmp_path: Path) -> None:
    finding = _half(diagnose(open_record(_changed(HALF, tmp_path, tokens=None)), CARD))
    assert finding is not None
    assert finding.predicted_total_s == pytest.approx(MEASURED_AFTER_S, rel=0.10)


def test_another_layer_or_all_of_them_give_the_same_prediction(tmp_path: Path) -> None:
    whole = json.loads(HALF.read_text())["modules"]
    expected = _half(diagnose(open_record(HALF), CARD))
    assert expected is not None
    other = {name.replace(".layers.0", ".layers.7"): time for name, time in whole.items()}
    every = {name: time for name, time in whole.items() if ".layers.0" not in name}
    scale = whole["model.layers"] / 28 / whole["model.layers.0"]
    for layer in range(28):
        for name, time in whole.items():
            if ".layers.0" in name:
                every[name.replace(".layers.0", f".layers.{layer}")] = time * scale
    for modules, layers in ((other, [7]), (every, list(range(28)))):
        changed = _changed(HALF, tmp_path, modules=modules, layers_recorded=layers)
        finding = _half(diagnose(open_record(changed), CARD))
        assert finding is not None
        assert finding.predicted_total_s == pytest.approx(expected.predicted_total_s, rel=1e-6)


def test_separate_projections_give_the_same_prediction(tmp_path: Path) -> None:
    """qkv_proj in parts of its rows' shares: 3584, 512 and 512; gate_up_proj in halves."""
    modules = json.loads(HALF.read_text())["modules"]
    attention, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    qkv, gate_up = modules.pop(attention + "qkv_proj"), modules.pop(mlp + "gate_up_proj")
    for name, rows in (("q_proj", 3584), ("k_proj", 512), ("v_proj", 512)):
        modules[attention + name] = qkv * rows / 4608
    modules[mlp + "gate_proj"] = modules[mlp + "up_proj"] = gate_up / 2
    finding = _half(diagnose(open_record(_changed(HALF, tmp_path, modules=modules)), CARD))
    assert finding is not None
    assert _last_names(finding) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert finding.predicted_total_s == pytest.approx(MEASURED_AFTER_S, rel=0.10)


def test_half_the_tokens_take_half_the_time(tmp_path: Path) -> None:
    modules = {name: time / 2 for name, time in json.loads(HALF.read_text())["modules"].items()}
    finding = _half(diagnose(open_record(_changed(HALF, tmp_path, tokens=1024, modules=modules)), CARD))
    assert finding is not None
    assert finding.predicted_total_s == pytest.approx(MEASURED_AFTER_S / 2, rel=0.10)


@pytest.mark.parametrize("name", ["modules.json.gz", "ranges.json.gz"])
def test_an_eager_trace_of_a_tiny_model_waits_for_launches(name: str) -> None:
    """Recorded on an H100, busy for 0.43 of 22.2 ms; the same model's graphs replayed in 0.57 ms."""
    first = diagnose(open_record(FIXTURES / "h100_traces" / name)).findings[0]
    assert first.slug == "launch-bound"
    assert "profiler" in first.evidence
    graph = diagnose(open_record(FIXTURES / "h100_traces" / "graph.json.gz"))
    assert "launch-bound" not in {finding.slug for finding in graph.findings}
