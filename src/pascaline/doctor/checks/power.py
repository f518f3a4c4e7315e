"""Power, clocks and what holds them down.

Heat, a weak power supply or a lowered limit keep the clock below what the card can do; application clocks do
so on purpose (Tesla cards come with them). Idle clocks are normal and not reported.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.core.errors import UnknownGpuError
from pascaline.doctor.cards import NO_CARD
from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import sudo
from pascaline.hardware.gpus import find_gpu
from pascaline.hardware.probe import InstalledGpu

_HEAT = {"software thermal slowdown", "hardware thermal slowdown"}
_SUPPLY = {"hardware power brake", "hardware slowdown"}
_APPLICATION_CLOCKS = "application clocks setting"
_LOWERED = 0.8
"""A limit below this share of the card's own costs speed that is felt."""
_EXPECTED = "nothing but idleness and the card's own power limit holding the clock down"


def _look(machine: Machine) -> Iterator[Finding]:
    gpus = machine.gpus().gpus
    if not gpus:
        yield ok(NO_CARD, _EXPECTED)
    for gpu in gpus:
        yield from _examine(machine, gpu)


def _examine(machine: Machine, gpu: InstalledGpu) -> Iterator[Finding]:
    name, reasons = f"card {gpu.index} ({gpu.name})", set(gpu.throttle_reasons)
    smi = f"nvidia-smi -i {gpu.index}"
    hot = sorted(reasons & _HEAT)
    if hot:
        at = f" at {gpu.temperature_c} °C" if gpu.temperature_c is not None else ""
        remedy = f"{smi} -q -d TEMPERATURE\n# then clean the cooler, or give a passive card a fan"
        yield warn(f"{name} is slowed by heat{at} ({', '.join(hot)})", _EXPECTED, remedy)
    weak = sorted(reasons & _SUPPLY)
    if weak and not hot:
        remedy = f"{smi} -q -d POWER,PERFORMANCE\n# then check the card's power cables and the power supply"
        yield warn(f"{name} is slowed by its power supply ({', '.join(weak)})", _EXPECTED, remedy)
    if _APPLICATION_CLOCKS in reasons and gpu.max_sm_mhz and gpu.max_memory_mhz:
        remedy = sudo(machine, f"{smi} -ac {gpu.max_memory_mhz},{gpu.max_sm_mhz}")
        seen = f"{name}: application clocks hold it at {gpu.sm_mhz} of {gpu.max_sm_mhz} MHz"
        yield warn(seen, _EXPECTED, remedy)
    usual_w = _usual_power_w(gpu)
    if usual_w and gpu.power_limit_w and gpu.power_limit_w < _LOWERED * usual_w:
        seen = f"{name}: power limit {gpu.power_limit_w:.0f} W, the card is made for {usual_w:.0f} W"
        yield warn(seen, _EXPECTED, sudo(machine, f"{smi} -pl {usual_w:.0f}"))
    yield ok(_summary(name, gpu), _EXPECTED)


def _usual_power_w(gpu: InstalledGpu) -> float | None:
    memory_gib = None if gpu.memory_bytes is None else gpu.memory_bytes / (1 << 30)
    try:
        return find_gpu(gpu.name, memory_gib=memory_gib, sms=gpu.sms).power_w
    except UnknownGpuError:
        return None


def _summary(name: str, gpu: InstalledGpu) -> str:
    parts = []
    if gpu.power_w is not None and gpu.power_limit_w is not None:
        parts.append(f"{gpu.power_w:.0f} of {gpu.power_limit_w:.0f} W")
    if gpu.sm_mhz is not None and gpu.max_sm_mhz is not None:
        parts.append(f"{gpu.sm_mhz} of {gpu.max_sm_mhz} MHz")
    if gpu.performance_state is not None:
        parts.append(f"state P{gpu.performance_state}")
    if gpu.ecc is not None:
        parts.append(f"ECC {'on' if gpu.ecc else 'off'}")
    if gpu.persistence_mode is not None:
        parts.append(f"persistence {'on' if gpu.persistence_mode else 'off'}")
    return f"{name}: {', '.join(parts) or 'it does not tell'}"


CHECK = Check("power", _look)
