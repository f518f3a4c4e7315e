"""What a Pascal would run, run on a newer card: every form of weights, against fp64.

    python machine_code/run_pascal_ptx.py prepare FOLDER    # needs NVRTC 12, no card
    python machine_code/run_pascal_ptx.py run FOLDER [--output FILE]    # needs a card, no NVRTC

Plans are those for a Titan X (Pascal): 28 multiprocessors, 48 KiB of shared memory a block. Inputs are
log-normal; outputs are poisoned and have margins that must stay as they are. Prints one line a case and
writes FILE (FOLDER/results.json); exit code 1: something is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from linears.cases import MOST_ERROR
from linears.measure import Case, PoisonedError
from linears.our_recipes import recipes
from linears.our_ways import WeightCopies, our_way
from linears.weights import log_normal_inputs
from pascal_ptx import PascalKernels, write_ptx

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


def main() -> int:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("prepare", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.what == "prepare":
        return _prepare(given.folder)
    return _run(given.folder, given.output or given.folder / _RESULTS)


def _cases() -> Iterator[tuple[str, int, Packed]]:
    for name, form in PACKED_FORMS.items():
        weight = random_packed(form, _OUTPUTS, _COLUMNS, torch.Generator().manual_seed(3))
        for rows in _EVERY_ROWS if name in _ALL_ROWS_OF else _FEW_ROWS:
            yield name, rows, weight


def _wanted() -> tuple[dict[Specialisation, None], dict[str, str]]:
    """All kernels of all cases, and families that have no plan by a mistake."""
    wanted: dict[Specialisation, None] = {}
    failed: dict[str, str] = {}
    for name, rows, weight in _cases():
        found, unavailable = recipes(to_slabs(weight), rows, _CHIP)
        failed |= {f"{name}, M = {rows}, {family}": reason for family, reason in unavailable.items()}
        wanted |= {plan.specialisation: None for named in found for plan in named.recipe.plans}
    return wanted, failed


def _prepare(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    wanted, failed = _wanted()
    failed |= write_ptx(wanted, folder / _FILE)
    for what, reason in failed.items():
        print(f"FAILED {what}: {reason}")
    print(f"{len(wanted)} kernels, {(folder / _FILE).stat().st_size / 1e6:.1f} MB")
    return 1 if failed else 0


def _run(folder: Path, output: Path) -> int:
    device = torch.device("cuda", torch.cuda.current_device())
    kernels = PascalKernels(folder / _FILE, device)
    began = time.monotonic()
    wanted, failed = _wanted()
    kernels.load(wanted)
    print(f"{len(wanted)} kernels compiled by the driver in {time.monotonic() - began:.1f} s", flush=True)
    results: list[dict[str, Any]] = [{"case": case, "failed": reason} for case, reason in failed.items()]
    try:
        for name, rows, weight in _cases():
            results += _check(kernels, name, rows, weight.to(device), device)
    except PoisonedError as error:
        results.append({"case": "the card's context is lost", "failed": str(error)})
    output.write_text(json.dumps(results, indent=1) + "\n")
    wrong = [each for each in results if each.get("failed")]
    print(f"{len(results)} products, {len(wrong)} wrong")
    return 1 if wrong else 0


def _check(
    kernels: PascalKernels, name: str, rows: int, weight: Packed, device: torch.device
) -> list[dict[str, Any]]:
    """All ways of one form and M."""
    slabbed = to_slabs(weight)
    inputs = log_normal_inputs(rows, _COLUMNS, torch.Generator(device=device).manual_seed(rows))
    values = torch.empty(_OUTPUTS, _COLUMNS, dtype=torch.float64, device=device)
    weight.dequantise(0, _OUTPUTS, values)
    reference = inputs.double() @ values.t()
    copies = WeightCopies.of(slabbed.shape, slabbed.buffers, 1)
    results = []
    for recipe in recipes(slabbed, rows, _CHIP)[0]:
        case = Case(reference, lambda _what: None, MOST_ERROR.get(recipe.accuracy, 2e-3) * _MARGIN)
        case.add(recipe.name, partial(our_way, kernels, recipe, copies, inputs))
        reason = case.failed.get(recipe.name)
        results.append({"case": f"{name}, M = {rows}, {recipe.name}", "failed": reason} | case.errors)
        print(f"{'FAILED' if reason else 'ok    '} {results[-1]['case']} {reason or ''}", flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
