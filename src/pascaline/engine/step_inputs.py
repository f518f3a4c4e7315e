"""A step's input on a card: at the same addresses in every step, so that recorded launches read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy
import torch
from numpy.typing import NDArray

from pascaline.kv.step_batch import StepBatch
from pascaline.workload.limits import BUFFER_ALIGNMENT_BYTES

_TABLE = "page_table"
_STEPS_UNDER_WAY = 2
"""Of so many steps, the card may not have copied the inputs yet."""


@dataclass(frozen=True)
class Sizes:
    """Of a step, as it is launched: tokens, sequences, rows of logits."""

    tokens: int
    sequences: int
    logit_rows: int

    @property
    def decodes(self) -> bool:
        """Whether each sequence has one token and wants its logits."""
        return self.tokens == self.sequences == self.logit_rows


class StepInputs:
    """Buffers for the largest batch, filled from memory that the card copies from while the host goes on.

    All but the page table is one piece, and one copy; the table is copied where it has changed.

    Parameters
    ----------
    largest : sizes to have room for; `pages` columns of the page table.
    """

    def __init__(self, largest: Sizes, pages: int, device: torch.device) -> None:
        like = StepBatch.of_sizes(largest.tokens, largest.sequences, pages)
        self._small = {
            item.name: getattr(like, item.name).to("meta") for item in fields(like) if item.name != _TABLE
        }
        self._starts: dict[str, int] = {}
        end = 0
        for name, tensor in self._small.items():
            self._starts[name] = end
            end += -(-tensor.nbytes // BUFFER_ALIGNMENT_BYTES) * BUFFER_ALIGNMENT_BYTES
        is_card = device.type == "cuda"
        self._staged = [
            torch.zeros(end, dtype=torch.uint8, pin_memory=is_card) for _ in range(_STEPS_UNDER_WAY)
        ]
        self._small_on_card = torch.zeros(end, dtype=torch.uint8, device=device)
        table = (largest.sequences, pages)
        self._tables = [
            torch.zeros(table, dtype=torch.int32, pin_memory=is_card) for _ in range(_STEPS_UNDER_WAY)
        ]
        self._table_on_card = torch.zeros(table, dtype=torch.int32, device=device)
        self._last_table: NDArray[numpy.int32] = numpy.zeros((0, 0), numpy.int32)
        self._turn = 0
        self._copied: list[torch.cuda.Event] = []
        """Behind the copies of each turn, on a card: a prompt's chunk has no result to wait for."""
        if is_card:
            self._copied = [torch.cuda.Event() for _ in self._staged]  # type: ignore[no-untyped-call]
        self._host = [
            {name: self._part(memory, name).numpy() for name in self._small} for memory in self._staged
        ]

    @property
    def token_ids(self) -> torch.Tensor:
        """All of the card's buffer of token ids."""
        return self._part(self._small_on_card, "token_ids")

    def views(self, sizes: Sizes) -> StepBatch:
        """The card's buffers, as batches of such sizes are read."""
        lengths = {
            **dict.fromkeys(("token_ids", "positions", "slots"), sizes.tokens),
            "query_start": sizes.sequences + 1,
            "context_lengths": sizes.sequences,
            "logit_rows": sizes.logit_rows,
        }
        small = {name: self._part(self._small_on_card, name)[:length] for name, length in lengths.items()}
        return StepBatch(page_table=self._table_on_card[: sizes.sequences], **small)

    def put(self, batch: StepBatch, sizes: Sizes) -> None:
        """Have a batch of the CPU copied, padded to `sizes` by tokens without a place and empty sequences."""
        self._turn = (self._turn + 1) % _STEPS_UNDER_WAY
        if self._copied:
            self._copied[self._turn].synchronize()
        host = self._host[self._turn]
        tokens, sequences, rows = (
            len(batch.token_ids),
            len(batch.context_lengths),
            len(batch.logit_rows),
        )
        for name, count, padded, padding in (
            ("token_ids", tokens, sizes.tokens, 0),
            ("positions", tokens, sizes.tokens, 0),
            ("slots", tokens, sizes.tokens, -1),
            ("query_start", sequences + 1, sizes.sequences + 1, tokens),
            ("context_lengths", sequences, sizes.sequences, 0),
            ("logit_rows", rows, sizes.logit_rows, 0),
        ):
            host[name][:count] = getattr(batch, name).numpy()
            host[name][count:padded] = padding
        self._small_on_card.copy_(self._staged[self._turn], non_blocking=True)
        self._put_table(batch.page_table.numpy())
        if self._copied:
            self._copied[self._turn].record()

    def _put_table(self, table: NDArray[numpy.int32]) -> None:
        # PERF: in most steps no sequence has got a page: 512 KB that need not be copied.
        if numpy.array_equal(table, self._last_table):
            return
        self._last_table = table
        staged = self._tables[self._turn][: len(table)]
        staged.numpy()[:, : table.shape[1]] = table
        self._table_on_card[: len(table)].copy_(staged, non_blocking=True)

    def _part(self, memory: torch.Tensor, name: str) -> torch.Tensor:
        like = self._small[name]
        start = self._starts[name]
        part = memory[start : start + math.prod(like.shape) * like.element_size()]
        return part.view(like.dtype)
