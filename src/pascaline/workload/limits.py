"""How much kernels take at a time: bounds on their memory, which the planner counts with."""

from __future__ import annotations

SCRATCH_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Weights dequantised at a time: on the CPU 4 MiB of fp32, small enough for the shared cache and
large enough that threads meet seldom; on a GPU enough rows to fill it."""

DENSE_ELEMENTS = 1 << 26
"""Of a weight that is made dense for tensor cores, at a time: 128 MiB. Smaller pieces leave a library's
products too few outputs: in 32 MiB, 512 rows by 18944 × 3584 took 185 µs on an H200, and 137 whole."""

GATHERED_TOKENS = 1 << 15
"""Context tokens that attention in plain torch lays out densely at a time when it decodes."""

SCORED_ELEMENTS = 1 << 22
"""Elements of a mask, or of scores that are kept, that its prefill has at a time."""

PARTIAL_BYTES = 64 << 20
"""Sums of parts of K that launches on a card keep for the last block to add up, at most."""

ARRIVALS_BYTES = 256 << 10
"""Counts of the blocks that have left such sums, at most; wide models want some 20 KiB."""

BUFFER_ALIGNMENT_BYTES = 256
"""Of buffers on a card that launches have beside each other."""

ORDERED_ROWS = 1 << 10
"""Of a product of warpgroups, at most: their inputs are held twice, and a dense copy is faster beyond."""

DRAFTED_ROWS = 8
"""Rows of logits that a step may sample from, however few its sequences are: of a token and its draft."""


def most_sampled_rows(max_batch_tokens: int, max_sequences: int) -> int:
    """Rows of logits that a step may sample from."""
    return min(max_batch_tokens, max(max_sequences, DRAFTED_ROWS))
