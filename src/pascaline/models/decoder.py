"""The decoder-only transformer that families are variations of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kernels import OPS, Launcher
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.attention import Attention
from pascaline.layers.embedding import Embedding
from pascaline.layers.linear import Linear
from pascaline.layers.mlp import GatedMLP
from pascaline.layers.module import Layer
from pascaline.layers.norm import RMSNorm
from pascaline.layers.rotary import RotaryEmbedding

_ADD = OPS["add"]
_LINEAR = OPS["linear"]


@dataclass(frozen=True)
class DecoderStyle:
    """What differs between families beyond their config: which projections carry a bias."""

    attention_bias: bool
    attention_output_bias: bool


class DecoderLayer(Layer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        path: str,
        launch: Launcher,
        config: ModelConfig,
        style: DecoderStyle,
        layer: int,
        rotary: RotaryEmbedding,
    ) -> None:
        super().__init__(path, launch)
        hidden, epsilon = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(f"{path}.input_layernorm", launch, hidden, epsilon)
        self.self_attn = Attention(
            f"{path}.self_attn",
            launch,
            config,
            layer,
            rotary,
            bias=style.attention_bias,
            output_bias=style.attention_output_bias,
        )
        self.post_attention_layernorm = RMSNorm(f"{path}.post_attention_layernorm", launch, hidden, epsilon)
        self.mlp = GatedMLP(f"{path}.mlp", launch, config)

    def forward(self, x: torch.Tensor, batch: StepBatch, cache: KeyValueCache) -> torch.Tensor:
        attended = self.self_attn(self.input_layernorm(x), batch, cache)
        x = self.launch(_ADD, self.path, attended, x)
        return self.launch(_ADD, self.path, self.mlp(self.post_attention_layernorm(x)), x)


class Decoder(Layer):
    """Embedding, layers, norm and head. Weights are on the meta device until a loader fills them."""

    def __init__(self, launch: Launcher, config: ModelConfig, style: DecoderStyle) -> None:
        super().__init__("model", launch)
        self.config = config
        self.rotary = RotaryEmbedding(launch, config)
        self.embed_tokens = Embedding("model.embed_tokens", launch, config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(f"model.layers.{layer}", launch, config, style, layer, self.rotary)
            for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm("model.norm", launch, config.hidden_size, config.rms_norm_eps)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = Linear("lm_head", launch, config.hidden_size, config.vocab_size)

    def forward(self, batch: StepBatch, cache: KeyValueCache) -> torch.Tensor:
        """Next-token logits of the wanted rows, (R, vocab_size) fp32."""
        x = self.embed_tokens(batch.token_ids)
        for layer in self.layers:
            x = layer(x, batch, cache)
        wanted = self.norm(x[batch.logit_rows])
        if self.lm_head is None:
            return self.launch(_LINEAR, "lm_head", wanted, self.embed_tokens.weight, None)
        logits: torch.Tensor = self.lm_head(wanted)
        return logits
