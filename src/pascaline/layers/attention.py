"""Self-attention over the paged cache, with grouped key/value heads."""

from __future__ import annotations

import torch

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kernels import OPS, Launcher
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.linear import Linear, MergedLinear
from pascaline.layers.module import Layer
from pascaline.layers.norm import RMSNorm
from pascaline.layers.rotary import RotaryEmbedding

_STORE_ROWS = OPS["store_rows"]
_PAGED_ATTENTION = OPS["paged_attention"]


class Attention(Layer):
    """What the family has of its own are keywords, the rest is in `config`.

    Parameters
    ----------
    bias, output_bias : of q, k and v, and of o.
    query_key_norm : RMS norms of each head's query and key, before they are rotated.
    stored_as_one : the checkpoint holds q, k and v as one tensor, qkv_proj.
    """

    def __init__(
        self,
        path: str,
        launch: Launcher,
        config: ModelConfig,
        layer: int,
        rotary: RotaryEmbedding,
        *,
        bias: bool,
        output_bias: bool,
        query_key_norm: bool,
        stored_as_one: bool,
    ) -> None:
        super().__init__(path, launch)
        self.layer = layer
        self.head_dim = config.head_dim
        self.scale = (config.query_pre_attn_scalar or config.head_dim) ** -0.5
        self.window = config.window_of(layer) or 0
        self.softcap = config.attn_logit_softcapping or 0.0
        self.rotary = rotary
        hidden = config.hidden_size
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.qkv_proj = MergedLinear(
            f"{path}.qkv_proj",
            launch,
            hidden,
            {"q_proj": query_size, "k_proj": key_size, "v_proj": key_size},
            bias=bias,
            stored_as_one=stored_as_one,
        )
        self.q_norm = self.k_norm = None
        if query_key_norm:
            self.q_norm = RMSNorm(f"{path}.q_norm", launch, config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(f"{path}.k_norm", launch, config.head_dim, config.rms_norm_eps)
        self.o_proj = Linear(f"{path}.o_proj", launch, query_size, hidden, bias=output_bias)

    def forward(self, x: torch.Tensor, batch: StepBatch, cache: KeyValueCache) -> torch.Tensor:
        """(T, hidden_size) -> the same; stores the new tokens' keys and values in the cache."""
        query, key, value = (self._heads(part) for part in self.qkv_proj(x))
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm.of_each_head(query), self.k_norm.of_each_head(key)
        query = self.rotary.rotate(self.path, query, batch.positions, self.layer)
        key = self.rotary.rotate(self.path, key, batch.positions, self.layer)
        keys, values = cache.keys[self.layer], cache.values[self.layer]
        key_scales, value_scales = cache.key_scales[self.layer], cache.value_scales[self.layer]
        self.launch(_STORE_ROWS, self.path, key, batch.slots, keys, key_scales)
        self.launch(_STORE_ROWS, self.path, value, batch.slots, values, value_scales)
        attended = self.launch(
            _PAGED_ATTENTION,
            self.path,
            query,
            keys,
            values,
            batch.page_table,
            batch.query_start,
            batch.context_lengths,
            key_scales,
            value_scales,
            scale=self.scale,
            window=self.window,
            softcap=self.softcap,
        )
        projected: torch.Tensor = self.o_proj(attended.flatten(1))
        return projected

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], -1, self.head_dim)
