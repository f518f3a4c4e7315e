"""Whatever numbers a record holds: a diagnosis of finite numbers, or one message."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

from hypothesis import given, settings
from hypothesis import strategies as st

from pascaline.core.errors import PascalineError
from pascaline.diagnose.diagnosis import diagnose
from pascaline.report.run_record import Gpu, RecordedDecision, RecordedKernel, Row, RunRecord

NAMES = st.sampled_from(
    [
        *(
            "maxwell_hgemm_128x64_tn",
            "volta_dgemm_128x64_nn",
            "ampere_sgemm_64x64",
            "reconstruct_exllama_kernel",
        ),
        *(
            "turing_fp16_s1688gemm",
            "elementwise_kernel<c10::Half>",
            "index_select",
            "aten::mm",
            "copy" * 5000,
        ),
    ]
)
MODULES = st.sampled_from(
    [
        *(
            "",
            "model",
            "model.layers",
            "model.layers.0",
            "model.layers.0.mlp",
            "model.layers.0.mlp.down_proj",
        ),
        *("model.layers.0.mlp.act_fn", "model.layers.999999999.mlp.up_proj", "a.b.c", ".", "...", "h.1"),
    ]
)
OPS = st.sampled_from(["linear", "module", "kernels", "silu_and_mul", "copy_host_to_device", "other"])
NUMBERS = st.one_of(
    st.sampled_from([0.0, -1.0, 1e-300, 1e300, 1e9, 5e-324]), st.floats(0, 1e6), st.floats(allow_nan=False)
)
INTEGERS = st.one_of(st.integers(-2, 5000), st.sampled_from([10**400, 2**63, -(10**30)]))
KERNELS = st.builds(RecordedKernel, name=NAMES, calls=INTEGERS, s=st.none() | NUMBERS)
DECISIONS = st.builds(
    RecordedDecision,
    choice=st.sampled_from(["cpu", "fp16"]),
    reason=st.sampled_from(["half arithmetic", "g_idx"]),
)
ROWS = st.builds(
    Row,
    module=MODULES,
    op=OPS,
    phase=st.sampled_from([None, "prefill", "decode"]),
    calls=INTEGERS,
    measured_s=st.none() | NUMBERS,
    flop_by_type=st.dictionaries(st.sampled_from(["fp32", "unknown"]), NUMBERS, max_size=2),
    bytes=st.none() | INTEGERS,
    kernels=st.lists(KERNELS, max_size=3),
    decision=st.none() | DECISIONS,
)
CONFIGS = st.dictionaries(
    st.sampled_from(
        [
            "num_hidden_layers",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "quantization_config",
        ]
    ),
    st.one_of(
        INTEGERS, st.none(), st.booleans(), st.just({"bits": 10**30, "group_size": 0, "desc_act": True})
    ),
)
GPUS = st.builds(
    Gpu,
    name=st.sampled_from(["Tesla P40", "NVIDIA A100-SXM4-80GB", "12 GB Pascal card", "GTX 1660"]),
    compute_capability=st.sampled_from([None, "6.1", "8.6", "99.9", "x"]),
    memory_gib=st.none() | NUMBERS,
    driver=st.sampled_from([None, "580.1", "999999999999.0", "²"]),
    clock_mhz_measured=st.none() | NUMBERS,
)
RECORDS = st.builds(
    RunRecord,
    kind=st.just("imported"),
    created=st.none(),
    software=st.dictionaries(
        st.sampled_from(["torch", "cuda", "arch_list"]), st.sampled_from(["2.9+cu130", "sm_999"])
    ),
    gpu=st.none() | GPUS,
    model=CONFIGS,
    tokens=st.none() | INTEGERS,
    batch=st.none() | INTEGERS,
    elapsed_s=st.none() | NUMBERS,
    gpu_busy_s=st.none() | NUMBERS,
    rows=st.lists(ROWS, max_size=6),
    notes=st.lists(
        st.sampled_from(["offloaded 99999/99999 layers to GPU", "KV cache usage: 99%"]), max_size=2
    ),
)


@settings(max_examples=300, deadline=None)
@given(record=RECORDS, gpu=st.sampled_from([None, "TITAN X (Pascal)", "H100"]))
def test_any_numbers_give_finite_ones_or_a_message(record: RunRecord, gpu: str | None) -> None:
    with contextlib.suppress(PascalineError):
        diagnosis = diagnose(record, gpu)
        json.dumps(asdict(diagnosis), allow_nan=False)
        saves = [finding.saves_s for finding in diagnosis.findings if finding.saves_s is not None]
        assert all(s >= 0 for s in saves)
        assert sum(saves) <= (diagnosis.total_s or 0.0) * (1 + 1e-9)


def test_many_products_of_unknown_work_are_bounded_together() -> None:
    """What is inferred of the whole run is inferred once: else this would take minutes."""
    decision = RecordedDecision(choice="fp16", reason="half arithmetic")
    rows = [
        Row(module=f"model.layers.{index}.mlp.up_proj", op="linear", measured_s=1.0, decision=decision)
        for index in range(4000)
    ]
    [finding] = diagnose(RunRecord(kind="imported", created=None, gpu=Gpu(name="P40"), rows=rows)).findings
    assert len(finding.modules) == len(rows)


def test_bytes_beyond_any_float_are_passed_over() -> None:
    rows = [
        Row(module="layers.0.up_proj", op="linear", measured_s=1.0),
        Row(module="layers.0.act_fn", op="silu_and_mul", measured_s=1.0, bytes=10**400),
    ]
    record = RunRecord(kind="imported", created=None, gpu=Gpu(name="P40"), rows=rows)
    assert not diagnose(record).findings


def test_a_card_said_to_be_idle_while_its_rows_took_time_is_saved_once() -> None:
    kernel = RecordedKernel(name="maxwell_hgemm_128x64_tn", calls=100_000, s=10.0)
    row = Row(module="layers.0.up_proj", op="linear", measured_s=10.0, kernels=[kernel])
    record = RunRecord(kind="imported", created=None, gpu=Gpu(name="P40"), gpu_busy_s=0.0, rows=[row])
    [finding] = diagnose(record).findings
    assert finding.slug == "half-arithmetic-without-units"
