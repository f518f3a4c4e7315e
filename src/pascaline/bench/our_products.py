"""Products of this project's linear, with the kernels that its policy takes on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from pascaline.bench.product import Product, Rounding, Shape
from pascaline.core.errors import UnsupportedError
from pascaline.engine.card import settle_chip
from pascaline.kernels import KERNELS, OPS, Kernel, Policy
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.native_kernel import describe
from pascaline.kernels.cpu.views import Launch, Step
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.weights import Dense, Packed, Weight

_LINEAR = OPS["linear"]

FP32_SUMS = 2.0**-24
HALF_INPUTS = 2.0**-10
"""What exact arithmetic on cards may do: inputs and weights rounded to half precision, once each."""
TENSOR_SUMS = 2.0**-23
"""Tensor cores cut sums off where fp32 rounds. Source: Fasi et al. 2021, Numerical behavior of NVIDIA
tensor cores, PeerJ Computer Science 7."""
BYTE_INPUTS = 2.0**-6
"""x is rounded to at most 1/254 of the largest of 32 neighbours, which is below 4 standard deviations of
x in all but one of 500 blocks."""


@dataclass(frozen=True)
class Form:
    """A form that weights come in.

    Parameters
    ----------
    name : the planner's, see hardware/measured.py.
    multiple : K must be one of it.
    make : `make(n, k, generator)` gives a random weight on the CPU.
    """

    name: str
    multiple: int
    is_dense: bool
    make: Callable[[int, int, torch.Generator], Weight]


def _packed(name: str, of: str) -> Form:
    form = replace(PACKED_FORMS[of], permutation=False)

    def make(n: int, k: int, generator: torch.Generator) -> Weight:
        return random_packed(form, n, k, generator)

    return Form(name, form.super_size or form.group_size, False, make)


def _dense(name: str, dtype: torch.dtype) -> Form:
    def make(n: int, k: int, generator: torch.Generator) -> Weight:
        return Dense(torch.randn(n, k, generator=generator).to(dtype))

    return Form(name, 1, True, make)


FORMS = (
    _dense("F32", torch.float32),
    _dense("F16", torch.float16),
    _dense("BF16", torch.bfloat16),
    _packed("Q4_0", "Q4_0"),
    _packed("Q4_1", "Q4_1"),
    _packed("Q4_K", "Q4_K"),
    _packed("Q6_K", "Q6_K"),
    _packed("Q8_0", "Q8_0"),
    _packed("GPTQ-4", "GPTQ 4 bits"),
)


@dataclass(frozen=True)
class Linears:
    """What the engine's linears run on there: on a card another kernel for each number of rows.

    Parameters
    ----------
    usual : the kernel that says how weights are held.
    """

    device: torch.device
    policy: Policy
    workspace: Workspace
    usual: Kernel

    @classmethod
    def on(cls, device: torch.device) -> Linears:
        """As the engine would start."""
        chip, kernels, _ = settle_chip(device)
        policy = Policy(chip, KERNELS)
        return cls(device, policy, Workspace(device, kernels, chip.tuned), policy.decide(_LINEAR, {}).kernel)

    def product(self, form: Form) -> Callable[[Shape, int, torch.Generator], Product]:
        """The linear by weights of one form."""
        return partial(_linear_product, self, form)


def _linear_product(
    linears: Linears, form: Form, shape: Shape, copies: int, generator: torch.Generator
) -> Product:
    device, kernel = linears.device, linears.usual
    if shape.k % form.multiple:
        raise UnsupportedError(f"{form.name} needs a K that is a multiple of {form.multiple}")
    x = torch.randn(shape.m, shape.k, generator=generator).to(device)
    loaded = form.make(shape.n, shape.k, generator).to(device)
    weights = [kernel.prepare(loaded)]
    # A weight that is prepared is in new memory; one that is kept as it is has to be copied.
    is_kept = weights[0] is loaded
    weights += [copy.deepcopy(loaded) if is_kept else kernel.prepare(loaded) for _ in range(copies - 1)]
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # linears read weights before they wait for launches before them
    y = torch.empty(shape.m, shape.n, device=device)
    sizes = {"M": shape.m, "N": shape.n, "K": shape.k}
    kernel = linears.policy.decide(_LINEAR, sizes, (x, weights[0], None)).kernel
    if kernel.backend == "native":
        run = _native_run(kernel, x, weights, y)
    else:
        run = _launches(kernel, x, weights, y, linears.workspace)

    def weight_rows(indices: torch.Tensor) -> torch.Tensor:
        values = torch.empty(len(indices), shape.k, device=device)
        weights[-1].gather(indices.to(device), values)
        return values.cpu().double()

    return Product(
        run=run,
        products=copies,
        output=lambda: y,
        x_rows=lambda indices: x[indices.to(device)].cpu().double(),
        weight_rows=weight_rows,
        rounding=_rounding(kernel, is_packed=isinstance(loaded, Packed)),
        moved_bytes=weights[0].resident_bytes + 4 * (x.numel() + y.numel()),
        bytes_per_weight=weights[0].resident_bytes / (shape.n * shape.k),
    )


def _native_run(
    kernel: Kernel, x: torch.Tensor, weights: list[Weight], y: torch.Tensor
) -> Callable[[], None]:
    """All in one call, as a step of the engine has it. They point into memory that the product keeps."""
    launches = (Launch * len(weights))(
        *(describe(_LINEAR, kernel, (x, weight, None), y, {}) for weight in weights)
    )
    step = Step(len(y), 0, len(y))
    return partial(native.loaded().run, launches, step)


def _rounding(kernel: Kernel, *, is_packed: bool) -> Rounding:
    if kernel.backend == "cuda":
        return Rounding(inputs=HALF_INPUTS, sums=TENSOR_SUMS)
    in_bytes = is_packed and kernel.arithmetic == "int8"
    return Rounding(inputs=BYTE_INPUTS if in_bytes else 0.0, sums=FP32_SUMS)


def _launches(
    kernel: Kernel, x: torch.Tensor, weights: list[Weight], y: torch.Tensor, workspace: Workspace
) -> Callable[[], None]:
    def run() -> None:
        for weight in weights:
            kernel.launch(x, weight, None, out=y, workspace=workspace)

    return run
