"""Runs a step of the model: batch in, logits out."""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

import torch

from pascaline.kernels import Launcher
from pascaline.kernels.cpu.program import Program
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder


class Runner(Protocol):
    """Computes steps."""

    computes_by_itself: bool
    """`run` returns before the card has computed, and what is launched after it waits for that."""

    def run(self, batch: StepBatch) -> torch.Tensor:
        """The logits of the wanted rows of a batch on the CPU, (R, vocab_size) fp32, valid until the next."""
        ...


class EagerRunner:
    """Launches each op as the model's Python reaches it."""

    computes_by_itself = False

    def __init__(self, model: Decoder, cache: KeyValueCache, device: torch.device) -> None:
        self._model = model
        self._cache = cache
        self._device = device

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> torch.Tensor:
        """Compute a step."""
        if self._device.type != "cpu":
            batch = StepBatch(*(getattr(batch, item.name).to(self._device) for item in fields(batch)))
        logits: torch.Tensor = self._model(batch, self._cache)
        return logits


class RecordedRunner:
    """Records the model's launches once, and replays them natively in one call a step.

    Parameters
    ----------
    largest : a batch of the largest sizes, whose values do not matter; becomes the replays' input.
    """

    computes_by_itself = False

    @torch.inference_mode()
    def __init__(self, model: Decoder, launcher: Launcher, cache: KeyValueCache, largest: StepBatch) -> None:
        self.model = model
        self.cache = cache
        self._targets = {item.name: getattr(largest, item.name).numpy() for item in fields(largest)}
        with launcher.recording() as recorder:
            logits = model(largest, cache)
        self.program = Program(recorder.launches, logits, len(largest.token_ids))

    def run(self, batch: StepBatch) -> torch.Tensor:
        """Compute a step."""
        # PERF: by numpy: seven assignments take 10 µs, and torch's 70.
        for name, target in self._targets.items():
            values = getattr(batch, name).numpy()
            target[tuple(map(slice, values.shape))] = values
        return self.program.run(len(batch.token_ids), len(batch.context_lengths), len(batch.logit_rows))
