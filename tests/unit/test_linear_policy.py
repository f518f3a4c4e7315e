"""Which linears cards compute how, from their limits alone: decisions, and the reasons that are given."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.architectures import capability_numbers
from pascaline.hardware.gpus import find_gpu
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kernels.cuda.linear_product import ROW_STEPS, product_of
from pascaline.kernels.cuda.linear_runner import recipe_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.likeness import likeness
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.kernels.policy import Arithmetic, Decision
from pascaline.weights import Dense, Packed, Slabbed, Weight
from pascaline.weights.slab_layout import slabbed_form, to_slabs
from pascaline.weights.slabbed import SlabbedForm

OUTPUTS, COLUMNS = 37888, 3584
LINEAR = OPS["linear"]
MAXWELL, PASCAL_100, PASCAL = "GTX 980", "P100", "TITAN X (Pascal)"
VOLTA, TURING, AMPERE, HOPPER = "V100", "T4", "RTX 3090", "H200"


@pytest.fixture(autouse=True)
def _newest_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is installed: the library's products of halves that come in fp32 begin with 2.8."""
    monkeypatch.setattr(torch, "__version__", "2.13.0")


def chip_of(name: str) -> Chip:
    gpu = find_gpu(name, memory_gib=16 if name in ("V100", "P100") else None)
    limits = ChipLimits(
        capability_numbers(gpu.compute_capability),
        gpu.sms,
        gpu.architecture.shared_memory_kib_per_block << 10,
    )
    return Chip(torch.device("cuda"), limits, gpu.roofline())


def in_slabs_of(form: str, outputs: int = OUTPUTS, columns: int = COLUMNS) -> Slabbed:
    """A weight of any size without memory."""
    packed = random_packed(PACKED_FORMS[form], 8, 512, torch.Generator().manual_seed(0))
    small = to_slabs(packed)
    slabs = columns // 128
    buffers = {
        name: torch.empty((outputs * slabs // 32 * tensor.nbytes,), dtype=torch.uint8, device="meta")
        for name, tensor in small.buffers.items()
        if name not in ("codes", "inputs")
    }
    codes = torch.empty(slabs, outputs // 8, 128 * small.form.bits, dtype=torch.uint8, device="meta")
    return Slabbed((outputs, columns), small.form, codes=codes, inputs=small.inputs, **buffers)


def decided(name: str, weight: Weight, rows: int, arithmetic: Arithmetic = "auto") -> Decision:
    sizes = {"M": rows, "N": weight.shape[0], "K": weight.shape[1]}
    x = torch.empty(rows, weight.shape[1], device="meta")
    return Policy(chip_of(name), KERNELS, arithmetic).decide(LINEAR, sizes, (x, weight, None))


@pytest.mark.parametrize(
    ("name", "arithmetic", "expected"),
    [
        # No dot products, no tensor cores: fp32 alone.
        (
            MAXWELL,
            "auto",
            {1: "decode_fp32", 3: "rows_fp32", 16: "rows_fp32", 17: "simt", 64: "simt", 512: "simt"},
        ),
        (PASCAL_100, "fast", {1: "decode_fp32", 3: "rows_fp32", 8: "rows_fp32", 17: "simt", 512: "simt"}),
        # Dot products of bytes are four times as fast as fp32: two planes win wherever arithmetic counts.
        (
            PASCAL,
            "auto",
            {
                1: "decode_two_planes",
                2: "decode_two_planes",
                8: "rows_two_planes",
                17: "tile_two_planes",
                64: "tile_two_planes",
                512: "tile_two_planes",
            },
        ),
        (PASCAL, "fast", {1: "decode_two_planes", 17: "tile_one_plane", 512: "tile_one_plane"}),
        (PASCAL, "fp32", {1: "decode_fp32", 8: "rows_fp32", 512: "simt"}),
        # Its tensor cores have no instruction that ours are written for: the library's many rows.
        (VOLTA, "auto", {1: "decode_two_planes", 17: "tile_two_planes", 512: "dequantised"}),
        (TURING, "auto", {1: "decode_two_planes", 512: "dequantised"}),
        (AMPERE, "auto", {4: "decode_two_planes", 512: "dequantised"}),
        (HOPPER, "auto", {1: "decode_two_planes", 17: "mma", 64: "wgmma", 512: "wgmma", 4096: "dequantised"}),
        (HOPPER, "fp32", {1: "decode_fp32", 17: "simt", 512: "simt"}),
    ],
)
def test_int4_by_rows(name: str, arithmetic: Arithmetic, expected: dict[int, str]) -> None:
    weight = in_slabs_of("Q4_0")
    found = {rows: decided(name, weight, rows, arithmetic).kernel.name for rows in expected}
    assert found == {rows: f"cuda.linear_{way}" for rows, way in expected.items()}


@pytest.mark.parametrize("name", [VOLTA, TURING])
def test_many_rows_without_the_librarys_wide_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the oldest torch that will do: packed weights by our own tiles, dense ones by plain torch."""
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu126")
    assert decided(name, in_slabs_of("Q4_0"), 512).kernel.name == "cuda.linear_tile_two_planes"
    dense = Dense(torch.empty(OUTPUTS, COLUMNS, dtype=torch.float16, device="meta"))
    assert decided(name, dense, 512).kernel.name == "torch.linear"


def test_a_reason_and_the_alternatives_times_come_along() -> None:
    decision = decided(PASCAL, in_slabs_of("Q4_0"), 64)
    assert decision.predicted_s is not None
    assert decision.reason.startswith("int8 arithmetic, ")
    assert "the fastest: cuda.linear_" in decision.reason
    times = {each.choice: each.predicted_s for each in decision.alternatives}
    assert times["cuda.linear_simt"] is not None
    assert times["cuda.linear_simt"] > decision.predicted_s
    assert "torch.linear" in times
    assert "cuda.linear_mma" not in times  # there are no tensor cores
    assert "cuda.linear_tile_one_plane" not in times  # it was not asked for


@pytest.mark.parametrize("form", PACKED_FORMS)
@pytest.mark.parametrize("name", [MAXWELL, PASCAL_100, PASCAL, VOLTA, TURING, AMPERE, HOPPER])
def test_every_form_has_a_kernel_of_ours_for_any_number_of_rows(name: str, form: str) -> None:
    weight = in_slabs_of(form, 64, 512)
    for rows in (1, 2, 8, 17, 64, 512):
        decision = decided(name, weight, rows)
        assert decision.kernel.backend == "cuda"
        assert decision.kernel.level == "exact"
        assert decision.kernel.layout == "slabbed"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [MAXWELL, PASCAL, TURING, HOPPER])
def test_dense_weights(name: str, dtype: torch.dtype) -> None:
    weight = Dense(torch.empty(OUTPUTS, COLUMNS, dtype=dtype, device="meta"))
    assert decided(name, weight, 1).kernel.name == "cuda.linear_dense_decode"
    unit = {torch.float16: "tensor_fp16", torch.bfloat16: "tensor_bf16"}.get(dtype)
    roofline = chip_of(name).roofline
    assert roofline is not None
    has_unit = unit in roofline.operations_per_s
    many = decided(name, weight, 512).kernel
    assert many.arithmetic == (unit if has_unit else "fp32")


@pytest.mark.parametrize("name", [AMPERE, HOPPER])
def test_inputs_of_many_rows_are_rounded_to_the_weights_own_type(name: str) -> None:
    """Twice the products cost time: only who asks for exact arithmetic gets them."""
    weight = Dense(torch.empty(OUTPUTS, COLUMNS, dtype=torch.bfloat16, device="meta"))
    for rows in (1, 4):
        decision = decided(name, weight, rows)
        assert decision.kernel.name == "cuda.linear_dense_decode"
        assert decision.kernel.level == "exact"
    order: tuple[Arithmetic, ...] = ("auto", "exact", "fast", "fp32")
    for rows in (128, 512):
        auto, exact, fast, single = (decided(name, weight, rows, each) for each in order)
        assert auto.kernel.name == fast.kernel.name == "cuda.linear_dense_brain_rounded"
        assert auto.kernel.level == "rounded"
        # Where fp32 is not half as fast, two products of bf16 are no gain.
        assert exact.kernel.level == "exact"
        assert (exact.kernel.name == "cuda.linear_dense_brain") == (name == HOPPER)
        assert single.kernel.arithmetic == "fp32"
        assert "cuda.linear_dense_brain" in {each.choice for each in auto.alternatives}
        assert "cuda.linear_dense_brain_rounded" not in {each.choice for each in exact.alternatives}
        assert auto.predicted_s is not None
        assert exact.predicted_s is not None
        assert auto.predicted_s < exact.predicted_s


def test_what_refused_a_kernel_is_said() -> None:
    [rounded] = (each for each in KERNELS if each.name == "cuda.linear_dense_brain_rounded")
    policy = Policy(chip_of(HOPPER), [rounded], "exact")
    with pytest.raises(UnsupportedError) as caught:
        policy.decide(LINEAR, {"M": 128})
    assert "rounds inputs to the weight's own type, which exact arithmetic does not" in str(caught.value)


def test_what_slabs_cannot_hold_is_left_to_torch() -> None:
    packed = random_packed(PACKED_FORMS["Q4_0"], 64, 512, torch.Generator().manual_seed(0))
    assert isinstance(packed, Packed)
    assert decided(PASCAL, packed, 1).kernel.name == "torch.linear"
    assert isinstance(slabbed_form(packed), SlabbedForm)


def test_no_rows_are_left_to_torch() -> None:
    assert decided(HOPPER, in_slabs_of("Q4_0"), 0).kernel.name == "torch.linear"


def test_views_and_other_numbers_are_left_to_torch() -> None:
    held = torch.zeros(512 * 1024 + 8, dtype=torch.float16)
    whole = held[: 512 * 1024].view(512, 1024)
    assert decided(HOPPER, Dense(whole), 2).kernel.name == "cuda.linear_dense_decode"
    for tensor in (whole.t().view(1024, 512), whole[:, :512], held[1 : 1 + 512 * 1024].view(512, 1024)):
        for rows in (2, 100):
            assert decided(HOPPER, Dense(tensor), rows).kernel.name == "torch.linear"
    assert decided(HOPPER, Dense(torch.zeros(64, 64, dtype=torch.float64)), 2).kernel.name == "torch.linear"


def test_layers_that_are_alike_are_decided_on_once() -> None:
    launcher = Launcher(Policy(Chip(torch.device("cpu")), KERNELS, "fp32"))
    weights = [Dense(torch.ones(3, 2)), Dense(torch.ones(3, 2)), Dense(torch.ones(2, 3).t())]
    for layer, weight in enumerate(weights):
        for rows in (1, 4):
            launcher(LINEAR, f"layers.{layer}", torch.ones(rows, 2), weight, None)
    first, second, view = (launcher.decisions[f"layers.{layer}", "linear"] for layer in range(3))
    assert first is second
    assert first is not view


def test_what_kernels_look_at_makes_operands_unlike() -> None:
    slabbed = in_slabs_of("Q4_0", 64, 512)
    held = torch.zeros(64 * 512 + 8, dtype=torch.float16)
    unlike = [
        None,
        torch.zeros(64, 512),
        torch.zeros(64, 512, dtype=torch.float16),
        slabbed,
        in_slabs_of("Q4_0", 64, 1024),
        in_slabs_of("Q4_1", 64, 512),
        replace(slabbed, inputs=torch.zeros(512, dtype=torch.int32)),
        *(
            random_packed(PACKED_FORMS[each], 64, 512, torch.Generator().manual_seed(0))
            for each in ("Q4_0", "Q8_0")
        ),
        Dense(held[: 64 * 512].view(64, 512)),
        Dense(held[1 : 64 * 512 + 1].view(64, 512)),
        Dense(torch.zeros(64, 512)),
    ]
    assert len({likeness(each) for each in unlike}) == len(unlike)
    assert likeness(slabbed) == likeness(in_slabs_of("Q4_0", 64, 512))
    assert likeness(Dense(torch.zeros(64, 512))) == likeness(Dense(torch.ones(64, 512)))


def test_without_a_card_there_are_none_of_them() -> None:
    decision = Policy(Chip(torch.device("cpu")), KERNELS, "fp32").decide(LINEAR, {})
    assert decision.kernel.name == "torch.linear"
    uncompiled = Policy(Chip(torch.device("cuda")), KERNELS).decide(LINEAR, {})
    assert uncompiled.kernel.name == "torch.linear"
    assert uncompiled.kernel.layout == "packed"
    assert Policy(chip_of(PASCAL), KERNELS).decide(LINEAR, {}).kernel.layout == "slabbed"


@pytest.mark.parametrize("way", LINEAR_WAYS, ids=lambda way: way.name)
def test_numbers_of_rows_up_to_a_step_share_machine_code(way: LinearWay) -> None:
    """Else a server would compile whenever a prompt has a length that none had before."""
    weight: Dense | Slabbed = in_slabs_of("Q4_0", 3584, 3584)
    if way.name.startswith("dense"):
        dtype = torch.bfloat16 if way.unit == "tensor_bf16" else torch.float16
        weight = Dense(torch.empty(3584, 3584, dtype=dtype, device="meta"))
    limits = chip_of(HOPPER).limits
    assert limits is not None
    for first, last in itertools.pairwise(ROW_STEPS):
        if first < 16 or last > 1024:
            continue
        found = set()
        for rows in {first + 1, (first + last) // 2, last}:
            product = product_of(weight, rows, limits)
            if way.refusal(product) is None:
                found.add(tuple(plan.specialisation for plan in recipe_of(way, product, None).plans))
        assert len(found) <= 1, (first, last)
