"""The ways to multiply that `bench gemm` knows. A new precision is an entry here.

Units are the names of `hardware.architectures.Arithmetic`, and "tensor_tf32": a path runs on the first of
its units that the chip has. fp16 with sums in fp32 is tensor cores' where there are any, else the fp32
units': it is what libraries do with half storage on chips whose half arithmetic is slow.
"""

from __future__ import annotations

import torch

from pascaline.bench.library_products import (
    fp32_as,
    half_sums,
    numpy_product,
    torch_bytes_product,
    torch_product,
)
from pascaline.bench.our_products import FORMS, TENSOR_SUMS, Linears
from pascaline.bench.product import Path, Rounding

FP64, FP32, TF32, FP16, BF16 = 2.0**-53, 2.0**-24, 2.0**-11, 2.0**-11, 2.0**-8
"""Unit roundoffs: what one rounding to the type errs by at most, relatively."""

_SUMS_IN_FP32 = Rounding(sums=TENSOR_SUMS, output=FP16)
_SUMS_IN_FP16 = Rounding(sums=FP16, output=FP16)


def cpu_paths() -> tuple[Path, ...]:
    """On the processor."""
    cpu = torch.device("cpu")
    mm = "torch.mm"
    return (
        Path("fp64", "F64", ("fp64",), mm, True, torch_product(cpu, torch.float64, Rounding(sums=FP64))),
        Path("fp32", "F32", ("fp32",), mm, True, torch_product(cpu, torch.float32, Rounding(sums=FP32))),
        Path("fp32", "F32", ("fp32",), "numpy.matmul", True, numpy_product),
        Path(
            *("fp16", "F16", ("fp16",), mm, True),
            torch_product(cpu, torch.float16, _SUMS_IN_FP16),
        ),
        Path(
            *("bf16", "BF16", ("bf16",), mm, True),
            torch_product(cpu, torch.bfloat16, Rounding(sums=FP32, output=BF16)),
        ),
        Path("int8", "I8", ("int8",), "torch._int_mm", True, torch_bytes_product(cpu)),
        *_our_paths(cpu),
    )


def cuda_paths(device: torch.device) -> tuple[Path, ...]:
    """On an NVIDIA card."""
    mm = "torch.mm"
    in_fp32, in_tf32 = fp32_as(tf32=False), fp32_as(tf32=True)
    paths = [
        Path(
            *("fp64", "F64", ("tensor_fp64", "fp64"), mm, True),
            torch_product(device, torch.float64, Rounding(sums=FP64)),
        ),
        Path(
            *("fp32", "F32", ("fp32",), mm, True),
            torch_product(device, torch.float32, Rounding(sums=FP32), in_fp32),
        ),
        Path(
            *("fp16, fp32 sums", "F16", ("tensor_fp16", "fp32"), mm, True),
            torch_product(device, torch.float16, _SUMS_IN_FP32, half_sums(in_half=False)),
        ),
        Path(
            *("fp16, fp16 sums", "F16", ("tensor_fp16", "fp16"), mm, True),
            torch_product(device, torch.float16, _SUMS_IN_FP16, half_sums(in_half=True)),
        ),
        Path(
            *("bf16", "BF16", ("tensor_bf16", "fp32"), mm, True),
            torch_product(device, torch.bfloat16, Rounding(sums=TENSOR_SUMS, output=BF16)),
        ),
        Path("int8", "I8", ("tensor_int8", "int8"), "torch._int_mm", True, torch_bytes_product(device)),
    ]
    if torch.cuda.get_device_capability(device) >= (8, 0):
        tf32 = torch_product(device, torch.float32, Rounding(inputs=2 * TF32, sums=TENSOR_SUMS), in_tf32)
        paths.insert(2, Path("tf32", "F32", ("tensor_tf32",), mm, True, tf32))
    return (*paths, *_our_paths(device))


def _our_paths(device: torch.device) -> tuple[Path, ...]:
    linears = Linears.on(device)
    packed = ("tensor_fp16", "int8", "fp32") if device.type == "cuda" else (linears.usual.arithmetic,)
    who = "pascaline, as its policy chooses" if device.type == "cuda" else f"pascaline {linears.usual.name}"
    return tuple(
        Path(form.name, form.name, ("fp32",) if form.is_dense else packed, who, False, linears.product(form))
        for form in FORMS
    )
