"""torch: whether it is there, has code for the card, and runs on it.

torch's binaries hold machine code for some architectures only; on another card the first kernel ends with
"no kernel image is available for execution on the device". Code of one major version runs on higher minor
ones (6.0 on 6.1), PTX on all newer cards. torch 2.7.1 is the last default build for Maxwell and Pascal,
2.10.0 the last for Volta and for drivers before 580. torch is imported by another process.
"""

from __future__ import annotations

from collections.abc import Iterator

from pascaline.doctor.cards import cards, dotted, driver_name, driver_version, right_torch
from pascaline.doctor.check import Check, Finding, fail, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import install_torch, system_packages
from pascaline.doctor.torch_facts import TorchFacts, torch_facts
from pascaline.hardware.torch_builds import CUDA_13_DRIVER, OLDEST_CAPABILITY, has_code_for


def _look(machine: Machine) -> Iterator[Finding]:
    facts, choice = torch_facts(machine), right_torch(machine)
    expected, remedy = f"{choice.requirement} ({choice.reason})", install_torch(machine, choice)
    if facts.error is not None:
        yield _broken(machine, facts.error, expected, remedy)
        return
    seen = f"torch {facts.version}, built for {f'CUDA {facts.cuda}' if facts.cuda else 'the CPU'}"
    usable = [card for card in cards(machine) if card.capability >= OLDEST_CAPABILITY]
    if not usable:
        yield ok(seen, expected)
        return
    if facts.cuda is None:
        yield fail(f"{seen}, but there is a card: {usable[0].name}", expected, remedy)
        return
    version = driver_version(machine)
    if facts.cuda.startswith("13") and version and version[0] < CUDA_13_DRIVER:
        yield fail(f"{seen}, which driver {driver_name(machine)} does not run", expected, remedy)
        return
    unused = [note for note in choice.notes if "is not used" in note]
    for note in unused:
        yield warn(note, expected, _hide(machine, unused))
    without = [
        card
        for card in usable
        if not has_code_for(facts.architectures, card.capability)
        and not any(card.name in note for note in unused)
    ]
    for card in without:
        built = ", ".join(facts.architectures)
        seen_there = f"{seen}, has code for {built}: none for {card.name} ({dotted(card.capability)})"
        yield fail(seen_there, expected, remedy)
    if not without:
        yield _tried(machine, facts, unused, seen, expected, remedy)


def _hide(machine: Machine, unused: list[str]) -> str:
    """No torch serves all the cards: show it those that it does serve."""
    gpus = machine.gpus().gpus
    served = [str(gpu.index) for gpu in gpus if not any(gpu.name in note for note in unused)]
    return f"export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={','.join(served)}"


def _broken(machine: Machine, error: str, expected: str, remedy: str) -> Finding:
    if machine.package("torch") is None:
        return fail("torch is not installed", expected, remedy)
    if "GLIBC" in error and "not found" in error:
        return fail(f"torch does not import: {error}", expected, "# see libstdcxx")
    if "undefined symbol" in error and machine.environ.get("LD_LIBRARY_PATH"):
        seen = f"torch does not import: {error}; LD_LIBRARY_PATH puts other libraries before its own"
        return fail(seen, expected, "unset LD_LIBRARY_PATH")
    if "libgomp" in error:
        packages = system_packages(machine, debian="libgomp1", fedora="libgomp", arch="gcc-libs")
        return fail(f"torch does not import: {error}", expected, packages)
    return fail(f"torch does not import: {error}", expected, remedy)


def _tried(
    machine: Machine, facts: TorchFacts, unused: list[str], seen: str, expected: str, remedy: str
) -> Finding:
    failures = [
        f"card {index}: {said}"
        for index, said in enumerate(facts.tried)
        if said != "ok" and not (unused and "no kernel image" in said)
    ]
    if failures:
        return fail(f"{seen}; a small computation ends with: {'; '.join(failures)}", expected, remedy)
    if not facts.available and "CUDA_VISIBLE_DEVICES" not in machine.environ:
        return fail(f"{seen}, and sees no card: {facts.device_error or 'no reason given'}", expected, remedy)
    return ok(f"{seen}; a small computation ran on {facts.tried.count('ok')} of its cards", expected)


CHECK = Check("torch", _look)
