"""Every way to multiply that `bench gemm` times is right, and one that is wrong is found out before."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch
from native_libraries import NEEDS_LIBRARY, RUNNABLE, Use

from pascaline.bench.library_products import torch_product
from pascaline.bench.paths import FP16, FP32, cpu_paths, cuda_paths
from pascaline.bench.product import Product, Rounding, Shape, WrongProductError, check
from pascaline.core.errors import UnsupportedError
from pascaline.hardware.native_loops import Exercise
from pascaline.kernels.cpu import native

CPU = torch.device("cpu")
SHAPE = Shape(17, 136, 512)
COPIES = 2


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def in_fp32(shape: Shape = SHAPE) -> Product:
    return torch_product(CPU, torch.float32, Rounding(sums=FP32))(shape, COPIES, generator())


def test_every_path_is_right(device: str) -> None:
    paths = cpu_paths() if device == "cpu" else cuda_paths(torch.device(device))
    assert len({(path.precision, path.algorithm) for path in paths}) == len(paths)
    for path in paths:
        product = path.make(SHAPE, COPIES, generator())
        check(product)
        assert product.products == COPIES
        assert product.output().shape == (SHAPE.m, SHAPE.n)


@pytest.mark.parametrize("name", RUNNABLE)
@NEEDS_LIBRARY
def test_packed_weights_are_right_on_every_instruction_set(use: Use, name: str) -> None:
    use(name, 2)
    for path in cpu_paths():
        if not path.is_library:
            check(path.make(SHAPE, COPIES, generator()))


@pytest.mark.parametrize("shape", [Shape(1, 1, 256), Shape(3, 5, 256), Shape(2, 300, 768)], ids=str)
def test_any_shape(shape: Shape) -> None:
    for path in cpu_paths():
        check(path.make(shape, 1, generator()))


def test_a_k_that_a_form_cannot_have_is_refused_in_words() -> None:
    refused = {}
    for path in cpu_paths():
        try:
            check(path.make(Shape(2, 8, 96), 1, generator()))
        except UnsupportedError as error:
            refused[path.precision] = str(error)
    assert set(refused) == {"Q4_K", "Q6_K", "GPTQ-4"}
    assert refused["Q4_K"] == "Q4_K needs a K that is a multiple of 256"


def test_weights_are_other_memory_in_each_product() -> None:
    """Else a cache would hold them, and a rate of memory would be none."""
    seen = []
    for path in cpu_paths():
        product = path.make(SHAPE, 2, generator())
        alone = path.make(SHAPE, 1, generator())
        assert product.moved_bytes == alone.moved_bytes
        assert product.bytes_per_weight == alone.bytes_per_weight
        seen.append(product.bytes_per_weight)
    assert seen[:6] == [8, 4, 4, 2, 2, 1]


def spoiled(product: Product, spoil: object) -> Product:
    """The product, whose output is changed after it was computed."""

    def run() -> None:
        product.run()
        spoil(product.output())  # type: ignore[operator]

    return replace(product, run=run)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y.zero_(),
        lambda y: y.neg_(),
        lambda y: y.mul_(1 + 1e-4),
        lambda y: y[-1, -1].fill_(torch.nan),
        lambda y: y[0, 0].fill_(torch.inf),
        lambda y: y[0].copy_(y[1].clone()),
        lambda y: y.copy_(y.roll(1, dims=1)),
        lambda y: y.copy_(y.half().float()),
    ],
    ids=[
        "zeros",
        "a sign",
        "0.01 % off",
        "a NaN",
        "infinite",
        "a row twice",
        "columns shifted",
        "rounded to half",
    ],
)
def test_a_wrong_product_is_found_out(spoil: object) -> None:
    with pytest.raises(WrongProductError, match=r"wrong by .* \(expected at most "):
        check(spoiled(in_fp32(), spoil))


def test_less_precision_than_was_promised_is_found_out() -> None:
    for dtype, promised in [
        (torch.bfloat16, Rounding(sums=FP32, output=FP16)),
        (torch.float16, Rounding(sums=FP32)),
        (torch.float32, Rounding(sums=2.0**-53)),
    ]:
        with pytest.raises(WrongProductError):
            check(torch_product(CPU, dtype, promised)(SHAPE, 1, generator()))


@pytest.mark.parametrize("name", RUNNABLE)
@NEEDS_LIBRARY
def test_loops_of_the_native_library_do_what_they_count(use: Use, name: str) -> None:
    data = numpy.arange(1 << 18, dtype=numpy.int32)
    before = data.copy()
    amounts = {}
    for threads in (1, 2):
        use(name, threads)
        loops = native.loaded().loops
        for what in Exercise:
            (once, _), (thrice, seconds) = (loops.run(what, rounds, data) for rounds in (1000, 3000))
            assert thrice == 3 * once > 0
            assert len(seconds) == threads
            amounts[what, threads] = once
    assert (data == before).all()
    # Products and clocks are counted of one thread, bytes of all together.
    for what in Exercise:
        assert amounts[what, 2] == amounts[what, 1]
    assert amounts[Exercise.reads, 2] == 1000 * data.nbytes
