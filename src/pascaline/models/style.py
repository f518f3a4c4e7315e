"""What families differ in beyond their config."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderStyle:
    """What differs between families beyond their config.

    Parameters
    ----------
    attention_bias, attention_output_bias : of q, k and v, and of o.
    query_key_norm : RMS norms of each head's query and key.
    norms_around : a norm after attention and after the feed-forward block, too, before they are added.
    stored_as_one : checkpoints hold q, k and v as one tensor, and gate and up.
    embedding_scale : what the embedding is multiplied by.
    """

    attention_bias: bool = False
    attention_output_bias: bool = False
    query_key_norm: bool = False
    norms_around: bool = False
    stored_as_one: bool = False
    embedding_scale: float = 1.0
