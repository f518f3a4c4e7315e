"""Products of dense matrices by torch and numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy
import torch

from pascaline.bench.product import Product, Rounding, Rows, Shape
from pascaline.core.errors import UnsupportedError

LARGEST_BYTE = 127

Settings = Callable[[], AbstractContextManager[None]]
"""What is set while products are launched, and put back."""

Make = Callable[[Shape, int, torch.Generator], Product]


def torch_product(
    device: torch.device,
    dtype: torch.dtype,
    rounding: Rounding,
    settings: Settings = nullcontext,
) -> Make:
    """`torch.mm` of matrices in one dtype."""
    return partial(_torch_product, device, dtype, rounding, settings)


def _torch_product(
    device: torch.device,
    dtype: torch.dtype,
    rounding: Rounding,
    settings: Settings,
    shape: Shape,
    copies: int,
    generator: torch.Generator,
) -> Product:
    x = torch.randn(shape.m, shape.k, generator=generator).to(device, dtype)
    first = torch.randn(shape.n, shape.k, generator=generator).to(device, dtype)
    weights = _copies(first, copies)
    y = torch.empty(shape.m, shape.n, dtype=dtype, device=device)

    def run() -> None:
        with settings():
            for weight in weights:
                torch.mm(x, weight.T, out=y)

    return Product(
        run=run,
        products=copies,
        output=lambda: y,
        x_rows=rows_of(x),
        weight_rows=rows_of(weights[-1]),
        rounding=rounding,
        moved_bytes=(x.numel() + first.numel() + y.numel()) * dtype.itemsize,
        bytes_per_weight=dtype.itemsize,
    )


def _copies(first: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The same weights in so many places of memory."""
    return [first, *(first.clone() for _ in range(count - 1))]


def torch_bytes_product(device: torch.device) -> Make:
    """`torch._int_mm`: signed bytes, sums in int32."""
    return partial(_torch_bytes_product, device)


def _torch_bytes_product(
    device: torch.device, shape: Shape, copies: int, generator: torch.Generator
) -> Product:
    if device.type == "cuda" and (shape.m <= 16 or shape.k % 8 or shape.n % 8):
        raise UnsupportedError("torch._int_mm takes more than 16 rows, and multiples of 8 for N and K")

    def some(rows: int) -> torch.Tensor:
        size = (rows, shape.k)
        return torch.randint(-LARGEST_BYTE, LARGEST_BYTE + 1, size, generator=generator, dtype=torch.int8)

    x, first = some(shape.m).to(device), some(shape.n).to(device)
    weights = _copies(first, copies)
    y = torch.empty(shape.m, shape.n, dtype=torch.int32, device=device)

    def run() -> None:
        for weight in weights:
            torch._int_mm(x, weight.T, out=y)

    return Product(
        run=run,
        products=copies,
        output=lambda: y,
        x_rows=rows_of(x),
        weight_rows=rows_of(weights[-1]),
        rounding=Rounding(),  # integers are exact
        moved_bytes=x.numel() + first.numel() + 4 * y.numel(),
        bytes_per_weight=1,
    )


def numpy_product(shape: Shape, copies: int, generator: torch.Generator) -> Product:
    """`numpy.matmul` in fp32, by numpy's own library and its own threads."""
    x = torch.randn(shape.m, shape.k, generator=generator)
    first = torch.randn(shape.n, shape.k, generator=generator)
    weights = _copies(first, copies)
    y = torch.empty(shape.m, shape.n)
    arrays = [weight.numpy().T for weight in weights]
    left, out = x.numpy(), y.numpy()

    def run() -> None:
        for array in arrays:
            numpy.matmul(left, array, out=out)

    return Product(
        run=run,
        products=copies,
        output=lambda: y,
        x_rows=rows_of(x),
        weight_rows=rows_of(weights[-1]),
        rounding=Rounding(sums=2.0**-24),
        moved_bytes=(x.numel() + first.numel() + y.numel()) * 4,
        bytes_per_weight=4,
    )


def rows_of(matrix: torch.Tensor) -> Rows:
    """Rows of a matrix that is kept as it is."""
    return lambda indices: matrix[indices.to(matrix.device)].cpu().double()


@contextmanager
def _set(values: Mapping[str, object]) -> Iterator[None]:
    """Settings of torch's products on CUDA."""
    matmul = torch.backends.cuda.matmul
    before = {name: getattr(matmul, name) for name in values}
    for name, value in values.items():
        setattr(matmul, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)


def fp32_as(tf32: bool) -> Settings:
    """fp32 products in fp32, or with inputs rounded to TF32."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # since torch 2.9
        return partial(_set, {"fp32_precision": "tf32" if tf32 else "ieee"})
    return partial(_set, {"allow_tf32": tf32})


def half_sums(in_half: bool) -> Settings:
    """fp16 products whose sums are fp16 or fp32 throughout."""
    names = ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
    return partial(_set, dict.fromkeys(names, in_half))
