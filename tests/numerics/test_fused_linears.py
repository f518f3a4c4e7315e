"""A linear with what comes before and after it in one launch: the same bits as one after the other."""

from __future__ import annotations

import ctypes

import pytest
import torch
from native_libraries import NEEDS_LIBRARY, RUNNABLE, Use
from test_cpu_linear import random_rows, weight_of

from pascaline.kernels import add, cpu_linear, linear
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.native_kernel import describe
from pascaline.kernels.cpu.tiling import tile
from pascaline.kernels.cpu.views import Launch, Step, tensor_view
from pascaline.kernels.kernel import Workspace
from pascaline.weights import Dense, Weight

pytestmark = NEEDS_LIBRARY


@pytest.mark.parametrize("instructions", RUNNABLE)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "GPTQ 4 bits", "fp16"])
def test_fusion_changes_no_bit(name: str, threads: int, instructions: str, use: Use) -> None:
    use(instructions, threads)
    library = native.library()
    assert not isinstance(library, str)
    dense = Dense(torch.randn(50, 576, generator=torch.Generator().manual_seed(0)).half())
    weight: Weight = dense if name == "fp16" else tile(weight_of(name, 50))
    columns = weight.shape[1]
    bias = torch.linspace(-1, 1, 50)
    for tokens in (1, 2, 3, 9, 40):
        a, b = random_rows(tokens, columns), random_rows(tokens, columns).flip(1)
        residual, out = torch.randn(tokens, 50), torch.empty(tokens, 50)
        before = describe(add.OP, add.NATIVE, (a, b), a, {})
        # The input of the linear is not read: it may have no memory of its own.
        launch = describe(linear.OP, cpu_linear.NATIVE, (torch.empty(0, columns), weight, bias), out, {})
        launch.before = ctypes.addressof(before)
        launch.residual = tensor_view(residual)
        library.run((Launch * 1)(launch), Step(tokens, tokens, tokens))
        expected = torch.empty(tokens, 50)
        cpu_linear.NATIVE.launch(a + b, weight, bias, out=expected, workspace=Workspace(a.device))
        assert torch.equal(out, expected + residual)


@pytest.mark.parametrize("instructions", RUNNABLE)
def test_fewer_tokens_than_recorded(instructions: str, use: Use) -> None:
    use(instructions, 2)
    library = native.library()
    assert not isinstance(library, str)
    weight = tile(weight_of("Q4_0", 50))
    x, out = random_rows(64, weight.shape[1]), torch.zeros(64, 50)
    recorded = (Launch * 1)(describe(linear.OP, cpu_linear.NATIVE, (x, weight, None), out, {}))
    expected = torch.empty(64, 50)
    cpu_linear.NATIVE.launch(x, weight, None, out=expected, workspace=Workspace(x.device))
    for tokens in (1, 7, 33):
        out.zero_()
        library.run(recorded, Step(tokens, tokens, tokens))
        assert torch.equal(out[:tokens], expected[:tokens])
        assert not out[tokens:].any()
