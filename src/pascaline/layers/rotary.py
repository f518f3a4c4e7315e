"""Rotary position embedding: frequencies by the checkpoint's scaling rule, and their table."""

from __future__ import annotations

import math

import torch

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import ConfigError
from pascaline.kernels import OPS, Launcher

_ROTARY = OPS["rotary"]


def inverse_frequencies(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Angles per position, (D / 2,) fp32, and the factor on cosine and sine.

    Plain: theta^(−2i/D) (Su et al. 2021). The scaling rules are described at `RopeScaling`.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    plain = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return plain, 1.0
    if scaling.rope_type == "linear":
        return plain / scaling.factor, 1.0
    if scaling.rope_type == "llama3":
        return _llama3(plain, scaling), 1.0
    return _yarn(plain, scaling, config)


def _llama3(plain: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Llama 3.1: long wavelengths are divided by the factor, short ones kept, a ramp between."""
    original, low, high = (
        scaling.original_max_position_embeddings,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
    )
    if original is None or low is None or high is None:
        raise ConfigError(
            "rotary scaling of type 'llama3' lacks a setting",
            expected="original_max_position_embeddings, low_freq_factor and high_freq_factor",
        )
    wavelength = 2 * math.pi / plain
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * plain / scaling.factor + smooth * plain
    scaled = torch.where(wavelength > original / low, plain / scaling.factor, plain)
    between = (wavelength <= original / low) & (wavelength >= original / high)
    return torch.where(between, blended, scaled)


def _yarn(plain: torch.Tensor, scaling: RopeScaling, config: ModelConfig) -> tuple[torch.Tensor, float]:
    """YaRN (arXiv:2309.00071, section 3): interpolate slow frequencies, keep fast ones."""
    if config.rope_theta <= 1.0:
        raise ConfigError(f"rope_theta is {config.rope_theta:g} with YaRN scaling", expected="more than 1")
    original = scaling.original_max_position_embeddings or config.max_position_embeddings
    dimensions = config.head_dim

    def dimension_of(rotations: float) -> float:
        turns = original / (rotations * 2 * math.pi)
        return dimensions * math.log(turns) / (2 * math.log(config.rope_theta))

    first = max(math.floor(dimension_of(scaling.beta_fast)), 0)
    last = min(math.ceil(dimension_of(scaling.beta_slow)), dimensions - 1)
    width = (last - first) or 0.001
    ramp = ((torch.arange(dimensions // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
    frequencies = plain / scaling.factor * ramp + plain * (1 - ramp)
    attention_factor = scaling.attention_factor
    if attention_factor is None:
        attention_factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return frequencies, attention_factor


class RotaryEmbedding:
    """Cosine and sine of every position, shared by all layers of a model.

    `frequency_factors` (D / 2,), if a checkpoint brings them (GGUF's rope_freqs), divide the
    frequencies.
    """

    def __init__(self, launch: Launcher, config: ModelConfig) -> None:
        self._launch = launch
        self._config = config
        self._cosine = torch.empty(0)
        self._sine = torch.empty(0)

    def build(self, positions: int, frequency_factors: torch.Tensor | None = None) -> None:
        """Make the table for `positions` positions; before the first step."""
        frequencies, factor = inverse_frequencies(self._config)
        if frequency_factors is not None:
            frequencies = frequencies / frequency_factors.float()
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies[None, :]
        self._cosine = (angles.cos() * factor).to(self._launch.device)
        self._sine = (angles.sin() * factor).to(self._launch.device)

    def rotate(self, path: str, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate heads `x` (T, H, D) to their `positions` (T,)."""
        return self._launch(_ROTARY, path, x, positions, self._cosine, self._sine)
