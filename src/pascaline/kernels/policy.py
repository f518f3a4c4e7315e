"""The numerics policy: which arithmetic and which kernel for an Op, a shape class and a chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pascaline.core.errors import UnsupportedError
from pascaline.core.units import format_seconds
from pascaline.kernels.kernel import Backend, Chip, Kernel
from pascaline.kernels.levels import Level, is_within
from pascaline.kernels.op import Op
from pascaline.workload.op_costs import Axes

Arithmetic = Literal["auto", "fp32", "exact", "fast"]
"""What kernels may multiply in: the default, fp32 only, whatever errs no more than fp16 storage does
("exact": 16-bit integers, tensor cores), or 8-bit inputs too ("fast")."""

ARITHMETICS: tuple[Arithmetic, ...] = ("auto", "fp32", "exact", "fast")

_AUTO: Mapping[Backend, Level] = {"torch": "exact", "native": "fast", "cuda": "rounded"}
"""The least exact level that "auto" takes of each backend: docs/decisions/0014 and 0018 say what it costs."""

_TOO_COARSE: Mapping[Level, str] = {
    "rounded": "it rounds inputs to the weight's own type, which exact arithmetic does not",
    "fast": "it rounds inputs to 8 bits, which is left to fast arithmetic",
}
"""Why a kernel of a level is not taken."""

ALIKE = 1.02
"""Times that are nearer to each other than this are the same: then exactness decides."""


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
    predicted_s: float | None = None


@dataclass(frozen=True)
class Policy:
    """Chooses among `kernels` for one chip. Nothing here names a card: kernels state their needs.

    The fastest by prediction is taken, or of those that are as fast the first, which is the most exact; where
    nothing is predicted, kernels stand in order of preference.
    """

    chip: Chip
    kernels: Sequence[Kernel]
    arithmetic: Arithmetic = "auto"

    def decide(self, op: Op, sizes: Axes, operands: tuple[object, ...] = ()) -> Decision:
        """The kernel for `op` at `sizes`, of `operands` where they are known.

        Raises
        ------
        UnsupportedError : no kernel for this Op runs on the chip; lists each one's reason.
        """
        usable: list[Kernel] = []
        refusals: list[str] = []
        for kernel in self.kernels:
            if kernel.ops != (op.name,):
                continue
            refusal = self._refusal(kernel) or (kernel.takes(sizes, operands) if operands else None)
            if refusal is None:
                usable.append(kernel)
            else:
                refusals.append(f"{kernel.name}: {refusal}")
        if not usable:
            raise UnsupportedError(
                f"no kernel computes {op.name} {dict(sizes)} on {self.chip.device}",
                expected="; ".join(refusals),
            )
        if len(usable) == 1:
            return Decision(op.name, usable[0], f"{usable[0].arithmetic} arithmetic; {_only(refusals)}", ())
        if operands and self.chip.roofline is not None and any(each.predicted_s for each in usable):
            return self._fastest(op, sizes, operands, usable)
        chosen, *others = usable
        reason = f"{chosen.arithmetic} arithmetic; the first of the usable kernels in order of preference"
        return Decision(op.name, chosen, reason, tuple(Alternative(other.name, None) for other in others))

    def _fastest(
        self, op: Op, sizes: Axes, operands: tuple[object, ...], usable: Sequence[Kernel]
    ) -> Decision:
        predicted = [
            (each.predicted_s(self.chip, sizes, operands), each) for each in usable if each.predicted_s
        ]
        least_s = min(seconds for seconds, _ in predicted)
        chosen_s, chosen = next(pair for pair in predicted if pair[0] <= ALIKE * least_s)
        others = sorted(((s, each.name) for s, each in predicted if each is not chosen))
        alternatives = [Alternative(name, seconds) for seconds, name in others]
        alternatives += [Alternative(each.name, None) for each in usable if not each.predicted_s]
        if chosen_s > least_s:
            why = f"as fast as {others[0][1]}, and more exact"
        elif others:
            why = f"the fastest: {others[0][1]} would take {format_seconds(others[0][0])}"
        else:
            why = "the only one whose time is known"
        reason = f"{chosen.arithmetic} arithmetic, {format_seconds(chosen_s)} predicted; {why}"
        return Decision(op.name, chosen, reason, tuple(alternatives), chosen_s)

    def _refusal(self, kernel: Kernel) -> str | None:
        level: Level = "fast" if self.arithmetic == "fast" else "exact"
        if self.arithmetic == "auto":
            level = _AUTO[kernel.backend]
        if level == "exact" and kernel.backend == "native":
            # All or none: two pools of threads on the same cores hold each other up.
            asked = f"{self.arithmetic} arithmetic was asked for"
            return f"{asked}, and the native library's linear rounds to 8 bits"
        if not is_within(kernel.level, level):
            return _TOO_COARSE[kernel.level]
        if self.arithmetic == "fp32" and kernel.arithmetic != "fp32":
            return f"fp32 arithmetic was asked for, and it multiplies in {kernel.arithmetic}"
        return kernel.requires(self.chip)


def _only(refusals: Sequence[str]) -> str:
    return "the only kernel for this op" if not refusals else f"the only one usable ({'; '.join(refusals)})"
