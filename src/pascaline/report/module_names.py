"""What the names of modules say: the layer they are in, the op they compute, and other names of the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LAYER = re.compile(r"(?:^|\.)(layers|h|blocks|block|blk)\.(\d+)(?=\.|$)")
_LAYERS = re.compile(r"(?:^|\.)(layers|h|blocks|block|blk)$")
_WHOLE = re.compile(r"^(?:(?:language_model|model|transformer|gpt_neox|decoder)\.)+")
"""What leads to everything in a model of text, and is called differently in each."""

MODULE = "module"
"""The op of a container's row."""

LINEAR_PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Linears that some engines compute as one, and the ones that they are in others."""

_OP_BY_NAME = (
    (re.compile(r"(^|_)(embed_tokens|wte|tok_embeddings|word_embeddings|embeddings?)$"), "embedding"),
    (re.compile(r"rotary|(^|_)rope"), "rotary"),
    (re.compile(r"(^|_)norm|layernorm|(^|_)ln(_|$)|rmsnorm"), "rms_norm"),
    (re.compile(r"^(q|k|v|o|qkv|gate|up|down|gate_up|out)_proj$|_proj$|^(c_attn|c_fc|c_proj)$"), "linear"),
    (re.compile(r"^(lm_head|fc\d*|dense\w*|linear\w*|w[123]|wq|wk|wv|wo|query_key_value|proj)$"), "linear"),
    (re.compile(r"^(act|act_fn|activation|activation_fn|silu\w*|gelu\w*)$"), "silu_and_mul"),
    (re.compile(r"(^|_)(attn|attention)$"), "paged_attention"),
)


@dataclass(frozen=True)
class Place:
    """A module's place in a model, whatever leads to its layers.

    Parameters
    ----------
    stack : what holds the layers, without what every model is in: "" for "model.layers", else
        "vision_tower.encoder" for "model.vision_tower.encoder.layers".
    layer : its index; None outside of layers.
    name : within the layer ("mlp.down_proj"; "" for the layer itself), or within the model.
    """

    stack: str
    layer: int | None
    name: str


def place_of(module: str) -> Place:
    """ "model.layers.3.mlp.down_proj" -> ("", 3, "mlp.down_proj"), "model.norm" -> ("", None, "norm")."""
    found = _LAYER.search(module)
    if found is None:
        name = _WHOLE.sub("", module)
        return Place("", None, _LAYERS.sub(".layers", f".{name}").removeprefix("."))
    stack = _WHOLE.sub("", f"{module[: found.start()]}.").removesuffix(".")
    return Place(stack, int(found[2][:9]), module[found.end() + 1 :])


def sibling_pattern(module: str) -> str:
    """The name of the same module in all layers: "model.layers.*.mlp.down_proj"."""
    found = _LAYER.search(module)
    return module if found is None else f"{module[: found.start(2)]}*{module[found.end(2) :]}"


def is_layer_list(module: str) -> bool:
    """Whether a module holds the layers themselves."""
    return _LAYERS.search(module) is not None


def op_of(module: str) -> str:
    """The op that a module computes itself, in the names of `kernels.OPS`; else "other"."""
    name = module.rpartition(".")[2].lower()
    return next((op for pattern, op in _OP_BY_NAME if pattern.search(name)), "other")


COPIES = {
    "HtoD": "copy_host_to_device",
    "DtoH": "copy_device_to_host",
    "DtoD": "copy_device_to_device",
    "PtoP": "copy_peer_to_peer",
}
_COPY_WORDS = (("Host-to-Device", "HtoD"), ("Device-to-Host", "DtoH"), ("Device-to-Device", "DtoD"))
UNPLACED = ("kernels", *COPIES.values(), "memset")
"""The ops of rows of module "" that no module is known for."""


def copy_op(name: str) -> str | None:
    """The op of a copy or memset from what profilers call it; None for anything else.

    "Memcpy HtoD (Pageable -> Device)" (torch), "[CUDA memcpy Host-to-Device]" (Nsight Systems).
    """
    if "memset" in name.lower():
        return "memset"
    for words, short in (*((short, short) for short in COPIES), *_COPY_WORDS):
        if words in name:
            return COPIES[short]
    return None
