"""A weight as the native library sees it: `abi.h`, field by field."""

from __future__ import annotations

import ctypes

import torch

from pascaline.weights import Dense, Packed, Tiled
from pascaline.weights.codes import Codes

NUMBER_FORMS = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.uint8: 3,
    torch.int32: 4,
    torch.int64: 5,
}
MAX_AXES, MAX_OPERANDS, MAX_NUMBERS, MAX_REPORTED = 4, 8, 4, 20


class PlaneView(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("run", ctypes.c_int32),
    )


class CodesView(ctypes.Structure):
    _fields_ = (("planes", PlaneView * 2), ("count", ctypes.c_int32), ("is_signed", ctypes.c_int32))


class NumbersView(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("form", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


_ARRAYS = (
    ("rows", ctypes.c_int64),
    ("columns", ctypes.c_int64),
    ("scales", NumbersView),
    ("offsets", NumbersView),
    ("codes", CodesView),
    ("group_scales", CodesView),
    ("group_offsets", CodesView),
    ("zeros", CodesView),
)
"""What the views of packed weights begin with, tiled or not."""


class PackedView(ctypes.Structure):
    _fields_ = (
        *_ARRAYS,
        ("group_size", ctypes.c_int64),
        ("super_size", ctypes.c_int64),
    )


class WeightView(ctypes.Structure):
    _fields_ = (
        *_ARRAYS,
        ("table", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("groups", ctypes.c_int64),
        ("supers", ctypes.c_int64),
        ("group_size", ctypes.c_int64),
        ("zero", ctypes.c_int32),
        ("group_scale_zero", ctypes.c_int32),
    )


class TensorView(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * MAX_AXES),
        ("strides", ctypes.c_int64 * MAX_AXES),
        ("form", ctypes.c_int32),
        ("axes", ctypes.c_int32),
    )


class Launch(ctypes.Structure):
    """See abi.h; `before` points to another one."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("before", ctypes.c_void_p),
        ("domain", ctypes.c_int32),
        ("barrier", ctypes.c_int32),
        ("per_item", ctypes.c_int64),
        ("count", ctypes.c_int32),
        ("output", ctypes.c_int32),
        ("tensors", TensorView * MAX_OPERANDS),
        ("residual", TensorView),
        ("numbers", ctypes.c_double * MAX_NUMBERS),
    )


class Choice(ctypes.Structure):
    _fields_ = (
        ("raw", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("draw", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("reported", ctypes.c_int32),
        ("is_finite", ctypes.c_int32),
        ("token", ctypes.c_int64),
        ("largest", ctypes.c_double),
        ("total", ctypes.c_double),
        ("ids", ctypes.c_int32 * MAX_REPORTED),
        ("values", ctypes.c_float * MAX_REPORTED),
    )


class Step(ctypes.Structure):
    _fields_ = (("tokens", ctypes.c_int64), ("sequences", ctypes.c_int64), ("logit_rows", ctypes.c_int64))


def tensor_view(tensor: torch.Tensor) -> TensorView:
    """A pointer into the tensor's own memory: valid as long as that is."""
    view = TensorView(data=tensor.data_ptr(), form=NUMBER_FORMS[tensor.dtype], axes=tensor.dim())
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        view.sizes[axis], view.strides[axis] = size, stride
    return view


def view_of(weight: Dense | Tiled) -> WeightView:
    """Pointers into the weight's own memory: valid as long as the weight is."""
    rows, columns = weight.shape
    if isinstance(weight, Dense):
        return WeightView(rows=rows, columns=columns, scales=_numbers(weight.tensor))
    return WeightView(
        *_arrays(weight),
        table=None if weight.table is None else weight.table.data_ptr(),
        inputs=None if weight.inputs is None else weight.inputs.data_ptr(),
        groups=columns // weight.group_size,
        supers=columns // weight.super_size,
        group_size=weight.stored_group,
        zero=weight.zero,
        group_scale_zero=weight.group_scale_zero,
    )


def packed_view(weight: Packed) -> PackedView:
    """As `view_of`, of what tiles are made from."""
    return PackedView(
        *_arrays(weight),
        group_size=weight.group_size,
        super_size=weight.super_size,
    )


def _arrays(weight: Packed | Tiled) -> tuple[int | NumbersView | CodesView, ...]:
    """The fields of `_ARRAYS`."""
    numbers = (_numbers(weight.scales), _numbers(weight.offsets))
    codes = (weight.codes, weight.group_scales, weight.group_offsets, weight.zeros)
    return (*weight.shape, *numbers, *map(_codes, codes))


def is_in_place(weight: Dense | Packed) -> bool:
    """Whether all arrays are rows of neighbours, as the library reads them."""
    tensors: list[torch.Tensor | None] = []
    if isinstance(weight, Packed):
        for codes in (weight.codes, weight.group_scales, weight.group_offsets, weight.zeros):
            tensors += [] if codes is None else [plane.data for plane in codes.planes]
        tensors += [weight.scales, weight.offsets]
    else:
        tensors.append(weight.tensor)
    return all(tensor is None or tensor.shape[-1] <= 1 or tensor.stride(-1) == 1 for tensor in tensors)


def _numbers(tensor: torch.Tensor | None) -> NumbersView:
    if tensor is None:
        return NumbersView()
    return NumbersView(data=tensor.data_ptr(), stride=tensor.stride(0), form=NUMBER_FORMS[tensor.dtype])


def _codes(codes: Codes | None) -> CodesView:
    view = CodesView()
    if codes is not None:
        for index, plane in enumerate(codes.planes):
            view.planes[index] = PlaneView(plane.data.data_ptr(), plane.data.stride(0), plane.bits, plane.run)
        view.count = len(codes.planes)
        view.is_signed = codes.planes[0].data.dtype == torch.int8
    return view
