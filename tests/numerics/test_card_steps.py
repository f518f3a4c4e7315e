"""Tiny models of every family by the kernels of cards: whole steps in the stand-in, eager and fused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

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
from pascaline.engine.step_inputs import Sizes, StepInputs
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

RATES: dict[str, float] = {"fp32": 1e13, "int8": 4e13, "tensor_fp16": 1e14}
PAGES = [2, 0]
CPU = torch.device("cpu")
LINEARS_IN_FP32 = "cuda.linear_simt", "cuda.linear_dense_decode"
IN_FP32 = tuple(each for each in KERNELS if each.ops != ("linear",) or each.name in LINEARS_IN_FP32)
"""Kernels of which linears alone are bound to fp32."""


def chip_of(capability: tuple[int, int]) -> Chip:
    name = f"{capability[0]}.{capability[1]}"
    roofline = Roofline("a card", "cuda", name, RATES, bytes_per_s=3e11, memory_bytes=24 << 30, launch_s=2e-6)
    return Chip(torch.device("cuda"), ChipLimits(capability, 28), roofline)


def batch_of(token_ids: list[int], start: int) -> StepBatch:
    """Some tokens of a sequence in `PAGES`."""
    positions = list(range(start, start + len(token_ids)))
    slots = [PAGES[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE for at in positions]
    return StepBatch(
        token_ids=torch.tensor(token_ids),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        page_table=torch.tensor([PAGES], dtype=torch.int32),
        query_start=torch.tensor([0, len(token_ids)], dtype=torch.int32),
        context_lengths=torch.tensor([positions[-1] + 1], dtype=torch.int32),
        logit_rows=torch.arange(len(token_ids)),
    )


class Steps:
    """A model of a few thousand parameters whose steps the stand-in runs."""

    def __init__(self, path: Path, chip: Chip, arithmetic: Literal["fp32", "exact"]) -> None:
        runner = SteppedModel(path, pages=16, arithmetic="auto").started.runner
        assert isinstance(runner, RecordedRunner)
        self._model: Decoder = runner.model
        self._launcher = Launcher(Policy(chip, KERNELS if arithmetic == "fp32" else IN_FP32, arithmetic))
        self._model.rotary._launch = self._launcher
        for module in self._model.modules():
            if isinstance(module, Layer):
                module.launch = self._launcher
        dtype = torch.float16 if arithmetic == "exact" else torch.float32
        self._cache = KeyValueCache(self._model.config, 3, dtype, CPU)
        self._inputs = StepInputs(Sizes(16, 3, 16), len(PAGES), CPU)
        self.launched: list[str] = []

    def eager(self, token_ids: list[int], start: int) -> torch.Tensor:
        """Launch by launch."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(program, "fuse", lambda launches, logits, _: (launches, logits))
            return self._run(batch_of(token_ids, start))

    def graph(self, token_ids: list[int], start: int, sizes: Sizes) -> torch.Tensor:
        """As a graph of these sizes runs."""
        self._inputs.put(batch_of(token_ids, start), sizes)
        return self._run(self._inputs.views(sizes))[: len(token_ids)]

    def _run(self, batch: StepBatch) -> torch.Tensor:
        with self._launcher.recording() as recorder:
            logits = self._model(batch, self._cache)
        chip = self._launcher.chip
        assert chip.limits is not None
        step = program.CardProgram(recorder.launches, logits, chip)
        self.launched = [each.kernel.name for each in step.launches]
        return run_step(step, chip.limits, run_plan)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", TINY)
def test_steps_of_every_family(family: str, tmp_path: Path) -> None:
    """A prompt in two chunks, eager; then tokens one by one and some with a draft, fused, beside padding."""
    whole = random_model(TINY[family])
    whole.save_pretrained(tmp_path)
    token_ids = tokens(27, TINY[family].vocab_size)
    expected = reference(whole, token_ids)
    steps = Steps(tmp_path, chip_of((6, 1)), "fp32")
    seen = []
    for start, stop in ((0, 13), (13, 19)):
        seen.append(steps.eager(token_ids[start:stop], start))
        assert "cuda.store_rows" in steps.launched
    for start, stop, sizes in (
        (19, 20, Sizes(2, 2, 2)),
        (20, 21, Sizes(2, 2, 2)),
        (21, 24, Sizes(4, 1, 4)),
        (24, 26, Sizes(8, 2, 8)),
        (26, 27, Sizes(1, 1, 1)),
    ):
        seen.append(steps.graph(token_ids[start:stop], start, sizes))
        assert "cuda.store_rows" not in steps.launched
    assert units_away(torch.cat(seen), expected.exact, expected.unit) <= ALLOWED_UNITS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", ["llama", "gemma2"])  # with windows and caps, too
def test_drafts_by_tensor_cores(family: str, tmp_path: Path) -> None:
    """Over keys and values in fp16: what tokens one by one give, and from rejected drafts nothing is left."""
    config = replace(TINY[family], head_dim=16)
    whole = random_model(config)
    whole.save_pretrained(tmp_path)
    vocabulary = config.vocab_size
    token_ids = tokens(30, vocabulary)
    unit = reference(whole, token_ids).unit
    one_by_one = Steps(tmp_path, chip_of((8, 0)), "exact")
    expected = [one_by_one.eager(token_ids[:13], 0)]
    for at in range(13, 30):
        expected.append(one_by_one.graph(token_ids[at : at + 1], at, Sizes(1, 1, 1)))
        assert "cuda.attention_by_tensor_cores_of_few_rows" in one_by_one.launched
    drafted = Steps(tmp_path, chip_of((8, 0)), "exact")
    seen = [drafted.eager(token_ids[:13], 0)]
    wrong = [(token + 1) % vocabulary for token in token_ids]
    for start, accepted, rejected, sizes in (
        (13, 8, 0, Sizes(8, 1, 8)),
        (21, 2, 6, Sizes(16, 2, 16)),
        (23, 1, 1, Sizes(2, 1, 2)),
        (24, 3, 1, Sizes(12, 3, 12)),
        (27, 3, 0, Sizes(3, 1, 3)),
    ):
        stop = start + accepted
        step = token_ids[start:stop] + wrong[stop : stop + rejected]
        seen.append(drafted.graph(step, start, sizes)[:accepted])
        assert "cuda.attention_by_tensor_cores_of_few_rows" in drafted.launched
    # Both are roundings of fp32 away from the same numbers.
    assert units_away(torch.cat(seen), torch.cat(expected).double(), unit) <= 2 * ALLOWED_UNITS
