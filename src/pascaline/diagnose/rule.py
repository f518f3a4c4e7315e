"""What a rule is: a name and a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pascaline.diagnose.finding import Found
from pascaline.diagnose.run import Run


@dataclass(frozen=True)
class Rule:
    """One cause of slowness or failure, in a file of its own.

    The file's docstring is the rule's page (docs/rules/<slug>.md): its first line the title, then the
    pattern, the evidence, the cause, the remedy, the arithmetic of the saving, and references.

    Parameters
    ----------
    code, slug : both stable: users search for them.
    check : what is found in a run, or None. It looks at `run.rows` only, from which the rows of
        stronger causes were taken away, so that no time is saved twice.
    is_last_resort : asked only of what no other rule explains.
    """

    code: str
    slug: str
    check: Callable[[Run], Found | None]
    is_last_resort: bool = False
