"""A plan as the JSON object that `pascaline plan --json` prints: docs/reference/plan.md lists its fields."""

from __future__ import annotations

from typing import Any

import msgspec

from pascaline.plan.latency import OpDecision, Prediction
from pascaline.plan.planning import Plan


def describe(model: str, plan: Plan) -> dict[str, Any]:
    """All of it; `rows` are those of a `RunRecord`."""
    memory, placement = plan.memory, plan.placement
    return {
        "model": model,
        "gpu": placement.device.name,
        "fits": plan.fits,
        "weights_bytes": memory.weights_bytes,
        "kv_bytes_per_token": placement.kv_bytes_per_token,
        "kv_bytes": memory.kv_bytes,
        "activation_bytes": memory.activation_bytes,
        "runtime_bytes": memory.runtime_bytes,
        "total_bytes": memory.total_bytes,
        "available_bytes": placement.device.available_bytes,
        "usable_bytes": placement.device.usable_bytes,
        "context": plan.context,
        "concurrency": placement.sequences,
        "max_context": plan.max_context,
        "concurrent_users": plan.concurrent_users,
        "pages": memory.pages,
        "page_bytes": memory.page_bytes,
        "predicted": _predicted(plan),
        "decisions": [_decision(each) for phase in (plan.decode, plan.prefill) for each in phase.decisions],
        "what_would_fit": [
            {
                "change": each.change,
                "arguments": each.arguments,
                "saves_bytes": each.saves_bytes,
                "total_bytes": each.total_bytes,
                "costs": each.costs,
            }
            for each in plan.remedies
        ],
        "notes": [*plan.notes, *memory.notes],
        "rows": msgspec.to_builtins([*plan.prefill.rows, *plan.decode.rows]),
    }


def _predicted(plan: Plan) -> dict[str, Any]:
    """`decode_tokens_per_s` is of all sequences together; `bound_by` is decoding's."""
    decode, prefill, chip = plan.decode, plan.prefill, plan.target.chip
    return {
        "decode_tokens_per_s": decode.tokens_per_s,
        "decode_tokens_per_s_of_one_sequence": decode.tokens_per_s / decode.tokens,
        "prefill_tokens_per_s": prefill.tokens_per_s,
        "bound_by": decode.bound_by,
        "prefill_bound_by": prefill.bound_by,
        "bound_decode_tokens_per_s": _bound_tokens_per_s(decode),
        "bound_prefill_tokens_per_s": _bound_tokens_per_s(prefill),
        "prompt_tokens": prefill.tokens,
        "context": plan.speed_context,
        "first_token_s": prefill.seconds,
        "spread": chip.spread,
        "source": chip.source,
    }


def _bound_tokens_per_s(phase: Prediction) -> float:
    """What the chip's limits allow."""
    return phase.tokens / sum(row.bound_s or 0.0 for row in phase.rows)


def _decision(decision: OpDecision) -> dict[str, Any]:
    return {
        "op": decision.op,
        "phase": decision.phase,
        "weights": decision.weights,
        "choice": decision.choice,
        "reason": decision.reason,
        "predicted_s": decision.predicted_s,
        "alternatives": [
            {"choice": choice, "predicted_s": seconds} for choice, seconds in decision.alternatives
        ],
    }
