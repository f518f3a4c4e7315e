"""Tiny models of every family by the kernels of cards: whole steps in the stand-in, eager and fused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from host_card import run_plan
from native_libraries import NEEDS_LIBRARY
from stand_in_workspace import run_step
from stepped_model import SteppedModel
from test_tiny_models import TINY, tokens
from tiny_checkpoints import random_model
from transformers_reference import ALLOWED_UNITS, reference, units_away

from pascaline.engine.runner import RecordedRunner
from pascaline.hardware.roofline import Roofline
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.kernels.cuda import program
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import PAGE_SIZE
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder
from pascaline.layers.module import Layer

pytestmark = NEEDS_LIBRARY

RATES: dict[str, float] = {"fp32": 1e13, "int8": 4e13}
ROOFLINE = Roofline("a card", "cuda", "6.1", RATES, bytes_per_s=3e11, memory_bytes=24 << 30, launch_s=2e-6)
LIMITS = ChipLimits((6, 1), 28)
CHIP = Chip(torch.device("cuda"), LIMITS, ROOFLINE)
PAGES = [2, 0]


def batch_of(token_ids: list[int], start: int, padding: int = 0) -> StepBatch:
    """Some tokens of a sequence in `PAGES`; padding is sequences of a token that have no place."""
    positions = list(range(start, start + len(token_ids)))
    slots = [PAGES[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE for at in positions]
    count = len(token_ids)
    return StepBatch(
        token_ids=torch.tensor(token_ids + [0] * padding),
        positions=torch.tensor(positions + [0] * padding),
        slots=torch.tensor(slots + [-1] * padding),
        page_table=torch.tensor([PAGES] + [[0] * len(PAGES)] * padding, dtype=torch.int32),
        query_start=torch.tensor([0, count] + [count] * padding, dtype=torch.int32),
        context_lengths=torch.tensor([start + count] + [0] * padding, dtype=torch.int32),
        logit_rows=torch.arange(count + padding),
    )


def logits_of(model: Decoder, launcher: Launcher, batch: StepBatch, cache: KeyValueCache) -> torch.Tensor:
    with launcher.recording() as recorder:
        logits = model(batch, cache)
    step = program.CardProgram(recorder.launches, logits, CHIP)
    names = {each.kernel.name for each in step.launches}
    assert ("cuda.store_rows" in names) == (len(batch.token_ids) > len(batch.context_lengths)), names
    return run_step(step, LIMITS, run_plan)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", TINY)
def test_steps_of_every_family(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt in two chunks, eager; then tokens one by one, fused, beside a sequence that is padding."""
    whole = random_model(TINY[family])
    whole.save_pretrained(tmp_path)
    token_ids = tokens(22, TINY[family].vocab_size)
    expected = reference(whole, token_ids)
    runner = SteppedModel(tmp_path, pages=16, arithmetic="auto").started.runner
    assert isinstance(runner, RecordedRunner)
    model = runner.model
    launcher = Launcher(Policy(CHIP, KERNELS, "fp32"))
    model.rotary._launch = launcher
    for module in model.modules():
        if isinstance(module, Layer):
            module.launch = launcher
    cache = KeyValueCache(model.config, 3, torch.float32, torch.device("cpu"))
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(program, "fuse", lambda launches, logits, _: (launches, logits))
        for start, stop in ((0, 13), (13, 19)):
            seen.append(logits_of(model, launcher, batch_of(token_ids[start:stop], start), cache))
    seen += [
        logits_of(model, launcher, batch_of(token_ids[at : at + 1], at, padding=1), cache)[:1]
        for at in range(19, 22)
    ]
    assert units_away(torch.cat(seen), expected.exact, expected.unit) <= ALLOWED_UNITS
