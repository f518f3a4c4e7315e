"""Tests of CUDA's linears: every kernel against fp64, with operands, bounds and executors from here.

A kernel's test is its plan, its arithmetic and the cases that it takes:

    @pytest.mark.parametrize("case", linear_cases(rows=(1, 2)), ids=str)
    def test_linear_decode(case: LinearCase, execute: Execute) -> None:
        plan = lambda form, call: plan_linear_decode(form, call, CHIP)
        check_linear(plan, Arithmetic(planes=2, scale_group=32), case, execute)

`execute` (conftest.py) is the stand-in of tests/host_shim, with --gpu also the card. Buffers go by the names
in the plan's arguments: a weight's (`Slabbed.buffers`), "x" or "input_codes", "input_scales" and
"input_sums", "bias", "residual", "y". A plan that takes "input_codes" is given quantised inputs, and is held
to the product of just those. Weights have an output whose codes are all ones and one whose codes are all
zero; the last of several rows of x is constant, so that its integers are the largest that there are, and 32
inputs of the first row are zero. `check_far_outputs` is for offsets beyond 32 bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy
import torch
from guarded_memory import Sparse
from host_card import run_plan

from pascaline.kernels.cuda.linear_bounds import Arithmetic, Terms, call_bound, product_bound
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.specialisation import Dimensions, LaunchPlan
from pascaline.kernels.packed_cases import PACKED_FORMS, PackedForm, random_packed
from pascaline.weights.packed import Packed
from pascaline.weights.slab_layout import to_slabs
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS

Buffers = Mapping[str, numpy.ndarray]


class Execute(Protocol):
    """Launches a plan and writes the named outputs to their arrays; of `updates` the kernel changes some."""

    def __call__(
        self,
        plan: LaunchPlan,
        buffers: Buffers,
        outputs: Collection[str],
        /,
        *,
        updates: Collection[str] = (),
    ) -> None: ...


FORMS: dict[str, PackedForm] = {
    **PACKED_FORMS,
    "IQ4_NL": PackedForm(4, 32, (32,), table=True),
    "AWQ": PackedForm(4, 128, (2,), zeros=True),
    "zeros of 8 bits": PackedForm(8, 64, (1,), zeros=True),
    "groups of 256": PackedForm(4, 256, (2,), zero=8, scale_dtype=torch.float32),
    "whole rows": PackedForm(4, 416, (2,), zero=8, scale_dtype=torch.bfloat16),
    "whole rows of 8 bits": PackedForm(8, 416, (1,), zero=128, zeros=False),
    "offsets in fp32": PackedForm(4, 64, (2,), offsets=True, scale_dtype=torch.float32),
}
"""All forms that checkpoints come in, and what else `Slabbed` can be."""


@dataclass(frozen=True)
class LinearCase:
    """One product: a form of `FORMS` and a call; `slabs` at least (K is a multiple of its super-blocks)."""

    form: str
    rows: int
    outputs: int = 13
    columns: int = 400
    input_dtype: torch.dtype = torch.float16
    output_dtype: torch.dtype = torch.float16
    bias_dtype: torch.dtype | None = None
    has_residual: bool = False
    is_gated: bool = False

    def __str__(self) -> str:
        parts = [self.form.replace(" ", "_"), f"{self.rows}x{self.actual_columns}x{self.outputs}"]
        parts += [str(dtype).removeprefix("torch.") for dtype in (self.input_dtype, self.output_dtype)]
        parts += [] if self.bias_dtype is None else [f"bias_{self.bias_dtype}".replace("torch.", "")]
        return "-".join(parts + ["residual"] * self.has_residual + ["gated"] * self.is_gated)

    @property
    def actual_columns(self) -> int:
        """K: `columns` in whole super-blocks."""
        unit = FORMS[self.form].super_size or FORMS[self.form].group_size
        return -(-self.columns // unit) * unit

    @property
    def call(self) -> LinearCall:
        return LinearCall(
            self.rows,
            self.outputs,
            self.actual_columns,
            self.input_dtype,
            self.output_dtype,
            self.bias_dtype,
            self.has_residual,
            self.is_gated,
        )


def linear_cases(rows: Collection[int], forms: Collection[str] = tuple(FORMS)) -> list[LinearCase]:
    """Every form at one number of rows in turn; for the first form all rows, dtypes and epilogues.

    N is 13 (no multiple of 8), 1, or 150 (several blocks' worth), and K no multiple of 128 wherever the form
    allows it; one product is of 32 columns, or one super-block.
    """
    first, counts = next(iter(forms)), list(rows)
    every = [LinearCase(form, counts[i % len(counts)]) for i, form in enumerate(forms)]
    every += [LinearCase(first, count) for count in counts]
    some = counts[-1]
    half, single, brain = torch.float16, torch.float32, torch.bfloat16
    for input_dtype, output_dtype in ((single, single), (half, single), (single, half), (brain, brain)):
        every.append(LinearCase(first, some, 13, 400, input_dtype, output_dtype))
    every += [
        LinearCase(first, some, 150, 1100),
        LinearCase(first, counts[0], 150, 1100),
        LinearCase(first, some, 1, 32),
        LinearCase(first, some, bias_dtype=half),
        LinearCase(first, some, output_dtype=single, bias_dtype=single, has_residual=True),
        LinearCase(first, some, has_residual=True),
        LinearCase(first, some, 48, is_gated=True),
        LinearCase(first, some, 48, is_gated=True, bias_dtype=half),
    ]
    return list(dict.fromkeys(every))


@dataclass(frozen=True)
class Operands:
    """A product's inputs, as values and as buffers."""

    weight: Packed
    form: SlabbedForm
    x: torch.Tensor
    buffers: dict[str, numpy.ndarray]
    bias: torch.Tensor | None
    residual: torch.Tensor | None


def make_operands(case: LinearCase) -> Operands:
    """Random but for what the module's text says; the same for the same case."""
    generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
    rows, outputs, columns = case.rows, case.outputs, case.actual_columns
    weight = random_packed(FORMS[case.form], outputs, columns, generator)
    for plane in weight.codes.planes:
        plane.data[0] = 0xFF
        if outputs > 1:
            plane.data[1] = 0
    slabbed = to_slabs(weight)
    x = torch.randn(rows, columns, generator=generator).exp()
    x *= torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    stored = torch.arange(columns) if weight.permutation is None else weight.permutation.long()
    if columns > 32:
        x[0, stored[32:64]] = 0
    if rows > 1:
        x[-1] = 0.75
    x = x.to(case.input_dtype)
    bias = None if case.bias_dtype is None else torch.randn(outputs, generator=generator).to(case.bias_dtype)
    residual = (
        (10 * torch.randn(rows, outputs, generator=generator)).to(case.output_dtype)
        if case.has_residual
        else None
    )
    buffers = {name: as_array(tensor) for name, tensor in slabbed.buffers.items()}
    buffers["x"] = as_array(x)
    for name, tensor in (("bias", bias), ("residual", residual)):
        if tensor is not None:
            buffers[name] = as_array(tensor)
    return Operands(weight, slabbed.form, x, buffers, bias, residual)


def check_linear(
    plan_of: Callable[[SlabbedForm, LinearCall], LaunchPlan],
    arithmetic: Arithmetic,
    case: LinearCase,
    execute: Execute,
) -> None:
    """Run a case by the plan that `plan_of` makes, and compare all of y with fp64."""
    operands = make_operands(case)
    plan = plan_of(operands.form, case.call)
    buffers = dict(operands.buffers)
    x = stored_inputs(operands)
    terms = Terms.of(operands.weight)
    if "input_codes" in plan.arguments:
        codes, scales, sums, x = quantised(x, arithmetic.planes, arithmetic.scale_group)
        buffers |= {"input_codes": codes, "input_scales": scales, "input_sums": sums}
        product_error = product_bound(terms, x[:, : case.actual_columns], arithmetic, is_quantised=True)
    else:
        if "ordered" in plan.arguments:
            buffers["ordered"] = ordered(x)
        product_error = product_bound(terms, x[:, : case.actual_columns], arithmetic, is_quantised=False)
    outputs = case.outputs // 2 if case.is_gated else case.outputs
    y = torch.empty(case.rows, outputs, dtype=case.output_dtype)
    buffers["y"] = as_array(y)
    execute(plan, buffers, ("y",))
    product = x[:, : case.actual_columns] @ terms.weight.T
    bias = None if operands.bias is None else operands.bias.double().numpy()
    residual = None if operands.residual is None else operands.residual.double().numpy()
    expected, bound = call_bound(product, product_error, case.call, bias, residual)
    compare(from_array(buffers["y"], case.output_dtype), expected, bound)


def last_block(plan: LaunchPlan) -> list[Dimensions]:
    """All blocks of the last x: those of all rows and, where K is split, of all its parts."""
    x, y, z = plan.grid
    return [(x - 1, j, k) for k in range(z) for j in range(y)]


def check_far_outputs(
    plan_of: Callable[[SlabbedForm, LinearCall], LaunchPlan],
    arithmetic: Arithmetic,
    blocks_of: Callable[[LaunchPlan], Sequence[Dimensions]] = last_block,
    rows: int = 1,
    run: Callable[..., None] = run_plan,
) -> None:
    """The last tile of a weight of 4 bits whose codes are 4 GiB: all offsets beyond 32 bits.

    Everything before that tile is zeros, whose sums nobody looks at. A plan for a card of very many
    multiprocessors keeps the blocks small; `blocks_of` gives those that compute the last outputs.
    """
    case = LinearCase("AWQ", rows, TILE_OUTPUTS, 2 * SLAB)
    operands = make_operands(case)
    outputs = 1 << 25  # of 64 bytes of codes a slab
    buffers: dict[str, numpy.ndarray | Sparse] = dict(operands.buffers)
    for name in ("codes", "scales", "zeros"):
        buffers[name] = _last_of(operands.buffers[name], outputs // TILE_OUTPUTS)
    x = stored_inputs(operands)
    if arithmetic.planes:
        codes, scales, sums, integers = quantised(x, arithmetic.planes, arithmetic.scale_group)
        buffers |= {"input_codes": codes, "input_scales": scales, "input_sums": sums}
    plan = plan_of(operands.form, replace(case.call, outputs=outputs))
    is_quantised = "input_codes" in plan.arguments
    y = numpy.empty((rows, TILE_OUTPUTS), numpy.float16)
    offsets = [((row + 1) * outputs - TILE_OUTPUTS) * y.itemsize for row in range(rows)]
    buffers["y"] = Sparse(rows * outputs * y.itemsize, dict(zip(offsets, y, strict=True)), has_zeros=True)
    run(plan, buffers, blocks=blocks_of(plan))
    terms, seen = Terms.of(operands.weight), integers if is_quantised else x
    error = product_bound(terms, seen, arithmetic, is_quantised=is_quantised)
    compare(torch.from_numpy(y), *call_bound(seen @ terms.weight.T, error, case.call, None, None))


def _last_of(array: numpy.ndarray, tiles: int) -> Sparse:
    """Of a weight's array (A, entries of one tile, …), the last tile of that many."""
    each = array[0].nbytes
    offsets = [(i + 1) * tiles * each - each for i in range(len(array))]
    return Sparse(len(array) * tiles * each, dict(zip(offsets, array, strict=True)), has_zeros=True)


def compare(y: torch.Tensor, expected: numpy.ndarray, bound: numpy.ndarray) -> None:
    """Raise unless every |y − expected| is within its bound."""
    error = numpy.abs(y.double().numpy() - expected)
    is_within = error <= bound  # false for NaN
    if not is_within.all():
        worst = numpy.unravel_index(numpy.where(is_within, 0, error / bound).argmax(), error.shape)
        place = tuple(int(each) for each in worst)
        raise AssertionError(
            f"{(~is_within).sum()} of {is_within.size} elements err by more than their bounds; "
            f"y{list(place)} is {float(y[place])}, expected {expected[worst]:.8g} within {bound[worst]:.3g}"
        )


def stored_inputs(operands: Operands) -> numpy.ndarray:
    """x in the order that the weight stores inputs in, padded to whole slabs, fp64."""
    x = operands.x.double()
    if operands.weight.permutation is not None:
        x = x[:, operands.weight.permutation.long()]
    return torch.nn.functional.pad(x, (0, -x.shape[1] % SLAB)).numpy()


def quantised(
    x: numpy.ndarray, planes: int, scale_group: int
) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Codes (slabs, M, planes, 128), scales (slabs, M, 4), sums (slabs, M, 8) of x (M, slabs · 128).

    And what they stand for, fp64: all exact but for the scales, which are fp32.
    """
    largest = 32512 if planes == 2 else 127
    rows, slabs = len(x), x.shape[1] // SLAB
    groups = x.reshape(rows, -1, scale_group)
    scales = (numpy.abs(groups).max(axis=2) / largest).astype(numpy.float32)
    divisors = numpy.where(scales == 0, 1, scales).astype(float)[:, :, None]
    integers = numpy.clip(numpy.rint(groups / divisors), -largest, largest).astype(numpy.int32)
    high = (integers + 128) >> 8
    parts = [high, integers - 256 * high] if planes == 2 else [integers]
    codes = numpy.stack([part.reshape(rows, slabs, SLAB).astype(numpy.int8) for part in parts], axis=2)
    sums = integers.reshape(rows, slabs, 8, 16).sum(axis=3, dtype=numpy.int32)
    quarters = scales.repeat(scale_group // 32, axis=1).reshape(rows, slabs, 4)
    exact = (integers * scales[:, :, None].astype(float)).reshape(x.shape)
    codes, quarters, sums = (
        numpy.ascontiguousarray(numpy.swapaxes(each, 0, 1)) for each in (codes, quarters, sums)
    )
    return codes, quarters, sums, exact


def ordered(x: numpy.ndarray) -> numpy.ndarray:
    """x (M, slabs · 128) in fp16 as order_input.cu writes it: (slabs, ceil(M / 8), 1024).

    Of a block: product, half of its inputs, row, quarter, 2 inputs; input 32 · quarter + 4 · product +
    2 · half + i.
    """
    rows, slabs = len(x), x.shape[1] // SLAB
    padded = numpy.pad(x, ((0, -rows % 8), (0, 0))).astype(numpy.float16)
    parts = padded.reshape(-1, 8, slabs, 4, 8, 2, 2)  # block, row, slab, quarter, product, half, i
    return numpy.ascontiguousarray(parts.transpose(2, 0, 4, 5, 1, 3, 6)).reshape(slabs, -1, 8 * SLAB)


def as_array(tensor: torch.Tensor) -> numpy.ndarray:
    """The tensor's own memory; bf16 as its bits."""
    tensor = tensor.contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def from_array(array: numpy.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor
