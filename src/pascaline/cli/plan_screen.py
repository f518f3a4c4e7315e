"""A plan on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pascaline.cli.output import open_console, say
from pascaline.core.units import format_bytes, format_number
from pascaline.report.numbers import seconds, share

if TYPE_CHECKING:
    from rich.console import Console

    from pascaline.plan.latency import OpDecision
    from pascaline.plan.planning import Plan

_BAR_CELLS = 48
_PLAIN_WIDTH = 110
_SHOWN = 3
_BOUND = {"memory": "memory bandwidth", "compute": "arithmetic", "latency": "launches"}


def show(model: str, plan: Plan) -> None:
    """Print it: fits or not, where the memory goes, speeds, decisions, and what would fit."""
    console = open_console(_PLAIN_WIDTH)
    device = plan.placement.device
    where = "this machine's CPU" if device.kind == "cpu" else device.name
    verdict, style = ("fits", "bold green") if plan.fits else ("does not fit", "bold red")
    say(console, f"{model} {verdict} on {where}", style)
    _show_memory(console, plan)
    _show_context(console, plan)
    _show_speed(console, plan)
    _show_decisions(console, plan)
    if plan.remedies:
        say(console, "\nThe smallest changes that make it fit:")
        for remedy in plan.remedies:
            saved = f"−{format_bytes(remedy.saves_bytes)}, " if remedy.saves_bytes else ""
            say(console, f"  {remedy.arguments:<28} {remedy.change}: {saved}{remedy.costs}")
    notes = [*plan.notes, *plan.memory.notes]
    if notes:
        say(console, "")
    for note in notes:
        say(console, f"Note: {note}.", "dim")


def _show_memory(console: Console, plan: Plan) -> None:
    from rich.text import Text

    memory, device = plan.memory, plan.placement.device
    parts = (
        ("weights", memory.weights_bytes, "█", "cyan"),
        ("KV cache", memory.kv_bytes, "▓", "magenta"),
        ("activations", memory.activation_bytes, "▒", "yellow"),
        ("runtime", memory.runtime_bytes, "░", "blue"),
    )
    whole = max(device.usable_bytes, memory.total_bytes)
    bar = Text("  ")
    filled = taken = 0
    for _, nbytes, cell, style in parts:
        taken += nbytes
        cells = round(_BAR_CELLS * taken / whole) - filled
        bar.append(cell * cells, style=style)
        filled += cells
    bar.append("·" * (_BAR_CELLS - filled), style="dim")
    bar.append(f"  {format_bytes(memory.total_bytes)} of {format_bytes(device.usable_bytes)}")
    console.print(bar, highlight=False)
    line = Text("")
    for name, nbytes, cell, style in parts:
        line.append(f"  {cell} ", style=style)
        line.append(f"{name} {format_bytes(nbytes)}")
    console.print(line, highlight=False)
    say(
        console,
        f"  {share(device.utilization)} of the {format_bytes(device.available_bytes)} that are "
        + ("free now" if device.is_free_now else "the card's, less what its driver keeps"),
        "dim",
    )


def _show_context(console: Console, plan: Plan) -> None:
    sequences = plan.placement.sequences
    whose = "one sequence" if sequences == 1 else f"each of {sequences} sequences"
    own = plan.placement.config.context_length
    say(
        console,
        f"\nContext  {plan.context} tokens for {whose}; {_most(plan)} (the model's own: {own}). "
        f"{_users(plan)}\n"
        f"         A token takes {format_bytes(plan.placement.kv_bytes_per_token)} of keys and values.",
    )


def _most(plan: Plan) -> str:
    return f"at most {plan.max_context} for one" if plan.max_context else "no useful one fits"


def _users(plan: Plan) -> str:
    users = plan.concurrent_users
    return f"{users} of {plan.context} fit at once." if users else f"None of {plan.context} fits."


def _show_speed(console: Console, plan: Plan) -> None:
    decode, prefill = plan.decode, plan.prefill
    each = "" if decode.tokens == 1 else f" ({format_number(decode.tokens_per_s / decode.tokens)} each)"
    spread = plan.target.chip.spread
    say(
        console,
        f"\nDecode   {format_number(decode.tokens_per_s)} tokens/s{each} at a context of "
        f"{plan.speed_context}, bound by {_BOUND[decode.bound_by]}\n"
        f"Prompt   {format_number(prefill.tokens_per_s)} tokens/s, bound by {_BOUND[prefill.bound_by]}: "
        f"the first token of {plan.speed_context} after {seconds(prefill.seconds)}\n"
        f"         modelled, ± {100 * spread:.0f} %",
    )


def _show_decisions(console: Console, plan: Plan) -> None:
    every = [each for phase in (plan.prefill, plan.decode) for each in phase.decisions]
    linears = sorted((each for each in every if each.op == "linear"), key=lambda each: -each.predicted_s)
    chosen: dict[str, OpDecision] = {}
    for decision in linears:  # the costliest of each phase, then the next
        chosen.setdefault(decision.phase, decision)
    rest = [each for each in linears if each not in chosen.values()]
    say(console, "\nDecided")
    for decision in [*chosen.values(), *rest][:_SHOWN]:
        others = ", ".join(f"{name} {seconds(s)}" for name, s in decision.alternatives[:3])
        taken = f"{decision.choice} {seconds(decision.predicted_s)}"
        say(
            console,
            f"  {decision.phase}, {decision.weights}: {taken}"
            + (f" (instead of {others})" if others else "")
            + f"\n    {decision.reason}",
        )
