"""Every kernel of every op against the op's fp64 reference, within the op's own derived tolerance."""

from __future__ import annotations

import importlib
import math
import pkgutil
import zlib
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import torch

import pascaline.kernels
from pascaline.core.errors import ShapeError, UnsupportedError
from pascaline.engine.card import settle_chip
from pascaline.kernels import KERNELS, OPS, Chip, Kernel, Launcher, Op, Policy
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.op import Case, Shaped, summation_error
from pascaline.weights import Dense, Packed
from pascaline.weights.codes import Codes

CPU = torch.device("cpu")
CANARY = 101.0  # in int8, too
MARGIN = 257  # elements on either side of the output; odd, so that it is not aligned by luck

# Ops that move values and compute nothing.
NO_ARITHMETIC = {"embedding", "select_rows", "store_rows"}


@dataclass
class GuardedOutput:
    """An output full of NaN in the middle of a larger buffer full of canaries."""

    shape: tuple[int, ...]
    initial: torch.Tensor | None = None
    device: torch.device = CPU
    margin: int = MARGIN
    view: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        elements = math.prod(self.shape)
        dtype = torch.float32 if self.initial is None else self.initial.dtype
        self._buffer = torch.full((elements + 2 * self.margin,), CANARY, device=self.device, dtype=dtype)
        self.view = self._buffer[self.margin : self.margin + elements].view(self.shape)
        if self.initial is not None:
            self.view.copy_(self.initial)
        else:
            self.view.fill_(math.nan)

    def assert_nothing_outside_was_written(self) -> None:
        assert (self._buffer[: self.margin] == CANARY).all()
        assert (self._buffer[-self.margin :] == CANARY).all()


def tensors_of(value: object) -> list[torch.Tensor]:
    if isinstance(value, Dense):
        return [value.tensor]
    if isinstance(value, Packed):
        return [tensor for item in vars(value).values() for tensor in tensors_of(item)]
    if isinstance(value, Codes):
        return [plane.data for plane in value.planes]
    return [value] if isinstance(value, torch.Tensor) else []


def in_fp64(value: object) -> object:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def inputs_of(op: Op, case: Case) -> tuple[object, ...]:
    seed = zlib.crc32(f"{op.name} {case.name}".encode())
    return op.make_inputs(case, torch.Generator().manual_seed(seed))


def shaped(inputs: tuple[object, ...]) -> tuple[Shaped | None, ...]:
    return cast(tuple[Shaped | None, ...], inputs)


CASES = [
    pytest.param(kernel, OPS[kernel.ops[0]], case, id=f"{kernel.name}: {case.name}")
    for kernel in KERNELS
    if kernel.backend != "cuda"
    for case in OPS[kernel.ops[0]].cases
]
CARD_CASES = [
    pytest.param(kernel, OPS[kernel.ops[0]], case, id=f"{kernel.name}: {case.name}")
    for kernel in KERNELS
    if kernel.backend == "cuda"
    for case in OPS[kernel.ops[0]].cases
]
CARD_ROWS = (1, 3, 5, 17, 130)
"""Beside a case's own: kernels take few rows, or many."""


@pytest.mark.parametrize(("kernel", "op", "case"), CASES)
def test_kernel_is_within_the_tolerance_of_the_reference(kernel: Kernel, op: Op, case: Case) -> None:
    inputs = inputs_of(op, case)
    if kernel.takes(case.axes, inputs) is not None:
        assert kernel.backend == "native"
        assert "int8" in case.name
        return
    before = [[tensor.clone() for tensor in tensors_of(value)] for value in inputs]
    expected = op.reference(*map(in_fp64, inputs), **case.parameters)
    bound = (kernel.tolerance or op.tolerance).bound(*map(in_fp64, inputs), **case.parameters)
    assert expected.dtype == torch.float64
    assert bound.dtype == torch.float64
    assert bound.isfinite().all()

    operands = list(inputs)
    target = list(op.inputs).index(op.in_place) if op.in_place is not None else None
    initial = None if target is None else cast(torch.Tensor, inputs[target])
    out = GuardedOutput(op.output_shape(op.bind(shaped(inputs))), initial)
    if target is not None:
        operands[target] = out.view
    kernel.launch(*operands, out=out.view, workspace=Workspace(CPU), **case.parameters)

    out.assert_nothing_outside_was_written()
    for name, value, copies in zip(op.inputs, inputs, before, strict=True):
        for tensor, copy in zip(tensors_of(value), copies, strict=True):
            if name in op.also_written:
                continue
            torch.testing.assert_close(tensor, copy, rtol=0, atol=0, equal_nan=True)
    assert expected.shape == out.view.shape
    # Not `error > bound`: a NaN that was left in the output compares false with everything.
    wrong = ~((out.view.double() - expected).abs() <= bound)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} elements outside of the tolerance"


@pytest.fixture(scope="session")
def card() -> tuple[Chip, KernelSet]:
    """The card here, and the kernels that are compiled for it."""
    chip, kernels, notes = settle_chip(torch.device("cuda", 0))
    assert kernels is not None, notes
    return chip, kernels


@pytest.mark.parametrize(("kernel", "op", "case"), CARD_CASES)
def test_a_cards_kernel_is_within_its_tolerance(
    kernel: Kernel, op: Op, case: Case, device: str, request: pytest.FixtureRequest
) -> None:
    if device == "cpu":
        return
    chip, kernels = request.getfixturevalue("card")
    if kernel.requires(chip) is not None:
        return
    workspace = Workspace(chip.device, kernels)
    target = list(op.inputs).index(op.in_place) if op.in_place is not None else None
    for rows in dict.fromkeys((case.axes["M"], *CARD_ROWS)) if op.name == "linear" else (None,):
        axes = case.axes if rows is None else {**case.axes, "M": rows}
        inputs = inputs_of(op, replace(case, axes=axes))
        operands = [on_card(value, kernel, chip.device) for value in inputs]
        sizes = op.bind(shaped(tuple(operands)))
        if kernel.takes(sizes, tuple(operands)) is not None:
            continue
        # A kernel reads vectors: its output begins where torch's memory does.
        initial = None if target is None else cast(torch.Tensor, operands[target])
        out = GuardedOutput(op.output_shape(sizes), initial, device=chip.device, margin=256)
        if target is not None:
            operands[target] = out.view
        kernel.launch(*operands, out=out.view, workspace=workspace, **case.parameters)
        out.assert_nothing_outside_was_written()
        expected = op.reference(*map(in_fp64, inputs), **case.parameters)
        bound = (kernel.tolerance or op.tolerance).bound(*map(in_fp64, inputs), **case.parameters)
        error = (out.view.double().cpu() - expected).abs()
        assert (error <= bound).all(), f"{rows} rows: {float((error / bound).max()):.3g} of the tolerance"


def on_card(value: object, kernel: Kernel, device: torch.device) -> object:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return kernel.prepare(value.to(device)) if isinstance(value, Dense | Packed) else value


@pytest.mark.parametrize(("kernel", "op", "case"), CASES)
def test_cost_is_positive_and_finite(kernel: Kernel, op: Op, case: Case) -> None:
    sizes = op.bind(shaped(inputs_of(op, case)))
    assert sizes == dict(case.axes), "make_inputs makes what the case says"
    moved, flop = kernel.bytes_moved(sizes), op.flop(sizes)
    if 0 in sizes.values():
        assert moved == 0
        assert set(flop.values()) == {0.0}
        return
    assert moved > 0
    if op.name in NO_ARITHMETIC:
        assert flop == {}
    else:
        assert kernel.arithmetic in {*flop, "int8"}
        assert all(0.0 < count < math.inf for count in flop.values())


def test_every_file_is_listed() -> None:
    ops: list[Op] = []
    kernels: list[Kernel] = []
    for module in pkgutil.iter_modules(pascaline.kernels.__path__, "pascaline.kernels."):
        for value in vars(importlib.import_module(module.name)).values():
            ops += [value] if isinstance(value, Op) else []
            listed = value if isinstance(value, tuple) else (value,)
            kernels += [each for each in listed if isinstance(each, Kernel)]
    assert sorted(op.name for op in ops) == sorted(OPS)
    assert sorted(kernel.name for kernel in kernels) == sorted(kernel.name for kernel in KERNELS)


@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_every_op_is_complete(op: Op) -> None:
    assert any(kernel.ops == (op.name,) for kernel in KERNELS)
    assert op.cases
    assert len({case.name for case in op.cases}) == len(op.cases)
    assert op.source
    assert op.tolerance.derivation
    named = {axis.partition("+")[0] for item in (*op.inputs.values(), op.output) for axis in item.axes}
    assert named == set(op.axes), "every symbol of the shapes is explained"
    assert op.in_place is None or op.in_place in op.inputs


def misshapen(inputs: tuple[object, ...], index: int, *, rank: int, longer: int) -> tuple[Shaped | None, ...]:
    """The inputs with operand `index` given `rank` more axes, or a last axis `longer` than it is."""
    shape = (*(1,) * rank, *cast(Shaped, inputs[index]).shape)
    replacement = torch.empty(*shape[:-1], shape[-1] + longer, device="meta")
    return shaped((*inputs[:index], replacement, *inputs[index + 1 :]))


@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_bind_refuses_operands_that_do_not_fit(op: Op) -> None:
    inputs = next(
        made for made in (inputs_of(op, case) for case in op.cases) if all(each is not None for each in made)
    )
    with pytest.raises(ShapeError, match="operands"):
        op.bind(shaped(inputs[:-1]))
    axes = [axis.partition("+")[0] for operand in op.inputs.values() for axis in operand.axes]
    for index, (name, operand) in enumerate(op.inputs.items()):
        with pytest.raises(ShapeError, match=rf"{op.name}: {name} has shape"):
            op.bind(misshapen(inputs, index, rank=1, longer=0))
        if axes.count(operand.axes[-1].partition("+")[0]) > 1:
            with pytest.raises(ShapeError, match=rf"{op.name}: \w+ has \w+ = \d+ \(expected \w+ = \d+\)"):
                op.bind(misshapen(inputs, index, rank=0, longer=1))
        missing = shaped((*inputs[:index], None, *inputs[index + 1 :]))
        if operand.optional:
            op.bind(missing)
        else:
            with pytest.raises(ShapeError, match=rf"{op.name}: {name} is missing"):
                op.bind(missing)


def test_bound_on_sums_holds_fp32_in_and_keeps_coarser_arithmetic_out() -> None:
    """What `summation_error` claims, on products of normal numbers summed in fp32 and in TF32."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(200, 576, generator=generator), torch.randn(200, 576, generator=generator)
    unit = 2.0**-24 * (x.double() * w.double()).abs().sum(1)
    exact = (x.double() * w.double()).sum(1)

    def in_tf32(values: torch.Tensor) -> torch.Tensor:
        return (((values.view(torch.int32) + (1 << 12)) >> 13) << 13).view(torch.float32)

    def largest_error(left: torch.Tensor, right: torch.Tensor) -> float:
        total = torch.zeros(200)
        for column in range(576):
            total += left[:, column] * right[:, column]
        return float(((total.double() - exact).abs() / unit).max())

    assert largest_error(x, w) < summation_error(576) < largest_error(in_tf32(x), in_tf32(w))
    assert summation_error(1) == 1


def test_policy_names_the_op_and_the_chip_when_no_kernel_is_usable() -> None:
    with pytest.raises(UnsupportedError, match=r"no kernel computes add .* on cpu"):
        Policy(Chip(CPU), ()).decide(OPS["add"], {"T": 1, "C": 1})


def test_launcher_decides_once_a_shape_and_remembers_why() -> None:
    launcher = Launcher(Policy(Chip(CPU), KERNELS))
    x = torch.ones(2, 3)
    assert torch.equal(launcher(OPS["add"], "model.layers.0", x, x), x + x)
    decision = launcher.decisions["model.layers.0", "add"]
    assert decision.kernel is next(kernel for kernel in KERNELS if kernel.ops == ("add",))
    assert decision.reason
    launcher(OPS["add"], "model.layers.0", x, x)
    assert launcher.decisions["model.layers.0", "add"] is decision
    with pytest.raises(ShapeError):
        launcher(OPS["add"], "model.layers.0", x, torch.ones(2, 4))
