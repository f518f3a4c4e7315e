"""The linears of cards: a kernel for each way of `LINEAR_WAYS`.

Packed weights are held in slabs (weights/slabbed.py), dense ones as they are stored. x and y are fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy
import torch

from pascaline.kernels.cuda.linear_bounds import Terms, call_bound, product_bound
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.linear_product import Product, product_of
from pascaline.kernels.cuda.linear_runner import ALIGNMENT_BYTES, is_in_one_piece, recipe_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Chip, Kernel, Workspace
from pascaline.kernels.op import Shaped, Tolerance
from pascaline.weights import Dense, Packed, Slabbed, Weight
from pascaline.weights.slab_layout import slabbed_form, to_slabs
from pascaline.workload.op_costs import Axes
from pascaline.workload.slab_form import TILE_OUTPUTS

_ANY_CHIP = ChipLimits((9, 0), 1)
"""For what does not depend on the chip: what a way takes, and what it errs by."""


def in_slabs(weight: Weight) -> Weight:
    """A packed weight in slabs, where they can hold it."""
    if isinstance(weight, Packed) and not isinstance(slabbed_form(weight), str):
        return to_slabs(weight)
    return weight


def _product(operands: tuple[object, ...], chip: ChipLimits) -> Product | str:
    """What the operands of the op are to a way, or why they are nothing that a card multiplies."""
    x, weight, bias = operands
    assert isinstance(x, torch.Tensor)  # noqa: S101 - the op's first operand
    if not isinstance(weight, Dense | Slabbed):
        return "it multiplies by weights in slabs and dense ones"
    if 0 in (x.shape[0], *weight.shape):
        return "there is nothing to do"
    if isinstance(weight, Dense) and weight.tensor.dtype not in NUMBER_TYPES:
        return f"it multiplies by weights of fp32, fp16 and bf16, not of {weight.tensor.dtype}"
    if isinstance(weight, Dense) and not is_in_one_piece(weight.tensor):
        return f"it reads memory, not strides, in vectors of {ALIGNMENT_BYTES} bytes: the weight is a view"
    bias_dtype = bias.dtype if isinstance(bias, torch.Tensor) else None
    return product_of(weight, x.shape[0], chip, input_dtype=x.dtype, bias_dtype=bias_dtype)


def _certain(operands: tuple[object, ...], chip: Chip) -> tuple[Product, Dense | Slabbed]:
    """For operands that `takes` took, on a chip that `requires` took."""
    assert chip.limits is not None  # noqa: S101 - as `requires` says
    product, weight = _product(operands, chip.limits), operands[1]
    assert isinstance(product, Product)  # noqa: S101 - as `takes` says
    assert isinstance(weight, Dense | Slabbed)  # noqa: S101 - as `takes` says
    return product, weight


def _bound(
    way: LinearWay, x: torch.Tensor, weight: Dense | Packed, bias: torch.Tensor | None
) -> torch.Tensor:
    """Of |y − fp64|, from the way's arithmetic."""
    inputs = x.double().numpy()
    if isinstance(weight, Dense):
        values = numpy.abs(weight.tensor.double().numpy())
        terms = Terms(weight.tensor.double().numpy(), numpy.zeros_like(values), values)
        product = product_of(weight, len(x), _ANY_CHIP)
    else:
        if weight.permutation is not None:
            inputs = inputs[:, weight.permutation.long().numpy()]
        terms = Terms.of(weight)
        product = product_of(to_slabs(weight), len(x), _ANY_CHIP)
    error = product_bound(terms, inputs, way.arithmetic(product), is_quantised=False)
    added = None if bias is None else bias.double().numpy()
    _, bound = call_bound(inputs @ terms.weight.T, error, product.call, added, None)
    return torch.from_numpy(bound)


def _kernel(way: LinearWay) -> Kernel:
    def requires(chip: Chip) -> str | None:
        if chip.device.type != "cuda" or chip.limits is None or chip.roofline is None:
            return "no card here that kernels are compiled for"
        if not chip.roofline.operations_per_s.get(way.unit):
            return f"the chip has no {way.unit}"
        return way.needs(chip.limits)

    def takes(_sizes: Axes, operands: tuple[object, ...]) -> str | None:
        product = _product(operands, _ANY_CHIP)
        return product if isinstance(product, str) else way.refusal(product)

    def predicted_s(chip: Chip, _sizes: Axes, operands: tuple[object, ...]) -> float:
        product, weight = _certain(operands, chip)
        assert chip.roofline is not None  # noqa: S101 - as `requires` says
        found = chip.tuned.get(way, product)
        if found is not None:
            return found.seconds
        return way.predicted_s(product, weight.resident_bytes, chip.roofline)

    def recipe(
        chip: Chip, _sizes: Axes, operands: tuple[object, ...], _parameters: Mapping[str, float]
    ) -> Recipe:
        product, _ = _certain(operands, chip)
        return recipe_of(way, product, chip.tuned.geometry(way, product))

    def launch(
        x: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        *,
        out: torch.Tensor,
        workspace: Workspace,
    ) -> None:
        workspace.linears(way, x, weight, bias, out)

    return Kernel(
        name=f"cuda.linear_{way.name}",
        ops=("linear",),
        backend="cuda",
        arithmetic=way.unit,
        requires=requires,
        launch=launch,
        tolerance=Tolerance(
            bound=lambda x, weight, bias: _bound(way, x, weight, bias),
            derivation="kernels/cuda/linear_bounds.py: roundings of inputs and weights, of sums in fp32, and "
            "of what is added to every code and taken off again",
        ),
        prepare=in_slabs,
        layout="slabbed",
        level=way.level,
        takes=takes,
        predicted_s=predicted_s,
        recipe=recipe,
    )


def _gated(way: LinearWay) -> Kernel:
    """A linear whose outputs' first half are gates of the second: both ops by the linear's launches."""

    def takes(_sizes: Axes, operands: tuple[object, ...]) -> str | None:
        outputs = cast(Shaped, operands[1]).shape[0]
        if outputs % (2 * TILE_OUTPUTS):
            return f"it gates halves of whole tiles of {TILE_OUTPUTS}, not of {outputs // 2} outputs"
        return None

    def recipe(
        chip: Chip, _sizes: Axes, operands: tuple[object, ...], _parameters: Mapping[str, float]
    ) -> Recipe:
        product, _ = _certain(operands, chip)
        gated = replace(product, call=replace(product.call, is_gated=True))
        return recipe_of(way, gated, chip.tuned.geometry(way, product))

    def launch(
        x: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        *,
        out: torch.Tensor,
        workspace: Workspace,
    ) -> None:
        workspace.linears(way, x, weight, bias, out, is_gated=True)

    return Kernel(
        name=f"cuda.gated_linear_{way.name}",
        ops=("linear", "silu_and_mul"),
        backend="cuda",
        arithmetic=way.unit,
        requires=lambda _chip: None,
        launch=launch,
        takes=takes,
        recipe=recipe,
    )


GATED: Mapping[str, Kernel] = {f"cuda.linear_{way.name}": _gated(way) for way in LINEAR_WAYS if way.gates}
"""By the kernel of the linear alone."""

LINEARS: tuple[Kernel, ...] = tuple(_kernel(way) for way in LINEAR_WAYS)
