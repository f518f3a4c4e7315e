"""What gates have in common: y = activation(gate) · up, element by element."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import Case, Op, Operand, Tolerance


def gate_op(
    name: str,
    activation: Callable[[torch.Tensor], torch.Tensor],
    tolerance: Tolerance,
    source: str,
) -> Op:
    """The op of a gate."""

    def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
        shape = (case.axes["T"], case.axes["C"])
        gate, up = torch.randn(2, *shape, generator=generator)
        return gate * (100.0 if case.name == "extreme" else 8.0), up

    return Op(
        name=name,
        axes={"T": "tokens", "C": "intermediate size"},
        inputs={"gate": Operand(("T", "C")), "up": Operand(("T", "C"))},
        output=Operand(("T", "C")),
        reference=lambda gate, up: activation(gate) * up,
        cases=(
            Case("one row", {"T": 1, "C": 1536}),
            Case("ragged", {"T": 7, "C": 33}),
            Case("extreme", {"T": 3, "C": 200}),
        ),
        make_inputs=make_inputs,
        tolerance=tolerance,
        source=source,
    )


def gate_kernel(op: Op, activation: Callable[[torch.Tensor], torch.Tensor]) -> Kernel:
    """torch's, in two launches."""

    def launch(gate: torch.Tensor, up: torch.Tensor, *, out: torch.Tensor, workspace: Workspace) -> None:
        torch.mul(activation(gate), up, out=out)

    return Kernel(
        name=f"torch.{op.name}",
        ops=(op.name,),
        backend="torch",
        arithmetic="fp32",
        requires=any_chip,
        launch=launch,
    )


def gate_on_cards(op: Op, operation: Operation) -> Kernel:
    """The card's, in one."""

    def recipe(_chip: ChipLimits, gate: torch.Tensor, up: torch.Tensor) -> Recipe:
        names = ("gate", "up", "y")
        return Recipe((plan_elementwise(operation, gate, up, names=names),) if gate.numel() else ())

    return cuda_kernel(op, recipe)
