"""Module paths from classes: torch's traces name modules "LlamaMLP_0", not "model.layers.0.mlp".

The number counts the instances of a class in the order of their first calls. What each is called within the
module that called it follows from its class and its turn: of four linears in an attention the first is
q_proj. Classes are those of transformers and vLLM; of others the name stays.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

_INSTANCE = re.compile(r"(.+)_(\d+)")
_ROOT = re.compile(r"For(CausalLM|ConditionalGeneration)$|LMHeadModel$")
_LAYER = re.compile(r"(DecoderLayer|EncoderLayer|Block|Layer)$")
_ATTENTION = re.compile(r"Attention|Attn")
_MLP = re.compile(r"MLP|FeedForward|Mlp")
_ACTIVATION = re.compile(r"SiLU|GELU|Silu|Gelu|ReLU|Activation|AndMul")

_LINEARS = {
    ("attention", 4): ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("attention", 2): ("qkv_proj", "o_proj"),
    ("mlp", 3): ("gate_proj", "up_proj", "down_proj"),
    ("mlp", 2): ("gate_up_proj", "down_proj"),
    ("root", 1): ("lm_head",),
}
_NORMS = {
    ("layer", 2): ("input_layernorm", "post_attention_layernorm"),
    ("layer", 4): (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    ("attention", 2): ("q_norm", "k_norm"),
    ("model", 1): ("norm",),
}
_PARALLEL_LINEARS = {
    "QKVParallelLinear": "qkv_proj",
    "MergedColumnParallelLinear": "gate_up_proj",
    "ParallelLMHead": "lm_head",
}


@dataclass(frozen=True)
class _Module:
    """One instance: its class and what it is to the modules in it."""

    name: str
    class_name: str

    @property
    def role(self) -> str:
        for role, pattern in (("root", _ROOT), ("layer", _LAYER), ("attention", _ATTENTION), ("mlp", _MLP)):
            if pattern.search(self.class_name):
                return role
        return "model" if self.class_name.endswith("Model") else "other"

    @property
    def kind(self) -> str:
        """Siblings of one kind are told apart by their turn."""
        if "Norm" in self.class_name:
            return "norm"
        if "Linear" in self.class_name or self.class_name == "Conv1D":
            return "linear"
        return self.role


def paths_of(parents: Mapping[str, str | None]) -> dict[str, str]:
    """Instance -> path.

    Parameters
    ----------
    parents : instance ("LlamaMLP_0") -> the one that first called it; in the order of first calls.
    """
    modules = {
        name: _Module(name, found[1] if (found := _INSTANCE.fullmatch(name)) else name) for name in parents
    }
    children: dict[str | None, list[_Module]] = defaultdict(list)
    for name, parent in parents.items():
        children[parent if parent in modules else None].append(modules[name])
    paths: dict[str, str] = {}
    waiting: list[tuple[str | None, str]] = [(None, "")]
    while waiting:
        parent, prefix = waiting.pop()
        names = _names_within(modules[parent] if parent is not None else None, children[parent])
        for child, name in names.items():
            paths[child] = f"{prefix}.{name}" if prefix and name else prefix or name
            waiting.append((child, paths[child]))
    return paths


def _names_within(parent: _Module | None, children: list[_Module]) -> dict[str, str]:
    count = Counter(child.kind for child in children)
    turn: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    names = {}
    for child in children:
        name = _name(parent, child, turn[child.kind], count[child.kind])
        turn[child.kind] += 1
        taken[name] += 1
        names[child.name] = name if taken[name] == 1 else f"{name}_{taken[name] - 1}"
    return names


def _name(parent: _Module | None, child: _Module, turn: int, count: int) -> str:
    role = "none" if parent is None else parent.role
    class_name = child.class_name
    if class_name in _PARALLEL_LINEARS:
        return _PARALLEL_LINEARS[class_name]
    if class_name == "RowParallelLinear":
        return "o_proj" if role == "attention" else "down_proj"
    if child.kind == "linear" and (role, count) in _LINEARS:
        return _LINEARS[role, count][turn]
    if child.kind == "norm" and (role, count) in _NORMS:
        return _NORMS[role, count][turn]
    if "Embedding" in class_name:
        return "rotary_emb" if "Rotary" in class_name else "embed_tokens"
    if child.kind in ("norm", "linear"):
        return child.name
    if child.role == "root":
        return "" if parent is None else child.name
    if child.role == "layer" and role in ("model", "none"):
        return f"layers.{turn}"
    if child.role == "attention":
        return "attn" if role == "attention" else "self_attn"
    if child.role == "mlp":
        return "mlp"
    if child.role == "model" and role in ("root", "none"):
        return "model"
    return "act_fn" if _ACTIVATION.search(class_name) else child.name
