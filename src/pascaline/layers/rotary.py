"""Rotary position embedding: frequencies by the checkpoint's scaling rule, and their table."""

from __future__ import annotations

import math

import torch

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import ConfigError
from pascaline.kernels import OPS, Launcher

_ROTARY = OPS["rotary"]


def inverse_frequencies(config: ModelConfig, positions: int) -> tuple[torch.Tensor, float]:
    """Angles per position, (R,) fp32, and the factor on cosine and sine.

    R is half of the elements that are rotated, D′. Plain: theta^(−2i/D′) (Su et al. 2021). The
    scaling rules are described at `RopeScaling`; `positions` is the longest context to come.
    """
    plain = _plain(config, config.rope_theta)
    scaling = config.rope_scaling
    if scaling is None:
        return plain, 1.0
    if scaling.rope_type == "linear":
        return plain / scaling.factor, 1.0
    if scaling.rope_type == "llama3":
        return _llama3(plain, scaling), 1.0
    if scaling.rope_type == "longrope":
        return _longrope(config, scaling, positions)
    return _yarn(plain, scaling, config)


def _exponents(config: ModelConfig) -> torch.Tensor:
    size = config.rotary_dimensions
    return torch.arange(0, size, 2, dtype=torch.int64).float() / size


def _plain(config: ModelConfig, theta: float) -> torch.Tensor:
    return 1.0 / (theta ** _exponents(config))


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


def _longrope(config: ModelConfig, scaling: RopeScaling, positions: int) -> tuple[torch.Tensor, float]:
    """LongRoPE (arXiv:2402.13753), with one list of factors for all of an engine's life.

    transformers changes to the long list once a sequence passes the original context, and leaves
    the keys before it rotated by the short one; that cannot be had with a cache, let alone a shared
    prefix. The context that the engine is started with decides, as in llama.cpp.
    """
    chosen = scaling.long_factor if scaling.is_long(positions) else scaling.short_factor
    factors = torch.tensor(chosen, dtype=torch.float32)
    attention_factor = scaling.attention_factor
    if attention_factor is None:
        original = scaling.original_max_position_embeddings or config.max_position_embeddings
        attention_factor = math.sqrt(1 + math.log(max(scaling.factor, 1.0)) / math.log(original))
    return 1.0 / (factors * config.rope_theta ** _exponents(config)), attention_factor


def _yarn(plain: torch.Tensor, scaling: RopeScaling, config: ModelConfig) -> tuple[torch.Tensor, float]:
    """YaRN (arXiv:2309.00071, section 3): interpolate slow frequencies, keep fast ones."""
    if config.rope_theta <= 1.0:
        raise ConfigError(f"rope_theta is {config.rope_theta:g} with YaRN scaling", expected="more than 1")
    original = scaling.original_max_position_embeddings or config.max_position_embeddings
    dimensions = config.rotary_dimensions

    def dimension_of(rotations: float) -> float:
        turns = original / (rotations * 2 * math.pi)
        return dimensions * math.log(turns) / (2 * math.log(config.rope_theta))

    # As floats: with a theta barely above 1 they do not fit in torch's integers.
    first = float(max(math.floor(dimension_of(scaling.beta_fast)), 0))
    last = float(min(math.ceil(dimension_of(scaling.beta_slow)), dimensions - 1))
    width = (last - first) or 0.001
    ramp = ((torch.arange(dimensions // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
    frequencies = plain / scaling.factor * ramp + plain * (1 - ramp)
    attention_factor = scaling.attention_factor
    if attention_factor is None:
        attention_factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return frequencies, attention_factor


class RotaryEmbedding:
    """Cosine and sine of every position, shared by all layers of a model.

    There is a second table where layers with a window have a theta of their own.
    `frequency_factors` (R,), if a checkpoint brings them (GGUF's rope_freqs), divide the
    frequencies of the first.
    """

    def __init__(self, launch: Launcher, config: ModelConfig) -> None:
        self._launch = launch
        self._config = config
        self._tables: list[tuple[torch.Tensor, torch.Tensor]] = []

    def build(self, positions: int, frequency_factors: torch.Tensor | None = None) -> None:
        """Make the tables for `positions` positions; before the first step."""
        frequencies, factor = inverse_frequencies(self._config, positions)
        if frequency_factors is not None:
            frequencies = frequencies / frequency_factors.float()
        self._tables = [self._table(positions, frequencies, factor)]
        if self._config.rope_local_base_freq is not None:
            local = _plain(self._config, self._config.rope_local_base_freq)
            self._tables.append(self._table(positions, local, 1.0))

    def rotate(self, path: str, x: torch.Tensor, positions: torch.Tensor, layer: int) -> torch.Tensor:
        """Rotate heads `x` (T, H, D) of a layer to their `positions` (T,)."""
        # Of two tables the second is for layers with a window; of one the last is the first.
        cosine, sine = self._tables[-1 if self._config.window_of(layer) is not None else 0]
        return self._launch(_ROTARY, path, x, positions, cosine, sine)

    def _table(
        self, positions: int, frequencies: torch.Tensor, factor: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies[None, :]
        device = self._launch.device
        # In place: of a context of a million tokens, a table takes as much as the weights of a small model.
        cosine = angles.cos().mul_(factor)
        return cosine.to(device), angles.sin_().mul_(factor).to(device)
