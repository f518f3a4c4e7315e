"""The native row kernels: a row's bits depend on nothing beside it; edges, strides, gains of every form."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from native_libraries import NEEDS_LIBRARY, RUNNABLE, Use

from pascaline.kernels import gelu_and_mul, rms_norm, scale, select_rows, silu_and_mul, soft_cap
from pascaline.kernels.kernel import Workspace
from pascaline.weights import Dense

CANARY = 12345.0
INFINITY = math.inf

pytestmark = NEEDS_LIBRARY

PARAMETERS = {"rms_norm": {"epsilon": 1e-5}, "scale": {"factor": 3.3}, "soft_cap": {"cap": 30.0}}


def run(
    module: ModuleType, *inputs: torch.Tensor | Dense, shape: tuple[int, int] | None = None
) -> torch.Tensor:
    """Launch between canaries. Inputs stay as they were, those of an op that works in place too."""
    x = inputs[0]
    assert isinstance(x, torch.Tensor)
    rows, width = shape or (x.shape[0], x.shape[1])
    buffer = torch.full((rows * width + 200,), CANARY)
    out = buffer[100 : 100 + rows * width].view(rows, width).fill_(math.nan)
    if module.OP.in_place:
        inputs = (out.copy_(x), *inputs[1:])
    module.NATIVE.launch(
        *inputs, out=out, workspace=Workspace(out.device), **PARAMETERS.get(module.OP.name, {})
    )
    assert (buffer[:100] == CANARY).all()
    assert (buffer[-100:] == CANARY).all()
    return out


def rows_of(module: ModuleType, rows: int, width: int) -> tuple[torch.Tensor | Dense, ...]:
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(rows, width, generator=generator) * torch.logspace(-3, 2, rows)[:, None]
    if module is rms_norm:
        return x, Dense(torch.randn(width, generator=generator))
    if module in (silu_and_mul, gelu_and_mul):
        return x, torch.randn(rows, width, generator=generator)
    if module is select_rows:
        return x, torch.randperm(rows, generator=generator)
    return (x,)


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.view(torch.int32), right.view(torch.int32))


@pytest.mark.parametrize(
    "module",
    [gelu_and_mul, rms_norm, scale, select_rows, silu_and_mul, soft_cap],
    ids=lambda module: module.OP.name,
)
@pytest.mark.parametrize("width", [*range(1, 20), 31, 33, 63, 64, 65, 95, 127, 576, 1000])
def test_bits_depend_on_nothing_but_the_row(module: ModuleType, width: int, use: Use) -> None:
    """By every instruction set, on any number of threads, alone and among others, from any address."""
    inputs = rows_of(module, 13, width)
    use(RUNNABLE[0], 1)
    expected = run(module, *inputs)
    in_fp64 = [
        value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for value in inputs
    ]
    parameters = PARAMETERS.get(module.OP.name, {})
    error = (expected.double() - module.OP.reference(*in_fp64, **parameters)).abs()
    assert (error <= module.OP.tolerance.bound(*in_fp64, **parameters)).all()
    for instructions in RUNNABLE:
        for threads in (1, 2, 5):
            use(instructions, threads)
            assert same_bits(run(module, *inputs), expected), (instructions, threads)
        for row in (0, 5, 12):
            alone = [
                value[row : row + 1]
                if isinstance(value, torch.Tensor) and module is not select_rows
                else value
                for value in inputs
            ]
            if module is select_rows:
                alone[1] = alone[1][row : row + 1]
            assert same_bits(run(module, *alone, shape=(1, width)), expected[row : row + 1])


@pytest.mark.parametrize("module", [silu_and_mul, gelu_and_mul], ids=lambda module: module.OP.name)
def test_gates_read_halves_of_one_tensor(module: ModuleType) -> None:
    merged = torch.randn(5, 2 * 37)
    gate, up = merged[:, :37], merged[:, 37:]
    assert same_bits(run(module, gate, up), run(module, gate.contiguous(), up.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [7, 64, 576, 583])
def test_gains_are_widened(dtype: torch.dtype, width: int, use: Use) -> None:
    x, gain = torch.randn(3, width), torch.randn(width).to(dtype)
    for instructions in RUNNABLE:
        use(instructions, 1)
        assert same_bits(run(rms_norm, x, Dense(gain)), run(rms_norm, x, Dense(gain.float())))


def numbers() -> torch.Tensor:
    """Some hundred thousand of all fp32 numbers, and where the functions end."""
    every = torch.arange(-(2**31), 2**31, 30011, dtype=torch.int64).to(torch.int32).view(torch.float32)
    limits = [0.0, -0.0, 1e-45, -1e-45, 88.72283, 88.72284, 103.97, 103.98, 3.4e38, INFINITY, math.nan]
    fine = torch.linspace(-120, 120, 100_003)
    return torch.cat([every, fine, torch.tensor(limits), -torch.tensor(limits)])[None]


def test_tanh_everywhere(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """soft_cap with a cap of 1: within 2 ulp, 4 · 2⁻²⁴ of itself, with its sign, limits and NaN."""
    monkeypatch.setitem(PARAMETERS, "soft_cap", {"cap": 1.0})
    x = numbers()
    expected = x.double().tanh()
    for instructions in RUNNABLE:
        use(instructions, 1)
        tanh = run(soft_cap, x)
        assert torch.equal(tanh.isnan(), x.isnan())
        ordinary = ~x.isnan()
        error = (tanh.double() - expected).abs()[ordinary]
        assert (error <= 4 * 2.0**-24 * expected.abs()[ordinary] + 2.0**-149).all()
        assert torch.equal(tanh.signbit()[ordinary], x.signbit()[ordinary])
        assert (tanh[x == INFINITY] == 1).all()


def test_sigmoid_everywhere(use: Use) -> None:
    """silu: exp under it is within 2 ulp, overflows where it must, and NaN goes through."""
    x = numbers()
    up = torch.ones_like(x)
    bound = silu_and_mul.OP.tolerance.bound(x.double(), up.double())
    expected = silu_and_mul.OP.reference(x.double(), up.double())
    for instructions in RUNNABLE:
        use(instructions, 1)
        silu = run(silu_and_mul, x, up)
        assert silu[x.isnan()].isnan().all()
        ordinary = x.isfinite()
        error = (silu.double() - expected).abs()
        assert (error <= bound + 2.0**-149)[ordinary].all()
        assert (silu[x == INFINITY] == INFINITY).all()
