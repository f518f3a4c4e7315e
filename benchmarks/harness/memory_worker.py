"""What an engine really takes: `python -m harness.memory_worker MODEL CONTEXT SEQUENCES`.

Starts an engine with pages for so many sequences of the context, fills the KV cache, and computes the
largest step at the end of it: as many tokens as a step takes, logits of all, and a choice from those of
each sequence with penalties. Prints one JSON object of bytes: resident memory of weights and of the cache
(pages of memory that are present in their tensors' ranges, by /proc/self/pagemap), of activations (what
the step adds, and the rotary tables), and the process's peak.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

import numpy
import torch

from pascaline.core.progress import ignore_progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.runner import EagerRunner, RecordedRunner
from pascaline.engine.sampler import sample
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.engine.start import StartedModel, start
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import PAGE_SIZE, pages_for
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder
from pascaline.layers.module import Layer
from pascaline.weights import Dense, Slabbed, Weight

MEMORY_PAGE = 4096


def main() -> None:
    path, context, sequences = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pages = pages_for(context) * sequences
    config = EngineConfig(path, device="cpu", max_model_len=context, max_sequences=sequences, pages=pages)
    started = start(config, ignore_progress)
    model, cache = _model_and_cache(started)
    for tensor in (*cache.keys, *cache.values):
        tensor.numpy()[...] = 0.01  # by torch, threads would start that the engine does without
    _warm_up()
    before = _status("VmRSS")
    chunk = min(config.max_batch_tokens - sequences + 1, context)
    _step(started, [chunk, *[1] * (sequences - 1)], context)
    after, peak = _status("VmRSS"), _status("VmHWM")  # before what follows takes memory itself
    tables = sum(table.nbytes for tables in model.rotary._tables for table in tables)
    weights = [weight for layer in model.modules() if isinstance(layer, Layer) for weight in layer.weights()]
    answer = {
        "weights": _present(tensor for weight in weights for tensor in _tensors(weight)),
        "kv": _present([*cache.keys, *cache.values]),
        "activations": after - before + tables,
        "total": peak,
    }
    print(json.dumps(answer))


def _model_and_cache(started: StartedModel) -> tuple[Decoder, KeyValueCache]:
    runner = started.runner
    if isinstance(runner, RecordedRunner):
        return runner.model, runner.cache
    if isinstance(runner, EagerRunner):
        return runner._model, runner._cache
    raise TypeError(f"no way to look into {runner}")


def _step(started: StartedModel, news: list[int], context: int) -> None:
    """So many last tokens of each sequence, all of whose contexts are full; logits of all tokens."""
    tokens, width, sequences = sum(news), pages_for(context), len(news)
    table = torch.arange(sequences * width, dtype=torch.int32).view(sequences, width)
    positions = [position for new in news for position in range(context - new, context)]
    owners = [index for index, new in enumerate(news) for _ in range(new)]
    slots = [
        int(table[owner, position // PAGE_SIZE]) * PAGE_SIZE + position % PAGE_SIZE
        for owner, position in zip(owners, positions, strict=True)
    ]
    logits = started.runner.run(
        StepBatch(
            token_ids=torch.arange(tokens) % started.model_config.vocab_size,
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            page_table=table,
            query_start=torch.tensor([0, *accumulate(news)], dtype=torch.int32),
            context_lengths=torch.full((sequences,), context, dtype=torch.int32),
            logit_rows=torch.arange(tokens),
        )
    )
    sample(logits[[end - 1 for end in accumulate(news)]], _sequences(sequences))


def _sequences(count: int) -> list[Sequence]:
    params = SamplingParams(temperature=1.0, top_p=0.9, repetition_penalty=1.1)
    return [
        Sequence(
            request_id=index, index=0, order=index, params=params, seed=index, tokens=[1, 2], prompt_length=2
        )
        for index in range(count)
    ]


def _warm_up() -> None:
    """What the first launch alone brings to life, threads and torch's operations, is no activation."""
    launcher = Launcher(Policy(Chip(torch.device("cpu")), KERNELS))
    launcher(OPS["add"], "", torch.zeros(64, 64), torch.zeros(64, 64))
    logits = torch.arange(640).float().view(10, 64)
    sample(logits[[1, 2]], _sequences(2))


def _tensors(weight: Weight) -> Iterable[torch.Tensor]:
    if isinstance(weight, Dense):
        yield weight.tensor
        return
    if isinstance(weight, Slabbed):
        yield from weight.buffers.values()
        return
    for value in vars(weight).values():
        if isinstance(value, torch.Tensor):
            yield value
    for codes in (weight.codes, weight.group_scales, weight.group_offsets, weight.zeros):
        if codes is not None:
            yield from (plane.data for plane in codes.planes)


def _present(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the memory pages, each counted once, that tensors lie in and that are there."""
    pages: set[int] = set()
    for tensor in tensors:
        storage = tensor.untyped_storage()
        first, last = storage.data_ptr() // MEMORY_PAGE, (storage.data_ptr() + storage.nbytes() - 1)
        if tensor.numel() < storage.nbytes() // tensor.element_size():
            # A part of a chunk that several arrays share.
            first = tensor.data_ptr() // MEMORY_PAGE
            last = tensor.data_ptr() + tensor.numel() * tensor.element_size() - 1
        with Path("/proc/self/pagemap").open("rb") as file:
            file.seek(8 * first)
            entries = numpy.frombuffer(file.read(8 * (last // MEMORY_PAGE - first + 1)), numpy.uint64)
        present = numpy.flatnonzero(entries >> numpy.uint64(63))
        pages.update((present + first).tolist())
    return MEMORY_PAGE * len(pages)


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status says nothing of {name}")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
