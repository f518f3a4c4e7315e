"""Small launches of all kernels of a step but its linears, each held to fp64 as the tests hold it.

What one kernel does of several ops is held to the bits of those ops' kernels, which have cases of their own;
choices of tokens are to be torch's, made in fp64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "numerics"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "host_shim"))

from attention_harness import AttentionCase, check_decode, check_in_fp32, check_prefill, make_attention
from fusion_harness import FusedCase, gate_as_input, heads_and_caches, norm_as_input, sum_and_norm
from linear_harness import Execute
from op_harness import ON_CARDS, Operands, as_cards_hold, check, operands_of, recipe_of
from sampling_harness import check_taken, random_sampling

from pascaline.kernels import OPS
from pascaline.kernels.cuda.attention_decode import CAPABILITY, plan_attention_decode
from pascaline.kernels.cuda.attention_prefill import PrefillGeometry, plan_attention_prefill
from pascaline.kernels.cuda.attention_simt_decode import plan_attention_simt_decode
from pascaline.kernels.cuda.attention_simt_prefill import plan_attention_simt_prefill
from pascaline.kernels.cuda.elementwise import Operation
from pascaline.kernels.cuda.input_memory import BrainForm, Form, ScaledForm
from pascaline.kernels.cuda.linear_wgmma import WGMMA_CAPABILITY
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.cuda.take_sampled import plan_take_sampled

_BRAIN, _BYTE, _WIDE = torch.bfloat16, torch.int8, torch.float32
_DECODING = (
    AttentionCase(((1, 1), (1, 16), (1, 300), (0, 0)), 14, 2, 128),
    AttentionCase(((1, 210), (1, 40)), 9, 1, 80, _BYTE, window=130, softcap=4.0),
    AttentionCase(((1, 129), (1, 64)), 4, 4, 64, _BRAIN),
)
_PREFILLING = (
    AttentionCase(((37, 37),), 14, 2, 128),
    AttentionCase(((20, 150), (2, 133), (0, 0), (30, 95)), 8, 2, 64, _BRAIN, window=90),
    AttentionCase(((9, 200),), 8, 1, 80, _BYTE, softcap=4.0),
)
_BY_WARPGROUPS = PrefillGeometry(8, 1, 64, 2, 1, by_warpgroups=True)
_LAST_ROWS = 8
"""New tokens of a sequence that may be computed as in decoding."""
_FORMS: dict[str, Form] = {
    "two planes": InputForm(2, 32),
    "one plane": InputForm(1, 128),
    "two planes in another order": InputForm(2, 32, has_permutation=True),
    "scaled halves": ScaledForm(),
    "one bf16 number": BrainForm(1),
    "two bf16 numbers": BrainForm(2),
}
_SAMPLING_SEEDS = (0, 3, 9)
_TAKEN_TOKENS = 300


@dataclass(frozen=True)
class StepCase:
    """Launches and what they have to compute.

    Parameters
    ----------
    plans : all that are launched.
    check : launches them by what it is given; raises an AssertionError where something is wrong.
    """

    name: str
    plans: tuple[LaunchPlan, ...]
    check: Callable[[Execute], None]


def step_cases(chip: ChipLimits) -> Iterator[StepCase]:
    """Those that a chip can run."""
    yield from _attention_in_fp32(chip)
    if chip.compute_capability >= CAPABILITY:
        yield from _attention_by_tensor_cores(chip)
    yield from _ops()
    for name, fused in _fused():
        yield StepCase(name, fused.plans, fused.check)
    for seed in _SAMPLING_SEEDS:
        sampling = random_sampling(seed)
        rows, vocabulary = sampling.logits.shape
        yield StepCase(f"sampling of {rows} rows of {vocabulary} logits", sampling.plans, sampling.check)
    plan = plan_take_sampled(_TAKEN_TOKENS)
    yield StepCase(f"take_sampled, {_TAKEN_TOKENS} tokens", (plan,), partial(check_taken, _TAKEN_TOKENS))


def _attention_in_fp32(chip: ChipLimits) -> Iterator[StepCase]:
    for case in (*_DECODING, AttentionCase(((1, 200),), 4, 4, 96, _WIDE)):
        plan = plan_attention_simt_decode(case.call, chip)
        run = partial(check_in_fp32, plan, case, lambda new: new == 1, 32)
        yield StepCase(f"attention_simt_decode {case}", (plan,), run)
    few_rows = AttentionCase(((5, 700), (1, 9), (2, 40)), 7, 1, 32, _WIDE)
    for case in (*_PREFILLING, few_rows):
        plan = plan_attention_simt_prefill(case.call, chip)
        run = partial(check_in_fp32, plan, case, lambda new: new > 1, 64)
        yield StepCase(f"attention_simt_prefill {case}", (plan,), run)


def _attention_by_tensor_cores(chip: ChipLimits) -> Iterator[StepCase]:
    drafted = AttentionCase(((5, 140), (2, 60), (1, 30)), 4, 2, 64, _BYTE, window=20)
    for case, rows in (*((case, 1) for case in _DECODING), (drafted, _LAST_ROWS)):
        plan = plan_attention_decode(case.call, chip, most_rows=rows)
        run = partial(_check_decode, plan, case, rows)
        yield StepCase(f"attention_decode {case}, up to {rows} rows", (plan,), run)
    for case in (*_PREFILLING, AttentionCase(((20, 1300),), 3, 1, 64, window=900)):
        plan = plan_attention_prefill(case.call, chip)
        yield StepCase(f"attention_prefill {case}", (plan,), partial(check_prefill, plan, case))
    if chip.compute_capability == WGMMA_CAPABILITY:
        for case in _PREFILLING[:2]:
            plan = plan_attention_prefill(case.call, chip, _BY_WARPGROUPS)
            yield StepCase(f"attention_wgmma {case}", (plan,), partial(check_prefill, plan, case))


def _check_decode(plan: LaunchPlan, case: AttentionCase, rows: int, execute: Execute) -> None:
    check_decode(plan, case, make_attention(case), rows, execute)


def _ops() -> Iterator[StepCase]:
    """The ops' own cases."""
    for name, kernel in ON_CARDS.items():
        for case in OPS[name].cases:
            operands = operands_of(OPS[name], case)
            plans = recipe_of(kernel, as_cards_hold(operands), case.parameters).plans
            yield StepCase(
                f"{name}: {case.name}", plans, partial(_check_op, name, operands, dict(case.parameters))
            )


def _check_op(name: str, operands: Operands, parameters: dict[str, float], execute: Execute) -> None:
    # Ops that work in place change their operands: each run has its own.
    own = tuple(each.clone() if isinstance(each, torch.Tensor) else each for each in operands)
    check(ON_CARDS[name], own, parameters, execute)


def _fused() -> Iterator[tuple[str, FusedCase]]:
    yield "a sum and its norm", sum_and_norm(5, 576)
    for name, form in _FORMS.items():
        yield f"a sum's norm as {name}", norm_as_input(form, 576, has_residual=True)
        yield f"silu as {name}", gate_as_input(form, 200, Operation.SILU_AND_MUL)
    for dtype, has_norm in ((torch.float16, False), (_BRAIN, True), (_BYTE, True), (_WIDE, False)):
        case = heads_and_caches(64, 32, dtype, has_norm=has_norm)
        yield f"rotate_and_store in {dtype}{', with norms' if has_norm else ''}", case
