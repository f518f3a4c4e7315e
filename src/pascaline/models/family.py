"""What a model family declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import CheckpointError
from pascaline.models.decoder import DecoderStyle

RowOrder = Callable[[ModelConfig, str], list[int] | None]
"""For a tensor (HF name without layer): where each of our rows lies in the file, or None."""

GGUF_LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Hugging Face's module names in a layer -> GGUF's. Source: the GGUF specification, tensor names."""

GGUF_MODEL_NAMES: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


@dataclass(frozen=True)
class Family:
    """A family of models, declared.

    Parameters
    ----------
    model_type : the name in config.json; GGUF's `general.architecture` where it is the same.
    style : which projections carry a bias, given the config.
    gguf_row_order : families whose GGUF converter reorders rows say how to undo it.
    tiny : a complete config of a few thousand parameters, for tests.
    """

    model_type: str
    style: Callable[[ModelConfig], DecoderStyle]
    gguf_row_order: RowOrder
    tiny: ModelConfig


def file_order(_: ModelConfig, __: str) -> None:
    """`gguf_row_order` of families whose rows are stored as in Hugging Face's checkpoints."""


def gguf_name(hf_name: str) -> str:
    """GGUF's name of the tensor that Hugging Face calls `hf_name`.

    "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight".
    """
    module, _, attribute = hf_name.rpartition(".")
    if module in GGUF_MODEL_NAMES:
        return f"{GGUF_MODEL_NAMES[module]}.{attribute}"
    parts = module.split(".", 3)
    if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in GGUF_LAYER_NAMES:
        return f"blk.{parts[2]}.{GGUF_LAYER_NAMES[parts[3]]}.{attribute}"
    raise CheckpointError(f"no GGUF name is known for {hf_name!r}")
