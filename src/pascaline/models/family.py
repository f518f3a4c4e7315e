"""What a model family declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.hf_config import PLAIN, ConfigRules
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import CheckpointError
from pascaline.models.style import DecoderStyle

InterleavedHeads = Callable[[ModelConfig, str], int | None]
"""For a module (HF name without layer): the heads whose halves GGUF interleaves, or None."""

GgufSettings = Callable[[Mapping[str, object]], Mapping[str, object]]
"""From a GGUF's settings under config.json's names: what llama.cpp assumes beside them."""

GGUF_LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Hugging Face's module names in a layer -> GGUF's. Source: the GGUF specification, tensor names."""

GGUF_MODEL_NAMES: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def not_interleaved(_: ModelConfig, __: str) -> None:
    """`gguf_interleaved_heads` of families whose rows are stored as in Hugging Face's checkpoints."""


def no_settings(_: Mapping[str, object]) -> Mapping[str, object]:
    """`gguf_settings` of families whose GGUFs say everything."""
    return {}


@dataclass(frozen=True)
class Family:
    """A family of models, declared.

    Parameters
    ----------
    model_type : the name in config.json; GGUF's `general.architecture` where it is the same.
    style : what the decoder is made of, given the config.
    tiny : a complete config of a few thousand parameters, for tests.
    other_model_types : further names of it in config.json.
    rules : how its config.json is read.
    activation : the one `hidden_act` that it has.
    nested : its config.json may have the language model's settings in `text_config`.
    roots : where its tensors are in safetensors instead of "model.", and what "lm_head." is behind then.
    norm_offset : what Hugging Face's checkpoints leave out of norm gains; GGUFs have it in them.
    gguf_interleaved_heads : families whose GGUF converter interleaves the halves of heads say where.
    gguf_names : module names in a layer that are not `GGUF_LAYER_NAMES`.
    gguf_settings : what its GGUFs leave unsaid.
    """

    model_type: str
    style: Callable[[ModelConfig], DecoderStyle]
    tiny: ModelConfig
    other_model_types: tuple[str, ...] = ()
    rules: ConfigRules = PLAIN
    activation: str = "silu"
    nested: bool = False
    roots: Mapping[str, str] = field(default_factory=dict)
    norm_offset: float = 0.0
    gguf_interleaved_heads: InterleavedHeads = not_interleaved
    gguf_names: Mapping[str, str] = field(default_factory=dict)
    gguf_settings: GgufSettings = no_settings

    def file_name(self, checkpoint: Checkpoint, name: str) -> str:
        """The checkpoint's own name of the tensor that we call `name`, as Hugging Face mostly does."""
        if checkpoint.container == "gguf":
            return self.gguf_name(name)
        for root, before_head in self.roots.items():
            # The last norm is in every checkpoint, and never in another form than as it is.
            if f"{root}norm.weight" in checkpoint.tensors:
                inner = name.removeprefix("model.")
                return before_head + name if inner == name else root + inner
        return name

    def gguf_name(self, hf_name: str) -> str:
        """GGUF's name of the tensor that Hugging Face calls `hf_name`.

        "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight".
        """
        module, _, attribute = hf_name.rpartition(".")
        if module in GGUF_MODEL_NAMES:
            return f"{GGUF_MODEL_NAMES[module]}.{attribute}"
        parts = module.split(".", 3)
        if len(parts) == 4 and parts[:2] == ["model", "layers"]:
            name = self.gguf_names.get(parts[3]) or GGUF_LAYER_NAMES.get(parts[3])
            if name is not None:
                return f"blk.{parts[2]}.{name}.{attribute}"
        raise CheckpointError(f"no GGUF name is known for {hf_name!r}")
