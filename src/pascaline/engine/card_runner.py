"""Steps on a card: those of few tokens a sequence as CUDA graphs, others launched one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy
import torch

from pascaline.core.progress import ProgressCallback, Stage
from pascaline.engine.speculation import COUNTS, MOST_SEQUENCES
from pascaline.engine.step_inputs import Sizes, StepInputs
from pascaline.kernels import Launcher
from pascaline.kernels.cuda.attention_decode import MOST_ROWS
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.program import CardProgram
from pascaline.kernels.cuda.recipe import BoundRecipe, Recipe
from pascaline.kernels.cuda.take_sampled import plan_take_sampled
from pascaline.kernels.recording import RecordedLaunch
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder

EXPECTED_CAPTURE_S = 0.1
"""First guess at what a graph takes to record."""

_EACH_BUCKET, _STEPS_A_DOUBLING = 8, 4
"""Graphs for each number of sequences up to the first, then so many between it and its double."""


def buckets_for(most: int) -> list[int]:
    """Numbers of sequences that graphs are recorded for: steps of others take the next, and some padding."""
    found = list(range(1, min(most, _EACH_BUCKET) + 1))
    while found[-1] < most:
        step = 1 << max(0, (found[-1].bit_length() - 1) - (_STEPS_A_DOUBLING.bit_length() - 1))
        found.append(min(most, found[-1] + step))
    return found


def graph_sizes(largest: Sizes, *, drafts: bool) -> list[Sizes]:
    """Of steps that graphs are recorded for, the fewest tokens first.

    Parameters
    ----------
    largest : sizes of steps.
    drafts : whether sequences may have some, for which they have as many tokens more, and rows of logits.
    """
    found = {Sizes(count, count, count) for count in buckets_for(largest.sequences)}
    if drafts:
        for sequences in range(1, min(MOST_SEQUENCES, largest.sequences) + 1):
            tokens = (min(sequences * (1 + count), largest.logit_rows) for count in COUNTS)
            found |= {Sizes(each, sequences, each) for each in tokens if each > sequences}
    return sorted(found, key=lambda each: (each.tokens, each.sequences))


def padded_tokens(tokens: int, most: int) -> int:
    """Tokens that a step is launched with that is no graph: kernels are compiled for few numbers of rows."""
    multiple = 8 if tokens <= 1024 else 64
    return min(most, -(-tokens // multiple) * multiple)


class CardRunner:
    """Computes on a card, which works through what is launched while the host goes on.

    Parameters
    ----------
    kernels : the card's, in which all that steps launch is compiled.
    graphs : see `graph_sizes`.
    sampled : token ids that the step before chose, (S,) int64 on the card: see `engine.batch.prepare`.
    largest : sizes to have room for; `pages` columns of the page table.
    """

    computes_by_itself = True

    @torch.inference_mode()
    def __init__(
        self,
        model: Decoder,
        launcher: Launcher,
        cache: KeyValueCache,
        kernels: KernelSet,
        sampled: torch.Tensor,
        largest: Sizes,
        graphs: Sequence[Sizes],
        pages: int,
        report: ProgressCallback,
    ) -> None:
        self.model = model
        self._launcher = launcher
        self.cache = cache
        self._kernels = kernels
        self._largest = largest
        self._device = sampled.device
        self.inputs = StepInputs(largest, pages, self._device)
        take = {"token_ids": self.inputs.token_ids, "sampled": sampled}
        self._take_sampled = BoundRecipe(kernels, Recipe((plan_take_sampled(largest.tokens),)), take, ())
        self._buckets = graphs
        self._graphs: dict[Sizes, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._memory = torch.empty(0, dtype=torch.uint8, device=self._device)
        self._capture(report)

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> torch.Tensor:
        """Launch a step."""
        given = Sizes(len(batch.token_ids), len(batch.context_lengths), len(batch.logit_rows))
        bucket = graph_for(self._buckets, given, most_tokens(batch))
        if bucket is not None:
            self.inputs.put(batch, bucket)
            graph, of_bucket = self._graphs[bucket]
            graph.replay()
            return of_bucket[: given.logit_rows]
        sizes = replace(given, tokens=padded_tokens(given.tokens, self._largest.tokens))
        self.inputs.put(batch, sizes)
        self._take_sampled(self._stream)
        logits: torch.Tensor = self.model(self.inputs.views(sizes), self.cache)
        return logits

    @property
    def _stream(self) -> int:
        return torch._C._cuda_getCurrentRawStream(self._kernels.ordinal)

    def _capture(self, report: ProgressCallback) -> None:
        """Record a graph for each bucket, the largest first, whose memory the others fit into."""
        pool = None
        count = len(self._buckets)
        with Stage(report, "recording graphs", count, "graphs", count * EXPECTED_CAPTURE_S) as stage:
            for bucket in reversed(self._buckets):
                launches, logits = self._recorded(bucket)
                self._take_sampled(self._stream)
                self._launcher.replay(launches)  # binds what is launched for the first time
                torch.cuda.synchronize(self._device)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.stream(torch.cuda.Stream(self._device)):  # type: ignore[no-untyped-call]
                    graph.capture_begin(*(() if pool is None else (pool,)))
                    try:
                        self._take_sampled(self._stream)
                        self._launcher.replay(launches)
                    finally:
                        graph.capture_end()
                pool = graph.pool()
                self._graphs[bucket] = graph, logits
                stage.advance(1)
        torch.cuda.synchronize(self._device)

    def _recorded(self, bucket: Sizes) -> tuple[list[RecordedLaunch], torch.Tensor]:
        with self._launcher.recording() as recorder:
            logits = self.model(self.inputs.views(bucket), self.cache)
        program = CardProgram(recorder.launches, logits, self._launcher.chip)
        if len(self._memory) < program.nbytes:
            self._memory = torch.empty(program.nbytes, dtype=torch.uint8, device=self._device)
        return program.placed(self._memory)


def most_tokens(batch: StepBatch) -> int:
    """Of a sequence."""
    return int(numpy.diff(batch.query_start.numpy()).max())


def graph_for(graphs: Sequence[Sizes], given: Sizes, most: int) -> Sizes | None:
    """The graph of the fewest tokens that a step fits into, in which no sequence has more than `most`."""
    if most > MOST_ROWS:
        return None
    for each in graphs[bisect_left(graphs, given.tokens, key=lambda each: each.tokens) :]:
        if each.sequences >= given.sequences and (most == 1 or not each.decodes):
            return each
    return None


def representative_sizes(largest: Sizes) -> Iterator[Sizes]:
    """Steps whose launches, but for linears, stand for those of all others that are no graphs."""
    # Attention goes by other tiles where tokens are few: from some number on, which powers of two enclose.
    counts = [1 << power for power in range(1, largest.tokens.bit_length()) if 1 << power < largest.tokens]
    for tokens in (*counts, largest.tokens):
        yield Sizes(tokens, 1, 1)
        if 1 < largest.sequences < tokens:
            yield Sizes(tokens, largest.sequences, min(largest.logit_rows, tokens))
