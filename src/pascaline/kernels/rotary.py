"""rotary: position embedding by rotation of the halves of each head, or of its first part.

With x = (a, b, rest), a and b of R elements each, and c, s the cosine and sine of its position:
y = (a · c − b · s, b · c + a · s, rest).
"""

from __future__ import annotations

import torch

from pascaline.kernels.cpu.native_kernel import native_kernel
from pascaline.kernels.cuda.op_kernel import cuda_kernel
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.rotary import plan_rotary
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Kernel, Workspace, any_chip
from pascaline.kernels.op import FP32_ROUNDING, Case, Op, Operand, Tolerance


def reference(
    x: torch.Tensor, positions: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    c = cosine[positions].to(x.dtype)[:, None]
    s = sine[positions].to(x.dtype)[:, None]
    half = cosine.shape[1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * c - b * s, b * c + a * s, rest), dim=-1)


def launch(
    x: torch.Tensor,
    positions: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    *,
    out: torch.Tensor,
    workspace: Workspace,
) -> None:
    c = cosine[positions][:, None]
    s = sine[positions][:, None]
    half = c.shape[-1]
    a, b = x[..., :half], x[..., half : 2 * half]
    torch.mul(a, c, out=out[..., :half])
    out[..., :half].addcmul_(b, s, value=-1)
    torch.mul(b, c, out=out[..., half : 2 * half])
    out[..., half : 2 * half].addcmul_(a, s)
    if 2 * half < x.shape[-1]:
        out[..., 2 * half :] = x[..., 2 * half :]


def _magnitude(
    x: torch.Tensor, positions: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    """|a · c| + |b · s| and |b · c| + |a · s|: what the rounding errors are proportional to."""
    half = cosine.shape[1]
    c, s = (table[positions].abs().repeat(1, 2)[:, None] for table in (cosine, sine))
    rotated, rest = x[..., : 2 * half].abs(), x[..., 2 * half :]
    return torch.cat((rotated * c + rotated.roll(half, -1) * s, torch.zeros_like(rest)), dim=-1)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    tokens, heads, size, half, positions = (case.axes[axis] for axis in "THDRP")
    angle = torch.rand(positions, half, generator=generator) * 6.2832
    return (
        torch.randn(tokens, heads, size, generator=generator),
        torch.randint(0, positions, (tokens,), generator=generator),
        angle.cos(),
        angle.sin(),
    )


OP = Op(
    name="rotary",
    axes={
        "T": "tokens",
        "H": "heads",
        "D": "head size, at least 2 · R",
        "P": "positions in the table",
        "R": "frequencies",
    },
    inputs={
        "x": Operand(("T", "H", "D")),
        "positions": Operand(("T",), torch.int64),
        "cosine": Operand(("P", "R")),
        "sine": Operand(("P", "R")),
    },
    output=Operand(("T", "H", "D")),
    reference=reference,
    cases=(
        Case("one token", {"T": 1, "H": 9, "D": 64, "R": 32, "P": 50}),
        Case("several", {"T": 6, "H": 2, "D": 10, "R": 5, "P": 9}),
        Case("part of the head", {"T": 4, "H": 3, "D": 16, "R": 6, "P": 9}),
    ),
    make_inputs=make_inputs,
    tolerance=Tolerance(
        bound=lambda *inputs: FP32_ROUNDING * 2.01 * _magnitude(*inputs),
        derivation="two products, within u of themselves, and their sum, within u of both together; "
        "the hundredth is for terms in u². The rest of a head is copied",
    ),
    source="Su et al. 2021, arXiv:2104.09864, in the half-split order of Hugging Face's checkpoints",
)

KERNEL = Kernel(
    name="torch.rotary",
    ops=("rotary",),
    backend="torch",
    arithmetic="fp32",
    requires=any_chip,
    launch=launch,
)


def _recipe(
    _chip: ChipLimits, x: torch.Tensor, _positions: torch.Tensor, cosine: torch.Tensor, _sine: torch.Tensor
) -> Recipe:
    return Recipe((plan_rotary(x, cosine),) if x.numel() else ())


NATIVE = native_kernel(OP)

CUDA = cuda_kernel(OP, _recipe)
