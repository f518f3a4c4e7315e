"""What an engine is measured at, and what is wanted of it."""

from __future__ import annotations

STREAMS = (1, 4, 8, 16, 32, 64, 128)
BF16_STREAMS = (1, 128)
TRACED_STREAMS = (1, 32)
CONTEXT = 512
"""Tokens of a stream before the first that is counted."""
PROMPTS = (512, 2048, 4096)
PROMPT_REPEATS = 3
PEER_STREAMS = (8, 32, 64)
PEER_TOKENS = 128
READ_BYTES = 1 << 30

SHARE_OF_MEMORY = 0.35
"""Of the card's, that each engine plans with: llama.cpp's models need some meanwhile."""
START_OPTIONS = {"load_format": "dummy", "device": "cuda", "gpu_memory_utilization": SHARE_OF_MEMORY}
OPTIONS = START_OPTIONS | {
    "max_model_len": 8192,
    "max_batch_tokens": max(PROMPTS),
    "max_sequences": max(STREAMS),
}

LEAST_TOKENS_PER_S = 520.0
LEAST_OF_READ = 0.50
LEAST_BF16_OF_READ = 0.80
MOST_OVER_CUBLAS = 1.15
MOST_IDLE = 0.05
LEAST_OF_PEER = {"1": 1.6, "32": 1.5, "prompt": 1.5}
"""Times as fast as llama.cpp: one stream, 32, a prompt of 2048 tokens."""
MOST_START_S = {"cold": 40.0, "warm": 10.0}


def steps(streams: int) -> int:
    """Steps that are timed at once."""
    return 128 if streams <= 8 else 48
