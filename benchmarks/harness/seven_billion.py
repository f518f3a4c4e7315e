"""Folders of Qwen2.5-7B's config.json without weights, which `--load-format dummy` makes up on the card."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers

from harness.random_model import QWEN_7B

INT4, BF16 = "gptq-int4", "bf16"
LINEARS = [(outputs, inputs) for *_, outputs, inputs in QWEN_7B.linears()]
"""Outputs and inputs of a layer's, as the checkpoint has them."""


def write_folder(target: Path, kind: str, *, has_tokenizer: bool = False) -> Path:
    """A folder of the kind, GPTQ in groups of 128 without an order of activations, or dense in bf16.

    `has_tokenizer`: with a made-up vocabulary of the model's size, each of whose tokens is a word.
    """
    target.mkdir(parents=True, exist_ok=True)
    config = QWEN_7B.hf_config()
    if kind == BF16:
        del config["quantization_config"]
        config["torch_dtype"] = "bfloat16"
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if has_tokenizer:
        _write_tokenizer(target / "tokenizer.json")
    return target


def _write_tokenizer(target: Path) -> None:
    """Byte-level BPE without merges: it reads texts byte by byte, and writes every other token as a word."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġw{number}" for number in range(QWEN_7B.vocab - len(alphabet))]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *words])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(target))
