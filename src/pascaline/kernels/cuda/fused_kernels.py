"""Kernels of cards that cover several ops by one launch: `fusion.py` puts them in the place of those."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.op_kernel import OUTPUT, Operand, likeness_of
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.rotate_and_store import HeadNorm, plan_rotate_and_store
from pascaline.kernels.kernel import Chip, Kernel, Workspace
from pascaline.weights import Dense
from pascaline.workload.op_costs import Axes

QUERY_KEY_VALUE = (
    "query",
    "key",
    "value",
    "positions",
    "cosine",
    "sine",
    "slots",
    "key_cache",
    "value_cache",
)
"""Operands of `ROTATE_AND_STORE`; those of `NORM_ROTATE_AND_STORE` are the gains, too."""


def _requires(chip: Chip) -> str | None:
    return None if chip.device.type == "cuda" and chip.limits is not None else "no card here"


def _fused(ops: tuple[str, ...], names: tuple[str, ...], recipe_of: Callable[..., Recipe]) -> Kernel:
    """A kernel of `ops`, whose operands are buffers of these `names`, and whose output is "y"."""
    name = f"cuda.{'_'.join(dict.fromkeys(ops))}"

    def launch(*inputs: Operand, out: torch.Tensor, workspace: Workspace, **parameters: float) -> None:
        tensors = (value.tensor if isinstance(value, Dense) else value for value in inputs)
        buffers = {**dict(zip(names, tensors, strict=True)), OUTPUT: out}
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
    query_gain: Dense | None = None,
    _key_gain: Dense | None = None,
    *,
    epsilon: float = 0.0,
) -> Recipe:
    norm = None if query_gain is None else HeadNorm(query_gain.tensor.dtype, epsilon)
    return Recipe((plan_rotate_and_store(query, key, value, cosine, key_cache, norm),))


ADD_NORM = _fused(("add", "rms_norm"), ("x", "residual", "gain"), _add_norm)
"""residual += x, in place, and y = rms_norm(residual)."""

ROTATE_AND_STORE = _fused(
    ("rotary", "rotary", "store_rows", "store_rows"), QUERY_KEY_VALUE, _rotate_and_store
)
"""y = rotary(query); rotary(key) and value go to the caches."""

NORM_ROTATE_AND_STORE = _fused(
    ("head_norm", "head_norm", *ROTATE_AND_STORE.ops),
    (*QUERY_KEY_VALUE, "query_gain", "key_gain"),
    _rotate_and_store,
)
"""The same of queries and keys that are normalised first."""
