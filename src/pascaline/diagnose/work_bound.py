"""The most work that a run of unknown token count can have done, from what its memory could move."""

from __future__ import annotations

import msgspec

from pascaline.diagnose.run import MOST_WORK, Run
from pascaline.report.work_of_rows import with_work


def most_linear_flop_per_s(run: Run) -> float | None:
    """An upper bound of the rate of the layers' linears, or None where the record gives no hold.

    The gated activation of an MLP is bound by memory: its time times the bandwidth is the most bytes, hence
    the most tokens, that it can have seen.
    """
    bytes_per_s = run.chip.bytes_per_s if run.chip else None
    of_one_token = with_work(msgspec.structs.replace(run.record, tokens=1)).rows
    moved, flop, moving_s, linears_s = 0.0, 0.0, 0.0, 0.0
    for row in run.rows:
        work = of_one_token[row.index]
        row_flop = sum(work.flop_by_type.values())
        if row.row.op == "silu_and_mul" and 0 < (work.bytes or 0) < MOST_WORK:
            moved, moving_s = moved + (work.bytes or 0), moving_s + row.s
        elif row.is_linear and 0 < row_flop < MOST_WORK:
            flop, linears_s = flop + row_flop, linears_s + row.s
    if bytes_per_s is None or not moved or not linears_s:
        return None
    tokens = moving_s * bytes_per_s / moved
    return tokens * flop / linears_s
