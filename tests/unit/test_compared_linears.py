"""What the benchmark of linears gives each side is one weight, whatever form the side wants it in."""

from __future__ import annotations

import pytest
import torch
from linears.cases import SHAPES, Shape, targets
from linears.way import copies_of, relative_error
from linears.weights import exact_product, log_normal_inputs, random_int4

SHAPE = Shape("small", 384, 192)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_slabs_hold_the_very_weight(generator: torch.Generator) -> None:
    weight = random_int4(SHAPE, generator)
    values = torch.empty(SHAPE.outputs, SHAPE.inputs, dtype=torch.float64)
    weight.slabbed().dequantise(0, SHAPE.outputs, values)
    assert torch.equal(values, weight.dequantised(torch.float64))


def test_gptq_words_hold_the_very_weight(generator: torch.Generator) -> None:
    """By GPTQ's definition: w[k, n] = scale · (nibble k % 8 of word k / 8 − (zero + 1))."""
    weight = random_int4(SHAPE, generator)
    k = torch.arange(SHAPE.inputs)
    nibbles = (weight.gptq_words()[k // 8] >> (4 * (k % 8))[:, None]) & 15
    n = torch.arange(SHAPE.outputs)
    zeros = (weight.gptq_zeros()[:, n // 8] >> (4 * (n % 8))) & 15
    values = weight.gptq_scales().double()[k // 128] * (nibbles - (zeros[k // 128] + 1))
    assert torch.equal(values.t(), weight.dequantised(torch.float64))


def test_marlin_scales_are_vllms_permutation(generator: torch.Generator) -> None:
    """vLLM's get_scale_perms: place 8 · i + j of each 64 takes scale i + 8 · j."""
    weight = random_int4(SHAPE, generator)
    order = [i + 8 * j for i in range(8) for j in range(8)]
    expected = weight.gptq_scales().reshape(-1, 64)[:, order].reshape(-1, SHAPE.outputs)
    assert torch.equal(weight.marlin_scales(), expected)


def test_errors_are_relative_and_see_what_is_no_number(generator: torch.Generator) -> None:
    weight = random_int4(SHAPE, generator).dequantised(torch.float64)
    inputs = log_normal_inputs(300, SHAPE.inputs, generator)
    product = exact_product(inputs, weight)
    assert relative_error(product, product) == 0.0
    assert relative_error(product * 1.01, product) == pytest.approx(0.01)
    # Rounding to fp16 is off by at most 2⁻¹¹ of each output.
    assert 1e-4 < relative_error(product.half(), product) < 2**-11
    spoilt = product.clone()
    spoilt[299, 0] = float("nan")
    assert not relative_error(spoilt, product) <= 1.0


def test_copies_make_up_what_is_to_be_streamed() -> None:
    assert copies_of(100, 300) == 3
    assert copies_of(101, 300) == 3
    assert copies_of(99, 300) == 4
    assert copies_of(1000, 300) == 1


def test_shapes_divide_as_the_peers_need_them() -> None:
    for shape in SHAPES:
        assert shape.inputs % 128 == 0
        assert shape.outputs % 64 == 0
    assert {target.peer for rows in (1, 8, 16, 512) for target in targets(rows)} == {"exllama", "marlin"}
