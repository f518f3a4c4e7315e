"""What a rule finds, and what the user is told."""

from __future__ import annotations

from dataclasses import dataclass

BETWEEN_ROWS = -1
"""In `Saving.row`: time of the run that no row accounts for, as when the card waits for launches."""


@dataclass(frozen=True)
class Saving:
    """Time that a remedy takes off one row, or off one kernel of it.

    Parameters
    ----------
    row : its position in the record, or `BETWEEN_ROWS`.
    kernel : its name, or None for the whole row.
    saves_s : with the sibling layers that the row stands for.
    """

    row: int
    kernel: str | None
    saves_s: float


@dataclass(frozen=True)
class Found:
    """A rule's answer for one cause.

    Parameters
    ----------
    evidence : what was measured, in numbers with units, and the arithmetic of the saving.
    cause, remedy : why, and what to do: a setting or command where the engine has one.
    savings : row by row; empty where nothing can be predicted, as of a run that failed.
    modules, kernels : what is affected; by default those of the savings. Empty: the whole run.
    """

    evidence: str
    cause: str
    remedy: str
    savings: tuple[Saving, ...] = ()
    modules: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One cause with everything that it explains.

    Parameters
    ----------
    code, slug, title : of the rule ("PAS001", "half-arithmetic-without-units", its page's heading).
    saves_s : what the remedy saves of the run, in all of its modules and their unrecorded sibling
        layers; None where it cannot be told.
    predicted_total_s : the run with this remedy alone.
    """

    code: str
    slug: str
    title: str
    modules: tuple[str, ...]
    kernels: tuple[str, ...]
    evidence: str
    cause: str
    remedy: str
    saves_s: float | None
    predicted_total_s: float | None
