"""Samples on a card, which works through what is launched while the host goes on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch

from pascaline.core.progress import ignore_progress
from pascaline.engine.sampler import Sampled, Samples
from pascaline.engine.sampling_call import CallMaker, SamplingCall, results_of
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.sampling import (
    CHOICE,
    JOB,
    LINE,
    REPORT,
    SHAPED_ROW,
    plan_choose_tokens,
    plan_filter_tokens,
    plan_shape_logits,
)

_SLOTS = 2
"""Steps whose results may be under way at once: one is read while the next is computed."""

Key = tuple[str, int, int]
"""A launch: which, of how many, and the stride of logits."""


class CardSampler:
    """Chooses tokens by kernels; `launch` does not wait for them.

    Not thread-safe: an engine has one.

    Parameters
    ----------
    kernels : of the card that the logits are on.
    max_rows : that are sampled from in a step.
    vocab_size : columns of the logits.
    """

    def __init__(self, kernels: KernelSet, max_rows: int, vocab_size: int) -> None:
        self.ids = torch.zeros(max_rows, dtype=torch.int64, device=kernels.device)
        """What the last step has chosen, in the order of its sequences."""
        self._kernels = kernels
        self._vocab_size = vocab_size
        self._maker = CallMaker()
        self._launches: dict[Key, BoundLaunch] = {}
        # A row may have a line of its own logits and one of shaped ones, a token by filters and a report.
        lines = jobs = 2 * max_rows
        plans = (
            plan_shape_logits(max_rows, vocab_size, vocab_size),
            plan_choose_tokens(lines, vocab_size, vocab_size),
            plan_filter_tokens(jobs, vocab_size, vocab_size),
        )
        kernels.build((plan.specialisation for plan in plans), ignore_progress)
        kernels.reserve([Recipe((plan,)) for plan in plans])
        self._ranges = torch.empty(lines, 2, dtype=torch.float32, device=kernels.device)
        self._choice_bytes = max_rows * CHOICE.itemsize
        results = self._choice_bytes + max_rows * REPORT.itemsize
        self._results = self._bytes(results)
        self._inputs = self._bytes(lines * (LINE.itemsize + JOB.itemsize))
        self._shaped = torch.empty(0, dtype=torch.float32, device=kernels.device)
        self._uploaded = b""
        self._slots = [_Slot(results) for _ in range(_SLOTS)]

    @torch.inference_mode()
    def launch(
        self, logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None
    ) -> Samples:
        """Choose the next token of each sequence from its row of `logits` (S, V), fp32.

        It is that of `engine.sampler.sample`, but for what `kernels.cuda.sampling` says.

        Raises
        ------
        CudaError : the driver refuses a launch.
        """
        call = self._maker.make(sequences, ahead)
        slot = self._slots[0]
        if sequences:
            if logits.stride(1) != 1:
                logits = logits.contiguous()
            slot.event.synchronize()
            self._upload(call, slot)
            self.launch_kernels(call, logits)
            used = self._choice_bytes + call.reports * REPORT.itemsize
            if not call.reports:
                used = len(sequences) * CHOICE.itemsize
            slot.results[:used].copy_(self._results[:used], non_blocking=True)
        # Of a step that samples nothing, too: who reads it waits until the card has come so far.
        slot.event.record()
        self._slots.append(self._slots.pop(0))  # only now: a launch that fails leaves the unread step's alone
        return _Launched(slot, sequences, self._vocab_size, self._choice_bytes, call.reports)

    def _upload(self, call: SamplingCall, slot: _Slot) -> None:
        packed = call.packed
        if packed == self._uploaded and not call.changes:
            return
        total = len(packed) + sum(changes.nbytes for changes in call.changes)
        if total > len(self._inputs):
            self._inputs = self._bytes(2 * total)
        if total > len(slot.inputs):
            slot.inputs = torch.empty(len(self._inputs), dtype=torch.uint8, pin_memory=True)
        target = slot.inputs.numpy()
        target[: len(packed)] = numpy.frombuffer(packed, numpy.uint8)
        first = len(packed)
        for changes in call.changes:
            target[first : first + changes.nbytes] = changes.view(numpy.uint8)
            first += changes.nbytes
        self._inputs[:total].copy_(slot.inputs[:total], non_blocking=True)
        self._uploaded = packed

    def launch_kernels(self, call: SamplingCall, logits: torch.Tensor) -> None:
        """What `launch` does with the last call's arrays, which are on the card; may be captured."""
        lines, jobs, shaped_rows = len(call.lines), len(call.jobs), len(call.shaped_rows)
        vocabulary, stride = self._vocab_size, logits.stride(0)
        if shaped_rows * vocabulary > len(self._shaped):
            self._shaped = torch.empty(
                shaped_rows * vocabulary, dtype=torch.float32, device=self._kernels.device
            )
        first_job = self._inputs.data_ptr() + lines * LINE.itemsize
        first_row = first_job + jobs * JOB.itemsize
        addresses = {
            "logits": logits.data_ptr(),
            "shaped": self._shaped.data_ptr() if shaped_rows else None,
            "lines": self._inputs.data_ptr(),
            "jobs": first_job,
            "shaped_rows": first_row,
            "changes": first_row + shaped_rows * SHAPED_ROW.itemsize,
            "ids": self.ids.data_ptr(),
            "choices": self._results.data_ptr(),
            "reports": self._results.data_ptr() + self._choice_bytes,
            "ranges": self._ranges.data_ptr(),
        }
        stream = torch._C._cuda_getCurrentRawStream(self._kernels.ordinal)
        for name, plan_of, count in (
            ("shape", plan_shape_logits, shaped_rows),
            ("choose", plan_choose_tokens, lines),
            ("filter", plan_filter_tokens, jobs),
        ):
            if not count:
                continue
            key = (name, count, stride)
            launch = self._launches.get(key)
            if launch is None:
                plan = plan_of(count, vocabulary, stride)
                launch = self._launches[key] = self._kernels.bind(plan, addresses)
            for buffer, pointer in launch.pointers.items():
                if buffer in addresses:
                    pointer.value = addresses[buffer]
            launch(stream)

    def _bytes(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.uint8, device=self._kernels.device)


class _Slot:
    """Memory that a step's copies go through, and the event behind the last of them."""

    def __init__(self, results: int) -> None:
        self.inputs = torch.empty(0, dtype=torch.uint8)
        self.results = torch.empty(results, dtype=torch.uint8, pin_memory=True)
        self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Launched:
    slot: _Slot
    sequences: list[Sequence]
    vocabulary: int
    choice_bytes: int
    reports: int

    def read(self) -> list[Sampled]:
        """Wait for what was chosen."""
        self.slot.event.synchronize()
        rows = len(self.sequences)
        results = self.slot.results.numpy()
        choices = results[: rows * CHOICE.itemsize].view(CHOICE)
        first, last = self.choice_bytes, self.choice_bytes + self.reports * REPORT.itemsize
        return results_of(self.sequences, self.vocabulary, choices, results[first:last].view(REPORT))
