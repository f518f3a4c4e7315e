"""The numerics policy: which arithmetic and which kernel for an Op, a shape class and a chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.kernel import Chip, Kernel
from pascaline.kernels.op import Op
from pascaline.workload.op_costs import Axes

Arithmetic = Literal["auto", "fp32"]
"""What kernels may multiply in: what suits the chip, or fp32 only."""


@dataclass(frozen=True)
class Alternative:
    """A kernel that was not chosen, and what it would have cost (None: not predicted)."""

    choice: str
    predicted_s: float | None


@dataclass(frozen=True)
class Decision:
    """What the policy chose for one Op, why, and what else there was."""

    op: str
    kernel: Kernel
    reason: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Policy:
    """Chooses among `kernels` for one chip. Nothing here names a card: kernels state their needs."""

    chip: Chip
    kernels: Sequence[Kernel]
    arithmetic: Arithmetic = "auto"

    def decide(self, op: Op, sizes: Axes) -> Decision:
        """The kernel for `op` at `sizes`.

        Raises
        ------
        UnsupportedError : no kernel for this Op runs on the chip; lists each one's reason.
        """
        usable: list[Kernel] = []
        refusals: list[str] = []
        for kernel in self.kernels:
            if kernel.ops != (op.name,):
                continue
            refusal = self._refusal(kernel)
            if refusal is None:
                usable.append(kernel)
            else:
                refusals.append(f"{kernel.name}: {refusal}")
        if not usable:
            raise UnsupportedError(
                f"no kernel computes {op.name} {dict(sizes)} on {self.chip.device}",
                expected="; ".join(refusals),
            )
        chosen, *others = usable
        reason = f"{chosen.arithmetic} arithmetic; " + (
            "the first of the usable kernels in order of preference"
            if others
            else "the only kernel for this op"
        )
        return Decision(op.name, chosen, reason, tuple(Alternative(other.name, None) for other in others))

    def _refusal(self, kernel: Kernel) -> str | None:
        if self.arithmetic == "fp32" and kernel.backend == "native":
            # All or none: two pools of threads on the same cores hold each other up.
            return "fp32 arithmetic was asked for, and the native library's linear rounds to 8 bits"
        return kernel.requires(self.chip)
