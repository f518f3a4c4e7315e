"""The native attention, rotary embedding and cache: all layouts, and bits that depend on the row alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from native_libraries import NEEDS_LIBRARY, RUNNABLE, Use

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import ShapeError
from pascaline.kernels import cpu_attention, paged_attention, rotary, store_rows
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.native_kernel import describe
from pascaline.kernels.cpu.views import Launch, Step
from pascaline.kernels.kernel import Kernel, Workspace
from pascaline.kernels.op import Case
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import PAGE_SIZE

CPU = torch.device("cpu")
CANARY = 12345.0

pytestmark = NEEDS_LIBRARY


def launched(
    kernel: Kernel, *inputs: torch.Tensor | None, shape: torch.Size, **parameters: float
) -> torch.Tensor:
    """The output, written between canaries."""
    elements = math.prod(shape)
    buffer = torch.full((elements + 514,), CANARY)
    out = buffer[257 : 257 + elements].view(shape).fill_(math.nan)
    kernel.launch(*inputs, out=out, workspace=Workspace(CPU), **parameters)
    assert (buffer[:257] == CANARY).all()
    assert (buffer[-257:] == CANARY).all()
    return out


def in_native_order(cache: torch.Tensor, by_element: bool) -> torch.Tensor:
    """The same cache, laid out as `KeyValueCache` does for the native kernels."""
    if by_element:
        return cache.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return cache.transpose(1, 2).contiguous().transpose(1, 2)


def attend(*inputs: torch.Tensor, **parameters: float) -> torch.Tensor:
    return launched(cpu_attention.NATIVE, *inputs, None, None, shape=inputs[0].shape, **parameters)


def pages_of(
    contexts: list[int], kv_heads: int, size: int, dtype: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, values and the page table of sequences; NaN wherever nobody wrote."""
    generator = torch.Generator().manual_seed(seed)
    columns = max(-(-context // PAGE_SIZE) for context in contexts) + 1
    table = 1 + torch.randperm(len(contexts) * columns, generator=generator).view(len(contexts), columns)
    shape = (1 + table.numel(), PAGE_SIZE, kv_heads, size)
    keys, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    written = torch.zeros(shape[:2], dtype=torch.bool)
    for row, context in zip(table, contexts, strict=True):
        flat = torch.arange(columns * PAGE_SIZE).view(columns, PAGE_SIZE) < context
        written[row] = flat
        row[-(-context // PAGE_SIZE) :] = 0  # as page tables are padded
    for cache in (keys, values):
        cache[~written] = math.nan
    return in_native_order(keys, True), in_native_order(values, False), table.int()


HEADS = [
    *((3, 3, 8), (4, 2, 16), (9, 3, 64), (12, 2, 128), (5, 1, 80), (7, 1, 32), (8, 1, 24)),
    *((9, 1, 16), (12, 1, 48), (16, 1, 64), (4, 2, 256), (1, 1, 1), (25, 1, 17)),
]
CASES = [
    *(case for case in paged_attention.OP.cases if "int8" not in case.name),
    *(
        Case(
            f"D {size}, {heads} heads on {kv_heads}, {window=}, {softcap=}",
            {"T": 40, "S": 4, "H": heads, "KV": kv_heads, "D": size, "P": 40, "B": 16, "W": 8},
            {"scale": size**-0.5, "window": window, "softcap": softcap},
        )
        for (heads, kv_heads, size), (window, softcap) in itertools.product(
            HEADS,
            [(0, 0.0), (19, 0.0), (70, 2.5)],
        )
    ),
]


def operands_of(case: Case) -> tuple[torch.Tensor, ...]:
    inputs = paged_attention.make_inputs(case, torch.Generator().manual_seed(3))
    return cast(tuple[torch.Tensor, ...], inputs[:6])


def in_fp64(case: Case, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact output, and what the kernel may err by."""
    exact = [value.double() if value.is_floating_point() else value for value in inputs]
    reference: Callable[..., torch.Tensor] = paged_attention.reference
    assert cpu_attention.NATIVE.tolerance is not None
    bound = cpu_attention.NATIVE.tolerance.bound(*exact, **case.parameters)
    return reference(*exact, **case.parameters), bound


@pytest.mark.parametrize("instructions", RUNNABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_attention_in_both_orders_and_types(
    case: Case, dtype: torch.dtype, instructions: str, use: Use
) -> None:
    query, keys, values, *rest = operands_of(case)
    keys, values = keys.to(dtype), values.to(dtype)
    expected, bound = in_fp64(case, query, keys, values, *rest)
    outputs = []
    for threads in (1, 2):
        use(instructions, threads)
        outputs += [
            attend(query, keys, values, *rest, **case.parameters),
            attend(
                query, in_native_order(keys, True), in_native_order(values, False), *rest, **case.parameters
            ),
        ]
    assert ((outputs[0].double() - expected).abs() <= bound).all()
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize("case", CASES[:6], ids=[case.name for case in CASES[:6]])
def test_what_a_cache_of_fp16_costs(case: Case) -> None:
    """Keys and values err by u = 2⁻¹¹ of themselves.

    A score then errs by u · m with m = scale · Σ|q·k|, a weight by that of itself and, through their
    sum, by its mean, and a value by u. Terms in u² are below a tenth.
    """
    query, keys, values, *rest = operands_of(case)
    expected, bound = in_fp64(case, query, keys, values, *rest)
    window = int(case.parameters.get("window", 0))
    exact = (query.double(), keys.double(), values.double(), rest[0], rest[1], rest[2])
    for token, key, value in paged_attention.per_token(*exact, window=window):
        scores = torch.einsum("hd,jhd->hj", query[token].double(), key) * case.parameters["scale"]
        size = torch.einsum("hd,jhd->hj", query[token].abs().double(), key.abs()) * case.parameters["scale"]
        weights = scores.softmax(-1)
        relative = size + (weights * size).sum(-1, keepdim=True) + 1
        bound[token] += 1.1 * 2.0**-11 * torch.einsum("hj,jhd->hd", weights * relative, value.abs())
    attended = attend(query, keys.half(), values.half(), *rest, **case.parameters)
    assert ((attended.double() - expected).abs() <= bound).all()


SHAPES = {
    "demo": (9, 3, 64),
    "one head each": (3, 3, 16),
    "six heads": (12, 2, 128),
    "seven heads": (7, 1, 64),
    "ten heads, odd size": (10, 1, 40),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("window", [0, 50, 600])
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_depend_on_the_row_alone(shape: str, window: int, dtype: torch.dtype, use: Use) -> None:
    heads, kv_heads, size = SHAPES[shape]
    parameters = {"scale": size**-0.5, "window": window, "softcap": 20.0 if window == 50 else 0.0}
    contexts, counts = [1, 1300, 64, 700, 513, 90], [1, 70, 64, 1, 3, 17]
    keys, values, table = pages_of(contexts, kv_heads, size, dtype)
    query = torch.randn(sum(counts), heads, size, generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([0, *itertools.accumulate(counts)])

    def of(sequence: int, first: int, stop: int) -> torch.Tensor:
        """Tokens first … stop − 1 of a sequence's new ones, in a step of their own."""
        start = int(starts[sequence])
        context = contexts[sequence] - (counts[sequence] - stop)
        return attend(
            query[start + first : start + stop],
            keys,
            values,
            table[sequence : sequence + 1],
            torch.tensor([0, stop - first]).int(),
            torch.tensor([context]).int(),
            **parameters,
        )

    use(RUNNABLE[0], 1)
    expected = torch.cat(
        [of(sequence, at, at + 1) for sequence, count in enumerate(counts) for at in range(count)]
    )
    assert expected.isfinite().all()
    for instructions, threads in itertools.product(RUNNABLE, (1, 2, 3)):
        use(instructions, threads)
        together = attend(
            query, keys, values, table, starts.int(), torch.tensor(contexts).int(), **parameters
        )
        assert torch.equal(together, expected)
        for chunk in (7, 16, 64):
            chunks = [
                of(sequence, at, min(at + chunk, count))
                for sequence, count in enumerate(counts)
                for at in range(0, count, chunk)
            ]
            assert torch.equal(torch.cat(chunks), expected)


@pytest.mark.parametrize("instructions", RUNNABLE)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_later_token_that_is_no_number_stays_its_own_trouble(
    shape: str, instructions: str, use: Use
) -> None:
    use(instructions, 2)
    heads, kv_heads, size = SHAPES[shape]
    keys, values, table = pages_of([100], kv_heads, size, torch.float32)
    query = torch.randn(100, heads, size)
    rest = (table, torch.tensor([0, 100]).int(), torch.tensor([100]).int())
    expected = attend(query, keys, values, *rest, scale=0.1)
    page, slot = int(table[0, 77 // PAGE_SIZE]), 77 % PAGE_SIZE
    for cache in (keys, values):
        before = cache.clone()
        cache[page, slot] = math.nan
        attended = attend(query, keys, values, *rest, scale=0.1)
        assert torch.equal(attended[:77], expected[:77])
        assert attended[77:].isnan().all()
        cache.copy_(before)
    query[50, heads - 1] = math.nan
    attended = attend(query, keys, values, *rest, scale=0.1)
    assert attended[50, heads - 1].isnan().all()
    attended[50, heads - 1] = expected[50, heads - 1]
    assert torch.equal(attended, expected)


def test_a_launch_recorded_with_the_largest_sizes_runs_smaller_steps(use: Use) -> None:
    use(RUNNABLE[0], 2)
    keys, values, table = pages_of([40, 700, 20], 3, 64, torch.float16)
    query, out = torch.randn(50, 9, 64), torch.full((50, 9, 64), CANARY)
    starts, contexts = torch.zeros(9).int(), torch.zeros(8).int()
    recorded_table = torch.zeros(8, table.shape[1] + 5).int()
    inputs = (query, keys, values, recorded_table, starts, contexts, None, None)
    launch = describe(paged_attention.OP, cpu_attention.NATIVE, inputs, out, {"scale": 0.125, "window": 0})
    starts[:3], contexts[:2] = torch.tensor([0, 3, 4]), torch.tensor([40, 700])
    recorded_table[:2, : table.shape[1]] = table[:2]
    library = native.library()
    assert not isinstance(library, str)
    library.run((Launch * 1)(launch), Step(4, 2, 2))
    expected = attend(
        query[:4], keys, values, table[:2], starts[:3].clone(), contexts[:2].clone(), scale=0.125
    )
    assert torch.equal(out[:4], expected)
    assert (out[4:] == CANARY).all()


def test_queries_that_are_not_neighbours(use: Use) -> None:
    use(RUNNABLE[0], 2)
    keys, values, table = pages_of([30], 2, 32, torch.float16)
    rest = (table, torch.tensor([0, 5]).int(), torch.tensor([30]).int())
    wide = torch.randn(10, 12, 64)
    for query in (wide[:5, :4, :32], wide[::2, 3:11:2, ::2]):
        expected = attend(query.contiguous(), keys, values, *rest, scale=0.2)
        assert torch.equal(attend(query, keys, values, *rest, scale=0.2), expected)


@pytest.mark.parametrize("instructions", RUNNABLE)
@pytest.mark.parametrize("for_native", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_rows_are_stored_as_torch_stores_them(
    dtype: torch.dtype, for_native: bool, instructions: str, use: Use
) -> None:
    use(instructions, 2)
    # Halfway between two numbers of fp16, subnormal ones, the largest, beyond, and none.
    special = [
        1 + 2.0**-11,
        1 + 3 * 2.0**-11,
        2.0**-25,
        3 * 2.0**-25,
        65519.9,
        65520.0,
        -1e9,
        math.inf,
        math.nan,
    ]
    for size, tokens in [(8, 40), (64, 3), (13, 33)]:
        wide = torch.randn(tokens, 5, size)
        wide[0, 0, : min(size, len(special))] = torch.tensor(special)[: min(size, len(special))]
        for rows in (wide[:, :3], wide[:, 1:4]):
            slots = torch.randperm(6 * PAGE_SIZE)[:tokens]
            cache = torch.full((6, PAGE_SIZE, 3, size), 7.0, dtype=dtype)
            expected = cache.clone()
            store_rows.KERNEL.launch(rows, slots, expected, out=expected, workspace=Workspace(CPU))
            for by_element in (False, True):
                if for_native:
                    cache = in_native_order(cache, by_element)
                stored = cache.clone()
                store_rows.NATIVE.launch(rows, slots, stored, None, out=stored, workspace=Workspace(CPU))
                torch.testing.assert_close(stored, expected, rtol=0, atol=0, equal_nan=True)


def test_the_same_bits_whatever_rotates() -> None:
    generator = torch.Generator().manual_seed(2)
    angles = torch.rand(50, 20, generator=generator) * 6
    wide = torch.randn(9, 12, 48, generator=generator)
    positions = torch.randint(0, 50, (9,), generator=generator)
    rest = (positions, angles.cos(), angles.sin())
    for x in (wide, wide[:, 2:7], wide[:, ::3], wide.repeat_interleave(2, dim=2)[:, :, ::2]):
        expected = torch.cat(
            [
                launched(rotary.NATIVE, row.contiguous(), positions[i : i + 1], *rest[1:], shape=row.shape)
                for i, row in enumerate(x[i : i + 1] for i in range(len(x)))
            ]
        )
        assert torch.equal(launched(rotary.NATIVE, x, *rest, shape=x.shape), expected)


def test_the_native_cache_is_read_in_place() -> None:
    config = ModelConfig.__new__(ModelConfig)
    for name, value in {"num_key_value_heads": 3, "head_dim": 32, "num_hidden_layers": 2}.items():
        object.__setattr__(config, name, value)
    plain = KeyValueCache(config, 5, torch.float16, CPU)
    cache = KeyValueCache(config, 5, torch.float16, CPU, for_native=True)
    assert cache.bytes == plain.bytes
    for keys, values in zip(cache.keys, cache.values, strict=True):
        assert keys.shape == values.shape == plain.keys[0].shape == (5, PAGE_SIZE, 3, 32)
        assert keys.stride() == (3 * 32 * PAGE_SIZE, 1, 32 * PAGE_SIZE, PAGE_SIZE)
        assert values.stride() == (3 * 32 * PAGE_SIZE, 32, 32 * PAGE_SIZE, 1)


def test_what_would_be_misread_is_refused() -> None:
    keys, values, table = pages_of([30], 2, 32, torch.float32)
    inputs = (
        torch.randn(1, 2, 32),
        keys,
        values,
        table,
        torch.tensor([0, 1]).int(),
        torch.tensor([30]).int(),
    )
    for index, dtype in [(1, torch.bfloat16), (2, torch.int8), (3, torch.int64), (5, torch.int64)]:
        wrong = (*inputs[:index], inputs[index].to(dtype), *inputs[index + 1 :])
        said = "keys and values in" if index < 3 else f"{list(paged_attention.OP.inputs)[index]} holds"
        with pytest.raises(ShapeError, match=said):
            attend(*wrong, scale=0.1)
