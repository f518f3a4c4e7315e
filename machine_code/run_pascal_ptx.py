"""What a Pascal would run, run on a newer card, against fp64: every form of weights, and the rest of a step.

    python machine_code/run_pascal_ptx.py list              # names of all cases
    python machine_code/run_pascal_ptx.py prepare FOLDER    # needs NVRTC 12, no card
    python machine_code/run_pascal_ptx.py run FOLDER [--output FILE]    # needs a card, no NVRTC

Plans are those for a Titan X (Pascal): 28 multiprocessors, 48 KiB of shared memory a block. Inputs of linears
are log-normal, the others those of step_cases.py; outputs are poisoned and have margins that must stay as
they are. Prints one line a case and writes FILE (FOLDER/results.json). A kernel that breaks the card's
context, or the process, fails alone: the rest goes on in another process. Exit code 1: something is wrong;
2: FOLDER was prepared from other sources.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Collection, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "numerics"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "host_shim"))

from gpu_card import GpuCard
from harness.card_session import PoisonedError
from linears.cases import MOST_ERROR
from linears.measure import Case
from linears.our_recipes import recipes
from linears.our_ways import WeightCopies, our_way
from linears.weights import log_normal_inputs
from pascal_ptx import PascalKernels, missing_from, write_ptx
from step_cases import StepCase, step_cases

from pascaline.cli.ending import run
from pascaline.cli.interrupts import uninterrupted
from pascaline.core.errors import CompileError, ConfigError
from pascaline.core.files import write_atomically
from pascaline.engine.device import settle_device
from pascaline.kernels.cuda.specialisation import ChipLimits, Specialisation
from pascaline.kernels.packed_cases import PACKED_FORMS, random_packed
from pascaline.weights import Packed
from pascaline.weights.slab_layout import to_slabs

_CHIP = ChipLimits((6, 1), 28)
_FILE, _RESULTS = "kernels.zip", "results.json"
_OUTPUTS, _COLUMNS = 396, 1280  # outputs off the tile; whole super-blocks of 256
_EVERY_ROWS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 100)
_FEW_ROWS = (2, 33)
_ALL_ROWS_OF = ("Q4_0", "GPTQ 4 bits")
_MARGIN = 1.25
"""Errors vary by so much at these small sizes around what is promised of large ones."""
_MOST_PROCESSES = 10
"""Kernels that may break one each; after so many the card is not trusted any more."""
_MOST_SECONDS = 120
"""Between two products, or for the driver to compile all: then a kernel does not come to an end."""

Product = tuple[int, str]
"""The index of a linear's case, or `_STEP`, and a name."""
_STEP = -1


def main() -> int:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("list", "prepare", "run"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.what == "list":
        for name in _names():
            print(name)
        return 0
    if given.folder is None:
        parser.error(f"{given.what} needs a folder")
    if given.what == "prepare":
        return _prepare(given.folder)
    return _run(given.folder, given.output or given.folder / _RESULTS)


def _cases() -> Iterator[tuple[str, int, Packed]]:
    for name, form in PACKED_FORMS.items():
        weight = random_packed(form, _OUTPUTS, _COLUMNS, torch.Generator().manual_seed(3))
        for rows in _EVERY_ROWS if name in _ALL_ROWS_OF else _FEW_ROWS:
            yield name, rows, weight


def _names() -> Iterator[str]:
    for name, rows, weight in _cases():
        for named in recipes(to_slabs(weight), rows, _CHIP)[0]:
            yield f"{name}, M = {rows}, {named.name}"
    for case in step_cases(_CHIP):
        yield case.name


def _wanted() -> tuple[dict[Specialisation, None], dict[str, str]]:
    """All kernels of all cases, and families that have no plan by a mistake."""
    wanted: dict[Specialisation, None] = {}
    failed: dict[str, str] = {}
    for name, rows, weight in _cases():
        found, unavailable = recipes(to_slabs(weight), rows, _CHIP)
        failed |= {f"{name}, M = {rows}, {family}": reason for family, reason in unavailable.items()}
        wanted |= {plan.specialisation: None for named in found for plan in named.recipe.plans}
    wanted |= {plan.specialisation: None for case in step_cases(_CHIP) for plan in case.plans}
    return wanted, failed


def _prepare(folder: Path) -> int:
    wanted, failed = _wanted()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{len(wanted)} kernels are compiled, which takes a few minutes", flush=True)
        failed |= write_ptx(wanted, folder / _FILE)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}", remedy="Name a folder that can"
        ) from None
    for what, reason in failed.items():
        print(f"FAILED {what}: {reason}")
    print(f"{len(wanted)} kernels, {(folder / _FILE).stat().st_size / 1e6:.1f} MB")
    return 1 if failed else 0


def _run(folder: Path, output: Path) -> int:
    wanted, failed = _wanted()
    missing = missing_from(folder / _FILE, wanted)
    if missing:
        files = ", ".join(sorted({each.file for each in missing}))
        print(
            f"{folder / _FILE} is stale: {len(missing)} of {len(wanted)} kernels ({files}) are of other "
            "sources or plans; prepare it again. Nothing was launched",
            file=sys.stderr,
        )
        return 2
    settle_device("cuda")  # or other processes would fail
    results: list[dict[str, Any]] = [{"case": case, "failed": reason} for case, reason in failed.items()]
    done: set[Product] = set()
    for _ in range(_MOST_PROCESSES):
        is_over = _run_rest(folder, done, results)
        write_atomically(output, (json.dumps(results, indent=1) + "\n").encode())
        if is_over:
            break
        print("the rest goes on in another process", flush=True)
    wrong = [each for each in results if each["failed"]]
    print(f"{len(results)} products, {len(wrong)} wrong")
    return 1 if wrong else 0


def _run_rest(folder: Path, done: set[Product], results: list[dict[str, Any]]) -> bool:
    """Run what is not `done` in a process of its own; False: that was broken by one of them, now done."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(folder, frozenset(done), sending), daemon=True)
    with uninterrupted():  # the other process remains so: it ends with this one
        process.start()
    sending.close()
    before = len(done)
    running: Product | None = None
    while receiving.poll(_MOST_SECONDS):
        try:
            product, result = receiving.recv()
        except EOFError:
            break
        if product is None:
            process.join()
            return True
        done.add(product)
        running = product if result is None else None
        if result is not None:
            results.append(result)
    process.kill()
    process.join()
    if running is not None or len(done) == before:
        name = "before the first product" if running is None else running[1]
        results.append({"case": name, "failed": "its process ended, or did not come to an end"})
        print(f"FAILED {name}: {results[-1]['failed']}", flush=True)
    return len(done) == before


def _work(folder: Path, done: Collection[Product], results: Connection) -> None:
    """Send (product, None) before each, (product, its result) after it, and (None, None) at the end."""
    device = torch.device("cuda", torch.cuda.current_device())
    kernels = PascalKernels(folder / _FILE, device)
    began = time.monotonic()
    wanted, _ = _wanted()
    kernels.load(wanted)
    print(f"{len(wanted)} kernels compiled by the driver in {time.monotonic() - began:.1f} s", flush=True)
    for index, (name, rows, weight) in enumerate(_cases()):
        _check(kernels, (index, f"{name}, M = {rows}"), rows, weight.to(device), done, results)
    card = GpuCard(kernels)
    for case in step_cases(_CHIP):
        if (_STEP, case.name) not in done:
            _check_step(card, case, results)
    results.send((None, None))


def _check_step(card: GpuCard, case: StepCase, results: Connection) -> None:
    results.send(((_STEP, case.name), None))
    reason: str | None = None
    is_broken = False
    try:
        case.check(card)
    except (AssertionError, CompileError) as error:
        reason = f"{type(error).__name__}: {error}"
    except Exception as error:  # of the driver: the context is lost
        reason, is_broken = f"{type(error).__name__}: {error}", True
    _tell((_STEP, case.name), reason, {}, results)
    if is_broken:
        os._exit(1)  # without what torch does at the end of a process, which may hang


def _check(
    kernels: PascalKernels,
    case: Product,
    rows: int,
    weight: Packed,
    done: Collection[Product],
    results: Connection,
) -> None:
    """All ways of one form and M."""
    slabbed = to_slabs(weight)
    device = slabbed.codes.device
    inputs = log_normal_inputs(rows, _COLUMNS, torch.Generator(device=device).manual_seed(rows))
    values = torch.empty(_OUTPUTS, _COLUMNS, dtype=torch.float64, device=device)
    weight.dequantise(0, _OUTPUTS, values)
    reference = inputs.double() @ values.t()
    copies = WeightCopies.of(slabbed.shape, slabbed.buffers, 1)
    for recipe in recipes(slabbed, rows, _CHIP)[0]:
        product = (case[0], f"{case[1]}, {recipe.name}")
        if product in done:
            continue
        results.send((product, None))
        checked = Case(reference, lambda _what: None, MOST_ERROR.get(recipe.accuracy, 2e-3) * _MARGIN)
        broken: PoisonedError | None = None
        try:
            checked.add(recipe.name, partial(our_way, kernels, recipe, copies, inputs))
        except PoisonedError as error:
            broken = error
        _tell(product, checked.failed.get(recipe.name), checked.errors, results)
        if broken is not None:
            os._exit(1)  # without what torch does at the end of a process, which may hang


def _tell(product: Product, reason: str | None, errors: dict[str, float], results: Connection) -> None:
    print(f"{'FAILED' if reason else 'ok    '} {product[1]} {reason or ''}", flush=True)
    results.send((product, {"case": product[1], "failed": reason, **errors}))


if __name__ == "__main__":
    run(main)
