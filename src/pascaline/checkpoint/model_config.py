"""A model's shape, in Hugging Face's spelling, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RopeScaling:
    """Change of the rotary frequencies for contexts longer than the trained one.

    `rope_type`: "linear" divides every frequency by `factor`; "llama3" divides the low ones and
    blends between (needs the three fields below it); "yarn" ramps between interpolation and
    extrapolation (Peng et al. 2023, arXiv:2309.00071) and scales the attention; "longrope" divides
    each frequency by its own factor, of one list for short contexts and of another for those longer
    than the original, and scales the attention (Ding et al. 2024, arXiv:2402.13753).
    """

    rope_type: Literal["linear", "llama3", "yarn", "longrope"]
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def is_long(self, context: int) -> bool:
        """Whether a context of so many tokens takes `long_factor`."""
        return context > (self.original_max_position_embeddings or context)


LayerType = Literal["full_attention", "sliding_attention"]


@dataclass(frozen=True)
class ModelConfig:
    """What the engine, the planner and the model files need to know of a checkpoint.

    Fields keep the names of Hugging Face's config.json. `eos_token_ids` holds every id that ends
    a generation (config.json, generation_config.json and a GGUF's end-of-turn token together).
    `layer_types` says which layers see `sliding_window` tokens only, the token itself included; it is
    empty, and the window None, where all layers see everything. `rope_local_base_freq` is theta in
    the former layers, without scaling; None where all layers rotate alike.
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
    partial_rotary_factor: float = 1.0
    rope_local_base_freq: float | None = None
    sliding_window: int | None = None
    layer_types: tuple[LayerType, ...] = ()
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    @property
    def rotary_dimensions(self) -> int:
        """Elements of each head that are rotated, from its start."""
        return rotary_dimensions(self.head_dim, self.partial_rotary_factor)

    def window_of(self, layer: int) -> int | None:
        """Tokens that a layer sees, or None for all."""
        sliding = self.layer_types and self.layer_types[layer] == "sliding_attention"
        return self.sliding_window if sliding else None

    @property
    def context_length(self) -> int:
        """Longest context the model is made for: YaRN stretches the original one by its factor."""
        scaling = self.rope_scaling
        if scaling is None or scaling.rope_type != "yarn":
            return self.max_position_embeddings
        original = scaling.original_max_position_embeddings or self.max_position_embeddings
        return max(self.max_position_embeddings, int(original * scaling.factor))


def rotary_dimensions(head_dim: int, partial_rotary_factor: float) -> int:
    """Rounded down as transformers does, save that 0.7 · 10 is 7 whatever its last bits are."""
    return int(head_dim * partial_rotary_factor + 1e-6)
