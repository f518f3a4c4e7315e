"""A model's shape, in Hugging Face's spelling, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RopeScaling:
    """Change of the rotary frequencies for contexts longer than the trained one.

    `rope_type`: "linear" divides every frequency by `factor`; "llama3" divides the low ones and
    blends between (needs the three fields below it); "yarn" ramps between interpolation and
    extrapolation (Peng et al. 2023, arXiv:2309.00071) and scales the attention.
    """

    rope_type: Literal["linear", "llama3", "yarn"]
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """What the engine, the planner and the model files need to know of a checkpoint.

    Fields keep the names of Hugging Face's config.json. `eos_token_ids` holds every id that ends
    a generation (config.json, generation_config.json and a GGUF's end-of-turn token together).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    hidden_act: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def context_length(self) -> int:
        """Longest context the model is made for: YaRN stretches the original one by its factor."""
        scaling = self.rope_scaling
        if scaling is None or scaling.rope_type != "yarn":
            return self.max_position_embeddings
        original = scaling.original_max_position_embeddings or self.max_position_embeddings
        return max(self.max_position_embeddings, int(original * scaling.factor))
