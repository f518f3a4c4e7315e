"""Runs made of round numbers, for what the recorded ones do not show."""

from __future__ import annotations

import pytest

from pascaline.diagnose.diagnosis import Diagnosis, diagnose
from pascaline.diagnose.finding import Finding
from pascaline.report.run_record import Cpu, Gpu, RecordedDecision, RecordedKernel, Row, RunRecord

P40 = Gpu(name="Tesla P40")
BYTES_PER_S = 347.1e9


def _diagnose(*rows: Row, gpu: Gpu | None = P40, **fields: object) -> Diagnosis:
    return diagnose(RunRecord(kind="imported", created=None, gpu=gpu, rows=list(rows), **fields))


def _of(diagnosis: Diagnosis, slug: str) -> Finding | None:
    return next((finding for finding in diagnosis.findings if finding.slug == slug), None)


def test_a_half_product_and_the_kernel_that_feeds_it_are_two_causes() -> None:
    kernels = [
        RecordedKernel(name="maxwell_hgemm_128x128_nn", calls=1, s=2.0),
        RecordedKernel(name="reconstruct_exllama_kernel", calls=1, s=0.5),
    ]
    flop = {"unknown": 2.0 * 180e9}  # 180 GFLOP/s, just below the half units of a P40
    row = Row(
        module="model.layers.0.mlp.up_proj", op="linear", measured_s=2.5, flop_by_type=flop, kernels=kernels
    )
    half, rebuilt = _diagnose(row).findings
    assert (half.slug, half.kernels) == ("half-arithmetic-without-units", ("maxwell_hgemm_128x128_nn",))
    assert half.saves_s == pytest.approx(2.0, rel=0.05)
    assert (rebuilt.slug, rebuilt.kernels) == ("dequantised-to-half", ("reconstruct_exllama_kernel",))
    assert rebuilt.saves_s == pytest.approx(0.5)


@pytest.mark.parametrize(("bits", "saves_s"), [(8, 0.5), (4, None)])
def test_linears_at_the_memory_s_bandwidth_are_at_the_roof(bits: int, saves_s: float | None) -> None:
    row = Row(
        module="model.layers.0.mlp.up_proj",
        op="linear",
        phase="decode",
        measured_s=1.0,
        bytes=round(0.9 * BYTES_PER_S),
        flop_by_type={"unknown": 1e11},
    )
    finding = _of(_diagnose(row, model={"quantization_config": {"bits": bits}}), "at-the-library-rate")
    assert finding is not None
    assert "memory's bandwidth" in finding.cause
    assert finding.saves_s == saves_s


def test_fp32_products_at_their_limit_on_a_p100_could_run_in_half() -> None:
    """Its half units are no fault: they do twice the fp32 rate."""
    row = Row(
        module="model.layers.0.mlp.up_proj", op="linear", measured_s=1.0, flop_by_type={"unknown": 8.5e12}
    )
    [finding] = _diagnose(row, gpu=Gpu(name="Tesla P100-PCIE-16GB")).findings
    assert (finding.slug, finding.modules) == ("at-the-library-rate", (row.module,))
    assert "half arithmetic" in finding.remedy
    assert finding.saves_s == pytest.approx(0.5, rel=0.05)


def test_a_bandwidth_that_was_not_recorded_is_not_shown_as_nothing() -> None:
    row = Row(module="layers.0.up_proj", op="linear", measured_s=1.0, flop_by_type={"unknown": 5e12})
    reached = _diagnose(row).reached
    assert reached is not None
    assert "of the roof" in reached
    assert "bandwidth" not in reached


@pytest.mark.parametrize(("launches", "is_bound"), [(200, True), (40, False)])
def test_a_card_that_waits_longer_than_python_takes_waits_for_something_else(
    launches: int, is_bound: bool
) -> None:
    kernels = [RecordedKernel(name="elementwise", calls=launches, s=4e-4)]
    row = Row(module="", op="kernels", measured_s=4e-4, kernels=kernels)
    finding = _of(_diagnose(row, elapsed_s=0.02, gpu_busy_s=4e-4), "launch-bound")
    assert (finding is not None) == is_bound


def test_a_processor_s_operators_are_no_launches() -> None:
    kernels = [RecordedKernel(name="aten::mm", calls=200, s=4e-4)]
    row = Row(module="", op="kernels", measured_s=4e-4, kernels=kernels)
    assert not _diagnose(row, gpu=None, cpu=Cpu(name="x86_64"), elapsed_s=0.02).findings


def test_contents_that_took_longer_than_their_container_are_saved_once() -> None:
    """Clocks differ: the parts of a layer add up to more than the layer, and that to more than the model."""
    rows = [
        Row(module="model", op="module", measured_s=180.0),
        Row(module="model.layers", op="module", measured_s=200.0),
        Row(module="model.layers.0", op="module", measured_s=90.0),
        *(
            Row(
                module=f"model.layers.0.mlp.{name}",
                op="linear",
                measured_s=50.0,
                flop_by_type={"unknown": 50.0 * 180e9},
            )
            for name in ("up_proj", "down_proj")
        ),
    ]
    diagnosis = _diagnose(*rows, model={"num_hidden_layers": 2})
    [finding] = diagnosis.findings
    assert diagnosis.total_s == pytest.approx(200.0)
    flop = 2 * 100.0 * 180e9
    assert finding.predicted_total_s == pytest.approx(flop / 8.49e12, rel=0.02)  # the P40's library rate


def test_slow_decoding_whose_traffic_explains_it_is_not_called_half_arithmetic() -> None:
    """fp16 weights, one token: 2 FLOP for 2 bytes happen to be as slow as half units."""
    row = Row(
        module="model.layers.0.mlp.up_proj",
        op="linear",
        phase="decode",
        measured_s=1.0,
        bytes=round(0.5 * BYTES_PER_S),
        flop_by_type={"unknown": 0.5 * BYTES_PER_S},
    )
    assert _of(_diagnose(row), "half-arithmetic-without-units") is None


def test_rows_on_the_processor_are_priced_at_the_card_s_bandwidth() -> None:
    row = Row(
        module="model.layers.0",
        op="linear",
        measured_s=1.0,
        bytes=10**10,
        decision=RecordedDecision(choice="cpu", reason="the card is full"),
    )
    finding = _of(_diagnose(row), "layers-on-cpu")
    assert finding is not None
    assert finding.saves_s is not None
    assert 0.5 < finding.saves_s < 1 - 10**10 / BYTES_PER_S


def test_a_processor_s_run_is_asked_for_no_card() -> None:
    row = Row(module="model.layers.0", op="linear", measured_s=1.0)
    diagnosis = _diagnose(row, gpu=None, cpu=Cpu(name="EPYC"))
    assert diagnosis.findings == ()
    assert not any("--gpu" in note for note in diagnosis.notes)


@pytest.mark.parametrize(
    ("note", "starved"),
    [
        ('vllm:num_preemptions_total{engine="0",model_name="Qwen2.5-72B"} 12.0', True),
        ('vllm:num_preemptions_total{engine="0",model_name="Qwen2.5-72B"} 0.0', False),
        ("Running: 16 reqs, Swapped: 0 reqs, Pending: 12 reqs, GPU KV cache usage: 99.3%", True),
        ("Running: 16 reqs, Swapped: 0 reqs, Pending: 0 reqs, GPU KV cache usage: 99.3%", False),
        ("Running: 2 reqs, Waiting: 3 reqs, GPU KV cache usage: 12.0%", False),
    ],
)
def test_metrics_and_logs_tell_of_a_starved_cache(note: str, starved: bool) -> None:
    assert (_of(_diagnose(notes=[note]), "page-pool-starved") is not None) == starved


def test_a_throttled_card_explains_rows_bound_by_arithmetic_alone() -> None:
    def row(name: str, flop: float, moved: int) -> Row:
        work = {"unknown": flop}
        return Row(module=name, op="linear", measured_s=1.0, flop_by_type=work, bytes=moved)

    gpu = Gpu(name="RTX A4000", clock_mhz_measured=780)  # half of its boost clock
    finding = _of(
        _diagnose(row("prefill", 2e13, 10**9), row("decode", 1e10, 2 * 10**11), gpu=gpu), "clock-sag"
    )
    assert finding is not None
    assert finding.modules == ("prefill",)
    assert finding.saves_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("software", "gpu", "slug"),
    [
        ({"torch": "2.11.0+cu130"}, Gpu(name="RTX 3090", driver="570.86"), "driver-too-old"),
        ({"torch": "2.11.0+cu130"}, Gpu(name="RTX 3090", driver="580.65"), None),
        (
            {"arch_list": "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"},
            Gpu(name="Tesla V100-SXM2-16GB"),
            "no-kernel-image",
        ),
        ({"arch_list": "sm_75 sm_80 sm_86 sm_90 compute_90"}, Gpu(name="RTX 5090"), None),
        ({"arch_list": "sm_80 sm_90"}, Gpu(name="RTX 4090"), None),
        ({}, Gpu(name="Tesla V100-SXM2-16GB", driver="590.44"), "driver-too-new"),
        ({}, Gpu(name="Tesla T4", driver="590.44"), None),
    ],
)
def test_versions_that_do_not_go_together(software: dict[str, str], gpu: Gpu, slug: str | None) -> None:
    findings = _diagnose(gpu=gpu, software=software).findings
    assert [finding.slug for finding in findings] == ([] if slug is None else [slug])
