"""The card runs far below its clock

## Pattern
Everything that computes is slower than on the same card elsewhere, by the same factor.

## Evidence
The SM clock measured during the run is below 85 % of the card's listed boost clock.

## Cause
Heat (a passively cooled card without a fan), a power limit, a power cable or supply that the driver does
not trust, a clock limit that somebody set, or a power state that never rose because the run was too
short.

## Remedy
`nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER` says which: "SW Power Cap" (`nvidia-smi -pl WATT`),
"Thermal Slowdown" (air), "Power Brake" (supply), application clocks (`nvidia-smi -rac`, `nvidia-smi
-rgc`). Tesla cards need air blown through them.

## Saving
For rows bound by arithmetic: their time × (1 − measured clock ÷ boost clock). Memory keeps its own clock.

## References
- https://github.com/rammsguns/llm-rig/issues/100 (RTX A4000: 628 MHz sustained)
- https://github.com/ashalliants/ninfer-3090/pull/72 (RTX 3090: 1635 MHz at its power limit)
"""

from __future__ import annotations

from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.names import last_names
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.report.numbers import seconds, share

_SAGGED = 0.85


def check(run: Run) -> Found | None:
    """A measured clock far below the listed one."""
    chip = run.chip
    if chip is None or chip.gpu is None or not chip.measured_clock_mhz:
        return None
    reached = chip.measured_clock_mhz / chip.gpu.boost_mhz
    if reached >= _SAGGED:
        return None
    rows = [row for row in run.rows if row.whole_s > 0 and _is_bound_by_arithmetic(row, chip)]
    savings = tuple(Saving(row.index, None, row.whole_s * (1 - reached)) for row in rows)
    whole_s = sum(row.whole_s for row in rows)
    power = run.record.gpu.power_w if run.record.gpu else None
    temperature = run.record.gpu.temperature_c if run.record.gpu else None
    evidence = [
        f"{chip.name} ran at {chip.measured_clock_mhz:.0f} MHz, {share(reached, 1)} of its listed boost"
        f" clock, {chip.gpu.boost_mhz} MHz."
    ]
    if power is not None:
        evidence.append(f"It drew {power:.0f} W of {chip.gpu.power_w:.0f} W.")
    if temperature is not None:
        evidence.append(f"It was {temperature:.0f} °C warm.")
    if rows:
        evidence.append(
            f"{last_names(rows)} are bound by arithmetic: {seconds(whole_s)} × (1 − {reached:.2f}) ="
            f" {seconds(whole_s * (1 - reached))}."
        )
    return Found(
        evidence=" ".join(evidence),
        cause="The card is throttled: heat, a power or clock limit, or its supply.",
        remedy=(
            "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER names the limit; then more air, nvidia-smi -pl"
            " WATT, or nvidia-smi -rgc and -rac to take clock limits away."
        ),
        savings=savings,
        modules=tuple(row.row.module for row in rows),
    )


def _is_bound_by_arithmetic(row: MeasuredRow, chip: Chip) -> bool:
    if row.row.bound_by is not None:
        return row.row.bound_by == "compute"
    if not row.whole_flop or not row.whole_bytes or not chip.bytes_per_s:
        return False
    rate = chip.roof("tensor_fp16") if chip.has_tensor_cores else chip.roof("fp32")
    return rate is not None and rate > 0 and row.whole_flop / rate > row.whole_bytes / chip.bytes_per_s


RULE = Rule("PAS015", "clock-sag", check)
