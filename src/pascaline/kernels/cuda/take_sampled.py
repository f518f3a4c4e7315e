"""Launches of take_sampled.cu: tokens that the step before has chosen, and that the host does not know."""

from __future__ import annotations

from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation

_THREADS = 128


def plan_take_sampled(tokens: int) -> LaunchPlan:
    """Buffers: "token_ids" (tokens,) int64, overwritten in place, and "sampled" int64."""
    return LaunchPlan(
        Specialisation("take_sampled.cu", "take_sampled", ()),
        grid=(-(-tokens // _THREADS), 1, 1),
        block=(_THREADS, 1, 1),
        arguments=("token_ids", "sampled", Integer(tokens)),
        begins_early=True,
    )
