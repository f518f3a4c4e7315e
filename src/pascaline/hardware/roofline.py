"""The time that a chip cannot beat.

Source: Williams, Waterman and Patterson 2009, Roofline: an insightful visual performance model,
Communications of the ACM 52.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BoundBy = Literal["compute", "memory", "latency"]


@dataclass(frozen=True)
class Roofline:
    """What limits a computation on one chip, in operations and bytes a second.

    Parameters
    ----------
    name : of the card or processor.
    kind : which of our backends it is.
    compute_capability : None for a CPU.
    operations_per_s : by `Arithmetic`, a multiply-add counting 2; what is absent is not there.
    bytes_per_s : of its memory.
    memory_bytes : capacity, as the driver or system states it.
    launch_s : least time from one launch to the next.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    compute_capability: str | None
    operations_per_s: Mapping[str, float]
    bytes_per_s: float
    memory_bytes: int
    launch_s: float

    def bound(self, flop_by_type: Mapping[str, float], moved_bytes: float) -> tuple[float, BoundBy]:
        """The least time for so much arithmetic and memory traffic, and which of the two sets it.

        Units of different types are fed by the same schedulers: their times add.
        """
        compute_s = sum(
            amount / rate
            for kind, amount in flop_by_type.items()
            if (rate := self.operations_per_s.get(kind, 0.0)) > 0
        )
        memory_s = moved_bytes / self.bytes_per_s
        return (compute_s, "compute") if compute_s > memory_s else (memory_s, "memory")
