"""Runs a step of the model, eagerly: batch in, logits out."""

from __future__ import annotations

import torch

from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.models import Decoder


class EagerRunner:
    """Launches each op as the model's Python reaches it."""

    def __init__(self, model: Decoder, cache: KeyValueCache) -> None:
        self._model = model
        self._cache = cache

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> torch.Tensor:
        """Logits of the batch's wanted rows, (R, vocab_size) fp32."""
        logits: torch.Tensor = self._model(batch, self._cache)
        return logits
