"""The stand-in for a card: its operations against numpy, and every fault that it is to find."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from guarded_memory import Sparse
from host_card import KernelFault, run_plan, shared_bytes

from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Scratch, Specialisation

FOLDER = Path(__file__).parent


def _plan(
    file: str, entry: str, arguments: tuple[str | Integer, ...], blocks: int, threads: int, **more: object
) -> LaunchPlan:
    specialisation = Specialisation(file, entry, ())
    return LaunchPlan(specialisation, (blocks, 1, 1), (threads, 1, 1), arguments, **more)  # type: ignore[arg-type]


def _operate(entry: str, y: numpy.ndarray, threads: int, **inputs: numpy.ndarray) -> None:
    blocks = max(1, y.size // threads) if entry in ("to_half", "from_half", "to_bfloat16") else 1
    plan = _plan("shim_operations.cu", entry, (*inputs, "y"), blocks, threads)
    run_plan(plan, {**inputs, "y": y}, folder=FOLDER)


def test_every_half_number_becomes_its_float() -> None:
    halves = numpy.arange(1 << 16, dtype=numpy.uint16)
    y = numpy.empty(1 << 16, numpy.float32)
    _operate("from_half", y, 1024, x=halves)
    expected = halves.view(numpy.float16).astype(numpy.float32)
    number = ~numpy.isnan(expected)
    assert numpy.array_equal(y.view(numpy.uint32)[number], expected.view(numpy.uint32)[number])
    assert (y.view(numpy.uint32)[~number] == 0x7FFFFFFF).all()


def _floats(generator: numpy.random.Generator) -> numpy.ndarray:
    """Random bits, all half numbers, the points between them and what is beside both."""
    halves = numpy.arange(0x7C00, dtype=numpy.uint16).view(numpy.float16).astype(numpy.float32)
    between = (halves[1:] + halves[:-1]) / 2  # exact
    edges = numpy.concatenate([halves, between, numpy.float32([65504, 65519.996, 65520, 65536, 3e38])])
    beside = [numpy.nextafter(edges, numpy.float32(sign * numpy.inf)) for sign in (-1, 1)]
    bits = generator.integers(0, 1 << 32, 1 << 16, dtype=numpy.uint32).view(numpy.float32)
    every = numpy.concatenate(
        [edges, *beside, -edges, bits, numpy.float32([numpy.nan, numpy.inf, -numpy.inf])]
    )
    return numpy.resize(every, -(-len(every) // 1024) * 1024).astype(numpy.float32)


def test_floats_are_rounded_to_the_nearest_half_number() -> None:
    x = _floats(numpy.random.default_rng(1))
    y = numpy.empty(len(x), numpy.uint16)
    _operate("to_half", y, 1024, x=x)
    with numpy.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(numpy.float16).view(numpy.uint16)
    number = ~numpy.isnan(x)
    assert numpy.array_equal(y[number], expected[number])
    assert (y[~number] == 0x7FFF).all()


def test_floats_are_rounded_to_the_nearest_bfloat16_number() -> None:
    x = _floats(numpy.random.default_rng(2))
    y = numpy.empty(len(x), numpy.uint16)
    _operate("to_bfloat16", y, 1024, x=x)
    expected = torch.from_numpy(x).to(torch.bfloat16)
    number = ~numpy.isnan(x)
    assert numpy.array_equal(y[number], expected.view(torch.int16).numpy().view(numpy.uint16)[number])
    assert torch.from_numpy(y).view(torch.bfloat16)[torch.from_numpy(~number)].isnan().all()


def test_dot_products_of_bytes() -> None:
    x = numpy.random.default_rng(3).integers(-128, 128, (64, 2, 4), dtype=numpy.int8)
    x[0] = -128
    y = numpy.empty(64, numpy.int32)
    _operate("dots", y, 64, x=x)
    assert numpy.array_equal(y, (x[:, 0].astype(int) * x[:, 1]).sum(axis=1) + 7)


def test_bytes_are_permuted() -> None:
    generator = numpy.random.default_rng(4)
    x = generator.integers(0, 1 << 32, (64, 3), dtype=numpy.uint32)
    y = numpy.empty(64, numpy.uint32)
    _operate("bytes", y, 64, x=x)
    pool = x[:, :2].copy().view(numpy.uint8)
    for row in range(64):
        for byte in range(4):
            nibble = int(x[row, 2]) >> 4 * byte & 15
            picked = int(pool[row, nibble & 7])
            expected = picked if nibble < 8 else 255 * (picked >> 7)
            assert int(y[row]) >> 8 * byte & 255 == expected


def test_shuffles_and_votes() -> None:
    x = numpy.random.default_rng(5).integers(0, 1000, 64, dtype=numpy.int32)
    y = numpy.empty(6 * 64, numpy.int32)
    _operate("shuffles", y, 64, x=x)
    lane, first = numpy.arange(64) % 32, numpy.arange(64) // 32 * 32
    sources = [
        lane ^ 5,
        numpy.full(64, 3),
        numpy.where(lane + 4 < 32, lane + 4, lane),
        numpy.where(lane >= 4, lane - 4, lane),
        lane // 8 * 8 + (lane + 1) % 8,
    ]
    for result, source in zip(y.reshape(6, 64), sources, strict=False):
        assert numpy.array_equal(result, x[first + source])
    votes = (x % 3 == 0).reshape(2, 32) @ (1 << numpy.arange(32, dtype=numpy.uint64))
    assert numpy.array_equal(y[320:].view(numpy.uint32).reshape(2, 32), votes[:, None].repeat(32, 1))


@pytest.mark.parametrize(
    ("entry", "dtype", "depth"),
    [
        ("half_16x8x16", torch.float16, 16),
        ("half_16x8x8", torch.float16, 8),
        ("bfloat16_16x8x16", torch.bfloat16, 16),
    ],
)
def test_products_of_tiles(entry: str, dtype: torch.dtype, depth: int) -> None:
    generator = torch.Generator().manual_seed(6)
    # Small integers are exact in all of these types, and so are their sums of products.
    a, b = (torch.randint(-100, 100, (n, depth), generator=generator).to(dtype) for n in (16, 8))
    y = numpy.empty((16, 8), numpy.float32)
    words = [tensor.view(torch.uint8).numpy().view(numpy.uint32) for tensor in (a, b)]
    _operate(entry, y, 32, a=words[0], b=words[1])
    assert numpy.array_equal(y, (a.double() @ b.double().T + 1).numpy())


def _faulty(entry: str, count: int, threads: int = 64, shared: int = 0) -> numpy.ndarray:
    x, y = numpy.arange(count, dtype=numpy.int32), numpy.empty(count, numpy.int32)
    plan = _plan(
        "shim_faults.cu",
        entry,
        ("x", "y", Integer(count)),
        -(-count // threads),
        threads,
        shared_bytes=shared,
    )
    run_plan(plan, {"x": x, "y": y}, folder=FOLDER)
    return y


def test_a_kernel_without_fault() -> None:
    assert numpy.array_equal(
        _faulty("reversed", 128, shared=256), numpy.arange(128).reshape(2, 64)[:, ::-1].ravel()
    )


@pytest.mark.parametrize(
    ("entry", "count", "shared", "words"),
    [
        ("reversed_without_barrier", 128, 256, "depend on the order of threads"),
        ("barrier_after_return", 100, 0, "28 threads, the first (36, 0, 0), have ended"),
        ("barriers_in_two_branches", 128, 0, "is at another __syncthreads"),
        ("shuffle_in_a_branch", 128, 0, "wait in __shfl_xor_sync, mask 0xffffffff"),
        ("not_aligned", 64, 0, "not aligned"),
        ("static_shared_overrun", 64, 0, "an index beyond its array (0x"),
        ("dynamic_shared_overrun", 64, 256, "beyond the dynamic shared memory"),
        ("shared_read_before_write", 64, 0, "on memory that nothing was written to"),
        ("writes_input", 64, 0, "of x, which may not be touched so"),
        ("one_too_many", 63, 0, "a write 0 bytes beyond the 252 of y"),
        ("one_too_many", 60, 0, "an access 0 bytes beyond the 240 of y"),
        ("one_too_few", 64, 0, "1 of 64 elements not written, the first 63"),
        ("endless_shift", 64, 0, "a shift by as many bits as there are"),
    ],
)
def test_faults_are_found(entry: str, count: int, shared: int, words: str) -> None:
    with pytest.raises(KernelFault) as caught:
        _faulty(entry, count, shared=shared)
    assert words in str(caught.value)


def test_a_fault_says_where_it_is() -> None:
    with pytest.raises(KernelFault, match=r"block \(0, 0, 0\), thread \(60, 0, 0\).*shim_faults\.cu:\d+"):
        _faulty("one_too_many", 60)


def test_offsets_beyond_32_bits() -> None:
    stride, threads = 1 << 30, 4
    pieces = {thread * stride: numpy.full(1, thread + 1, numpy.uint8) for thread in range(threads)}
    x, y = Sparse((threads - 1) * stride + 1, pieces), numpy.empty(threads, numpy.int32)
    arguments = ("x", "y", Integer(stride))
    run_plan(_plan("shim_faults.cu", "wide_offset", arguments, 1, threads), {"x": x, "y": y}, folder=FOLDER)
    assert y.tolist() == [1, 2, 3, 4]
    with pytest.raises(KernelFault, match=r"thread \(2, 0, 0\): an access 2147483648 bytes before x"):
        run_plan(
            _plan("shim_faults.cu", "narrow_offset", arguments, 1, threads), {"x": x, "y": y}, folder=FOLDER
        )


def test_shared_memory_is_counted() -> None:
    sizes = [
        shared_bytes(
            _plan("shim_faults.cu", "reversed", ("x", "y", Integer(1)), 1, 64, shared_bytes=more), FOLDER
        )
        for more in (0, 256)
    ]
    assert sizes[0] >= 64 + 256 + 1  # the arrays of all kernels in the file
    assert sizes[1] == sizes[0] + 256


@pytest.mark.parametrize("entry", ["counted", "counted_for_ever"])
def test_scratch_memory_is_left_as_it_was(entry: str) -> None:
    x, y = numpy.arange(5, dtype=numpy.int32), numpy.empty(1, numpy.int32)
    plan = _plan(
        "shim_faults.cu",
        entry,
        ("x", "y", "parts", "counter", Integer(5)),
        5,
        32,
        scratch={"parts": Scratch(20), "counter": Scratch(4, is_zeroed=True)},
    )
    if entry == "counted":
        run_plan(plan, {"x": x, "y": y}, folder=FOLDER)
        assert y[0] == 10
    else:
        with pytest.raises(KernelFault, match="counter is not left as zeros"):
            run_plan(plan, {"x": x, "y": y}, folder=FOLDER)


def test_arguments_are_counted() -> None:
    plan = _plan("shim_faults.cu", "reversed", ("x", "y"), 1, 32)
    with pytest.raises(KernelFault, match=r"arguments of \[8, 8\] bytes, the kernel's are \[8, 8, 4\]"):
        run_plan(plan, {"x": numpy.zeros(32, numpy.int32), "y": numpy.zeros(32, numpy.int32)}, folder=FOLDER)
