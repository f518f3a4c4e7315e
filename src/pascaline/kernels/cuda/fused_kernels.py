"""Kernels of cards that cover several ops, or parts of them: `fusion.py` puts them in the place of those."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import cast

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.elementwise import Operation
from pascaline.kernels.cuda.gated_input import plan_gated_input
from pascaline.kernels.cuda.input_memory import BrainForm, Form, ScaledForm, input_parts
from pascaline.kernels.cuda.op_kernel import OUTPUT, Operand, aligned, likeness_of
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.rotate_and_store import HeadNorm, plan_rotate_and_store
from pascaline.kernels.kernel import Chip, Kernel, Workspace
from pascaline.weights import Dense, Slabbed
from pascaline.workload.op_costs import Axes

_GATES = {"silu_and_mul": Operation.SILU_AND_MUL, "gelu_and_mul": Operation.GELU_AND_MUL}

Outputs = Callable[[torch.Tensor, tuple[Operand, ...]], dict[str, torch.Tensor]]
"""Buffers that are made in the memory of a launch's output, of its operands."""


def _requires(chip: Chip) -> str | None:
    return None if chip.device.type == "cuda" and chip.limits is not None else "no card here"


def _as_rows(out: torch.Tensor, _inputs: tuple[Operand, ...]) -> dict[str, torch.Tensor]:
    return {OUTPUT: out}


def _fused(
    ops: tuple[str, ...],
    names: tuple[str, ...],
    recipe_of: Callable[..., Recipe],
    outputs: Outputs = _as_rows,
    suffix: str = "",
) -> Kernel:
    """A kernel of `ops` whose operands are buffers of these `names`; all but the caches are written apart."""
    name = f"cuda.{'_'.join(dict.fromkeys(ops))}{suffix}"

    def launch(*inputs: Operand, out: torch.Tensor, workspace: Workspace, **parameters: float) -> None:
        tensors = (value.tensor if isinstance(value, Dense) else value for value in inputs)
        buffers = {**dict(zip(names, tensors, strict=True)), **outputs(out, inputs)}
        key = (name, *likeness_of(inputs), *parameters.items())
        workspace.ops(key, lambda: recipe_of(*inputs, **parameters), buffers)  # type: ignore[arg-type]

    def recipe(
        _chip: Chip, _sizes: Axes, operands: tuple[object, ...], parameters: Mapping[str, float]
    ) -> Recipe:
        return recipe_of(*operands, **parameters)

    def takes(_sizes: Axes, operands: tuple[object, ...]) -> str | None:
        try:
            recipe_of(*operands, epsilon=0.0)
        except ShapeError as error:
            return str(error)
        return None

    return Kernel(name, ops, "cuda", "fp32", _requires, launch, takes=takes, recipe=recipe)


def _add_norm(x: torch.Tensor, residual: torch.Tensor, gain: Dense, *, epsilon: float) -> Recipe:
    return Recipe((plan_rms_norm(x, gain.tensor.dtype, epsilon, residual=residual),))


def _rotate_and_store(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _positions: torch.Tensor,
    cosine: torch.Tensor,
    _sine: torch.Tensor,
    _slots: torch.Tensor,
    key_cache: torch.Tensor,
    _value_cache: torch.Tensor,
    _key_scales: torch.Tensor | None,
    _value_scales: torch.Tensor | None,
    query_gain: Dense | None = None,
    _key_gain: Dense | None = None,
    *,
    epsilon: float = 0.0,
) -> Recipe:
    norm = None if query_gain is None else HeadNorm(query_gain.tensor.dtype, epsilon)
    return Recipe((plan_rotate_and_store(query, key, value, cosine, key_cache, norm),))


_QUERY_KEY_VALUE = (
    *("query", "key", "value", "positions", "cosine", "sine", "slots", "key_cache", "value_cache"),
    *("key_scales", "value_scales"),
)

ADD_NORM = _fused(("add", "rms_norm"), ("x", "residual", "gain"), _add_norm)
"""Of (x, residual, gain): residual += x, in place, and y = rms_norm(residual)."""

ROTATE_AND_STORE = _fused(
    ("rotary", "rotary", "store_rows", "store_rows"), _QUERY_KEY_VALUE, _rotate_and_store
)
"""Of `_QUERY_KEY_VALUE`: y = rotary(query); rotary(key) and value go to the caches."""

NORM_ROTATE_AND_STORE = _fused(
    ("head_norm", "head_norm", *ROTATE_AND_STORE.ops),
    (*_QUERY_KEY_VALUE, "query_gain", "key_gain"),
    _rotate_and_store,
)
"""The same of queries and keys that are normalised first."""


def _kind(form: Form) -> str:
    if isinstance(form, BrainForm):
        return f"{form.numbers}_bf16_numbers"
    return "scaled" if isinstance(form, ScaledForm) else f"{form.planes}_planes_of_{form.scale_group}"


@functools.cache
def making_input(ops: tuple[str, ...], form: Form) -> Kernel | None:
    """A kernel of a norm, a sum and its norm, or a gate that writes its result as a linear takes it.

    Its output are the bytes that `input_parts` are of; where `form` is permuted it has an operand more, the
    order of the linear's inputs. None for other ops.
    """
    order = ("inputs",) if form.has_permutation else ()
    suffix = f"_to_{_kind(form)}{'_in_order' if order else ''}"

    def norm(x: torch.Tensor, gain: Dense, *_: torch.Tensor, epsilon: float) -> Recipe:
        return Recipe((plan_rms_norm(x, gain.tensor.dtype, epsilon, form=form),))

    def sum_and_norm(
        x: torch.Tensor, residual: torch.Tensor, gain: Dense, *_: torch.Tensor, epsilon: float
    ) -> Recipe:
        return Recipe((plan_rms_norm(x, gain.tensor.dtype, epsilon, residual=residual, form=form),))

    def gate(gate: torch.Tensor, up: torch.Tensor, *_: torch.Tensor, **__: float) -> Recipe:
        return Recipe((plan_gated_input(_GATES[ops[0]], gate, up, form),))

    def parts(out: torch.Tensor, inputs: tuple[Operand, ...]) -> dict[str, torch.Tensor]:
        assert isinstance(inputs[0], torch.Tensor)  # noqa: S101 - of all of these ops
        rows, columns = inputs[0].shape
        return input_parts(out, form, rows, columns)

    if ops == ("rms_norm",):
        return _fused(ops, ("x", "gain", *order), norm, parts, suffix)
    if ops == ADD_NORM.ops:
        return _fused(ops, ("x", "residual", "gain", *order), sum_and_norm, parts, suffix)
    if ops[0] in _GATES and len(ops) == 1:
        return _fused(ops, ("gate", "up", *order), gate, parts, suffix)
    return None


def of_made_input(kernel: Kernel, rest: Recipe, form: Form, rows: int, columns: int) -> Kernel:
    """A linear's `kernel` whose inputs, (`rows`, `columns`), are made already: the `rest` of its launches.

    Its first operand are the bytes that `input_parts` are of.
    """
    name = f"{kernel.name}_of_made_input"

    def launch(
        made: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        *,
        out: torch.Tensor,
        workspace: Workspace,
    ) -> None:
        held = {"weight": weight.tensor} if isinstance(weight, Dense) else weight.buffers
        buffers: dict[str, torch.Tensor | None] = {
            **held,
            **input_parts(made, form, rows, columns),
            "bias": cast(torch.Tensor | None, aligned(bias)),
            OUTPUT: out,
        }
        workspace.ops((name, rows, columns, *likeness_of((weight, bias))), lambda: rest, buffers)

    def recipe(
        _chip: Chip, _sizes: Axes, _operands: tuple[object, ...], _parameters: Mapping[str, float]
    ) -> Recipe:
        return rest

    return Kernel(name, kernel.ops, "cuda", kernel.arithmetic, _requires, launch, recipe=recipe)
