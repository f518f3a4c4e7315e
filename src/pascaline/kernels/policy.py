"""The numerics policy: which arithmetic and which kernel for an Op, a shape class and a chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.kernel import Chip, Kernel
from pascaline.kernels.op import Axes, Op


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
            refusal = kernel.requires(self.chip)
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
