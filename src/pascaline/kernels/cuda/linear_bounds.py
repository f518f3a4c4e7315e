"""How far a linear's kernel may be from fp64, from its arithmetic: u is fp32's unit roundoff.

1. Quantised inputs: x = scale · (q + e), |e| ≤ 1/2 + 4·u·32512 (the reciprocal and the product are rounded
   before q is), so that y errs by Σ w·scale·e. Independent roundings that are zero on average: of N = K terms
   of size aₖ = |wₖ|·scaleₖ·max|e| the sum exceeds 8·√Σaₖ² once in 10¹³ (Hoeffding), and Σaₖ never.
2. Weights or inputs that are rounded to a narrower type: the same, with aₖ = |wₖ·xₖ|·unit; and of rows that
   are scaled into fp16's range, whose least step is 2⁻²⁴, with aₖ = |wₖ|·max|x|·2⁻²⁵. So of dense weights.
3. Sums in fp32: `summation_error(K) + 8` roundings of at most u·A, with A = Σ|xₖ|·(|D·a|·(|q| + |zero|) +
   |E·b|): whatever is added and taken off again counts. The 8 are those of scales and their products.
4. Bias and residual: one rounding each. Gates: |SiLU′| ≤ 1.1, and 16·u for exp and quotient.
5. y rounded to its type: to nearest, subnormals included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch

from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.op import FP32_ROUNDING, summation_error
from pascaline.weights.packed import Packed

_OUTPUT_ROUNDING = {
    torch.float32: (2.0**-24, 2.0**-150),
    torch.float16: (2.0**-11, 2.0**-25),
    torch.bfloat16: (2.0**-8, 2.0**-134),
}
"""Half a unit in the last place: relative, and of subnormals."""


@dataclass(frozen=True)
class Arithmetic:
    """What a kernel computes in.

    Parameters
    ----------
    planes : int8 planes of the inputs, 0 where they are multiplied as numbers.
    scale_group : inputs of a scale of quantised inputs.
    weight_rounding, input_rounding : units of the types that weights and inputs are rounded to, 0 if none.
    input_floor, weight_floor : what is rounded off at least: of a row's largest input, and in numbers.
    code_excess : what the kernel adds to every code and takes off again, in units of codes.
    sum_roundings : roundings of u that an addition counts as (tensor cores cut off instead of rounding: 4).
    """

    planes: int = 0
    scale_group: int = 32
    weight_rounding: float = 0.0
    input_rounding: float = 0.0
    input_floor: float = 0.0
    weight_floor: float = 0.0
    code_excess: float = 0.0
    sum_roundings: float = 1.0


@dataclass(frozen=True)
class Terms:
    """A weight by its formula, each (N, K) in stored order, fp64.

    Parameters
    ----------
    weight : D·a·c − E·b.
    scale : |D·a|.
    magnitude : |D·a|·(|q| + |zero|) + |E·b|.
    """

    weight: numpy.ndarray
    scale: numpy.ndarray
    magnitude: numpy.ndarray

    @staticmethod
    def of(packed: Packed) -> Terms:
        """Written from the formula alone."""
        columns = packed.shape[1]

        def spread(values: torch.Tensor, size: int) -> numpy.ndarray:
            return values.double().numpy().repeat(size, axis=1)[:, :columns]

        def numbers(values: torch.Tensor) -> numpy.ndarray:
            if values.dtype == torch.uint8:
                values = torch.exp2(values.double() - 128)
            return spread(values, packed.super_size)

        scale = numbers(packed.scales)
        if packed.group_scales is not None:
            factors = spread(packed.group_scales.unpack(), packed.group_size) - packed.group_scale_zero
            scale = scale * factors
        offset = numpy.zeros_like(scale) if packed.offsets is None else numbers(packed.offsets)
        if packed.group_offsets is not None:
            offset = offset * spread(packed.group_offsets.unpack(), packed.group_size)
        codes = packed.codes.unpack()
        if packed.table is not None:
            values, zero = packed.table.double().numpy()[codes.long().numpy()], numpy.zeros_like(scale)
        else:
            values, zero = codes.double().numpy(), numpy.full_like(scale, packed.zero)
            if packed.zeros is not None:
                zero += spread(packed.zeros.unpack(), packed.group_size)
        magnitude = numpy.abs(scale) * (numpy.abs(values) + numpy.abs(zero)) + numpy.abs(offset)
        return Terms(scale * (values - zero) - offset, numpy.abs(scale), magnitude)


def product_bound(
    terms: Terms, x: numpy.ndarray, arithmetic: Arithmetic, *, is_quantised: bool
) -> numpy.ndarray:
    """Of x · Wᵀ (M, N), for x (M, K) in stored order; is_quantised: x is what the integers stand for."""
    columns = x.shape[1]
    size = numpy.abs(x)
    bound = numpy.zeros((len(x), len(terms.weight)))
    if arithmetic.planes and not is_quantised:
        largest = 32512 if arithmetic.planes == 2 else 127
        padded = numpy.pad(size, ((0, 0), (0, -columns % arithmetic.scale_group)))
        groups = padded.reshape(len(x), -1, arithmetic.scale_group)
        scales = groups.max(axis=2).repeat(arithmetic.scale_group, axis=1)[:, :columns] / largest
        error = 0.5 + 4 * FP32_ROUNDING * largest
        bound += _sum_of_roundings(scales * error, numpy.abs(terms.weight))
    for unit in (arithmetic.weight_rounding, arithmetic.input_rounding):
        if unit:
            bound += _sum_of_roundings(size * unit, numpy.abs(terms.weight))
    if arithmetic.input_floor:
        largest = size.max(axis=1, keepdims=True) * numpy.ones_like(size)
        bound += _sum_of_roundings(largest * arithmetic.input_floor, numpy.abs(terms.weight))
    if arithmetic.weight_floor:
        bound += _sum_of_roundings(size, numpy.full_like(terms.weight, arithmetic.weight_floor))
    magnitude = terms.magnitude + terms.scale * arithmetic.code_excess
    roundings = arithmetic.sum_roundings * summation_error(columns) + 8
    bound += FP32_ROUNDING * roundings * (size @ magnitude.T)
    return bound


def _sum_of_roundings(inputs: numpy.ndarray, weights: numpy.ndarray) -> numpy.ndarray:
    """Of terms no larger than inputs (M, K) times weights (N, K)."""
    sums: numpy.ndarray = numpy.minimum(inputs @ weights.T, 8 * numpy.sqrt(inputs**2 @ (weights**2).T))
    return sums


def call_bound(
    product: numpy.ndarray,
    error: numpy.ndarray,
    call: LinearCall,
    bias: numpy.ndarray | None,
    residual: numpy.ndarray | None,
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """y in fp64, and how far from it the kernel's may be, given its product's `error`."""
    u = FP32_ROUNDING
    y = product
    if bias is not None:
        y = y + bias
        error = error + u * (numpy.abs(y) + error)
    if call.is_gated:
        half = call.outputs // 2
        gate, up = y[:, :half], y[:, half:]
        gate_error, up_error = error[:, :half], error[:, half:]
        activated = gate / (1 + numpy.exp(-gate))
        activated_error = 1.1 * gate_error
        y = activated * up
        error = activated_error * (numpy.abs(up) + up_error) + numpy.abs(activated) * up_error
        error = error + 16 * u * (numpy.abs(y) + error)
    if residual is not None:
        y = y + residual
        error = error + u * (numpy.abs(y) + error)
    unit, subnormal = _OUTPUT_ROUNDING[call.output_dtype]
    return y, error + unit * (numpy.abs(y) + error) + subnormal
