"""What attention is measured at: Qwen2.5-7B's heads, decode of batches at contexts, prefill of chunks."""

from __future__ import annotations

from dataclasses import dataclass

HEADS, KEY_VALUE_HEADS, HEAD_DIM = 28, 4, 128
SCALE = HEAD_DIM**-0.5
LEAST_STREAMED_BYTES = 320 << 20
"""Of keys and values between two reads of the same: more than any cache holds."""
MOST_ERROR = 0.01
"""‖y − y₆₄‖ / ‖y₆₄‖ of what is timed: fp16's roundings of weights make some 3e-4."""

LEAST_OF_SDPA = 1.0
LEAST_OF_READ = 0.75
LEAST_INT8_GAIN = 1.6
FULL_BATCH = 64
"""The batch at which the shares of read and of int8 are wanted."""
LEAST_TFLOPS = 300.0


@dataclass(frozen=True)
class DecodeCase:
    """One new token of each of `batch` sequences of `context` tokens, in a table of `width` tokens a row."""

    batch: int
    context: int
    width: int

    @property
    def name(self) -> str:
        wider = f", table for {self.width}" if self.width != self.context else ""
        return f"decode B = {self.batch}, context {self.context}{wider}"

    def cache_bytes(self, element_bytes: int, scale_bytes: int) -> int:
        """Of keys and values that are read."""
        each = HEAD_DIM * element_bytes + scale_bytes
        return 2 * self.batch * self.context * KEY_VALUE_HEADS * each


@dataclass(frozen=True)
class PrefillCase:
    """The last `tokens` of a sequence of `history` + `tokens`."""

    tokens: int
    history: int

    @property
    def name(self) -> str:
        return f"prefill T = {self.tokens}" + (f" after {self.history}" if self.history else "")

    @property
    def operations(self) -> int:
        """Of both products, for what a token sees."""
        seen = self.tokens * self.history + self.tokens * (self.tokens + 1) // 2
        return 4 * HEADS * HEAD_DIM * seen


DECODE = (
    *(DecodeCase(batch, context, context) for context in (4096, 32768) for batch in (1, 4, 16, 64)),
    DecodeCase(16, 4096, 32768),
    DecodeCase(64, 512, 4096),
)
PREFILL = (*(PrefillCase(tokens, 0) for tokens in (512, 1024, 2048, 4096)), PrefillCase(2048, 4096))
