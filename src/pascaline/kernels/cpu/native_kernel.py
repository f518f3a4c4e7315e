"""Kernels of the native library: one for each op that it exports `pascaline_<op>` for."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.tiling import tile
from pascaline.kernels.cpu.views import (
    Launch,
    Step,
    TensorView,
    WeightView,
    is_in_place,
    tensor_view,
    view_of,
)
from pascaline.kernels.kernel import Chip, Kernel, Workspace, as_it_is, takes_all
from pascaline.kernels.op import Op, Tolerance
from pascaline.weights import Dense, Packed, Tiled, Weight
from pascaline.workload.op_costs import Axes


def requires(chip: Chip) -> str | None:
    if chip.device.type != "cpu":
        return "it runs on the CPU only"
    library = native.library()
    return library if isinstance(library, str) else None


@dataclass(frozen=True)
class _Prepared:
    view: WeightView
    tiles: Tiled | None
    """Of a packed weight; the view points into them."""


_prepared: dict[int, _Prepared] = {}
# By id: frozen dataclasses of tensors do not hash. An entry goes when its weight does.


def weight_view(weight: Weight) -> WeightView:
    """The weight's one view; it stays where it is as long as the weight lives."""
    prepared = _prepared.get(id(weight))
    if prepared is None:
        if isinstance(weight, Dense) and not is_in_place(weight):
            raise ShapeError(
                "a weight whose rows are not contiguous", expected="elements of a row side by side"
            )
        tiles = tile(weight) if isinstance(weight, Packed) else None
        prepared = _Prepared(view_of(tiles or cast(Dense | Tiled, weight)), tiles)
        _prepared[id(weight)] = prepared
        weakref.finalize(weight, _prepared.pop, id(weight), None).atexit = False
    return prepared.view


def describe(
    op: Op,
    kernel: Kernel,
    inputs: tuple[torch.Tensor | Weight | None, ...],
    out: torch.Tensor,
    values: Mapping[str, float],
    view: Callable[[torch.Tensor], TensorView] = tensor_view,
) -> Launch:
    """A launch as the library takes it. Operands must outlive it: it points into their memory.

    `kernel` is the op's native one. `view` says where tensors are; those of recorded launches have no memory
    of their own.

    Raises
    ------
    ShapeError : an operand that the library would misread.
    """
    if (reason := kernel.takes({}, inputs)) is not None:
        raise ShapeError(f"{op.name}: {reason}")
    launch = Launch(kernel=native.loaded().kernel(op.name), per_item=1, barrier=1)
    described = list(zip(op.inputs.items(), inputs, strict=True))[: kernel.operands]
    for index, ((name, operand), value) in enumerate(described):
        if isinstance(value, Dense) and len(value.shape) == 1:
            launch.tensors[index] = tensor_view(value.tensor)
        elif isinstance(value, torch.Tensor):
            if not operand.takes(value.dtype):
                raise ShapeError(f"{op.name}: {name} holds {value.dtype}", expected=str(operand.dtype))
            launch.tensors[index] = view(value)
        elif value is not None:
            launch.weight = ctypes.addressof(weight_view(value))
    launch.output = len(described)
    launch.tensors[launch.output] = view(out)
    launch.count = launch.output + 1
    for index, name in enumerate(kernel.parameters):
        launch.numbers[index] = values.get(name, 0.0)
    return launch


def halves_or_fp32(_sizes: Axes, operands: tuple[object, ...]) -> str | None:
    """`takes` of kernels that know caches of fp32 and fp16 alone."""
    for value in operands:
        if isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.int8):
            return f"the native library holds no keys and values in {value.dtype}"
    return None


def _with_rows_in_one_piece(value: torch.Tensor | Weight | None) -> torch.Tensor | Weight | None:
    """The library reads the elements of a matrix's row side by side."""
    if isinstance(value, torch.Tensor) and value.dim() == 2 and value.shape[1] > 1 and value.stride(1) != 1:
        return value.contiguous()
    return value


def native_kernel(
    op: Op,
    *parameters: str,
    arithmetic: str = "fp32",
    tolerance: Tolerance | None = None,
    prepare: Callable[[Weight], Weight] = as_it_is,
    operands: int | None = None,
    takes: Callable[[Axes, tuple[object, ...]], str | None] = takes_all,
) -> Kernel:
    """The library's kernel for `op`.

    `parameters` are the op's, in the order of the library's `numbers`; those not given are 0. Of its operands
    the library knows the first so many.
    """

    def launch(
        *inputs: torch.Tensor | Weight | None, out: torch.Tensor, workspace: Workspace, **values: float
    ) -> None:
        inputs = tuple(value if value is out else _with_rows_in_one_piece(value) for value in inputs)
        single = describe(op, kernel, inputs, out, values)
        rows = cast(torch.Tensor, inputs[0]) if op.in_place else out
        sequences = 0
        if "context_lengths" in op.inputs:
            sequences = len(cast(torch.Tensor, inputs[list(op.inputs).index("context_lengths")]))
        native.loaded().run((Launch * 1)(single), Step(len(rows), sequences, len(rows)))

    kernel = Kernel(
        name=f"cpu.{op.name}",
        ops=(op.name,),
        backend="native",
        arithmetic=arithmetic,
        requires=requires,
        launch=launch,
        tolerance=tolerance,
        parameters=parameters,
        operands=operands,
        takes=takes,
        prepare=prepare,
        layout="tiled" if prepare is not as_it_is else "packed",
        level="exact" if arithmetic == "fp32" else "fast",
    )
    return kernel
