"""A recorded step as the native library runs it: an array of launches, and the memory between them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import cast

import numpy
import torch

from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.fusion import FusedLaunch, fuse
from pascaline.kernels.cpu.native_kernel import describe
from pascaline.kernels.cpu.views import Launch, Step, TensorView, tensor_view
from pascaline.kernels.recording import RecordedLaunch, memory_of, storage_of
from pascaline.workload.arena import ALIGNMENT, Span

TOKENS, LOGIT_ROWS = 0, 1
SHARES_SCRATCH = {"linear", "paged_attention"}
"""Ops whose launches may not overlap with each other: they use the team's one scratch memory."""


@dataclass(frozen=True)
class LaunchName:
    """What a launch is, for whoever steps or times the program."""

    path: str
    ops: tuple[str, ...]


class Program:
    """Launches recorded for at most `tokens` tokens and as many logit rows.

    Parameters
    ----------
    logits : the output of the last launch, on the meta device.
    """

    def __init__(self, launches: list[RecordedLaunch], logits: torch.Tensor, tokens: int) -> None:
        fused = fuse(launches)
        self.names = [LaunchName(item.launch.path, item.names) for item in fused]
        self._tokens = tokens
        self._offsets = memory_of(((item.reads(), item.out) for item in fused), storage_of(logits))
        self.activation_bytes = max(span.stop for span in self._offsets.values())
        # Never written here: of memory for the largest step, the system provides what a step touches.
        self._memory = torch.from_numpy(numpy.empty(self.activation_bytes + ALIGNMENT, numpy.uint8))
        self._base = -(-self._memory.data_ptr() // ALIGNMENT) * ALIGNMENT
        self._launches = (Launch * len(fused))()
        self._kept: list[object] = [launches]  # whatever the launches point to
        domains: dict[int, int] = {}
        for index, item in enumerate(fused):
            self._launches[index] = self._describe(item, domains)
        self._place_barriers(fused)
        start = self._base - self._memory.data_ptr() + self._offsets[storage_of(logits)].start
        nbytes = logits.numel() * logits.element_size()
        self._logits = self._memory[start : start + nbytes].view(logits.dtype).view(logits.shape)
        self._step = Step()
        self._library = native.loaded()

    def run(self, tokens: int, sequences: int, logit_rows: int) -> torch.Tensor:
        """Replay the step; returns its logits, (logit_rows, V), valid until the next run."""
        self._step.tokens = tokens
        self._step.sequences = sequences
        self._step.logit_rows = logit_rows
        self._library.run(self._launches, self._step)
        return self._logits[:logit_rows]

    def _describe(self, item: FusedLaunch, domains: dict[int, int]) -> Launch:
        launch = self._native(item.launch, item.out)
        launch.domain = self._domain(item, domains)
        domains[storage_of(item.out)] = launch.domain
        rows = cast(torch.Tensor, item.launch.inputs[0]) if item.launch.op.in_place else item.out
        launch.per_item = rows.shape[0] // self._tokens
        if item.before is not None:
            before = self._native(item.before, item.before.out)
            launch.before = ctypes.addressof(before)
            self._kept.append(before)
        if item.residual is not None:
            launch.residual = self._view(item.residual)
        return launch

    def _native(self, recorded: RecordedLaunch, out: torch.Tensor) -> Launch:
        return describe(recorded.op, recorded.kernel, recorded.inputs, out, recorded.parameters, self._view)

    def _view(self, tensor: torch.Tensor) -> TensorView:
        """Where it is; what is computed on the way of another launch is nowhere."""
        view = tensor_view(tensor)
        if tensor.is_meta and storage_of(tensor) in self._offsets:
            inside = tensor.storage_offset() * tensor.element_size()
            view.data = self._base + self._offsets[storage_of(tensor)].start + inside
        return view

    def _domain(self, item: FusedLaunch, domains: dict[int, int]) -> int:
        """What the rows of a launch count: logit rows from where these are selected on."""
        if item.launch.op.name == "select_rows":
            return LOGIT_ROWS
        return max((domains.get(storage_of(tensor), TOKENS) for tensor in item.reads()), default=TOKENS)

    def _place_barriers(self, fused: list[FusedLaunch]) -> None:
        """Before each launch that touches what one since the last barrier wrote, or writes what one read."""
        read: list[Span] = []
        written: list[Span] = []
        sharing = False
        for launch, item in zip(self._launches, fused, strict=True):
            reads = [self._span(tensor) for tensor in item.reads()]
            writes = self._span(item.out)
            shares = item.launch.op.name in SHARES_SCRATCH
            launch.barrier = (shares and sharing) or any(
                one.overlaps(other)
                for ours, theirs in ((reads, written), ([writes], written), ([writes], read))
                for one in ours
                for other in theirs
            )
            if launch.barrier:
                read, written, sharing = [], [], False
            read += reads
            written.append(writes)
            sharing = sharing or shares

    def _span(self, tensor: torch.Tensor) -> Span:
        if tensor.is_meta:
            span = self._offsets[storage_of(tensor)]
            return Span(self._base + span.start, self._base + span.stop)
        start = tensor.untyped_storage().data_ptr()
        return Span(start, start + tensor.untyped_storage().nbytes())
