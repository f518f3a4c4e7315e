"""The launches of a step of a decoder, module by module, from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pascaline.checkpoint.model_config import ModelConfig


@dataclass(frozen=True)
class StepShape:
    """A step: `new_tokens` of each sequence, whose `context_tokens` include them; `logit_rows` in all."""

    new_tokens: tuple[int, ...]
    context_tokens: tuple[int, ...]
    logit_rows: int


@dataclass(frozen=True)
class StepLaunch:
    """One op of one module, as the launcher sees it.

    Parameters
    ----------
    module, op : "model.layers.0.mlp.down_proj", "linear".
    axes : the op's sizes.
    weights : names of the weight parts that it reads, as in Hugging Face's checkpoints.
    flop_by_type, moved_bytes : by the op's own formulas; weights are not counted in.
    """

    module: str
    op: str
    axes: Mapping[str, int]
    weights: tuple[str, ...]
    flop_by_type: Mapping[str, float]
    moved_bytes: int


def launches(config: ModelConfig, shape: StepShape) -> list[StepLaunch]:
    """All launches of a step, in order. What `layers.Decoder` launches, which a test holds it to."""
    raise NotImplementedError
