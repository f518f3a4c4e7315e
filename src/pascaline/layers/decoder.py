"""The decoder-only transformer that families are variations of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kernels import OPS, Launcher
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.attention import Attention
from pascaline.layers.embedding import Embedding
from pascaline.layers.linear import Linear, MergedLinear
from pascaline.layers.mlp import GatedMLP
from pascaline.layers.module import Layer
from pascaline.layers.norm import RMSNorm
from pascaline.layers.rotary import RotaryEmbedding
from pascaline.models import family_of
from pascaline.models.style import DecoderStyle
from pascaline.weights import Weight

_ADD = OPS["add"]
_LINEAR = OPS["linear"]
_SCALE = OPS["scale"]
_SELECT_ROWS = OPS["select_rows"]
_SOFT_CAP = OPS["soft_cap"]


class DecoderLayer(Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)); each in a second norm with `norms_around`."""

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

        def norm(name: str) -> RMSNorm:
            return RMSNorm(f"{path}.{name}", launch, config.hidden_size, config.rms_norm_eps)

        self.input_layernorm = norm("input_layernorm")
        self.self_attn = Attention(
            f"{path}.self_attn",
            launch,
            config,
            layer,
            rotary,
            bias=style.attention_bias,
            output_bias=style.attention_output_bias,
            query_key_norm=style.query_key_norm,
            stored_as_one=style.stored_as_one,
        )
        # Hugging Face's names: "post attention" is before the feed-forward block, unless there is a
        # norm of that name, too.
        self.post_attention_layernorm = norm("post_attention_layernorm")
        self.pre_feedforward_layernorm = self.post_feedforward_layernorm = None
        if style.norms_around:
            self.pre_feedforward_layernorm = norm("pre_feedforward_layernorm")
            self.post_feedforward_layernorm = norm("post_feedforward_layernorm")
        self.mlp = GatedMLP(f"{path}.mlp", launch, config, stored_as_one=style.stored_as_one)

    def forward(self, x: torch.Tensor, batch: StepBatch, cache: KeyValueCache) -> torch.Tensor:
        attended = self.self_attn(self.input_layernorm(x), batch, cache)
        if self.pre_feedforward_layernorm is None or self.post_feedforward_layernorm is None:
            x = self.launch(_ADD, self.path, attended, x)
            return self.launch(_ADD, self.path, self.mlp(self.post_attention_layernorm(x)), x)
        x = self.launch(_ADD, self.path, self.post_attention_layernorm(attended), x)
        fed = self.mlp(self.pre_feedforward_layernorm(x))
        return self.launch(_ADD, self.path, self.post_feedforward_layernorm(fed), x)


class Decoder(Layer):
    """Embedding, layers, norm and head. Weights are on the meta device until a loader fills them."""

    def __init__(self, launch: Launcher, config: ModelConfig, style: DecoderStyle) -> None:
        super().__init__("model", launch)
        self.config = config
        self.embedding_scale = style.embedding_scale
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
        if self.embedding_scale != 1.0:
            x = self.launch(_SCALE, self.embed_tokens.path, x, factor=self.embedding_scale)
        for layer in self.layers:
            x = layer(x, batch, cache)
        wanted = self.norm(self.launch(_SELECT_ROWS, self.path, x, batch.logit_rows))
        if self.lm_head is None:
            logits = self.launch(_LINEAR, "lm_head", wanted, self.embed_tokens.weight, None)
        else:
            logits = self.lm_head(wanted)
        cap = self.config.final_logit_softcapping
        return logits if cap is None else self.launch(_SOFT_CAP, "lm_head", logits, cap=cap)

    def products(self) -> Iterator[tuple[Weight, torch.Tensor | None]]:
        """The weight and bias of each launch of a linear in a step."""
        for module in self.modules():
            if isinstance(module, Linear | MergedLinear):
                yield from module.products()
        if self.lm_head is None:
            yield self.embed_tokens.weight, None


def build(config: ModelConfig, launch: Launcher) -> Decoder:
    """The model, on torch's meta device."""
    return Decoder(launch, config, family_of(config).style(config))
