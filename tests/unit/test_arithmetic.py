"""The numerics policy's choice for a linear: by hand, for chips that have this and lack that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pascaline.hardware.gpus import find_gpu, gpus
from pascaline.hardware.measured import LinearRates, MeasuredRates
from pascaline.hardware.roofline import Roofline
from pascaline.plan.chips import gpu_chip, gpu_own_chip
from pascaline.workload.arithmetic import Chip, LinearWork, Way, decide
from pascaline.workload.weight_form import TENSOR_FORMS, WeightForm

Q4_0, F16, BF16 = (TENSOR_FORMS[name] for name in ("Q4_0", "F16", "BF16"))


def chip(*ways: Way) -> Chip:
    rates = {way.arithmetic: way.operations_per_s for way in ways}
    return Chip(
        roofline=Roofline("a chip", "cuda", "6.1", rates, 100e9, 1 << 30, 0.0),
        ways=ways,
        scalar_operations_per_s=1e12,
        attention_arithmetic="fp32",
        attention_operations_per_s=1e12,
        bytes_per_s=100e9,
        launch_s=0.0,
        step_s=0.0,
        spread=0.2,
        source="by hand",
    )


FP32 = Way("fp32", "fp32", 1e12, 100e9)
HALF = Way("half arithmetic", "fp16", 1e12 / 64, 100e9, sums_in_half=True)
INT8 = Way("dp4a int8", "int8", 4e12, 100e9)


def work(rows: int, form: object = Q4_0) -> LinearWork:
    nbytes = form.packed_bytes(1000, 1024)  # type: ignore[attr-defined]
    return LinearWork(rows, 1024, 1000, form, nbytes)  # type: ignore[arg-type]


def test_a_prompt_takes_the_fastest_unit() -> None:
    decision = decide(work(512), chip(FP32, HALF, INT8))
    assert decision.way is INT8
    # 2 · 512 · 1024 · 1000 operations at 4 TOP/s.
    assert decision.predicted_s == pytest.approx(2 * 512 * 1024 * 1000 / 4e12)
    assert decision.bound_by == "compute"
    assert [(each.choice, each.predicted_s) for each in decision.alternatives] == [
        ("fp32", pytest.approx(2 * 512 * 1024 * 1000 / 1e12)),
        ("half arithmetic", pytest.approx(64 * 2 * 512 * 1024 * 1000 / 1e12)),
    ]
    assert "1/64 of the fp32 rate" in decision.reason


def test_one_row_is_bound_by_memory_and_the_most_exact_way_is_taken() -> None:
    decision = decide(work(1), chip(FP32, HALF, INT8))
    assert decision.way is FP32
    assert decision.bound_by == "memory"
    # 18 bytes a block of 32.
    assert decision.predicted_s == pytest.approx(1024 * 1000 / 32 * 18 / 100e9)
    assert "as in dp4a int8, of which the first is the most exact" in decision.reason


def test_what_bf16_tensor_cores_round_is_said() -> None:
    brain = Way("bf16 tensor cores", "tensor_bf16", 1e13, 100e9)
    many, one = (decide(work(rows, BF16), chip(FP32, brain)) for rows in (512, 1))
    assert many.way is brain
    assert "Inputs are rounded to bf16, the weights' own type" in many.reason
    assert one.way is FP32
    assert "rounded" not in one.reason


def test_dense_weights_have_no_dot_products_of_bytes_and_bf16_fits_no_half() -> None:
    assert decide(work(512, F16), chip(FP32, HALF, INT8)).way is FP32
    fast_half = Way("tensor", "fp16", 2e12, 100e9)
    assert decide(work(512, F16), chip(FP32, fast_half)).way is fast_half
    assert decide(work(512, BF16), chip(FP32, fast_half)).way is FP32


def test_rows_are_padded_and_copies_are_counted() -> None:
    padded = Way("tensor", "tensor_fp16", 1e12, 1e15, row_multiple=8)
    assert padded.seconds(work(9)) == pytest.approx(2 * 16 * 1024 * 1000 / 1e12)
    copied = Way("torch", "fp32", 1e18, 100e9, copied_bytes_per_weight=8.0)
    assert copied.seconds(work(1)) == pytest.approx(1024 * 1000 * (18 / 32 + 8) / 100e9)


def test_what_was_measured_goes_before_what_is_modelled() -> None:
    rates = LinearRates(arithmetic="int8", bytes_per_weight=0.5625, rows=((1, 2e-12), (512, 4e-10)))
    way = Way("dp4a int8", "int8", 4e12, 100e9, measured={"Q4_0": rates})
    assert way.seconds(work(512)) == pytest.approx(4e-10 * 1024 * 1000)
    assert way.seconds(work(512, TENSOR_FORMS["Q8_0"])) == max(way.times(work(512, TENSOR_FORMS["Q8_0"])))


def test_schemes_in_groups_of_128_take_what_was_measured_of_gptq() -> None:
    rates = LinearRates(arithmetic="int8", bytes_per_weight=0.52, rows=((1, 2e-12),))
    way = Way("dp4a int8", "int8", 4e12, 100e9, measured={"GPTQ-4": rates})
    awq = WeightForm("packed", "awq", 4, 128, 128, scale_bytes=2, zeros_bits=4)
    assert way.seconds(work(1, awq)) == pytest.approx(2e-12 * 1024 * 1000)
    for other in (replace(awq, is_permuted=True), replace(awq, group_size=32, super_size=32)):
        assert way.seconds(work(1, other)) == max(way.times(work(1, other)))


def test_what_was_measured_on_a_card_is_the_engine_s_own_not_a_good_one_s() -> None:
    rates = LinearRates(arithmetic="fp32", bytes_per_weight=0.5625, rows=((1, 1e-10),))
    gpu = find_gpu("H100")
    measured = MeasuredRates(
        name=gpu.name,
        kind="cuda",
        clock_mhz=float(gpu.max_mhz),
        operations_per_s={},
        library_operations_per_s={},
        bytes_per_s=None,
        linears={"Q4_0": rates},
        threads=None,
        created="2026-01-31T12:00:00+00:00",
        software={},
    )
    own, good = gpu_own_chip(gpu, measured), gpu_chip(gpu, measured)
    torch = next(way for way in own.ways if way.choice == "torch fp32")
    assert torch.seconds(work(1)) == pytest.approx(1e-10 * 1024 * 1000)
    assert decide(work(1), good).predicted_s == decide(work(1), gpu_chip(gpu)).predicted_s


def test_our_attention_asks_for_tensor_cores_of_8_0() -> None:
    for name, arithmetic in (("V100", "fp32"), ("Tesla P40", "fp32"), ("H100", "tensor_fp16")):
        gpu = find_gpu(name)
        own, good = gpu_own_chip(gpu), gpu_chip(gpu)
        assert own.attention_arithmetic == arithmetic
        assert 0 < own.attention_operations_per_s <= good.attention_operations_per_s
        assert own.launch_s == good.launch_s, "decoding is replayed"


def test_what_is_not_hidden_is_added() -> None:
    way = Way("native", "int8", 1e12, 100e9, exposed=0.5)
    compute_s, memory_s = way.times(work(1))
    assert way.seconds(work(1)) == pytest.approx(memory_s + compute_s / 2)


@pytest.mark.parametrize("gpu", gpus(), ids=lambda gpu: gpu.name)
def test_every_card_has_a_chip_that_is_slower_than_its_roof(gpu: object) -> None:
    made = gpu_chip(gpu)  # type: ignore[arg-type]
    for form in (Q4_0, F16, BF16):
        for rows in (1, 512):
            decision = decide(work(rows, form), made)
            arithmetic = decision.way.arithmetic
            bound_s, _ = made.roofline.bound(
                {arithmetic: work(rows, form).flop}, work(rows, form).moved_bytes
            )
            assert decision.predicted_s >= bound_s


def test_cards_of_the_case() -> None:
    pascal, volta = gpu_chip(find_gpu("TITAN X (Pascal)")), gpu_chip(find_gpu("V100"))
    assert decide(work(512), pascal).way.choice == "dp4a int8"
    assert decide(work(512, F16), pascal).way.choice == "fp32"
    assert decide(work(512, F16), volta).way.choice == "fp16 tensor cores"


@pytest.mark.parametrize("name", ["Tesla P100", "Jetson TX2", "Jetson TX1"])  # 6.0, 6.2, 5.3
def test_half_at_twice_the_rate_of_fp32_is_shown_and_not_taken(name: str) -> None:
    gpu = find_gpu(name)
    made = gpu_chip(gpu)
    rates = made.roofline.operations_per_s
    assert rates["fp16"] == 2 * rates["fp32"]
    for form in (Q4_0, F16):
        decision = decide(work(512, form), made)
        assert decision.way.choice == "fp32"
        [half] = [each for each in decision.alternatives if each.choice == "half arithmetic"]
        assert half.predicted_s < decision.predicted_s
        assert "not exact enough, because its sums are in half: half arithmetic" in decision.reason
        assert decide(work(1, form), made).way.choice == "fp32"
