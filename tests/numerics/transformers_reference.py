"""Logits by transformers, in fp32 and without rounding, and the comparison that they make possible.

Two fp32 evaluations of one model differ in the order of their sums and in nothing else, so both lie
about as far from the exact result. How far that is depends on depth, widths and weights, in a way
that no bound from arithmetic follows closely (it would have to multiply the worst growth of every
layer). So it is measured, on the same weights and tokens: the exact result is transformers in fp64,
and the largest distance of transformers in fp32 from it is the unit. Ours may be `ALLOWED_UNITS` of
them away: the maximum over thousands of logits varies little between two such evaluations (seen are
0.9 to 1.9 units; the demo's unit is 7e-5, of logits up to 38). Wrong arithmetic is far outside: with
activations rounded to TF32 a tiny model is 1100 units away, with one pair of rows swapped 250 000.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ALLOWED_UNITS = 4.0

_EXACT = "exact"

LARGEST_UNIT = 2.0**-13
"""A unit larger than this share of the largest logit is no rounding of fp32: the reference is wrong."""


@dataclass(frozen=True)
class Reference:
    """Logits of one token sequence at every position, (T, V); `unit`: the distance of the two."""

    exact: torch.Tensor
    fp32: torch.Tensor
    unit: float


def reference(model: PreTrainedModel, token_ids: list[int]) -> Reference:
    """Run `model`, whatever its dtype, in fp32 and in fp64 on its exact weights."""
    fp32 = _logits(copy.deepcopy(model).float(), token_ids)
    exact = _logits(_in_fp64(model), token_ids)
    unit = float((fp32.double() - exact).abs().max())
    assert 0.0 < unit < LARGEST_UNIT * float(exact.abs().max())
    return Reference(exact, fp32, unit)


def units_away(logits: torch.Tensor, exact: torch.Tensor, unit: float) -> float:
    """Largest distance of our logits from the exact ones, in units; NaN counts as infinitely far."""
    assert logits.shape == exact.shape
    distance = (logits.double() - exact).abs().max() / unit
    return float(distance.nan_to_num(nan=float("inf")))


@torch.inference_mode()
def _logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model.eval()(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    return logits


def _in_fp64(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in fp64, also where transformers computes in fp32 whatever the model's dtype is."""
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            module.forward = _exact_norm(module)
        elif name.endswith("RotaryEmbedding"):
            module.forward = _exact_rotary(module)
        if hasattr(module, "config"):
            module.config._attn_implementation = _EXACT
    return exact


def _exact_norm(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    # Gemma's gains are around 0, and its norms call epsilon otherwise.
    is_gemma = type(module).__name__.startswith("Gemma")
    epsilon = module.eps if is_gemma else module.variance_epsilon

    def forward(x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), module.weight + 1 if is_gemma else module.weight, epsilon)

    return forward


def _exact_rotary(module: nn.Module) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def forward(
        x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prefix = "" if layer_type is None else f"{layer_type}_"
        frequencies = getattr(module, f"{prefix}inv_freq")
        factor = getattr(module, f"{prefix}attention_scaling")
        if getattr(module, "rope_type", None) == "longrope":
            count = int(position_ids.max()) + 1
            frequencies, factor = ROPE_INIT_FUNCTIONS["longrope"](module.config, seq_len=count)
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * factor, angles.sin() * factor

    return forward


def _exact_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """transformers' plain attention takes its softmax in fp32, and its fused one knows no soft cap."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return ((scores + attention_mask).softmax(-1) @ value).transpose(1, 2), None


AttentionInterface.register(_EXACT, _exact_attention)
AttentionMaskInterface.register(_EXACT, eager_mask)
