"""How threads wait."""

from __future__ import annotations

import os

SPIN_COUNT = "4000"


def yield_when_idle() -> None:
    """Let idle OpenMP threads sleep after some 0.1 ms instead of milliseconds; before torch is imported.

    GNU's OpenMP, which torch brings, lets threads spin 300 000 times at a barrier. Alone on the
    machine that gains some 7 % of a decode step; beside other work each barrier burns a time slice,
    and a step has thousands: 3 to 10 times slower at a load of 6 on 2 cores. A user's own
    GOMP_SPINCOUNT or OMP_WAIT_POLICY is respected.
    Source: the libgomp manual, GOMP_SPINCOUNT.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
